"""Sharpness: the shift of the best value against the curvature at the start."""

from collections.abc import Sequence

from dashboards import intervals
from dashboards.intervals import Spot
from dashboards.views.base import Figure, Scene, Table, View, cell, having
from study.analysis.finding import Finding


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """A mark per variant whose best value is located."""
    told = [finding for finding in having("points", findings) if finding.values["points"]]
    return [figure(finding, scene) for finding in told if any(of["ranked"] for of in finding.values["points"].values())]


def figure(finding: Finding, scene: Scene) -> Figure:
    """Decades of shift over the ratio of curvatures."""
    places = finding.values["points"].items()
    spots = [Spot(name, of["ratio"], of["shift"]) for name, of in places if of["ranked"] and of["ratio"] > 0]
    x, y = "largest Hessian eigenvalue at the start, times the reference's (log scale)", "shift of the best, decades"
    caption = (
        "Median ratio over layers, and decades from the reference's best value with their 95 % intervals. A variant "
        "whose best value is not located is left out. If sharper starts want smaller steps, marks fall to the right."
    )
    panel = intervals.scatter(spots, scene.looks, x, y)
    return Figure(f"sharpness-{scene.name}", "Shift of the best value against curvature", caption, (panel,))


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A row per variant."""
    told = having("median", findings)
    rows = tuple((f.subject, *(cell(f.values[name]) for name in ("median", "least", "most"))) for f in told)
    return [Table(("for", "curvature ratio, median of layers", "least", "most"), rows)]


VIEW = View(
    "Does the curvature at the start say which {focus} is best?",
    "Top Hessian eigenvalue of each layer before training, as a ratio to the reference's.",
    figures,
    tables,
)
