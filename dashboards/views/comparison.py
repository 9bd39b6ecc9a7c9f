"""Comparison: a forest of paired differences from the tuned reference, and what their tests say."""

from collections.abc import Mapping, Sequence
from typing import Any

from dashboards import intervals
from dashboards.intervals import Mark
from dashboards.views.base import MISSING, Figure, Scene, Table, View, cell, having
from study.analysis.finding import Finding

TESTS = ("p_different", "p_equivalent", "power_equivalent", "detectable", "seeds_needed")


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """Every variant's paired difference from the reference, over the strip that counts as equal."""
    told = having("difference", findings)
    if not told:
        return []
    reference, margin = told[0].values["reference"], told[0].values["margin"]
    marks = [Mark(finding.subject, finding.values["difference"]) for finding in told]
    axis = f"test {scene.score} minus that of {reference} ({scene.better})"
    panel = intervals.differences(marks, margin, scene.looks, axis)
    caption = (
        f"Paired difference from {reference} on the test split, each variant at the setting selected on validation, "
        "with its 95 % interval, the luck of selection included (a hollow mark has no interval). Tinted: differences "
        f"below the margin of {margin:g}. A variant counts as within the margin by two one-sided tests (TOST) at 5 %, "
        "that is where its 90 % interval, narrower than the one drawn, lies inside the strip; the tests are "
        "Holm-adjusted over the variants, which asks for more."
    )
    return [Figure(f"comparison-{scene.name}", f"Tuned variants against tuned {reference}", caption, (panel,))]


def tables(findings: Sequence[Finding]) -> list[Table]:
    """The selected setting, its test score and its difference, a row per variant; then the tests."""
    heads = ("for", "test score", "difference", "verdict", "seeds", "of these settings", "selected setting")
    tests = ("for", "p, no difference", "p, not equivalent", "power of equivalence", "detectable", "seeds needed")
    return [
        Table(heads, tuple(row(finding) for finding in having("test_score", findings))),
        Table(
            tests,
            tuple((f.subject, *(cell(f.values[name]) for name in TESTS)) for f in having("p_different", findings)),
            "Tests, Holm-adjusted. Detectable: the difference seen 4 times in 5; seeds needed: for one of the margin",
        ),
    ]


def row(finding: Finding) -> tuple[str, ...]:
    """One variant's line; the reference has no difference from itself."""
    values = finding.values
    is_reference = finding.subject == values["reference"]
    return (
        finding.subject,
        cell(values["test_score"]),
        cell(values.get("difference")),
        "the reference" if is_reference else values.get("verdict", MISSING),
        str(finding.basis.get("seeds", MISSING)),
        cell(values.get("difference of settings")),
        setting_words(values["setting"]),
    )


def setting_words(setting: Mapping[str, Any]) -> str:
    """The knobs of a setting and their values."""
    return ", ".join(f"{knob} {cell(value)}" for knob, value in setting.items())


VIEW = View(
    "Tuned alike, does a variant beat the reference?",
    "Each variant at its own setting, selected on validation by one rule and one budget, on fresh paired seeds and the "
    "test split.",
    figures,
    tables,
)
