"""The command line: one line and exit code 2 for what cannot be meant, documents alone on stdout, help at once."""

import csv
import io
import json
import re
import resource
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, NamedTuple

import pandas
import pytest
import yaml

from study import cli, design, session
from study.cell import Cell
from study.hardware import provenance
from study.ledger import Ledger
from study.spec import parse, resolved, space
from study.tasks import TASKS
from study.trial import Result, Trial
from study.variants import VARIANTS
from tests.test_spec import document
from tests.tiny import tiny_data, tiny_model

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    "launch",
    "resume",
    "status",
    "trials",
    "report",
    "analyze",
    "curvature",
    "export",
    "import",
    "validate",
    "variants",
    "tasks",
    "ui",
]
HELP_SECONDS = 0.5  # of one processor
PASSWORD = "hunter2"


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Lorascope = Callable[..., Ran]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a data set."""
    folder = tmp_path_factory.mktemp("files")
    tiny_model(folder / "model")
    tiny_data(folder)
    return folder


@pytest.fixture
def lorascope(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Lorascope:
    """`lorascope ARGUMENTS` in a folder of its own, with the files of the tiny task and a home in it."""
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORASCOPE_HOME", str(tmp_path / "home"))

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["lorascope", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ran(int(ended.value.code or 0), *capsys.readouterr())

    return run


def write(changes: Mapping[str, Any] | None = None) -> str:
    """Write the tiny study, changed, into the current folder; the file's name."""
    Path("study.yaml").write_text(yaml.safe_dump(document(changes)))
    return "study.yaml"


def refused(ran: Ran) -> str:
    """The one line of a refusal, without `error: `."""
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert ran.err.startswith("error: ")
    return ran.err.removeprefix("error: ").rstrip("\n")


# What a file says


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tasks.0.budget.step": 3}, "study.yaml: tasks.0.budget.step: unknown key (did you mean steps? known: "),
        ({"variants": ["lroa"]}, "study.yaml: variants.0.name: unknown variant 'lroa' (did you mean lora? known: "),
        ({"knobs.learning_rate": [1, 0.1]}, "study.yaml: knobs.learning_rate: [1, 0.1] (a range [low, high] with low"),
        (
            {"knobs.rank": [2, 64]},
            "study.yaml: knobs.rank: 64 for lora on classification (at most 32, the smaller side",
        ),
        ({"variants": ["lora", {"name": "dora", "knobs": {"rank": 99}}]}, "study.yaml: variants.dora.knobs.rank: 99 "),
        ({"tasks.0.targets": "keys"}, "study.yaml: tasks.0.targets: 'keys' matches no linear layer (layers: bert."),
        ({"tasks.0.model": "./none"}, "study.yaml: tasks.0.model: none is not a folder (a folder with config.json"),
        ({"tasks.0.model": "./empty"}, "study.yaml: tasks.0.model: empty has no config.json (a folder written by "),
        ({"tasks.0.model": "./sentences.csv"}, "study.yaml: tasks.0.model: sentences.csv is not a folder ("),
        ({"tasks.0.model": None}, "study.yaml: tasks.0.model: is missing (task classification has none of its own)"),
        ({"tasks.0.data": None}, "study.yaml: tasks.0.data: is missing (task classification has none of its own)"),
        ({"tasks.0.data.path": "./none.csv"}, "study.yaml: tasks.0.data: none.csv does not exist (a file, a folder, "),
        ({"tasks.0.data.path": "./empty.csv"}, "study.yaml: tasks.0.data: is empty once rows without text or label "),
        ({"tasks.0.data.text": "body"}, "study.yaml: tasks.0.data.text: ./sentences.csv has no column 'body' (text, "),
        ({"tasks.0.data.label": "mood"}, "study.yaml: tasks.0.data.label: ./sentences.csv has no column 'mood' ("),
        ({"tasks.0.budget.length": 65}, "study.yaml: tasks.0.budget.length: 65 tokens do not suit bert (5 to 64)"),
        ({"tasks.0": {"task": "sentiment", "data": "movie"}}, "study.yaml: tasks.0.data: 'movie' is unknown, did you "),
    ],
)
def test_what_a_study_cannot_mean_is_one_line_and_exit_code_2(
    changes: Mapping[str, Any], line: str, lorascope: Lorascope
) -> None:
    Path("empty").mkdir()
    Path("empty.csv").write_text("text,label\n,positive\nfilm,\n  ,negative\n")
    assert refused(lorascope("validate", write(changes))).startswith(line)


@pytest.mark.parametrize("command", ["launch", "validate"])
def test_a_file_that_is_no_spec_is_one_line_and_exit_code_2(command: str, lorascope: Lorascope) -> None:
    Path("broken.yaml").write_text("name: tiny\ntasks: [\n  a: b: c\n")
    line = "broken.yaml: line 3, column 7: expected ',' or ']', but got ':' (YAML)"
    assert refused(lorascope(command, "broken.yaml")) == line
    assert refused(lorascope(command, "none.yaml")).startswith("none.yaml: cannot be read: No such file or directory")
    assert refused(lorascope(command, "model")).startswith("model: cannot be read: Is a directory")


@pytest.mark.parametrize("changes", [{"tasks.0.data.text": "body"}, {"knobs.rank": 64}, {"margin": -1}])
def test_a_launch_refused_leaves_no_study_behind(changes: Mapping[str, Any], lorascope: Lorascope) -> None:
    refused(lorascope("launch", write(changes)))
    assert lorascope("status", "--json").out == "[]\n"


# What the command line says


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--workers", 0), "--workers: 0 (greater than 0 or 'auto')"),
        (("--pack-size", -1), "--pack-size: -1 (greater than 0 or 'auto')"),
        (("--dtype", "fp31"), "--dtype: 'fp31' (did you mean fp32? "),
        (("--as", "a/b"), "--as: 'a/b' (at most 100 letters, "),
        (("--home", "file"), "home: "),
        (("--home", "file/home"), "home: "),
        (("--home", "/dev/null/home"), "home: /dev/null/home cannot be written: Not a directory (a folder of yours"),
        (("--storage", "nonsense"), "storage: cannot open it: Could not parse SQLAlchemy URL"),
        (("--storage", "sqlite:///none/ledger.db"), "storage: cannot open sqlite:///none/ledger.db: "),
        (("--storage", "sqlite:///file/ledger.db"), "storage: cannot open sqlite:///file/ledger.db: "),
        (("--storage", "sqlite:///sentences.csv"), "storage: cannot open sqlite:///sentences.csv: "),
        (("--storage", "@none"), "@none: this file cannot be read: No such file or directory (@FILE, a file that "),
        (("--tracking-uri", "nonsense"), "--tracking-uri: 'nonsense' (http://"),
        (
            ("--tracking-uri", "@none"),
            "@none: this file cannot be read: No such file or directory (@FILE, a file that ",
        ),
    ],
)
def test_an_option_that_cannot_be_used_is_one_line_and_exit_code_2(
    options: tuple[object, ...], line: str, lorascope: Lorascope
) -> None:
    Path("file").touch()
    assert refused(lorascope("launch", write(), *options)).startswith(line)


@pytest.mark.parametrize(
    "arguments",
    [
        ("launch",),
        ("launch", "study.yaml", "--wokers", "2"),
        ("launch", "study.yaml", "--workers", "two"),
        ("lanch", "study.yaml"),
        ("trials", "tiny", "--format", "xml"),
        ("ui", "--port", "0"),
        ("ui", "--port", "65536"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_ends_with_exit_code_2(
    arguments: tuple[str, ...], lorascope: Lorascope
) -> None:
    ran = lorascope(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    assert "Error" in ran.err


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/base?connect_timeout=1",
        f"postgresql://127.0.0.1:1/base?user=user&password={PASSWORD}",
        f"mysql://user:{PASSWORD}@127.0.0.1/base",
        f"nonsense://user:{PASSWORD}@127.0.0.1/base",
    ],
)
@pytest.mark.parametrize("given_by", ["option", "file", "environment"])
def test_a_ledgers_password_is_never_shown(
    url: str, given_by: str, lorascope: Lorascope, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("secret").write_text(f"{url}\n")
    if given_by == "environment":
        monkeypatch.setenv("LORASCOPE_STORAGE", url)
    options = {"option": ("--storage", url), "file": ("--storage", "@secret"), "environment": ()}[given_by]
    line = refused(lorascope("status", *options))
    assert line.startswith("storage: cannot open ")
    assert "***" in line
    assert PASSWORD not in line


def test_a_trackers_password_is_never_shown(lorascope: Lorascope) -> None:
    line = refused(lorascope("launch", write(), "--tracking-uri", f"ftp://user:{PASSWORD}@127.0.0.1"))
    assert line.startswith("--tracking-uri: 'ftp://user:***@127.0.0.1' (http://")


def test_a_port_that_is_taken_is_told_before_a_server_starts(lorascope: Lorascope) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(lorascope("ui", "--port", port)) == f"--port: {port} is taken (a free one)"


# A study that has results


def results(cell: Cell) -> list[tuple[Trial, dict[str, Any], Result]]:
    """A result for each explore trial of a cell, with what its key stands for."""
    found = []
    values = design.settings("sobol", 2, 0, ["learning_rate", "rank"], cell.space)
    for trial in [cell.trial(each, "explore", seed) for each in values for seed in (0, 1)]:
        result = Result(
            trial.key, trial.seed, "finished", 0.4, 0.8, None, 0.7, 0.5, steps=4, cpu_seconds=0.1, wall_seconds=0.1,
            peak_memory=1, trainable=130, curves={"train_loss": [(1, 0.7), (4, 0.4)]}, provenance=provenance(),
        )  # fmt: skip
        found.append((trial, cell.document(trial.values, "explore"), result))
    return found


@pytest.fixture(scope="module")
def kept(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trial]]:
    """A home with the tiny study in it, its exploration done: 2 variants x 2 settings x 2 seeds."""
    home = tmp_path_factory.mktemp("home")
    places = {"tasks.0.model": str(files / "model"), "tasks.0.data.path": str(files / "sentences.csv")}
    prepared = session.prepared(parse(document(places), "here"), home / "cache", "here")["classification"]
    asked = parse(document(), "here")
    cells = [Cell("tiny", asked.tasks[0], v, prepared, space(asked, v), "fp32") for v in asked.variants]
    rows = [row for cell in cells for row in results(cell)]
    ledger = Ledger(f"sqlite:///{home / 'lorascope.db'}", migrate=True)
    ledger.create_study("tiny", resolved(asked), [])
    epoch = ledger.take("tiny")
    assert epoch is not None
    with ledger.controlling("tiny", epoch) as writer:
        writer.widen(resolved(asked), ["learning_rate", "rank"], "sqlite:///mlflow.db")
        writer.enroll([(trial, meaning) for trial, meaning, _ in rows])
    for _, _, result in rows:
        ledger.accept(result)
    with ledger.controlling("tiny", epoch) as writer:
        writer.release("done", 1.0)
    ledger.engine.dispose()
    return home, [trial for trial, _, _ in rows]


@pytest.fixture
def done(lorascope: Lorascope, kept: tuple[Path, list[Trial]]) -> list[Trial]:
    """The trials of the study that the home has now."""
    home, trials = kept
    shutil.copytree(home, "home")
    return trials


@pytest.mark.parametrize("command", ["resume", "status", "trials", "report"])
def test_an_unknown_study_is_told_with_the_nearest_spelling(
    command: str, lorascope: Lorascope, done: list[Trial]
) -> None:
    assert refused(lorascope(command, "tny")) == "study tny: does not exist in this home (did you mean tiny?)"
    assert refused(lorascope(command, "other")) == "study other: does not exist in this home (there are: tiny)"
    elsewhere = refused(lorascope(command, "tiny", "--home", "elsewhere"))
    assert elsewhere == "study tiny: does not exist in this home (there are: none yet)"


def test_a_changed_study_is_refused_and_nothing_of_it_is_lost(lorascope: Lorascope, done: list[Trial]) -> None:
    before = lorascope("trials", "tiny").out
    for command in ("launch", "validate"):
        assert refused(lorascope(command, write({"margin": 0.03, "tasks.0.budget.steps": 5}))) == (
            "study.yaml: study tiny exists and differs: tasks.classification.budget.steps: was 4, is 5; "
            "margin: was 0.02, is 0.03 (widen it, or run this one --as NEW-NAME)"
        )
    assert before.count("\n") == 1 + len(done)
    assert lorascope("trials", "tiny").out == before


def test_every_way_to_export_trials_has_the_same_rows(lorascope: Lorascope, done: list[Trial]) -> None:
    by_csv = pandas.read_csv(io.StringIO(lorascope("trials", "tiny", "--format", "csv").out))
    by_json = pandas.DataFrame(json.loads(lorascope("trials", "tiny", "--format", "json").out))
    assert lorascope("trials", "tiny", "--format", "parquet", "--out", "rows.parquet") == (0, "", "")
    by_parquet = pandas.read_parquet("rows.parquet")
    for table in (by_csv, by_json, by_parquet):
        assert list(table.columns) == list(by_csv.columns)
        assert list(zip(table["variant"], table["learning_rate"], table["seed"], strict=True)) == [
            (trial.variant, trial.values["learning_rate"], trial.seed) for trial in done
        ]
        assert list(table["val_score"]) == [0.8] * len(done)
        assert table["test_score"].isna().all()


def test_exported_trials_have_the_columns_that_others_rely_on(lorascope: Lorascope, done: list[Trial]) -> None:
    header = next(csv.reader(io.StringIO(lorascope("trials", "tiny").out)))
    promised = ["task", "variant", "phase", "learning_rate", "rank", "alpha", "init", "seed", "state", "val_score"]
    promised += ["val_loss", "test_score", "loss0", "diverged", "steps", "cpu_seconds", "key", "mlflow_run_id"]
    assert set(promised) <= set(header)
    assert len(set(header)) == len(header)


def test_an_export_that_has_nowhere_to_go_is_one_line(lorascope: Lorascope, done: list[Trial]) -> None:
    assert refused(lorascope("trials", "tiny", "--format", "parquet")).startswith("--out: is missing (parquet is ")
    for form in ("csv", "json", "parquet"):
        line = refused(lorascope("trials", "tiny", "--format", form, "--out", "none/rows"))
        assert line.startswith("none/rows: cannot be written: ")
    assert refused(lorascope("trials", "tiny", "--out", ".")).startswith(".: cannot be written: Is a directory")


def test_a_report_that_has_nowhere_to_go_is_one_line(lorascope: Lorascope, done: list[Trial]) -> None:
    Path("file").touch()
    assert refused(lorascope("report", "tiny", "--out", "file")).startswith("file: cannot be written: ")


def test_status_counts_what_was_asked_and_what_came_of_it(lorascope: Lorascope, done: list[Trial]) -> None:
    ran = lorascope("status", "tiny", "--json")
    told = json.loads(ran.out)
    assert ran.err == ""
    assert (told["study"], told["state"], told["asked"], told["finished"], told["missing"]) == ("tiny", "done", 8, 8, 0)
    assert [(cell["variant"], cell["asked"]) for cell in told["cells"]] == [("lora", 4), ("dora", 4)]
    assert [each["study"] for each in json.loads(lorascope("status", "--json").out)] == ["tiny"]
    assert "tiny" in lorascope("status").out


# Documents


def test_variants_and_tasks_are_flat_lists_alone_on_stdout(lorascope: Lorascope) -> None:
    for command, known, keys in (("variants", VARIANTS, {"name", "axis"}), ("tasks", TASKS, {"name", "family"})):
        ran = lorascope(command, "--json")
        rows = json.loads(ran.out)
        assert (ran.code, ran.err) == (0, "")
        assert [row["name"] for row in rows] == list(known)
        assert all(keys <= row.keys() for row in rows)
        assert all(not isinstance(value, dict) for row in rows for value in row.values())
    assert {row["family"] for row in rows} <= {"understanding", "generation", "images"}


def test_one_variant_is_shown_by_name_and_an_unknown_one_with_the_nearest(lorascope: Lorascope) -> None:
    assert [row["name"] for row in json.loads(lorascope("variants", "dora", "--json").out)] == ["dora"]
    assert refused(lorascope("variants", "dorra")).startswith("variants: unknown variant 'dorra' (did you mean dora? ")


def test_tables_name_every_variant_and_task(lorascope: Lorascope) -> None:
    for command, known in (("variants", VARIANTS), ("tasks", TASKS)):
        out = lorascope(command).out
        assert not [name for name in known if name not in out]


def test_an_empty_home_has_no_studies_and_that_is_no_error(lorascope: Lorascope) -> None:
    assert lorascope("status", "--json") == (0, "[]\n", "")
    ran = lorascope("status")
    assert (ran.code, ran.out) == (0, "")
    assert "lorascope launch" in ran.err


def test_validate_prints_the_resolved_study_and_what_it_costs(lorascope: Lorascope) -> None:
    ran = lorascope("validate", write({"compute.workers": 1}))
    assert ran.code == 0
    assert yaml.safe_load(ran.out.partition("cells")[0])["phases"] == ["explore", "confirm"]
    # per variant the 4 settings of each of 2 seeds, then 2 fresh seeds of the selected one
    assert "2 cells, 20 trials, 6 packs" in ran.err
    assert lorascope("status", "--json").out == "[]\n"


# Help, in processes of its own


def measured(*arguments: str) -> tuple[float, set[str]]:
    """Processor seconds of a whole `lorascope ARGUMENTS`, and the top-level modules it imported."""
    script = (
        "import atexit, sys; from study.cli import main; sys.argv = ['lorascope', *sys.argv[1:]]; "
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)); main()"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Usage: lorascope" in ran.stdout
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, set(ran.stderr.split())


@pytest.fixture(scope="module")
def heavy() -> set[str]:
    """The modules of every package we depend on, but for typer and what it needs itself."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ours = {re.split(r"[<>=\[]", line)[0].lower() for line in listed} - {"typer", "rich", "pydantic"}
    return {name for name, packages in packages_distributions().items() if ours & {each.lower() for each in packages}}


def test_help_says_what_stands_in_for_an_option_that_is_left_out(lorascope: Lorascope) -> None:
    shown = lorascope("report", "--help").out + lorascope("analyze", "--help").out
    words = " ".join(re.sub(r"[^\w\[\]/'.]", " ", shown).split())
    for default in ("[reports/STUDY in the home]", "[all trials are one]", "[an Optuna study's own]"):
        assert default in words


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_at_once_and_imports_nothing_heavy(command: str, heavy: set[str]) -> None:
    assert {"torch", "mlflow", "pandas", "sqlalchemy", "yaml"} <= heavy
    for _ in range(3):  # a busy machine may spoil one measurement
        seconds, modules = measured(*command.split(), "--help")
        assert not modules & heavy
        if seconds < HELP_SECONDS:
            return
    pytest.fail(f"{seconds:.2f} s")


def test_help_lists_every_command(lorascope: Lorascope) -> None:
    ran = lorascope("--help")
    assert (ran.code, ran.err) == (0, "")
    assert not [name for name in COMMANDS if not re.search(rf"^\W*{name} ", ran.out, re.MULTILINE)]
