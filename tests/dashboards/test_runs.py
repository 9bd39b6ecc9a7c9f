"""Every number leads to trials, and every trial to its run, by no address that does harm."""

import pandas as pd
import pytest

from dashboards import runs
from dashboards.views.base import Link
from study.analysis.finding import Finding

PLACE = "http://127.0.0.1:5000/#/experiments/1/runs/"


def trials(count: int = 3) -> pd.DataFrame:
    rows = [
        {"task": "task", "variant": "lora", "phase": "confirm", "rank": 4, "seed": 1000 + i, "state": "finished"}
        | {"val_score": 0.5, "key": "0123456789abcdef", "mlflow_run_id": f"run{i}"}
        for i in range(count)
    ]
    return pd.DataFrame(rows)


def chosen() -> list[Finding]:
    values = {"key": "0123456789abcdef", "setting": {"rank": 4, "alpha": 0.25}}
    return [Finding("comparison", "task", "lora", True, "Said.", values)]


def test_a_selected_setting_leads_to_the_run_of_each_seed() -> None:
    [row] = runs.chosen_trials(chosen(), trials(), PLACE).rows
    assert row[:4] == ("task", "lora", "rank 4, alpha 0.25", "0123456789ab")
    assert row[4] == tuple(Link(str(1000 + i), f"{PLACE}run{i}") for i in range(3))


def test_without_an_address_runs_are_told_by_their_names() -> None:
    [row] = runs.chosen_trials(chosen(), trials(2), "").rows
    assert row[4] == "1000: run0, 1001: run1"
    assert runs.all_trials(trials(1).drop(columns="mlflow_run_id"), PLACE).rows[0][-1] == "–"


@pytest.mark.parametrize("place", ["javascript:alert(1)//", "sqlite:///runs.db/", "data:text/html,"])
def test_only_a_web_address_becomes_a_link(place: str) -> None:
    assert runs.all_trials(trials(1), place).rows[0][-1] == "run0"


def test_an_address_shows_no_password_and_ends_nowhere_early() -> None:
    found = runs.address("http://me:pass-word@host/#/runs/", 'a) "<b>/../')
    assert found == "http://me:***@host/#/runs/a%29%20%22%3Cb%3E%2F..%2F"


def test_a_page_lists_so_many_trials_and_says_how_many_there_are() -> None:
    table = runs.all_trials(trials(runs.MOST + 1), "")
    assert len(table.rows) == runs.MOST
    assert table.title == f"The first {runs.MOST} of {runs.MOST + 1} trials"
    assert table.heads == ("task", "variant", "phase", "rank", "seed", "state", "val_score", "key", "run")
