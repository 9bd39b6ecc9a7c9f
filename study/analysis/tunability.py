"""Tunability: what does a variant lose at the reference's best setting? (Probst et al. 2019, arXiv:1802.09596)

Two answers. On the curve: its top less its height at the reference's best focus value, the other knobs averaged over
the design. At the setting: the best setting of the design less the reference's best one (the knobs that both have; a
variant's own knobs averaged); both are chosen by all seeds but one and scored on that one, each seed in turn, because
the best of many settings on the seeds that chose it is a lucky one.
"""

import numpy as np
import pandas as pd

from study.analysis.cells import basis, explored
from study.analysis.curves import LEVEL
from study.analysis.finding import Estimate, Finding, Record
from study.analysis.paired import over_seeds
from study.analysis.plan import Plan, declared
from study.analysis.variant_curves import Curve, variant_curves
from study.analysis.words import number, span, standing, subject_words, unanswered

QUESTION = "tunability"


def tunability(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """The regret of every variant but the reference."""
    curves, refused = variant_curves(table, plan, task)
    return [_tunability(table, curves, refused, plan, task, v) for v in plan.knobs if v != plan.reference]


def _tunability(
    table: pd.DataFrame, curves: dict[str, Curve], refused: dict[str, str], plan: Plan, task: str, variant: str
) -> Finding:
    rows = explored(table, task, (plan.reference, variant))
    stands = basis(rows)
    for name in (plan.reference, variant):
        if name not in curves:
            reason = f"{name} has no response: {refused.get(name, 'it is not part of the study')}"
            return unanswered(QUESTION, task, variant, reason, stands)
    at = float(curves[plan.reference].axis.values[curves[plan.reference].best])
    on_curve = curve_regret(curves[variant], curves[plan.reference])
    if on_curve is None:
        reason = f"the best {plan.focus} of {plan.reference}, {number(at)}, is outside the range of {variant}"
        return unanswered(QUESTION, task, variant, reason, stands)
    of_setting = setting_regret(rows, plan, task, variant)
    given = f"{plan.focus}={at:.3g}, the best of {plan.reference}"
    values = {"knob": plan.focus, "reference": plan.reference, "at": at, "regret": on_curve}
    subject = subject_words(variant, task)
    words = f"{subject} the best {plan.focus} of {plan.reference}, {number(at)}, costs {span(on_curve)}"
    records = [Record("regret on the curve", on_curve, "score", plan.focus, given)]
    if of_setting is not None:
        values |= {"regret of the setting": of_setting}
        words += f", and its whole best setting {span(of_setting)}"
        records.append(Record("regret of the reference's best setting", of_setting, "score"))
    words += f" in score against its own best. {standing(stands)}"
    stands |= {"method": "posterior draws of both smoothed responses; settings chosen on the other seeds"}
    unknown = (
        f"What the whole best setting of {plan.reference} costs is unknown: that takes two seeds and the same points."
    )
    caveats = (unknown,) if of_setting is None else ()
    return Finding(QUESTION, task, variant, True, words, values, stands, caveats, tuple(records))


def curve_regret(curve: Curve, reference: Curve) -> Estimate | None:
    """The top of `curve` less its height at the best of `reference`; None where that is outside its range.

    Both places are uncertain. The top of a draw is above the draw's height anywhere, so regrets of draws exclude 0 even
    where the two optima are one: only their upper end is used, and the lower one looks at the place of the mean's top.
    """
    own, others = (np.array(one.axis.values, dtype=float) for one in (curve, reference))
    if not own[0] <= others[reference.best] <= own[-1]:
        return None
    place = np.interp(others, own, np.arange(len(own))).round().astype(int)
    count = min(len(curve.draws), len(reference.draws))
    draws, each = curve.draws[:count], np.arange(count)
    there = draws[each, place[reference.draws[:count].argmax(axis=1)]]
    low = float(np.percentile(draws[:, curve.best] - there, LEVEL[0]))
    high = float(np.percentile(draws.max(axis=1) - there, LEVEL[1]))
    value = float(curve.mean.max() - curve.mean[place[reference.best]])
    return Estimate(value, min(max(low, 0.0), value), max(high, value))


def setting_regret(rows: pd.DataFrame, plan: Plan, task: str, variant: str) -> Estimate | None:
    """The mean over seeds, each scored on settings that the others chose.

    None with one seed, or where the variant did not run the reference's best setting.
    """
    both = [{knob.name for knob in plan.knobs[name]} for name in (plan.reference, variant)]
    shared = [name for name in declared(plan, (plan.reference, variant)) if all(name in knobs for knobs in both)]
    good = plan.sign(task) * rows["val_score"]
    place = rows.groupby(shared).ngroup()
    runs = good.groupby([rows["variant"], place, rows["key"], rows["seed"]]).mean().unstack().dropna()
    if runs.shape[1] < 2 or not {plan.reference, variant} <= set(runs.index.get_level_values(0)):
        return None
    base, own = runs.loc[plan.reference], runs.loc[variant]
    at_place = own.groupby(level=0).mean()
    regrets = []
    for seed in runs.columns:
        chosen = base.drop(columns=seed).mean(axis=1).idxmax()[0]
        if chosen not in at_place.index:
            return None
        regrets.append(own.loc[own.drop(columns=seed).mean(axis=1).idxmax(), seed] - at_place.loc[chosen, seed])
    return over_seeds(np.array(regrets, dtype=float)).estimate
