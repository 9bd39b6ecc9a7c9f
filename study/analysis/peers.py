"""Peers: what Optuna's own evaluators say of the same points, under their own names and versions.

Cross-checks, not answers. PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255) asks what must be right to be among the
best tenth: where a whole half of the range does well it calls a knob unimportant that ruins the other half. fANOVA
(Hutter et al. 2014) divides the variance of a forest; given a learning rate on a linear axis it sees only the top
decade, so it reads unit coordinates here, which are logarithms where the knob has one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

from study.analysis.axis import SEED
from study.analysis.cells import Cells, basis, cells, explored, refusal
from study.analysis.finding import Estimate, Finding, Record
from study.analysis.main_effects import VARIANT
from study.analysis.marginal import separable
from study.analysis.memo import remembered
from study.analysis.plan import Plan
from study.analysis.words import standing, subject_words, unanswered
from study.space import Choice

QUESTION = "peers"
QUANTILE = 0.1  # the best tenth
LEAST = 50  # settings: Optuna wants five in the best tenth
FOREST_SETTINGS = 128  # Optuna's forest takes half a minute for 1,000 settings
TREES = 16
VERSION = f"Optuna {optuna.__version__}"
PED_ANOVA, FANOVA = "PED-ANOVA", "fANOVA"
CAVEATS = (
    f"{PED_ANOVA} is no sensitivity: it asks what must be right to be among the best 10 %, and adds up to 100 %.",
    "Neither carries an interval, and neither sees combinations of knobs.",
)


class Peers(NamedTuple):
    """Importances by knob, and the settings that the forest saw."""

    ped_anova: Mapping[str, float]
    fanova: Mapping[str, float] | None  # of the variance; None where a search chose the settings
    settings: int


def peers(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """Both evaluators over all variants together and for each."""
    return [peers_of(table, plan, task, subject) for subject in plan.subjects]


def peers_of(table: pd.DataFrame, plan: Plan, task: str, subject: str) -> Finding:
    """What they say of one subject."""
    rows = explored(table, task, plan.members(subject))
    stands = basis(rows)
    reason = refusal(rows, LEAST)
    if reason:
        return unanswered(QUESTION, task, subject, reason, stands)
    cell = cells(rows, plan, task, "score")
    if not known(cell):
        return unanswered(QUESTION, task, subject, "no knob's values are known at every point", stands)
    found = asked(*points(cell), plan.design != "tpe")
    method = f"{VERSION}: {PED_ANOVA} (best {100 * QUANTILE:.0f} %)"
    if found.fanova is not None:
        method += f", {FANOVA} ({TREES} trees, {found.settings} settings)"
    values = {f"{name}: {knob}": value for name, of in named(found).items() for knob, value in of.items()}
    words = f"{sentence(found, task, subject)} {standing(stands)}"
    return Finding(QUESTION, task, subject, True, words, values, stands | {"method": method}, CAVEATS, records(found))


def known(cell: Cells) -> list[str]:
    """The knobs that every variant has, with a value known at every point."""
    return [name for name in separable(cell) if cell.has[name].all()]


def points(cell: Cells) -> tuple[pd.DataFrame, np.ndarray, dict[str, BaseDistribution]]:
    """The cells that ran: their factors, their oriented score, and where Optuna may look for each factor."""
    variant, point = np.nonzero(np.isfinite(cell.good))
    factors = pd.DataFrame({name: cell.where[name][point] for name in known(cell)})
    space: dict[str, BaseDistribution] = dict.fromkeys(factors, FloatDistribution(0.0, 1.0))
    for name in factors:
        knob = cell.knobs[name]
        if isinstance(knob, Choice):
            level = (factors[name] * len(knob.values)).astype(int)
            factors[name], space[name] = level, CategoricalDistribution(range(len(knob.values)))
    if len(cell.variants) > 1:
        factors[VARIANT], space[VARIANT] = variant, CategoricalDistribution(range(len(cell.variants)))
    return factors, cell.good[variant, point], space


@remembered
def asked(factors: pd.DataFrame, good: np.ndarray, space: dict[str, BaseDistribution], forest: bool) -> Peers:
    """Both evaluators' importances, largest first; fANOVA's from at most FOREST_SETTINGS settings."""
    some = np.random.default_rng(SEED).permutation(len(good))[:FOREST_SETTINGS]
    whole, part = study(factors, good, space), study(factors.iloc[some], good[some], space)
    first = get_param_importances(whole, evaluator=PedAnovaImportanceEvaluator(target_quantile=QUANTILE))
    shares = FanovaImportanceEvaluator(n_trees=TREES, seed=SEED).evaluate(part) if forest else None
    return Peers(plain(first), None if shares is None else plain(shares), len(some))


def study(factors: pd.DataFrame, good: np.ndarray, space: dict[str, BaseDistribution]) -> optuna.Study:
    """The settings as finished trials, in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study
    made = optuna.create_study(direction="maximize")
    settings = factors.to_dict("records")
    made.add_trials(
        optuna.trial.create_trial(params={str(k): v for k, v in one.items()}, distributions=space, value=float(score))
        for one, score in zip(settings, good, strict=True)
    )
    return made


def plain(importances: Mapping[str, float]) -> dict[str, float]:
    """As numbers that are no array's, none of them below zero by rounding."""
    return {name: max(float(value), 0.0) for name, value in importances.items()}


def named(found: Peers) -> dict[str, Mapping[str, float]]:
    """The importances by the evaluator's name."""
    return {PED_ANOVA: found.ped_anova} | ({} if found.fanova is None else {FANOVA: found.fanova})


def records(found: Peers) -> tuple[Record, ...]:
    """Every importance."""
    units = {PED_ANOVA: "share of all importance", FANOVA: "share of the variance"}
    return tuple(
        Record(f"{VERSION} {name}", Estimate(value, None, None), units[name], knob)
        for name, of in named(found).items()
        for knob, value in of.items()
    )


def sentence(found: Peers, task: str, subject: str) -> str:
    """Both in words, each with the question that it answers."""
    words = (
        f"{subject_words(subject, task)}, as a cross-check by {VERSION}: {PED_ANOVA} divides what must be right to be "
        f"among the best {100 * QUANTILE:.0f} % of settings into {shares(found.ped_anova)}; "
    )
    if found.fanova is None:
        return f"{words}{FANOVA} is not asked, because a search chose the settings. It carries no interval."
    return (
        f"{words}{FANOVA}, on logarithms, gives each knob by itself of the variance of the score "
        f"{shares(found.fanova)}. Neither carries an interval."
    )


def shares(importances: Mapping[str, float]) -> str:
    """learning_rate 61 %, rank 20 %."""
    return ", ".join(f"{name} {100 * value:.0f} %" for name, value in importances.items())
