"""What all views share: figures, tables, and how a question without a view of its own is shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dashboards.charts import Chart, Look
from study.analysis.finding import Estimate, Finding
from study.analysis.words import number, span

MISSING = "–"
FEW, SOME = 8, 18  # panels; more of them stand in more columns


@dataclass(frozen=True)
class Figure:
    """A picture of one or more panels, and what a reader must know to read it."""

    name: str  # file stem, unique in the report
    title: str
    caption: str
    panels: tuple[Chart, ...]
    columns: int = 1  # of the picture; a page wraps its panels by itself


class Link(NamedTuple):
    """A cell's text that leads elsewhere."""

    text: str
    address: str


Cell = str | tuple[Link, ...]


class Table(NamedTuple):
    """Headings and rows; every row is as long as the headings."""

    heads: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Scene:
    """What a question's figures need besides its findings."""

    task: str
    name: str  # of the task, fit for a file name
    score: str  # what the score is called
    better: str  # "higher is better" | "lower is better"
    looks: Mapping[str, Look]


def no_figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """A question that is shown in words and a table."""
    return []


def plain_table(findings: Sequence[Finding]) -> list[Table]:
    """The single numbers of a question without a table of its own."""
    shown = (Estimate, float, int, str)
    names = dict.fromkeys(name for f in findings for name, value in f.values.items() if isinstance(value, shown))
    rows = tuple((f.subject, *(cell(f.values.get(name)) for name in names)) for f in findings)
    return [Table(("for", *names), rows)] if names else []


class View(NamedTuple):
    """How one question is shown; `{focus}` in its words is the knob in focus."""

    title: str
    reading: str = ""
    figures: Callable[[Sequence[Finding], Scene], list[Figure]] = no_figures
    tables: Callable[[Sequence[Finding]], list[Table]] = plain_table


def cell(value: Any) -> str:
    """A number with its interval, a number, or the text itself; not every number exists for everyone."""
    if isinstance(value, Estimate):
        return span(value)
    if isinstance(value, float):
        return number(value)
    return MISSING if value is None else str(value)


def stands(finding: Finding) -> str:
    """What a finding rests on: settings, seeds, diverged runs."""
    return " / ".join(str(finding.basis.get(name, MISSING)) for name in ("settings", "seeds", "diverged"))


def having(name: str, findings: Sequence[Finding]) -> list[Finding]:
    """The findings that tell this value."""
    return [finding for finding in findings if name in finding.values]


def columns_of(panels: Sequence[Chart]) -> int:
    """How many panels of a picture stand side by side."""
    return 2 if len(panels) <= FEW else 3 if len(panels) <= SOME else 4


def top_of(estimates: Sequence[Estimate]) -> float:
    """The largest end of the intervals, where an axis from zero ends; 1 where nothing is above zero."""
    ends = [one.value if one.high is None else one.high for one in estimates]
    return max(ends, default=0.0) or 1.0
