"""Difference: a confirmed variant's test score less the reference's, over paired seeds and shared examples."""

import math
from typing import Any, NamedTuple

import pandas as pd

from study.analysis.confirmed import correctness
from study.analysis.finding import Record
from study.analysis.paired import LEAST_SEEDS, Mean, over_seeds, over_seeds_and_examples
from study.analysis.plan import Plan
from study.analysis.words import span


class Difference(NamedTuple):
    """A variant's test score less the reference's."""

    settings: Mean  # given the two selected settings
    tuned: Mean  # with the luck of their selection
    luck: float | None  # score units: the standard deviation of that; None where no setting ran with two seeds
    examples: int  # that were resampled beside the seeds; 0: they are not known one by one


def difference(
    rows: pd.DataFrame, reference: pd.DataFrame, luck: float | None, reference_luck: float | None
) -> Difference | None:
    """The mean difference in test score over the seeds that both have, None without any."""
    seeds = rows.index.intersection(reference.index)
    if seeds.empty:
        return None
    one, other = correctness(rows.loc[seeds]), correctness(reference.loc[seeds])
    if one is None or other is None or one.shape != other.shape:
        scores = rows.loc[seeds, "test_score"] - reference.loc[seeds, "test_score"]
        settings, examples = over_seeds(scores.to_numpy(dtype=float)), 0
    else:
        settings, examples = over_seeds_and_examples(one - other), one.shape[1]
    known = luck is not None and reference_luck is not None
    selection = (luck or 0.0) + (reference_luck or 0.0)
    tuned = settings._replace(fixed=settings.fixed + selection)
    return Difference(settings, tuned, math.sqrt(selection) if known else None, examples)


def numbers(found: Difference) -> dict[str, Any]:
    """The difference for figures and tables, not yet judged."""
    return {
        "difference": found.tuned.estimate,
        "difference of settings": found.settings.estimate,
        "pairs": found.tuned.seeds,
        "examples": found.examples,
        "verdict": "not decided",
    }


def records_of(found: Difference, plan: Plan) -> tuple[Record, ...]:
    """The difference with and without the luck of selection."""
    given = f"against {plan.reference}"
    return (
        Record("difference of tuned test scores", found.tuned.estimate, "score", given=given),
        Record("difference of test scores", found.settings.estimate, "score", given=f"{given}, these two settings"),
    )


def in_words(found: Difference, verdict: str, plan: Plan) -> str:
    """The difference and its verdict."""
    plus, of_settings = "+" if found.tuned.value > 0 else "", ""
    if found.settings.estimate.low is not None and found.luck:
        of_settings = f" (of these two settings {plus}{span(found.settings.estimate)})"
    examples = f" and {found.examples:,} examples" * (found.examples > 0)
    return (
        f"its paired difference from tuned {plan.reference} over {seeds_in_words(found.tuned.seeds)}{examples} is "
        f"{plus}{span(found.tuned.estimate)}{of_settings}: {verdict} (margin {plan.margin:g})."
    )


def seeds_in_words(count: int) -> str:
    """How many seeds, and what too few of them cannot say."""
    return f"{count} fresh seed{'s' * (count > 1)}" + (", too few for an interval" if count < LEAST_SEEDS else "")
