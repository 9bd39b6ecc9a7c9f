"""Stability: would other seeds rank the variants alike?

Two rankings: of the tuned variants by their test score in the confirm phase, and by the best mean validation score of
any setting of the design. Each is drawn again with its seeds resampled, the same ones for all variants (paired), and
where the runs tell which test examples they got right, with resampled examples too.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.axis import SEED, Array
from study.analysis.cells import basis, explored
from study.analysis.confirmed import confirmed, correctness
from study.analysis.finding import POOLED, Estimate, Finding, Record
from study.analysis.paired import LEAST_SEEDS
from study.analysis.plan import Plan
from study.analysis.ranks import first_place, mean_of, tau
from study.analysis.words import span, subject_words, unanswered

QUESTION = "stability"
RESAMPLES = 1000


class Scores(NamedTuple):
    """V variants' scores, oriented so that larger is better, as observed and as resampled."""

    variants: tuple[str, ...]
    observed: Array  # V
    resampled: Array  # B V
    seeds: int


def stability(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """How stable the ranking of tuned variants is, and how well the design's best settings foretell it."""
    chosen = {variant: rows for variant, rows in confirmed(table, plan, task).items() if len(rows)}
    stands = basis(pd.concat(chosen.values())) if chosen else basis(explored(table, task, ()))
    if len(chosen) < 2:
        return [unanswered(QUESTION, task, POOLED, f"{len(chosen)} variants were confirmed on the test split", stands)]
    seeds = set.intersection(*(set(rows.index) for rows in chosen.values()))
    if len(seeds) < LEAST_SEEDS:
        reason = f"the variants share {len(seeds)} confirmed seeds, {LEAST_SEEDS} are needed"
        return [unanswered(QUESTION, task, POOLED, reason, stands)]
    tuned = tuned_scores({v: rows.loc[sorted(seeds)] for v, rows in chosen.items()}, plan.sign(task))
    return [_finding(tuned, design_scores(table, plan, task, tuned.variants), task, stands)]


def weights(count: int) -> Array:
    """B `count`, how much each of them counts in each resample."""
    return np.random.default_rng((SEED, count)).multinomial(count, [1 / count] * count, size=RESAMPLES) / count


def tuned_scores(chosen: dict[str, pd.DataFrame], sign: int) -> Scores:
    """Test scores over seeds, and over examples where every variant's are known."""
    scores = np.stack([rows["test_score"].to_numpy(dtype=float) for rows in chosen.values()])  # V S
    correct = [correctness(rows) for rows in chosen.values()]
    told = [one for one in correct if one is not None]
    if len(told) == len(correct) and len({one.shape for one in told}) == 1:
        of_seed, of_example = weights(scores.shape[1]), weights(told[0].shape[1])
        resampled = np.stack([((of_seed @ one) * of_example).sum(axis=1) for one in told], axis=1)
    else:
        resampled = weights(scores.shape[1]) @ scores.T
    return Scores(tuple(chosen), sign * scores.mean(axis=1), sign * resampled, scores.shape[1])


def design_scores(table: pd.DataFrame, plan: Plan, task: str, variants: tuple[str, ...]) -> Scores | None:
    """The best mean validation score of any setting that every seed ran; None where a variant has none."""
    rows = explored(table, task, variants)
    runs = (plan.sign(task) * rows["val_score"]).groupby([rows["variant"], rows["key"], rows["seed"]]).mean()
    matrix = runs.unstack().dropna()
    of = [matrix.loc[[v]].to_numpy() if v in matrix.index.get_level_values(0) else np.empty((0, 0)) for v in variants]
    if any(not len(settings) for settings in of):
        return None
    again = weights(matrix.shape[1])
    resampled = np.stack([(again @ settings.T).max(axis=1) for settings in of], axis=1)
    return Scores(variants, np.array([settings.mean(axis=1).max() for settings in of]), resampled, matrix.shape[1])


def ranking(scores: Scores) -> list[str]:
    """The variants, best first."""
    return [scores.variants[i] for i in np.argsort(-scores.observed, kind="stable")]


def _finding(tuned: Scores, design: Scores | None, task: str, stands: dict[str, int]) -> Finding:
    agreement = mean_of(tau(tuned.observed, tuned.resampled))
    best = dict(zip(tuned.variants, first_place(tuned.resampled).tolist(), strict=True))
    order = ranking(tuned)
    values: dict[str, Any] = {
        "ranking": order,
        "tau": agreement,
        "first": {variant: best[variant] for variant in order},
    }
    words = (
        f"{subject_words(POOLED, task)} the ranking of {len(order)} tuned variants agrees with that of resampled seeds "
        f"with a Kendall's tau of {span(agreement)}; {order[0]}, which is first, is first in "
        f"{100 * best[order[0]]:.0f} % of them, over {tuned.seeds} fresh seeds."
    )
    records = [
        Record("tau of the tuned ranking under resampling", agreement, ""),
        *(Record(f"probability that {v} is best", Estimate(best[v], None, None), "probability") for v in order),
    ]
    caveats: tuple[str, ...] = ("The design's settings rank no variants: none ran with every seed.",)
    if design is not None:
        taus = design_taus(tuned, design)
        values |= {"design ranking": ranking(design)} | taus
        words += f" Their best settings in the design rank them with a tau of {span(taus['foretold tau'])} to that."
        records += [Record(name, estimate, "") for name, estimate in taus.items()]
        caveats = ("The best of many settings is a lucky one: the design's ranking is no comparison.",)
    method = {"method": f"{RESAMPLES} paired resamples of seeds"}
    return Finding(QUESTION, task, POOLED, True, words, values, stands | method, caveats, tuple(records))


def design_taus(tuned: Scores, design: Scores) -> dict[str, Estimate]:
    """Of the design's ranking to the tuned one, and to itself with other seeds where there are enough of them."""
    taus = {"foretold tau": mean_of(tau(design.observed, tuned.resampled))}
    if design.seeds >= LEAST_SEEDS:
        taus["design tau"] = mean_of(tau(design.observed, design.resampled))
    return taus
