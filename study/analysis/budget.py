"""Budget: the best score that k random trials are expected to find (expected validation performance).

Dodge et al. 2019 estimate it as if the n observed trials could be drawn twice, which is biased low (Tang et al. 2020,
arXiv:2004.13705); this is the unbiased form that Dodge et al. 2021 (arXiv:2110.00613) compare it with, the mean of the
maximum over all k-subsets: sum_i C(i-1, k-1) / C(n, k) y_(i) over the sorted y. Both need independent random trials.
"""

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import gammaln

from study.analysis.axis import Array
from study.analysis.cells import basis, explored, refusal
from study.analysis.finding import POOLED, Estimate, Finding, Record
from study.analysis.plan import Design, Plan
from study.analysis.words import span, standing, subject_words, unanswered

QUESTION = "budget"
LEAST = 16  # settings
SUBSETS = 8  # the largest k is n / SUBSETS: the maxima of fewer disjoint subsets do not tell their spread
REASONS: dict[Design, str] = {
    "sobol": "its settings fill the space evenly (sobol), and the best of k of them is not that of k random ones",
    "grid": "its settings are a grid, not independent random ones",
    "tpe": "its settings were chosen by looking at earlier results (tpe)",
    "foreign": "nobody said that its settings were drawn independently at random",
}


def budget(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """Every variant's expected best validation score over the number of random settings tried."""
    if plan.design in REASONS:
        rows = explored(table, task, plan.knobs)
        return [unanswered(QUESTION, task, POOLED, REASONS[plan.design], basis(rows))]
    return [_budget(table, plan, task, variant) for variant in plan.knobs]


def _budget(table: pd.DataFrame, plan: Plan, task: str, variant: str) -> Finding:
    rows = explored(table, task, (variant,))
    stands = basis(rows)
    reason = refusal(rows, LEAST)
    if reason:
        return unanswered(QUESTION, task, variant, reason, stands)
    sign = plan.sign(task)
    good = (sign * rows["val_score"]).groupby(rows["key"]).mean().to_numpy(dtype=float)
    k = np.arange(1, len(good) // SUBSETS + 1)
    curve = [
        Estimate(sign * e.value, *sorted((sign * (e.low or 0.0), sign * (e.high or 0.0)))) for e in expected(good, k)
    ]
    told = [(int(i), curve[i - 1]) for i in 2 ** np.arange(len(k).bit_length())]
    values = {
        "k": k.tolist(),
        "mean": [e.value for e in curve],
        "low": [e.low for e in curve],
        "high": [e.high for e in curve],
        "largest": told[-1][1],
    }
    words = (
        f"{subject_words(variant, task)} the best of k random settings is expected to score "
        f"{', '.join(f'{span(e)} (k = {i})' for i, e in told)} on validation. {standing(stands)}"
    )
    records = tuple(Record("expected best validation score", e, "score", given=f"{i} random settings") for i, e in told)
    stands |= {"method": "unbiased form, jackknife over settings"}
    caveats = ("The expected score on validation of the setting chosen there: on fresh data it is less good.",)
    return Finding(QUESTION, task, variant, True, words, values, stands, caveats, records)


def expected(y: Array, k: np.ndarray) -> list[Estimate]:
    """The expected maximum of each number k of the n independent values, and its 95 % interval.

    From the n means without one value (jackknife): bootstrap percentiles are too low for a maximum, for a resample
    often lacks the largest value.
    """
    y, n = np.sort(y), len(y)
    value, without = y @ order_weights(n, k), order_weights(n - 1, k)
    below, above = np.cumsum(without * y[:-1, None], axis=0), np.cumsum((without * y[1:, None])[::-1], axis=0)[::-1]
    none = np.zeros((1, len(k)))
    left_out = np.concatenate([none, below]) + np.concatenate([above, none])  # n K, the i-th value left out
    half = float(stats.t.ppf(0.975, n - 1)) * np.sqrt((n - 1) * left_out.var(axis=0))
    return [Estimate(float(v), float(v - h), float(v + h)) for v, h in zip(value, half, strict=True)]


def order_weights(n: int, k: np.ndarray) -> Array:
    """n K: how often the i-th smallest of n is the largest of a k-subset, C(i-1, k-1) / C(n, k)."""
    i = np.arange(1, n + 1)[:, None]
    logs = log_binomial(np.maximum(i - 1, k - 1), k - 1) - log_binomial(np.full_like(i, n), k)
    return np.where(i >= k, np.exp(logs), 0)


def log_binomial(n: np.ndarray, k: np.ndarray) -> Array:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
