"""Peers: what other tools' evaluators say, a row per knob."""

from collections.abc import Sequence

from dashboards.views.base import MISSING, Table, View, no_figures
from study.analysis.finding import Finding


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A row per subject and knob, a column per evaluator; values are named `evaluator: knob`."""
    evaluators = list(dict.fromkeys(name.split(": ")[0] for finding in findings for name in finding.values))
    rows = tuple(row for finding in findings for row in rows_of(finding, evaluators))
    return [Table(("for", "knob", *evaluators), rows)]


def rows_of(finding: Finding, evaluators: Sequence[str]) -> list[tuple[str, ...]]:
    """One subject's lines."""
    values = finding.values
    knobs = dict.fromkeys(name.partition(": ")[2] for name in values)
    found = {(name, knob): values.get(f"{name}: {knob}") for name in evaluators for knob in knobs}
    shares = {key: MISSING if share is None else f"{100 * share:.0f} %" for key, share in found.items()}
    return [(finding.subject, knob, *(shares[name, knob] for name in evaluators)) for knob in knobs]


VIEW = View(
    "What do other tools say?",
    "A cross-check under the tools' own names and versions; they answer other questions and carry no interval.",
    no_figures,
    tables,
)
