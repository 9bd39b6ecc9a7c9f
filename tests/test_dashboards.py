"""A report says every finding, needs no network, trusts no name, and admits what it does not know."""

import html
import json
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import qmc

from dashboards import answer, charts
from dashboards.page import page
from dashboards.report import Format, ReportData, Score, as_csv, as_json, write
from dashboards.views import sensitivity
from dashboards.views.base import Figure, plain_table
from study.analysis import POOLED, Estimate, Finding, Plan, analyze
from study.analysis.finding import Record
from study.analysis.records import VERSION, Place, Row
from study.space import Knob, Levels, LogFloat

TASK = "sentiment/movies"
HOSTILE = "<script>alert(1)</script>"
KNOBS: tuple[Knob, ...] = (LogFloat("learning_rate", 1e-5, 1e-1, 1e-3), LogFloat("alpha", 1, 128, 16))
PLAN = Plan({TASK: "maximize"}, {"lora": KNOBS, "dora": (*KNOBS, Levels("rank", (2, 8), 2)), HOSTILE: KNOBS})


def row(variant: str, phase: str, seed: int, setting: dict[str, float], noise: float) -> dict[str, object]:
    """A trial whose score is an inverted U over the learning rate, and that diverges beyond 0.03."""
    lost = setting["learning_rate"] > 0.03
    score = 0.5 if lost else 0.5 + 0.3 * math.exp(-((math.log10(setting["learning_rate"]) + 2.6) ** 2)) + noise
    return {
        "task": TASK,
        "variant": variant,
        "phase": phase,
        **setting,
        "seed": seed,
        "state": "diverged" if lost else "finished",
        "val_score": score,
        "val_loss": 1 - score,
        "test_score": score if phase == "confirm" else math.nan,
        "loss0": 0.5,
        "score0": 0.5,
        "diverged": lost,
        "key": f"{variant}{sorted(setting.items())}",
    }


def trials(points: int = 8) -> pd.DataFrame:
    """Every variant at the same points with two seeds, then one setting each with three."""
    generator, rows = np.random.default_rng(0), []
    design = qmc.Sobol(3, rng=1).random(points)
    for variant, knobs in PLAN.knobs.items():
        settings = [{knob.name: knob.decode(u) for knob, u in zip(knobs, point, strict=False)} for point in design]
        rows += [row(variant, "explore", s, one, generator.normal(0, 0.01)) for one in settings for s in (0, 1)]
        best = {knob.name: knob.default for knob in knobs} | {"learning_rate": 0.0025}
        rows += [row(variant, "confirm", 1000 + s, best, generator.normal(0, 0.01)) for s in range(3)]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def report() -> ReportData:
    table = trials()
    return ReportData(
        study=f"{HOSTILE} & friends",
        spec=f"name: {HOSTILE}\nstorage: postgresql://me:pass-word@host/db\n",
        findings=analyze(table, PLAN),
        trials=table,
        scores={TASK: Score("accuracy", "higher is better")},
        method={"Design": "8 points of one Sobol sequence"},
        facts={"Tracker": "http://me:pass-word@host:5000", "Versions": {"torch": "2.13"}},
        failed={(TASK, "dora"): 2},
        commands=("lorascope launch study.yaml",),
    )


@pytest.fixture(scope="module")
def written(report: ReportData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(report, tmp_path_factory.mktemp("report"))


class Reader(HTMLParser):
    """What a browser would see: text outside scripts, addresses, and how many scripts there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack.append(tag)
        self.scripts += tag == "script"
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_endtag(self, tag: str) -> None:
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.stack):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read_page(written: dict[str, Path]) -> Reader:
    return Reader(written["report.html"].read_text())


def test_a_report_is_written_whole(written: dict[str, Path]) -> None:
    assert {"report.html", "report.md", "findings.json", "trials.csv", "findings.csv", "curves.csv"} < set(written)
    assert {f"{name}-sentiment-movies.png" for name in ("variance", "response", "sensitivity", "comparison")} < set(
        written
    )
    assert all(path.stat().st_size for path in written.values())


def test_every_picture_is_an_image_that_the_markdown_shows(written: dict[str, Path]) -> None:
    pictures = [name for name in written if name.endswith(".png")]
    markdown = written["report.md"].read_text()
    assert len(pictures) >= 5
    for name in pictures:
        assert Image.open(BytesIO(written[name].read_bytes())).convert("RGB").getcolors(2) is None, "an empty picture"
        assert f"]({name})" in markdown


def test_the_page_asks_the_network_for_nothing(written: dict[str, Path]) -> None:
    seen = read_page(written)
    assert all(address.startswith(("#", "data:")) for address in seen.addresses)
    assert "default-src 'none'" in written["report.html"].read_text()
    assert not re.search(r"@import|url\(", written["report.html"].read_text().split("</style>")[0])


def test_every_finding_is_said_on_the_page_and_in_markdown(report: ReportData, written: dict[str, Path]) -> None:
    text, markdown = read_page(written).text, html.unescape(written["report.md"].read_text().replace("\\", ""))
    for finding in report.findings:
        said = finding.sentence if finding.answered else finding.basis.get("reason", finding.sentence)
        assert said in text
        assert said in markdown
        assert all(caveat in text and caveat in markdown for caveat in finding.caveats if finding.answered)


def test_a_name_with_a_script_is_inert(written: dict[str, Path]) -> None:
    seen = read_page(written)
    assert seen.scripts == 2  # the charts' library, and the lines that draw
    assert HOSTILE in seen.text
    assert "<script>alert" not in written["report.html"].read_text()
    assert "<script" not in re.sub(r"(?m)^    .*$", "", written["report.md"].read_text()), "outside an indented block"


def test_passwords_are_not_shown(written: dict[str, Path]) -> None:
    assert "pass-word" not in written["report.html"].read_text() + written["report.md"].read_text()


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_findings_are_json_without_nan() -> None:
    records = (Record("best", Estimate(1.0, None, math.nan), "decades", "lr", "rank=8"),)
    basis = {"settings": 8, "seeds": 2, "diverged": 1, "method": "a smooth"}
    text = as_json([Finding("response", TASK, "lora", True, "Said.", basis=basis, records=records)])
    [row] = json.loads(text, parse_constant=refuse)
    assert row == {
        "version": 1,
        "question": "response: best",
        "group": f"{TASK}/lora",
        "given": "rank=8",
        "knob": "lr",
        "estimate": 1.0,
        "low": None,
        "high": None,
        "unit": "decades",
        "method": "a smooth",
        "n_configs": 8,
        "n_seeds": 2,
        "n_diverged": 1,
        "gate": "",
    }


def test_a_question_without_an_answer_is_a_row_with_its_reason_and_no_number() -> None:
    [row] = json.loads(as_json([Finding("variance", TASK, POOLED, False, "Too few points.")]))
    assert (row["question"], row["gate"], row["estimate"], row["n_configs"]) == (
        "variance",
        "Too few points.",
        None,
        None,
    )


def test_the_page_of_findings_documents_the_fields_that_are_written() -> None:
    text = (Path(__file__).parent.parent / "docs" / "findings.md").read_text()
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == Row._fields
    assert f"This is version {VERSION}." in text
    assert all(f"`{name}`" in text.partition("# curves.csv")[2] for name in Place._fields)


@pytest.mark.parametrize(
    ("form", "files"),
    [("html", {"report.html"}), ("csv", {"trials.csv", "findings.csv", "curves.csv"}), ("md", {"report.md"})],
)
def test_a_report_in_one_format_holds_its_files_and_the_findings(form: Format, files: set[str], tmp_path: Path) -> None:
    found = write(ReportData("young", "name: young\n", [], trials().iloc[:0]), tmp_path, [form])
    assert set(found) == {"findings.json"} | files


def test_the_table_of_trials_reads_back_and_runs_no_formula() -> None:
    table = pd.DataFrame({"variant": ["=1+1", "lora"], "x": [-1.5, math.nan]})
    back = pd.read_csv(StringIO(as_csv(table)))
    assert back["variant"].tolist() == ["'=1+1", "lora"]
    assert back["x"].tolist()[0] == -1.5


def test_an_empty_study_says_that_there_is_nothing_yet(tmp_path: Path) -> None:
    written = write(ReportData("young", "name: young\n", [], trials().iloc[:0]), tmp_path)
    assert "nothing to report yet" in read_page(written).text
    assert "nothing to report yet" in written["report.md"].read_text()
    assert json.loads(written["findings.json"].read_text()) == []
    assert set(written) == {"report.html", "report.md", "findings.json", "trials.csv", "findings.csv", "curves.csv"}


def test_too_few_trials_show_themselves_and_the_reasons(report: ReportData) -> None:
    few = trials(2)
    shown = page(replace(report, findings=analyze(few, PLAN), trials=few))
    assert shown.figures[0].title == "Every trial: validation accuracy against learning_rate"
    refused = [sentence for refusal in shown.refusals for sentence in refusal.sentences]
    assert any("2 settings are too few" in sentence for sentence in refused)


def test_trials_are_counted_by_state(report: ReportData) -> None:
    table = page(report).states
    [dora] = [dict(zip(table.heads, row, strict=True)) for row in table.rows if row[1] == "dora"]
    lost = int((report.trials["diverged"] & (report.trials["variant"] == "dora")).sum())
    assert lost > 0
    assert (dora["explore: diverged"], dora["confirm: finished"], dora["failed"]) == (str(lost), "3", "2")


def test_every_chart_is_valid_vega_lite(report: ReportData) -> None:
    for figure in page(report).figures:
        for panel in figure.panels:
            panel.to_dict(validate=True)


def test_a_variant_has_one_look_of_its_own() -> None:
    looks = charts.looks([f"variant{i}" for i in range(49)])
    assert len(set(looks.values())) == 49
    assert looks["variant0"].colour == "#000000"


def test_a_variant_keeps_its_colour_in_every_figure(report: ReportData) -> None:
    found = {
        figure.name.split("-sent")[0]: json.dumps([charts.document(p) for p in figure.panels])
        for figure in page(report).figures
    }
    colour = charts.looks(["lora", "dora"])["dora"].colour
    assert all(colour in found[name] for name in ("response", "response-variants", "sensitivity", "comparison"))


def test_two_tasks_keep_their_own_pictures(report: ReportData) -> None:
    one = [finding for finding in report.findings if finding.question == "response"]
    other = [replace(finding, task="sentiment movies") for finding in one]
    names = [figure.name for figure in page(replace(report, findings=[*one, *other])).figures]
    assert len(names) == len(set(names)) == 4


def test_a_question_without_a_view_is_still_tabled() -> None:
    values = {"cost": Estimate(1.5, 1.0, 2.0), "pairs": 3, "curve": [1, 2]}
    [table] = plain_table([Finding("cost", TASK, "lora", True, "Said.", values)])
    assert table.heads == ("for", "cost", "pairs")
    assert table.rows == (("lora", "1.5 [1, 2]", "3"),)


def costs(**decades: float) -> Finding:
    """A pooled sensitivity in which a knob costs ten times its cost over one decade."""
    score = {name: {"range": estimate(10 * cost), "decade": estimate(cost)} for name, cost in decades.items()}
    order = sorted(decades, key=lambda name: -decades[name])
    ranking = {"by_range": order, "by_decade": order, "agree": decades[order[0]] > decades[order[1]] + 0.2}
    values = {"focus": "learning_rate", "score": score, "conditional": {}, "retuned": {}, "ranking": ranking}
    return Finding("sensitivity", TASK, POOLED, True, "Said.", values)


def shares(**first: float) -> Finding:
    """A pooled variance whose intervals reach 0.1 to either side."""
    values = {
        "first": {name: estimate(share) for name, share in first.items()},
        "total": None,
        "floor": 0.02,
        "ranges": {},
    }
    return Finding("variance", TASK, POOLED, True, "Said.", values | {"deviation": Estimate(0.1, 0.08, 0.12)})


def estimate(value: float) -> Estimate:
    return Estimate(value, max(value - 0.1, 0.0), value + 0.1)


def test_a_sensitivity_table_gives_every_knob_its_own_cost() -> None:
    table = sensitivity.tables([costs(learning_rate=0.5, alpha=0.3)])[0]
    assert [(row[1], row[2][:3], row[3][:3]) for row in table.rows] == [
        ("learning_rate", "5 [", "0.5"),
        ("alpha", "3 [", "0.3"),
    ]


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"learning_rate": 0.7, "rank": 0.1}, "Its interval lies above those of all others"),
        ({"learning_rate": 0.5, "rank": 0.4}, "overlaps that of rank, so the order is not certain"),
        ({"learning_rate": 0.01, "rank": 0.0}, "no knob stands out"),
    ],
)
def test_a_knob_is_said_to_matter_most_only_as_surely_as_its_interval_allows(
    first: dict[str, float], said: str
) -> None:
    assert said in answer.what_matters([shares(**first)])


def test_a_ranking_that_rests_on_the_width_of_a_range_says_so() -> None:
    wide = [shares(learning_rate=0.7, alpha=0.1), costs(learning_rate=0.02, alpha=0.05)]
    assert "the ranking depends on the declared ranges" in answer.what_matters(wide)
    agreed = [shares(learning_rate=0.7, alpha=0.1), costs(learning_rate=0.5, alpha=0.02)]
    assert "Both measures agree." in answer.what_matters(agreed)
    close = [shares(learning_rate=0.7, alpha=0.1), costs(learning_rate=0.05, alpha=0.02)]
    assert "the order is not certain" in answer.what_matters(close)


def test_one_seed_is_counted_as_one_and_promises_no_more() -> None:
    basis = {"settings": 8, "seeds": 1, "runs": 8, "diverged": 0}
    said = answer.how_sure([Finding("variance", TASK, POOLED, True, "Said.", {}, basis)])
    assert "8 settings, 1 seed, 8 trials" in said
    assert "run-to-run noise is unknown" in said
    assert "conditional" not in answer.how_sure([Finding("variance", TASK, POOLED, True, "", {}, basis | {"seeds": 3})])


@pytest.mark.parametrize(
    ("flips", "said"),
    [
        (Estimate(2.0, 1.0, 2.0), "Yes. 2 [1, 2] of 2 variants"),
        (Estimate(1.0, 0.0, 2.0), "Not shown."),
        (Estimate(0.0, 0.0, 0.0), "No reversal is possible."),
    ],
)
def test_a_shared_value_is_said_to_mislead_only_where_a_reversal_is_shown(flips: Estimate, said: str) -> None:
    known = {
        "knob": "learning_rate",
        "reference": "lora",
        "margin": 0.01,
        "at": 0.001,
        "differences": {"a": {}, "b": {}},
    }
    values = known | {"flips": flips, "tau_at": estimate(0.5)}
    assert said in answer.shared_value([Finding("shared value", TASK, POOLED, True, "Said.", values)])


def test_no_variant_is_called_better_without_a_verdict() -> None:
    def compared(verdict: str) -> Sequence[Finding]:
        values = {"reference": "lora", "margin": 0.01, "verdict": verdict, "difference": Estimate(0.02, 0.01, 0.03)}
        return [Finding("comparison", TASK, "dora", True, "Said.", values)]

    assert "no variant is shown to beat lora" in answer.which_variant(compared("not decided"))
    assert "no variant" not in answer.which_variant(compared("better"))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_every_chart_is_drawn_by_a_browser(report: ReportData, written: dict[str, Path], tmp_path: Path) -> None:
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    headless = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=8000",
        f"--user-data-dir={tmp_path}",
    )
    told = subprocess.run(
        ["chromium", *headless, *quiet, "--dump-dom", written["report.html"].as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    figures: list[Figure] = page(report).figures
    assert told.stdout.count('class="live"') == len(figures)
    assert told.stdout.count('class="marks"') == sum(len(figure.panels) for figure in figures)
