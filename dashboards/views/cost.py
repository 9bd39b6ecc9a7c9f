"""Cost: CPU time per step of each variant, beside the reference's."""

from collections.abc import Sequence

from dashboards import intervals
from dashboards.intervals import Mark
from dashboards.views.base import Figure, Scene, View, having, plain_table, top_of
from study.analysis.finding import Estimate, Finding

STEP = "CPU ms per step"


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """A dot per variant, a line at the reference, which is first among the looks."""
    told = having(STEP, findings)
    if not told:
        return []
    marks = [Mark(f.subject, Estimate(f.values[STEP], None, None)) for f in told]
    reference = next(iter(scene.looks))
    level = next((mark.estimate.value for mark in marks if mark.label == reference), None)
    panel = intervals.dots(marks, scene.looks, STEP, "", top_of([mark.estimate for mark in marks]), level)
    caption = f"Medians over trials, without an interval. Line: {reference}."
    return [Figure(f"cost-{scene.name}", f"CPU time of a step, against {reference}", caption, (panel,))]


VIEW = View(
    "What does a step cost?",
    "Medians over a variant's trials, each charged its share of its pack, with the machines and packs at hand.",
    figures,
    plain_table,
)
