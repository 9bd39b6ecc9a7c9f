"""Views: every question is drawn and tabled from what its own function returns, and nothing is drawn from nothing."""

import base64
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import vl_convert

from dashboards import charts, curves
from dashboards.charts import VEGA_LITE, document, in_picture, looks
from dashboards.curves import Axes, Curve, Point
from dashboards.page import page as assembled
from dashboards.report import ReportData, Score, as_markdown, write
from dashboards.views import VIEWS, budget, comparison, sensitivity, variance
from dashboards.views.base import Figure, Scene
from study.analysis import analyze, known
from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.peers import peers
from study.analysis.plan import Plan
from study.space import Levels, LogFloat

HOSTILE = "<script>alert(1)</script>"
BEST = {"lora": -2.6, "dora": -2.2, HOSTILE: -3.4, "pissa": -3.0}
KNOBS = (LogFloat("learning_rate", 1e-5, 1e-1, 1e-3), Levels("rank", (2, 8), 2))
SURFACE = known.Surface(BEST, curvature=0.2, noise=0.004, cliff=-1.2)
PLAN = Plan({"task": "maximize"}, dict.fromkeys(BEST, KNOBS), design="random")
SCENE = Scene("task", "task", "accuracy", "higher is better", looks(list(BEST)))
DRAWN = {
    "variance": {"variance-task", "variance-variants-task"},
    "response": {"response-task", "response-variants-task", "response-levels-task"},
    "sensitivity": {"sensitivity-task", "sensitivity-knobs-task", "sensitivity-map-task"},
    "comparison": {"comparison-task"},
    "stability": set(),
    "shared value": {"shared-value-task"},
    "shift": {"shift-task"},
    "tunability": {"tunability-task"},
    "sharpness": {"sharpness-task"},
    "budget": {"budget-task"},
    "cost": {"cost-task"},
    "peers": set(),
}


def trials() -> pd.DataFrame:
    """Four variants at 32 points with three seeds, then one setting each with eight, on which a test score is known."""
    explored = known.simulate(SURFACE, PLAN, 32, 3, np.random.default_rng(1))
    best = explored.loc[explored.groupby("variant")["val_score"].idxmax()]
    confirmed = pd.concat([best.assign(phase="confirm", seed=1000 + seed) for seed in range(8)], ignore_index=True)
    score = confirmed["val_score"] + np.random.default_rng(2).normal(0, 0.004, len(confirmed))
    table = pd.concat([explored, confirmed.assign(test_score=score)], ignore_index=True)
    return table.assign(trainable=1000, mlflow_run_id=[f"run{i}" for i in range(len(table))])


def curvature() -> pd.DataFrame:
    """The sharper, the smaller the best value."""
    return pd.DataFrame(
        [
            {"task": "task", "variant": name, "site": site, "top": 10 ** (-u - site / 10)}
            for name, u in BEST.items()
            for site in (0, 1)
        ]
    )


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    found = [one for one in analyze(trials(), PLAN, curvature()) if one.question != "peers"]
    alone = Plan({"task": "maximize"}, {"lora": KNOBS})  # peers want 50 settings of a variant
    return [*found, *peers(known.simulate(SURFACE, alone, 64, 1, np.random.default_rng(1)), alone, "task")]


def of(question: str, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.question == question and finding.values]


@pytest.mark.parametrize("question", VIEWS)
def test_a_question_is_drawn_and_tabled_from_its_own_findings(question: str, findings: list[Finding]) -> None:
    figures = VIEWS[question].figures(of(question, findings), SCENE)
    tables = VIEWS[question].tables(of(question, findings))
    assert {figure.name for figure in figures} == DRAWN[question]
    assert tables[0].rows
    assert all(len(row) == len(table.heads) for table in tables for row in table.rows)
    for panel in (panel for figure in figures for panel in figure.panels):
        panel.to_dict(validate=True)


@pytest.mark.parametrize("question", VIEWS)
def test_nothing_is_drawn_or_tabled_from_nothing(question: str) -> None:
    assert VIEWS[question].figures([], SCENE) == []
    assert not any(table.rows for table in VIEWS[question].tables([]))


def test_a_subject_with_little_to_explain_has_no_bars() -> None:
    values = {"settings_deviation": Estimate(0.01, None, None), "seeds_deviation": Estimate(0.01, None, None)}
    robust = [Finding("variance", "task", "lora", False, "Little to explain.", values)]
    assert variance.figures(robust, SCENE) == []
    assert not any(table.rows for table in variance.tables(robust))


def test_the_share_is_tabled_against_the_width_of_the_range(findings: list[Finding]) -> None:
    _, _, widths = variance.tables(of("variance", findings))
    assert [row[2] for row in widths.rows if row[0] == POOLED] == ["4", "2", "1"]


def test_every_file_of_a_report_keeps_a_hostile_name_inert(findings: list[Finding], tmp_path: Path) -> None:
    report = ReportData(HOSTILE, "", findings, trials(), scores={"task": Score(HOSTILE)}, runs=f"http://{HOSTILE}/")
    page = write(report, tmp_path, ["html"])["report.html"].read_text()
    stills = [base64.b64decode(still).decode() for still in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", page)]
    assert len(stills) == sum(map(len, DRAWN.values()))
    assert page.count("<script") == 2  # the charts' library, and the lines that draw
    assert not [text for text in (page, *stills) if "<script>alert" in text]
    markdown = as_markdown(assembled(report))
    assert "<script" not in markdown
    assert "](http://%3Cscript%3E" in markdown


def test_the_forest_says_what_within_the_margin_means(findings: list[Finding]) -> None:
    [figure] = comparison.figures(of("comparison", findings), SCENE)
    assert all(word in figure.caption for word in ("TOST", "at 5 %", "90 % interval", "Holm"))


def test_a_knob_without_a_logarithm_is_a_dash_on_the_map(findings: list[Finding]) -> None:
    told = {f.subject: f.values["score"] for f in of("sensitivity", findings) if f.subject != POOLED}
    fields = sensitivity.fields(told, ["learning_rate", "init"], "decade")
    assert {(field.column, field.value is None) for field in fields} == {("learning_rate", False), ("init", True)}
    assert {field.text for field in fields if field.value is None} == {"–"}


def drawn(figure: Figure) -> str:
    return vl_convert.vegalite_to_svg(in_picture([document(panel) for panel in figure.panels], 2), vl_version=VEGA_LITE)


def test_a_legend_of_34_variants_names_them_all() -> None:
    names = [f"variant_{i:02d}" for i in range(34)]
    curve = Curve(POOLED, [Point(10.0**-i, i / 10, 0, name, False) for i in (1, 2) for name in names])
    panel = curves.response(curve, charts.looks(names), Axes("x", "y", (0.01, 0.1), (0, 1)))
    picture = drawn(Figure("response", "", "", (panel,)))
    assert all(name in picture for name in names)
    assert "entries" not in picture


def test_budgets_of_many_variants_stand_on_panels_that_share_the_first() -> None:
    values = {
        "k": [1, 2],
        "mean": [0.5, 0.6],
        "low": [0.4, 0.5],
        "high": [0.6, 0.7],
        "largest": Estimate(0.6, 0.5, 0.7),
    }
    names = [f"variant_{i:02d}" for i in range(34)]
    [figure] = budget.figures([Finding("budget", "task", name, True, "", values) for name in names], SCENE)
    picture = drawn(figure)
    assert len(figure.panels) == math.ceil(33 / (budget.LINES - 1))
    assert all(f">{name}<" in picture for name in names)
    assert picture.count(f">{names[0]}<") == len(figure.panels)
