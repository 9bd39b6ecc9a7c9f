"""Anybody's trials get the same findings as ours, from every source, and one clear line where they cannot."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from study import cli
from study.analysis.records import Row
from study.errors import BadInput
from study.foreign.knobs import FEW, columns, words
from study.foreign.source import Request, Source
from study.foreign.trials import ONE_GROUP, prepared
from study.space import Choice, Levels, LinearFloat, LogFloat
from trackers import optuna as optuna_trials
from trackers import runs, tables

HOSTILE, FORMULA = "<script>alert(1)</script>", "=1+1"
PLAIN = Request("lr,rank,init", "acc", "maximize")


def table(points: int = 24, groups: tuple[str, ...] = ("lora", "dora")) -> pd.DataFrame:
    """Two seeds a setting, an inverted U over lr, no score above 0.03."""
    generator, rows = np.random.default_rng(0), []
    for method in groups:
        for i in range(points):
            lr, rank = 10 ** generator.uniform(-5, -1), int(generator.choice([2, 4, 8]))
            score = 0.5 + 0.3 * math.exp(-((math.log10(lr) + 2.6) ** 2))
            rows += [
                {"method": method, "lr": lr, "rank": rank, "init": ("eva", FORMULA)[i % 2], "seed": seed}
                | {"acc": math.nan if lr > 0.03 else score + generator.normal(0, 0.01)}
                for seed in (0, 1)
            ]
    return pd.DataFrame(rows)


# What a column is


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ([1e-5, 1e-4, 1e-3], LogFloat("x", 1e-5, 1e-3, 1e-5)),
        ([1, 2, 4], Levels("x", (1, 2, 4), 1)),
        ([0.5, -1, 0.5], Levels("x", (-1, 0.5), -1)),
        (list(range(FEW + 1)), LinearFloat("x", 0, FEW, 0)),
        (list(np.linspace(0.01, 1, 50)), LinearFloat("x", 0.01, 1, 0.01)),
        (["b", "a", "b"], Choice("x", ("a", "b"), "a")),
        ([True, False], Choice("x", ("False", "True"), "False")),
    ],
)
def test_a_columns_axis_is_guessed_from_its_values(values: list[Any], knob: Any) -> None:
    found = columns(Source("t", pd.DataFrame({"x": values})), "x")["x"]
    assert found.knob == knob
    assert found.guessed is not None


def test_a_kind_that_is_said_is_taken() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 4.0], "a:b": [1, 2, 3]})
    said = columns(Source("t", frame), "x:log,a:b:categorical")
    assert {name: words(one.knob) for name, one in said.items()} == {"x": "log, 1 to 4", "a:b": "categorical: 1, 2, 3"}
    assert [one.guessed for one in said.values()] == [None, None]


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (1e6, 1e6 + 1)])
def test_a_linear_knobs_places_decode_to_its_values(low: float, high: float) -> None:
    knob = LinearFloat("x", low, high, low)
    assert [knob.decode(u) for u in (0, 0.5, 1)] == [low, (low + high) / 2, high]
    assert [knob.encode(value) for value in knob.grid(3)] == [0, 0.5, 1]


def test_a_learning_rate_stored_to_sixteen_digits_lies_inside_its_range() -> None:
    frame = pd.DataFrame({"lr": 1e-3 * np.linspace(1.0000004, 1.1000004, 20), "y": np.arange(20.0)})
    found = prepared(Source("t", frame), Request("lr:log", "y", "maximize"))
    [knob] = found.plan.knobs[ONE_GROUP]
    assert all(0 <= knob.encode(value) <= 1 for value in found.table["lr"])


# What a row is


def test_groups_are_variants_and_their_knobs_share_one_range() -> None:
    found = prepared(Source("t", table()), PLAIN._replace(group=("method", "rank"), knobs="lr,init"))
    assert set(found.plan.knobs) == {f"{method}/{rank}" for method in ("lora", "dora") for rank in (2, 4, 8)}
    assert len(set(found.plan.knobs.values())) == 1
    assert (found.plan.design, found.plan.focus, found.plan.measures) == ("foreign", "lr", ("score",))


def test_a_row_without_a_score_is_diverged_and_never_dropped() -> None:
    frame = table()
    frame.loc[0, "acc"], frame.loc[1, "acc"] = math.inf, -math.inf
    lost = ~np.isfinite(frame["acc"])
    told, silent = (prepared(Source("t", frame), PLAIN._replace(loss0=loss0)) for loss0 in (0.4, None))
    assert told.table["diverged"].tolist() == silent.table["diverged"].tolist() == lost.tolist()
    assert set(told.table.loc[lost, "val_score"]) == {0.4}
    assert set(silent.table.loc[lost, "val_score"]) == {frame.loc[~lost, "acc"].min()}
    assert any("nothing is censored" in note for note in silent.notes)
    assert any(f"{lost.sum()} of {len(frame)} rows have no finite score" in note for note in silent.notes)


def test_a_score_to_minimize_stands_at_its_largest_where_it_is_lost() -> None:
    found = prepared(Source("t", table()), PLAIN._replace(direction="minimize"))
    assert set(found.table.loc[found.table["diverged"], "val_score"]) == {table()["acc"].max()}


def test_repeats_without_a_seed_column_are_numbered() -> None:
    found = prepared(Source("t", table().drop(columns="seed")), PLAIN)
    assert found.table["seed"].tolist() == table()["seed"].tolist()
    assert any("no seed column" in note for note in found.notes)


def test_a_knob_that_one_group_lacks_is_not_that_groups() -> None:
    frame = table().astype({"rank": float})
    frame.loc[frame["method"] == "dora", "rank"] = math.nan
    found = prepared(Source("t", frame), PLAIN._replace(group=("method",)))
    assert [[knob.name for knob in knobs] for knobs in found.plan.knobs.values()] == [
        ["lr", "rank", "init"],
        ["lr", "init"],
    ]


def test_rows_that_set_no_knob_are_told_and_left_out() -> None:
    frame = pd.concat([table(), pd.DataFrame({"acc": [0.9]})], ignore_index=True)
    found = prepared(Source("t", frame), PLAIN)
    assert len(found.table) == len(table())
    assert "1 rows set none of the knobs and are no trials" in found.notes


# What cannot be analysed is one line

BAD: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], Request, str]] = [
    (lambda t: t, PLAIN._replace(knobs="lrr"), "--knobs: no column 'lrr' (did you mean lr?)"),
    (
        lambda t: t,
        PLAIN._replace(knobs="lr:lgo"),
        "--knobs lr:lgo: 'lgo' is no kind of knob (linear, log, categorical)",
    ),
    (lambda t: t, PLAIN._replace(knobs="lr,lr"), "--knobs: lr is named twice (each column once)"),
    (lambda t: t, PLAIN._replace(knobs=None), "--knobs: is missing (NAME"),
    (lambda t: t, PLAIN._replace(knobs="init:log"), "--knobs init: 'eva' is no finite number ("),
    (lambda t: t.assign(lr=t.lr - 1), PLAIN._replace(knobs="lr:log"), "--knobs lr:log: -0.99"),
    (lambda t: t.assign(rank=4), PLAIN, "--knobs rank: is always 4 (a knob takes two values)"),
    (lambda t: t.assign(rank=t["rank"].where(t.index > 3)), PLAIN, "--knobs rank: is empty in 4 of 96 rows ("),
    (lambda t: t.assign(rank=t["rank"].where(t.index > 3, np.inf)), PLAIN, "--knobs rank: 'inf' is no finite number ("),
    (lambda t: t.rename(columns={"rank": "state"}), PLAIN._replace(knobs="lr,state"), "--knobs state: is a name with"),
    (
        lambda t: t,
        PLAIN._replace(knobs="rank:linear,init", focus="init"),
        "--focus init: is no knob with a logarithm (",
    ),
    (lambda t: t, PLAIN._replace(knobs="init"), "--knobs: none has a logarithm (mark a column"),
    (lambda t: t, PLAIN._replace(score="accuracy"), "--score: no column 'accuracy' ("),
    (lambda t: t, PLAIN._replace(score=None), "--score: is missing ("),
    (lambda t: t, PLAIN._replace(score="lr"), "--score: lr is asked for twice ("),
    (lambda t: t.assign(acc=0.5), PLAIN, "--score acc: is 0.5 in every row ("),
    (lambda t: t.assign(acc=math.nan), PLAIN, "--score acc: is finite in no row ("),
    (lambda t: t.assign(acc="good"), PLAIN, "--score acc: 'good' is no number ("),
    (lambda t: t, PLAIN._replace(direction=None), "--maximize or --minimize: is missing ("),
    (lambda t: t, PLAIN._replace(group=("methd",)), "--group: no column 'methd' (did you mean method?)"),
    (
        lambda t: t.assign(method=["x", *t["method"][1:]]),
        PLAIN._replace(group=("method",)),
        "--group method: x has one",
    ),
    (lambda t: t, PLAIN._replace(seed_column="sed"), "--seed-column: no column 'sed' (did you mean seed?)"),
    (lambda t: t[:0], PLAIN, "sweep: has no trials ("),
    (lambda t: t[:4], PLAIN, "sweep: 4 rows with a setting are too few (5 or more)"),
    (lambda t: pd.concat([t, t[["lr"]]], axis=1), PLAIN, "sweep: two columns are called 'lr' ("),
    (lambda t: t, PLAIN._replace(margin=-1.0), "--margin: -1 ("),
    (lambda t: t, PLAIN._replace(loss0=math.nan), "--loss0: nan ("),
]


@pytest.mark.parametrize(("change", "asked", "line"), BAD, ids=[line for _, _, line in BAD])
def test_a_bad_table_is_one_clear_line(
    change: Callable[[pd.DataFrame], pd.DataFrame], asked: Request, line: str
) -> None:
    with pytest.raises(BadInput) as refused:
        prepared(Source("sweep", change(table())), asked)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


# Where trials come from


@pytest.mark.parametrize("ending", tables.READERS)
def test_every_kind_of_file_reads_the_same(ending: str, tmp_path: Path) -> None:
    path, frame = tmp_path / f"sweep{ending}", table()
    writers = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".parquet": lambda: frame.to_parquet(path),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".json": lambda: frame.to_json(path, orient="records"),
    }
    writers[ending]()
    read = tables.trials(path)
    assert read.name == "sweep"
    pd.testing.assert_frame_equal(
        read.frame.reset_index(drop=True), frame, check_dtype=False, check_names=False, rtol=1e-9
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.csv", None, "does not exist"),
        ("sweep.xlsx", b"x", "'.xlsx' is not known (.csv"),
        ("sweep", b"x", "'no ending' is not known (.csv"),
        ("empty.csv", b"", "cannot be read: it is empty"),
        ("torn.json", b"[{", "cannot be read: "),
        ("torn.parquet", b"PAR1", "cannot be read: "),
        ("wide.csv", b"a,b\n1,2,3\n4,5,6\n", "cannot be read: "),
        ("binary.csv", b"\xff\xfe\x00,\xd8", "cannot be read: "),
    ],
)
def test_a_file_that_is_no_table_is_one_line(name: str, content: bytes | None, problem: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as refused:
        tables.trials(tmp_path / name)
    assert str(refused.value).startswith(f"{tmp_path / name}: {problem}")
    assert "\n" not in str(refused.value)


def test_none_is_a_level_and_two_columns_of_one_name_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("lr,lr,schedule\n1,2,None\n3,4,cosine\n")
    read = tables.trials(path)
    assert read.frame["schedule"].tolist() == ["None", "cosine"]
    with pytest.raises(BadInput, match="two columns are called 'lr'"):
        prepared(read, PLAIN)


def optuna_study(storage: Any) -> None:
    """A study of 20 finished trials, one failed, one pruned and one that runs."""
    study = optuna.create_study(study_name="tune", storage=storage, direction="minimize")
    space = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "init": CategoricalDistribution([None, "eva"])}
    for i in range(20):
        params = {"lr": 10 ** (-5 + i / 5), "init": (None, "eva")[i % 2]}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=float(i)))
    for state in (optuna.trial.TrialState.FAIL, optuna.trial.TrialState.PRUNED):
        study.add_trial(optuna.trial.create_trial(params={"lr": 0.1, "init": "eva"}, distributions=space, state=state))
    study.ask(space)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_an_optuna_study_brings_its_own_knobs_score_and_direction(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    url = f"sqlite:///{file}" if kind == "sqlite" else str(file)
    optuna_study(url if kind == "sqlite" else JournalStorage(JournalFileBackend(url)))
    read = optuna_trials.trials(url, "tune")
    found = prepared(read, Request(None, None, None))
    assert read.notes == ("1 pruned trials are left out", "1 running trials are left out")
    assert found.plan.knobs[ONE_GROUP] == (
        LogFloat("lr", 1e-5, 1e-1, 1e-5),
        Choice("init", ("None", "eva"), "None"),
    )
    assert (len(found.table), int(found.table["diverged"].sum())) == (21, 1)
    assert (found.score, found.plan.directions) == ("value", {"tune": "minimize"})


def test_an_optuna_study_that_is_not_there_is_one_line_and_nothing_is_created(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    with pytest.raises(BadInput, match="does not exist"):
        optuna_trials.trials(url, "tune")
    assert not list(tmp_path.iterdir())
    optuna_study(url)
    with pytest.raises(BadInput, match=r"study tuned: is not there \(did you mean tune\?\)"):
        optuna_trials.trials(url, "tuned")
    (tmp_path / "other.db").write_text("no database")
    with pytest.raises(BadInput, match="cannot be read"):
        optuna_trials.trials(f"sqlite:///{tmp_path}/other.db", "tune")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store with an experiment of 12 finished runs, a parent without parameters, and a running one."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("sweep")
    for i in range(14):
        run = client.create_run(experiment)
        if i != 12:
            params = [Param("lr", str(10 ** (-5 + i / 3))), Param("init", ("eva", "kaiming")[i % 2])]
            client.log_batch(run.info.run_id, metrics=[Metric("acc", 0.1 * i, 0, 0)], params=params)
        if i != 13:
            client.set_terminated(run.info.run_id)
    return uri


def test_an_mlflow_experiment_is_read_to_its_last_page(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackers.mlflow.PAGE", 5)
    read = runs.trials(store, "sweep")
    found = prepared(read, Request("lr,init", "acc", "maximize"))
    assert read.notes == ("1 running runs are left out",)
    assert len(found.table) == 12
    assert [words(knob).split(",")[0] for knob in found.plan.knobs[ONE_GROUP]] == ["log", "categorical: eva"]
    assert found.table["source"].is_unique


def test_an_mlflow_that_is_not_there_is_one_line(store: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"experiment sweeps: is not there \(did you mean sweep\?\)"):
        runs.trials(store, "sweeps")
    with pytest.raises(BadInput, match="does not exist"):
        runs.trials(f"sqlite:///{tmp_path}/none.db", "sweep")
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:9: cannot be read"):
        runs.trials("http://127.0.0.1:9", "sweep")


# The command


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def analyze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`lorascope analyze ARGUMENTS` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["lorascope", "analyze", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ran(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_table_with_hostile_names_becomes_a_report_in_which_they_are_text(
    analyze: Callable[..., Ran], tmp_path: Path
) -> None:
    frame = table(8, (HOSTILE, FORMULA)).rename(columns={"rank": HOSTILE, "method": FORMULA})
    frame.to_csv(tmp_path / "sweep.csv", index=False)
    asked = ("--knobs", f"lr:log,{HOSTILE}:linear,init", "--score", "acc", "--maximize", "--group", FORMULA)
    ran = analyze("sweep.csv", *asked, "--out", "report")
    assert ran.code == 0, ran
    assert "note: init is taken as categorical: =1+1, eva" in ran.err
    page, markdown = (Path("report", name).read_text() for name in ("report.html", "report.md"))
    assert "<script>alert" not in page
    assert "<script>alert" not in "".join(line for line in markdown.splitlines() if not line.startswith("    "))
    for name in ("trials.csv", "findings.csv", "curves.csv"):
        cells = pd.read_csv(Path("report", name), dtype=str, header=None).stack().dropna()
        assert len(cells) > 10
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))], name


def test_findings_are_rows_of_the_documented_fields(analyze: Callable[..., Ran], tmp_path: Path) -> None:
    table(8).to_csv(tmp_path / "sweep.csv", index=False)
    asked = ("--knobs", "lr:log,rank:linear", "--score", "acc", "--maximize", "--loss0", "0.5")
    ran = analyze("sweep.csv", *asked, "--out", "report", "--format", "csv")
    assert ran.code == 0, ran
    assert {path.name for path in Path("report").iterdir()} == {
        "findings.json",
        "findings.csv",
        "trials.csv",
        "curves.csv",
    }
    rows = json.loads(Path("report/findings.json").read_text())
    assert {tuple(row) for row in rows} == {Row._fields}
    assert {row["group"] for row in rows} >= {"sweep/all variants", f"sweep/{ONE_GROUP}"}
    curves = pd.read_csv("report/curves.csv")
    assert curves.columns.tolist() == ["task", "variant", "knob", "x", "mean", "low", "high"]
    assert (curves["low"] <= curves["mean"]).all()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("none.csv",), "none.csv: does not exist ("),
        (("optuna:sqlite:///none.db",), "--study: is missing (optuna:URL#STUDY"),
        (("optuna:sqlite:///none.db#tune",), "sqlite:///none.db: does not exist ("),
        (("sqlite:///none.db", "--experiment", "sweep"), "sqlite:///none.db: does not exist ("),
        (("x", "--experiment", "sweep", "--study", "tune"), "--study: not both this and --experiment ("),
        (("none.csv", "--format", "pdf"), "--format: 'pdf' (some of html, md, csv"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], line: str, analyze: Callable[..., Ran]
) -> None:
    ran = analyze(*arguments, "--out", "report")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert ran.err.startswith(f"error: {line}")
