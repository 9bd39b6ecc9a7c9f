"""Sharpness: does the curvature at the start say which learning rate is best (arXiv:2602.04998, section 5)?

The curvature is the largest eigenvalue of the Hessian at each layer, as a ratio to the reference's at the same layer.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, kendalltau

from study.analysis.axis import Array
from study.analysis.cells import basis, explored
from study.analysis.curves import LEVEL
from study.analysis.finding import POOLED, Estimate, Finding, Record
from study.analysis.plan import Plan
from study.analysis.ranks import tau
from study.analysis.response import LOCATED
from study.analysis.shift import decades_between
from study.analysis.variant_curves import Curve, variant_curves
from study.analysis.words import number, span, standing, subject_words, unanswered

QUESTION = "sharpness"
LEAST = 4  # variants, for a rank correlation: of three, one order in six is perfect by chance
TOP = "largest Hessian eigenvalue"
METHOD = "Lanczos on the Hessian of single layers at the start, one setting and seed"


def sharpness(table: pd.DataFrame, plan: Plan, task: str, curvature: pd.DataFrame) -> list[Finding]:
    """The rank correlation of curvature with the best value of the focus knob, and each variant's curvature ratio.

    `curvature`: rows of task, variant, site, top, as `study.curvature` measures them; one row a layer.
    """
    ratio = ratios(curvature[curvature["task"] == task], plan)
    if ratio.empty:
        reason = f"no curvature was measured where {plan.reference} has some"
        return [unanswered(QUESTION, task, POOLED, reason, basis(explored(table, task, plan.knobs)))]
    return [_pooled(table, plan, task, ratio), *(_of(table, plan, task, ratio, variant) for variant in ratio.index)]


def ratios(curvature: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The largest eigenvalue over the reference's at the same layer: variants by the layers that all of them have.

    Empty where the reference has none above 0.
    """
    tops = curvature.pivot(index="variant", columns="site", values="top").reindex(plan.knobs).dropna(how="all")
    if plan.reference not in tops.index:
        return pd.DataFrame()
    tops = tops.loc[:, tops.loc[plan.reference] > 0].dropna(axis="columns")
    return tops / tops.loc[plan.reference] if tops.shape[1] else pd.DataFrame()


def _of(table: pd.DataFrame, plan: Plan, task: str, ratio: pd.DataFrame, variant: str) -> Finding:
    """One variant's ratio: the median over layers, and how far they spread."""
    mine, stands = ratio.loc[variant], basis(explored(table, task, (variant,))) | {"method": METHOD}
    middle, least, most = (float(each) for each in (mine.median(), mine.min(), mine.max()))
    words = (
        f"{subject_words(variant, task)} the {TOP} at the start is {number(middle)} times that of {plan.reference}, "
        f"the median over {len(mine)} layers, from {number(least)} to {number(most)}. At one setting and seed."
    )
    values = {"median": middle, "least": least, "most": most, "sites": {str(k): float(v) for k, v in mine.items()}}
    shown = {"median over layers": middle, "least of the layers": least, "most of the layers": most}
    given = f"against {plan.reference}"
    records = tuple(Record(f"{TOP}, {k}", Estimate(v, None, None), "", given=given) for k, v in shown.items())
    return Finding(QUESTION, task, variant, True, words, values, stands, records=records)


def _pooled(table: pd.DataFrame, plan: Plan, task: str, ratio: pd.DataFrame) -> Finding:
    """The correlation over the variants whose optimum is located, and whether layers agree on the variants' order."""
    curves, _ = variant_curves(table, plan, task)
    used = [variant for variant in ratio.index if variant in curves and located(curves[variant])]
    left = [variant for variant in ratio.index if variant not in used]
    stands, agree = basis(explored(table, task, used)) | {"method": METHOD}, agreement(ratio)
    values: dict[str, Any] = {"agreement": agree, "points": points(plan, ratio, curves), "used": used}
    bare = [variant for variant in plan.knobs if variant not in ratio.index]
    reasons = {f"their best {plan.focus} is not located": left, "no curvature was measured": bare}
    caveats = tuple(f"Left out, since {why}: {', '.join(them)}." for why, them in reasons.items() if them)
    records = () if agree is None else (Record("agreement of layers on the order of variants", agree, "Kendall W"),)
    order = "" if agree is None else f" The {ratio.shape[1]} layers agree on the order with Kendall W {span(agree)}."
    if len(used) < LEAST:
        reason = f"{len(used)} variants have a best {plan.focus} inside the range, {LEAST} are needed"
        words = unanswered(QUESTION, task, POOLED, reason, stands).sentence + order
        return Finding(QUESTION, task, POOLED, False, words, values, stands, caveats, records)
    found, chance = correlation(ratio.loc[used].median(axis=1).to_numpy(), [curves[variant] for variant in used])
    words = (
        f"{subject_words(POOLED, task)} the rank correlation of the {TOP} at the start with the best {plan.focus} is "
        f"{span(found)} (Kendall tau over {len(used)} variants; p = {number(chance)} for one as strong by chance)."
        f"{order} {standing(stands)}"
    )
    record = Record(f"rank correlation of the {TOP} with the best value", found, "Kendall tau", plan.focus)
    values |= {"tau": found, "p": chance}
    return Finding(QUESTION, task, POOLED, True, words, values, stands, caveats, (record, *records))


def located(curve: Curve) -> bool:
    """The optimum is inside the range, and its interval well within it."""
    low, high = np.percentile(curve.axis.at[curve.draws.argmax(axis=1)], LEVEL)
    return not curve.edge and bool(high - low < LOCATED)


def correlation(medians: Array, curves: list[Curve]) -> tuple[Estimate, float]:
    """Kendall's tau-b of the ratios with the optima, its 95 % interval over draws of the curves, and its p value.

    The interval is about these variants; p is the chance of an order as strong where nothing relates the two.
    """
    values, count = [np.array(curve.axis.values, dtype=float) for curve in curves], min(len(c.draws) for c in curves)
    best = [places[curve.best] for curve, places in zip(curves, values, strict=True)]  # V
    drawn = [places[curve.draws[:count].argmax(axis=1)] for curve, places in zip(curves, values, strict=True)]  # V S
    found, ends = kendalltau(medians, best), np.percentile(tau(medians, np.log10(drawn).T), LEVEL)
    value = float(found.statistic)
    return Estimate(value, min(float(ends[0]), value), max(float(ends[1]), value)), float(found.pvalue)


def agreement(ratio: pd.DataFrame) -> Estimate | None:
    """Kendall's W over layers, ties corrected: 1 where all order the variants alike, 0 where none do.

    It is Friedman's statistic over its largest value. None for fewer than three variants or two layers.
    """
    variants, sites = ratio.shape
    if variants < 3 or sites < 2 or (ratio == 1).all(axis=None):
        return None
    return Estimate(float(friedmanchisquare(*ratio.to_numpy()).statistic) / (sites * (variants - 1)), None, None)


def points(plan: Plan, ratio: pd.DataFrame, curves: dict[str, Curve]) -> dict[str, dict[str, Any]]:
    """What a chart of the optimum's shift, in decades, against curvature draws: by variant."""
    shown = [variant for variant in ratio.index if variant in curves and plan.reference in curves]
    return {
        variant: {
            "ratio": float(ratio.loc[variant].median()),
            "shift": decades_between(curves[variant], curves[plan.reference]),
            "ranked": located(curves[variant]) and located(curves[plan.reference]),
        }
        for variant in shown
    }
