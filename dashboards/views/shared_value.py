"""Shared value: how well each shared value of the focus knob ranks the variants, and where differences change sign."""

from collections.abc import Sequence
from typing import Any

from dashboards import curves
from dashboards.curves import Axes, Line, Place, Smooth
from dashboards.views.base import Figure, Scene, Table, View, cell, having
from study.analysis.finding import Finding


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """Kendall's tau of each shared value's ranking to the tuned one."""
    return [figure(finding, scene) for finding in having("tau", findings)]


def figure(finding: Finding, scene: Scene) -> Figure:
    """One line over the values, from -1 to 1."""
    values = finding.values
    knob, reference = values["knob"], values["reference"]
    places = zip(values["x"], values["tau"], values["tau_low"], values["tau_high"], strict=True)
    axes = Axes(f"{knob}, the same for all (log scale)", "Kendall's tau", (values["x"][0], values["x"][-1]), (-1, 1))
    panel = curves.lines(
        [Line("tau", [Smooth(*place) for place in places])], axes, mark=Place(values["at"], f"best of {reference}")
    )
    caption = (
        f"How the ranking of the variants at one shared {knob} agrees with their ranking at each one's own best: 1 is "
        "the same order, 0 no agreement, -1 the reverse. Band: 95 %."
    )
    title = f"The ranking at one shared {knob} against the tuned ranking"
    return Figure(f"shared-value-{scene.name}", title, caption, (panel,))


def tables(findings: Sequence[Finding]) -> list[Table]:
    """Each variant's largest and smallest difference from the reference at a shared value."""
    heads = ("for", "largest difference", "at", "smallest difference", "at", "sign flips")
    told = having("differences", findings)
    return [Table(heads, tuple(row(name, of, f) for f in told for name, of in f.values["differences"].items()))]


def row(name: str, difference: dict[str, Any], finding: Finding) -> tuple[str, ...]:
    """One variant's line."""
    ends = (cell(difference[key]) for key in ("most", "most_at", "least", "least_at"))
    return (name, *ends, "yes" if name in finding.values["flipped"] else "not shown")


VIEW = View(
    "Does one shared {focus} mislead?",
    "Variants are often compared at one value for all. Here the ranking at every shared value is held against the "
    "ranking with the knob tuned for each; a sign flip is a variant that beats the reference by more than the margin "
    "at one shared value and loses by more at another.",
    figures,
    tables,
)
