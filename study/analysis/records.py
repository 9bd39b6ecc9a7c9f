"""Findings as flat tables: a row per published number, a row per place of a response curve."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from study.analysis.finding import Estimate, Finding, Record

VERSION = 1  # of Row: counts up when a field changes its name or its meaning
IN_WORDS = "answered in words alone"


class Row(NamedTuple):
    """A line of findings.json and findings.csv."""

    version: int
    question: str  # "response: best value"
    group: str  # "sentiment/lora"
    given: str
    knob: str
    estimate: float | None  # None: no number is published, and `gate` says why
    low: float | None  # of the 95 % interval; None: the data carry none
    high: float | None
    unit: str
    method: str
    n_configs: int | None
    n_seeds: int | None
    n_diverged: int | None
    gate: str  # empty where the question is answered, else why it is not


class Place(NamedTuple):
    """A line of curves.csv: the smoothed score at one value of a knob, with its 95 % band."""

    task: str
    variant: str
    knob: str
    x: float
    mean: float
    low: float
    high: float


def rows(findings: Sequence[Finding]) -> list[Row]:
    """A row per record; a finding without one has a single row without numbers."""
    return [row(finding, record) for finding in findings for record in finding.records or (None,)]


def row(finding: Finding, record: Record | None) -> Row:
    """One number of a finding, or the reason why there is none."""
    known = record or Record("", Estimate(math.nan, None, None), "")
    value, low, high = (finite(number) for number in known.estimate)
    configs, seeds, diverged = (finding.basis.get(name) for name in ("settings", "seeds", "diverged"))
    return Row(
        version=VERSION,
        question=f"{finding.question}: {known.quantity}" if record else finding.question,
        group=f"{finding.task}/{finding.subject}",
        given=known.given,
        knob=known.knob,
        estimate=value,
        low=low,
        high=high,
        unit=known.unit,
        method=str(finding.basis.get("method", "")),
        n_configs=configs,
        n_seeds=seeds,
        n_diverged=diverged,
        gate=finding.basis.get("reason", finding.sentence) if not finding.answered else "" if record else IN_WORDS,
    )


def finite(number: float | None) -> float | None:
    """None in place of NaN and the infinities, which JSON does not know."""
    return float(number) if number is not None and math.isfinite(number) else None


def curves(findings: Sequence[Finding]) -> list[Place]:
    """Every response curve, place by place."""
    answered = [finding for finding in findings if finding.question == "response" and finding.answered]
    return [
        Place(finding.task, finding.subject, str(finding.values["knob"]), *place)
        for finding in answered
        for place in zip(*(finding.values[name] for name in ("x", "mean", "low", "high")), strict=True)
    ]
