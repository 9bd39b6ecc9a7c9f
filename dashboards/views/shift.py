"""Shift: how far each variant's best value is from the reference's."""

from collections.abc import Sequence

from dashboards import intervals
from dashboards.intervals import Mark
from dashboards.views.base import Figure, Scene, Table, View, cell, having, stands
from study.analysis.finding import Finding


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """Decades from the reference's best value, a row per variant."""
    told = having("shift", findings)
    if not told:
        return []
    knob, reference = told[0].values["knob"], told[0].values["reference"]
    marks = [Mark(finding.subject, finding.values["shift"]) for finding in told]
    panel = intervals.differences(marks, 0, scene.looks, f"decades from the best {knob} of {reference}")
    caption = f"Right of zero: the variant wants a larger {knob} than {reference}. Lines: 95 % intervals."
    return [Figure(f"shift-{scene.name}", f"Shift of the best {knob} from that of {reference}", caption, (panel,))]


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A row per variant."""
    heads = ("for", "decades", "times", "settings / seeds / diverged")
    told = having("shift", findings)
    rows = tuple((f.subject, cell(f.values["shift"]), cell(f.values["times"]), stands(f)) for f in told)
    return [Table(heads, rows)]


VIEW = View("Does the best {focus} move with the variant?", "", figures, tables)
