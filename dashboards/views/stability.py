"""Stability: the order of the tuned variants, and how often each is first among resamples."""

from collections.abc import Sequence

from dashboards.views.base import MISSING, Table, View, cell, having, no_figures
from study.analysis.finding import Finding

TAUS = (
    ("tau", "tuned ranking, seeds resampled"),
    ("foretold tau", "best settings of the design, to the tuned ranking"),
    ("design tau", "best settings of the design, seeds resampled"),
)


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A row per variant, best first, and a row per Kendall's tau."""
    told = having("ranking", findings)
    ranks = tuple(row for finding in told for row in rows(finding))
    taus = tuple((name, cell(f.values[key])) for f in told for key, name in TAUS if key in f.values)
    heads = ("place", "variant", "first in", "place by its best setting in the design")
    return [Table(heads, ranks), Table(("agreement of rankings", "Kendall's tau"), taus)]


def rows(finding: Finding) -> list[tuple[str, ...]]:
    """One task's variants."""
    values = finding.values
    design = values.get("design ranking", [])
    return [
        (
            str(place),
            variant,
            f"{100 * values['first'][variant]:.0f} %",
            str(design.index(variant) + 1) if variant in design else MISSING,
        )
        for place, variant in enumerate(values["ranking"], 1)
    ]


VIEW = View(
    "Would other seeds rank the variants alike?",
    "Kendall's tau is 1 where two rankings agree and 0 where they have nothing in common.",
    no_figures,
    tables,
)
