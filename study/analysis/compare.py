"""Compare: is a tuned variant better than the tuned reference on the test split, and by how much?

Only the confirm phase is read: one setting per variant, selected on validation before, on fresh seeds paired across
variants. Nothing here looks at the test score to choose. A difference is given between the two selected settings, and
between the tuned variants, whose wider interval counts the luck of their selection; the latter is judged. Difference
and equivalence (within the plan's margin, fixed before the study) are both tested, each with Holm's correction over
the variants.
"""

from typing import Any

import pandas as pd

from study.analysis.cells import basis
from study.analysis.confirmed import confirmed, correctness
from study.analysis.difference import Difference, difference, in_words, numbers, records_of, seeds_in_words
from study.analysis.finding import POOLED, Finding, Record
from study.analysis.judgement import Judgement, judgements, tests_in_words
from study.analysis.judgement import records_of as test_records
from study.analysis.paired import LEAST_SEEDS, over_seeds, over_seeds_and_examples
from study.analysis.plan import Plan
from study.analysis.selection import selection_variance
from study.analysis.words import span, unanswered
from study.space import Knob, LogFloat, Value

QUESTION = "comparison"


def compare(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """Each variant's confirmed test score, and its paired difference from the reference variant's."""
    chosen = confirmed(table, plan, task)
    if all(rows.empty for rows in chosen.values()):
        nothing = basis(pd.concat(chosen.values()))
        return [unanswered(QUESTION, task, POOLED, "no setting was confirmed on the test split", nothing)]
    base = chosen.get(plan.reference, pd.DataFrame())
    luck = {variant: selection_variance(table, plan, task, variant) for variant in {plan.reference, *plan.knobs}}
    found = {
        v: difference(rows, base, luck[v], luck[plan.reference]) for v, rows in chosen.items() if v != plan.reference
    }
    differences = {variant: one for variant, one in found.items() if one}
    judged = judgements({v: d.tuned for v, d in differences.items() if d.tuned.seeds >= LEAST_SEEDS}, plan, task)
    return [_finding(chosen[v], differences.get(v), judged.get(v), len(judged), plan, task, v) for v in plan.knobs]


def _finding(
    rows: pd.DataFrame,
    found: Difference | None,
    judged: Judgement | None,
    tests: int,
    plan: Plan,
    task: str,
    variant: str,
) -> Finding:
    stands = basis(rows)
    if rows.empty:
        return unanswered(QUESTION, task, variant, "no setting was confirmed on the test split", stands)
    values = score_and_setting(rows, plan, variant)
    records: tuple[Record, ...] = (Record("tuned test score", values["test_score"], "score"),)
    words = f"Tuned {variant} on {task} scores {span(values['test_score'])} on the test split"
    answered = True
    if variant == plan.reference:
        words += f", over {seeds_in_words(len(rows))}."
    elif found is None:
        answered = False
        words += f"; no difference is given, because no seed was confirmed for it and for {plan.reference}."
    else:
        answered = found.tuned.seeds > 1
        values |= numbers(found) | (judged._asdict() if judged else {})
        words += f"; {in_words(found, values['verdict'], plan)}"
        words += f" {tests_in_words(judged, found.tuned.seeds, tests)}" if judged else ""
        records += records_of(found, plan) + (test_records(judged, plan) if judged else ())
    return Finding(QUESTION, task, variant, answered, words, values, stands, caveats(rows, found), records)


def score_and_setting(rows: pd.DataFrame, plan: Plan, variant: str) -> dict[str, Any]:
    """The selected setting and its test score."""
    correct = correctness(rows)
    score = (
        over_seeds(rows["test_score"].to_numpy(dtype=float)) if correct is None else over_seeds_and_examples(correct)
    )
    return {
        "setting": {knob.name: as_declared(knob, rows[knob.name].tolist()[0]) for knob in plan.knobs[variant]},
        "key": str(rows["key"].iloc[0]),
        "test_score": score.estimate,
        "reference": plan.reference,
        "margin": plan.margin,
    }


def as_declared(knob: Knob, value: Value) -> Value:
    """A column with empty cells turns rank 4 into 4.0; this turns it back."""
    return value if isinstance(knob, LogFloat) or value not in knob.values else knob.values[knob.values.index(value)]


def caveats(rows: pd.DataFrame, found: Difference | None) -> tuple[str, ...]:
    """What a score and a difference do not say."""
    notes = []
    if found and found.tuned.seeds < LEAST_SEEDS:
        notes.append(f"{found.tuned.seeds} paired seeds carry no interval; use 3 or more.")
    if found and found.luck is None:
        notes.append("The luck of selection is not in the interval: no setting of the design ran with two seeds.")
    if correctness(rows) is None or (found and not found.examples):
        notes.append("Intervals are over seeds alone: these test examples count as given.")
    if diverged := int(rows["diverged"].sum()):
        notes.append(f"{diverged} confirming runs diverged and count at the untouched model's score.")
    return tuple(notes)
