"""What a report says and in which order: a study's findings and facts in, a page of words, figures and tables out."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from dashboards import answer
from dashboards.charts import looks
from dashboards.runs import all_trials, chosen_trials
from dashboards.views import VIEWS, of_question
from dashboards.views.base import Figure, Scene, Table
from dashboards.views.response import trials_figure
from study.analysis.finding import POOLED, Finding
from study.grouping import grouped
from study.redact import redact
from study.trial import PHASES

LONG_TABLE, MANY_WORDS = 40, 8  # rows and sentences; beyond these a page shows them when asked
NOTHING = "There is nothing to report yet: no trial of this study has an accepted result."

Cell = tuple[str, str]  # task, variant


class Score(NamedTuple):
    """What a task is scored by."""

    name: str = "score"
    better: str = "higher is better"


@dataclass(frozen=True)
class ReportData:
    """Everything a report is made of; the caller has computed it all."""

    study: str
    spec: str  # the resolved spec, YAML
    findings: Sequence[Finding]
    trials: pd.DataFrame  # a row per accepted result: task, variant, phase, knobs, seed, state, val_score, ...
    focus: str = "learning_rate"  # the knob that trials are drawn against
    scores: Mapping[str, Score] = field(default_factory=dict)  # by task
    method: Mapping[str, str] = field(default_factory=dict)  # how it was done: design, budget, seeds, splits, ...
    facts: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)  # dates, machine, versions, ...
    failed: Mapping[Cell, int] = field(default_factory=dict)  # trials without a result
    commands: Sequence[str] = ()  # that reproduce the study
    runs: str = ""  # the address of a tracked run without its id, where it has one: http://host/#/experiments/1/runs/


class Block(NamedTuple):
    """One question's answer for one task."""

    heading: str  # the task; empty where the study has one
    lead: tuple[str, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    sentences: tuple[str, ...]
    caveats: tuple[str, ...]
    refused: str


class Section(NamedTuple):
    """One question."""

    anchor: str
    title: str
    reading: str
    blocks: tuple[Block, ...]


class Refusal(NamedTuple):
    """A question that got no answer, with the reasons in full sentences."""

    title: str
    sentences: tuple[str, ...]


class Page(NamedTuple):
    """A whole report, in reading order."""

    title: str
    subtitle: str
    answer: tuple[answer.Statement, ...]
    sections: tuple[Section, ...]
    refusals: tuple[Refusal, ...]
    method: tuple[tuple[str, str], ...]
    states: Table
    chosen: Table  # the trials of the selected settings
    trials: Table
    facts: tuple[tuple[str, str], ...]
    commands: str
    spec: str
    long_table: int = LONG_TABLE
    many_words: int = MANY_WORDS

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in reading order."""
        return [figure for section in self.sections for block in section.blocks for figure in block.figures]


def page(report: ReportData) -> Page:
    """The report as its reader meets it."""
    asked = questions(report.findings)
    return Page(
        report.study,
        subtitle(report),
        short_answer(report),
        tuple(found for question in asked if (found := section(question, report)).blocks),
        tuple(told for question in asked if (told := refusal(question, report)).sentences),
        tuple(report.method.items()),
        states(report),
        chosen_trials(report.findings, report.trials, report.runs),
        all_trials(report.trials, report.runs),
        tuple((name, redact(flat(value))) for name, value in report.facts.items()),
        redact("\n".join(report.commands)),
        redact(report.spec),
    )


def short_answer(report: ReportData) -> tuple[answer.Statement, ...]:
    """What a reader with one minute takes home."""
    if not len(report.trials):
        return (answer.Statement("Nothing yet.", NOTHING),)
    return tuple(answer.statements(report.findings))


def subtitle(report: ReportData) -> str:
    """How large the study is."""
    trials = report.trials
    if not len(trials):
        return "no accepted result yet"
    tasks, variants = list(trials["task"].unique()), trials["variant"].nunique()
    return f"{', '.join(tasks)} · {variants} variant{'s' * (variants > 1)} · {len(trials)} trials"


def questions(findings: Sequence[Finding]) -> list[str]:
    """The questions asked: the known ones in our order, then others in theirs."""
    asked = dict.fromkeys(finding.question for finding in findings)
    return [*(q for q in VIEWS if q in asked), *(q for q in asked if q not in VIEWS)]


def title_of(question: str, report: ReportData) -> str:
    """The question in a reader's words."""
    return of_question(question).title.replace("{focus}", report.focus)


def section(question: str, report: ReportData) -> Section:
    """One answered question over all tasks."""
    tasks = tasks_of(report)
    blocks = [block(question, task, report, task if len(tasks) > 1 else "") for task in tasks]
    shown = tuple(block for block in blocks if block.figures or block.tables or block.lead or block.sentences)
    return Section(slug(question), title_of(question, report), of_question(question).reading, shown)


def tasks_of(report: ReportData) -> list[str]:
    """The tasks in the findings' order."""
    return list(dict.fromkeys(finding.task for finding in report.findings))


def block(question: str, task: str, report: ReportData, heading: str) -> Block:
    """One question's answer for one task: the pooled words first, then figures and table, then each variant's words."""
    asked = [finding for finding in report.findings if finding.question == question and finding.task == task]
    given = [finding for finding in asked if finding.answered]
    valued = [finding for finding in asked if finding.values]
    view, at = of_question(question), scene(task, report)
    figures = view.figures(valued, at)
    if question == "response" and not figures:
        figures = trials_figure(report.trials, report.focus, at)
    return Block(
        heading,
        tuple(finding.sentence for finding in given if finding.subject == POOLED),
        tuple(figures),
        tuple(table for table in view.tables(valued) if table.rows),
        tuple(finding.sentence for finding in given if finding.subject != POOLED),
        tuple(dict.fromkeys(caveat for finding in given for caveat in finding.caveats)),
        refused(asked),
    )


def refused(findings: Sequence[Finding]) -> str:
    """For whom there is no answer, in short."""
    subjects = [finding.subject for finding in findings if not finding.answered]
    return f"Not answered for {', '.join(subjects)}; the reasons stand below." if subjects else ""


def scene(task: str, report: ReportData) -> Scene:
    """What a task's figures share: names and looks."""
    score = report.scores.get(task, Score())
    stems = [slug(name) for name in tasks_of(report)]
    at = tasks_of(report).index(task)
    stem = stems[at] if stems.count(stems[at]) == 1 else f"{stems[at]}-{at}"  # one file name per task
    return Scene(task, stem, score.name, score.better, looks(variants(report)))


def variants(report: ReportData) -> list[str]:
    """The variants in the findings' order, the reference of a comparison first."""
    subjects = dict.fromkeys(finding.subject for finding in report.findings if finding.subject != POOLED)
    subjects |= dict.fromkeys(report.trials["variant"]) if len(report.trials) else {}
    reference = next((str(f.values["reference"]) for f in report.findings if "reference" in f.values), None)
    return [*(name for name in subjects if name == reference), *(name for name in subjects if name != reference)]


def refusal(question: str, report: ReportData) -> Refusal:
    """A question's refusals, for every subject that a gate closed on; those with one reason together."""
    closed = [found for found in report.findings if found.question == question and not found.answered]
    alike = grouped(closed, lambda found: (found.task, str(found.basis.get("reason", found.sentence))))
    told = (together(found, *why) if len(found) > 1 else found[0].sentence for why, found in alike.items())
    return Refusal(title_of(question, report), tuple(told))


def together(found: Sequence[Finding], task: str, reason: str) -> str:
    """One sentence for all of them."""
    return f"For {', '.join(each.subject for each in found)} on {task} this is not answered: {reason}."


def states(report: ReportData) -> Table:
    """Trials by state, a row per cell."""
    seen = {"explore", "confirm", *report.trials["phase"]}
    columns = [(phase, state) for phase in PHASES if phase in seen for state in ("finished", "diverged")]
    rows = report.trials[["task", "variant", "phase", "state"]].itertuples(index=False, name=None)
    count: Counter[tuple[str, ...]] = Counter((task, variant, phase, state) for task, variant, phase, state in rows)
    cells = dict.fromkeys([*((task, variant) for task, variant, _, _ in count), *report.failed])
    heads = ("task", "variant", *(f"{phase}: {state}" for phase, state in columns), "failed")
    return Table(
        heads, tuple((*cell, *counts(cell, columns, count), str(report.failed.get(cell, 0))) for cell in cells)
    )


def counts(cell: Cell, columns: Sequence[tuple[str, str]], count: Mapping[tuple[str, ...], int]) -> list[str]:
    """How many of a cell's trials are in each (phase, state)."""
    return [str(count.get((*cell, *column), 0)) for column in columns]


def flat(value: str | Mapping[str, str]) -> str:
    """A fact in one line."""
    return ", ".join(f"{name} {inner}" for name, inner in value.items()) if isinstance(value, Mapping) else str(value)


def slug(text: str) -> str:
    """Fit for a file name and an anchor."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "task"
