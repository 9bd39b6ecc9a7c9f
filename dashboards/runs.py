"""Tables of trials that lead from a report's numbers to the runs they come from."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pandas as pd

from dashboards.views.base import Cell, Link, Table, cell, having
from dashboards.views.comparison import setting_words
from study.analysis.finding import Finding
from study.redact import redact

MOST = 2000  # trials that a page lists
RUN, SHORT = "mlflow_run_id", 12  # letters of a key that a table shows
HIDDEN = {"val_loss", "loss0", "score0", "diverged", "steps", "cpu_seconds", "trainable", "peak_memory", "test_correct"}


def all_trials(trials: pd.DataFrame, runs: str) -> Table:
    """A row per trial, at most MOST: setting, seed, state, scores, the short key and the run."""
    names = [name for name in trials.columns if name not in HIDDEN | {"key", RUN}]
    rows = trials.head(MOST).to_dict("records")
    shown = tuple((*(known(row[name]) for name in names), str(row["key"])[:SHORT], run(row, runs)) for row in rows)
    title = f"All {len(trials)} trials" if len(trials) <= MOST else f"The first {MOST} of {len(trials)} trials"
    return Table((*names, "key", "run"), shown, title)


def chosen_trials(findings: Sequence[Finding], trials: pd.DataFrame, runs: str) -> Table:
    """The selected settings that were confirmed, and the run of each of their seeds."""
    rows = tuple(chosen_row(finding, trials, runs) for finding in having("key", findings))
    return Table(("task", "variant", "selected setting", "key", "runs by seed"), rows)


def chosen_row(finding: Finding, trials: pd.DataFrame, runs: str) -> tuple[Cell, ...]:
    """One selected setting."""
    key, setting = str(finding.values["key"]), setting_words(finding.values["setting"])
    mine = trials[(trials["task"] == finding.task) & (trials["phase"] == "confirm") & (trials["key"] == key)]
    each = [(str(row["seed"]), run(row, runs)) for row in mine.to_dict("records")]
    links = tuple(Link(seed, link.address) for seed, found in each if not isinstance(found, str) for link in found)
    told = ", ".join(f"{seed}: {found}" for seed, found in each)
    return (finding.task, finding.subject, setting, key[:SHORT], links or told)


def run(row: Mapping[Any, Any], runs: str) -> Cell:
    """A trial's tracked run: a link where the tracker has an address, else its id; nothing where it has none."""
    name = row.get(RUN)
    if not isinstance(name, str):
        return cell(None)
    return (Link(name, address(runs, name)),) if runs.startswith(("http://", "https://")) else name


def address(runs: str, name: str) -> str:
    """A run's address, without a password and without a character that ends a link."""
    return quote(redact(runs), safe=":/#?&=%@*") + quote(name, safe="")


def known(value: Any) -> str:
    """A number or a text, a dash where there is none."""
    return cell(None if pd.isna(value) else value)
