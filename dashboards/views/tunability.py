"""Tunability: what a variant loses at the reference's best setting."""

from collections.abc import Sequence

from dashboards import intervals
from dashboards.intervals import Mark
from dashboards.views.base import Figure, Scene, Table, View, cell, having, top_of
from study.analysis.finding import Finding


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """The regret on the curve, a row per variant."""
    told = having("regret", findings)
    if not told:
        return []
    values = told[0].values
    marks = [Mark(finding.subject, finding.values["regret"]) for finding in told]
    title = f"Cost of the best {values['knob']} of {values['reference']} for another variant"
    top = top_of([mark.estimate for mark in marks])
    panel = intervals.dots(marks, scene.looks, f"{scene.score} given up", "", top)
    caption = "On each variant's own curve: its top less its height there. Lines: 95 % intervals."
    return [Figure(f"tunability-{scene.name}", title, caption, (panel,))]


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A row per variant."""
    heads = ("for", "value of the reference", "its cost", "cost of the whole setting")
    told = having("regret", findings)
    rows = tuple((f.subject, *(cell(f.values.get(k)) for k in ("at", "regret", "regret of the setting"))) for f in told)
    return [Table(heads, rows)]


VIEW = View(
    "What do a variant's users lose with the reference's setting?",
    "Nothing is tuned for the variant: it gets what is best for the reference.",
    figures,
    tables,
)
