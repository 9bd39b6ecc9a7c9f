"""Budget: expected validation performance over the number of random settings tried."""

from collections.abc import Sequence

from dashboards import curves
from dashboards.curves import Axes, Line, Smooth
from dashboards.views.base import Figure, Scene, Table, View, cell, having
from study.analysis.finding import Finding

LINES = 7  # on one panel: as many as there are colours


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """A line per variant; where there are many, panels that all show the first one."""
    lines = [line(finding) for finding in having("k", findings)]
    if not lines:
        return []
    places = [place for one in lines for place in one.smooth]
    axes = Axes(
        "random settings tried (log scale)",
        f"expected best validation {scene.score}",
        (1, max(max(place.x for place in places), 2)),
        (min(place.low for place in places), max(place.high for place in places)),
    )
    first, *others = lines
    parts = [others[i : i + LINES - 1] for i in range(0, len(others), LINES - 1)] or [[]]
    panels = tuple(curves.lines([first, *part], axes) for part in parts)
    caption = f"The best of so many random settings ({scene.better}), on average over which they are. Bands: 95 %."
    title = "Expected validation performance over the budget of tuning"
    return [Figure(f"budget-{scene.name}", title, caption, panels, min(len(panels), 2))]


def line(finding: Finding) -> Line:
    """A variant's curve."""
    values = finding.values
    places = zip(values["k"], values["mean"], values["low"], values["high"], strict=True)
    return Line(finding.subject, [Smooth(*place) for place in places])


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A row per variant."""
    told = having("k", findings)
    rows = tuple((f.subject, str(f.values["k"][-1]), cell(f.values["largest"])) for f in told)
    return [Table(("for", "largest number of settings", "expected best score, at the largest power of two"), rows)]


VIEW = View(
    "What does a budget of random settings buy?",
    "Unbiased form of the expected validation performance (Dodge et al. 2021), for random designs alone.",
    figures,
    tables,
)
