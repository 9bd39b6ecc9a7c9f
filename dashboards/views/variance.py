"""Variance: bars of shares with their noise floor, and how the focus knob's share hangs on the width of its range."""

from collections.abc import Sequence
from typing import Any

from dashboards import intervals
from dashboards.charts import Chart
from dashboards.intervals import Share
from dashboards.views.base import MISSING, Figure, Scene, Table, View, columns_of, having
from study.analysis.finding import POOLED, Finding
from study.analysis.words import number, percent, span

ALONE, COMBINED = "by itself", "with its combinations"
BARS = (
    f"Bars: the part of the variance that a knob explains {ALONE} (dark) and, where the design allows it, {COMBINED} "
    "(light). "
    "Black lines: 95 % intervals. Dashed line: the noise floor, what a knob without any effect would show."
)


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """Bars per knob, pooled and then a panel per variant, each headed by the deviation that the bars are shares of."""
    told = having("first", findings)
    pooled = tuple(panel(finding, named=True) for finding in told if finding.subject == POOLED)
    single = tuple(panel(finding, named=False) for finding in told if finding.subject != POOLED)
    title = f"Shares of the variance of validation {scene.score}"
    found = [Figure(f"variance-{scene.name}", f"{title}, all variants", BARS, pooled)] if pooled else []
    if single:
        caption = "The same for each variant by itself." if pooled else BARS
        name = f"variance-variants-{scene.name}"
        found.append(Figure(name, f"{title}, per variant", caption, single, columns_of(single)))
    return found


def panel(finding: Finding, named: bool) -> Chart:
    """One subject's bars; a share means nothing without what it is a share of."""
    subtitle = f"shares of an SD of {number(finding.values['deviation'].value)}"
    return intervals.shares(bars(finding), finding.values["floor"], finding.subject, subtitle, named)


def bars(finding: Finding) -> list[Share]:
    """A variance finding as the chart wants it."""
    kinds = ((ALONE, finding.values["first"]), (COMBINED, finding.values["total"] or {}))
    return [Share(knob, kind, share) for kind, of in kinds for knob, share in of.items()]


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A row per subject and knob, the pairs that stand out, and a row per subject and width of the focus range."""
    told = having("first", findings)
    heads = ("for", "knob", "declared values", ALONE, COMBINED, "noise floor")
    pairs = ("for", "combination", "share of the variance")
    widths = ("for", "range", "decades", ALONE, COMBINED, "of an SD of")
    return [
        Table(heads, tuple(row for finding in told for row in rows(finding))),
        Table(pairs, tuple(row for f in told for row in pair_rows(f)), "Combinations above the noise floor"),
        Table(widths, tuple(row for f in told for row in width_rows(f)), "The share against the width of the range"),
    ]


def rows(finding: Finding) -> list[tuple[str, ...]]:
    """One subject's lines, in the finding's order."""
    values = finding.values
    total = values["total"] or {}
    return [
        (
            finding.subject,
            knob,
            range_words(values["ranges"].get(knob)),
            percent(share),
            percent(total[knob]) if knob in total else MISSING,
            f"{100 * values['floor']:.1f} %",
        )
        for knob, share in values["first"].items()
    ]


def range_words(ends: Sequence[Any] | None) -> str:
    """The ends of a range or the levels, as declared."""
    return ", ".join(map(str, ends)) if ends else MISSING


def pair_rows(finding: Finding) -> list[tuple[str, ...]]:
    """The combinations of two knobs whose interval is above what chance shows."""
    values = finding.values
    above = {pair: share for pair, share in values["pairs"].items() if (share.low or 0) > values["floor"]}
    return [(finding.subject, pair, percent(share)) for pair, share in above.items()]


def width_rows(finding: Finding) -> list[tuple[str, ...]]:
    """The focus knob's share over its whole range and over narrower ones."""
    return [
        (
            finding.subject,
            f"{number(width['low'])} to {number(width['high'])}",
            number(width["decades"]),
            percent(width["first"]),
            percent(width["total"]) if width["total"] else MISSING,
            span(width["deviation"]),
        )
        for width in finding.values["by_width"]
    ]


VIEW = View(
    "Which knob matters most?",
    "The variance of the score over the declared ranges, divided among the knobs. A share is always a share of an SD: "
    "a large share of a small SD is a small effect.",
    figures,
    tables,
)
