"""Trained adapters: which ones stay, and their way out of a home and into another, by the command line."""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from study import adapters, cli, session, spec
from study.adapters import Adapter
from study.controller import Controller, Lease
from study.errors import BadInput
from study.home import Home
from study.interchange import folder
from study.ledger import Ledger
from study.pack import Pack
from study.part import Member
from study.progress import Progress
from study.tasks.base import Prepared
from study.worker import Bench, Ended, Event, Job, Setup, evaluate, prepare, work
from tests.tiny import tiny_data, tiny_model
from trackers.null import Null

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

Document = dict[str, Any]


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    err: str


class Inline:
    """An engine in this process."""

    def __init__(self, setup: Setup) -> None:
        self._bench = Bench(setup)

    def run(self, queue: deque[Job]) -> Iterator[Event | Ended | None]:
        while queue:
            job, said = queue.popleft(), list[Event]()
            work(self._bench, job, said.append)
            yield from said
            yield Ended(job)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """A small study of two variants."""
    files = tmp_path_factory.mktemp("files")
    task = {
        "task": "classification",
        "model": str(tiny_model(files / "model")),
        "data": {"path": str(tiny_data(files))},
        "budget": {"steps": 6, "batch_size": 4, "length": 16},
        "rows": {"validation": 20, "test": 20},
    }
    return {
        "name": "small",
        "tasks": [task],
        "variants": ["lora", {"name": "pissa", "knobs": {"rank": 2}}],
        "knobs": {"learning_rate": [1e-2, 1e-1]},
        "design": {"points": 3},
        "seeds": {"explore": 2, "confirm": 2},
        "compute": {"dtype": "fp32"},
    }


def run(document: Document, home: Home) -> Ledger:
    """The study, run to its end as `launch` runs it, in this process."""
    home.path.mkdir(exist_ok=True)
    book, asked = Ledger(home.storage, migrate=True), spec.parse(document, "this test")
    asked = session.admit(book, asked, "this test")
    prepared = {task.label: prepare(task, home.cache) for task in asked.tasks}
    plans = session.plans(asked, session.check_ranks(asked, prepared, "this test"), prepared)
    book.create_study(asked.name, spec.resolved(asked), [])
    kept, dropped = (home.adapters if asked.keep in when else None for when in (("best", "all"), ("best",)))
    engine = Inline(Setup(book.url, home.cache, Null, {}, kept))
    with Lease(book, asked.name, lambda holder, seconds: None) as lease:
        told = (Null(), "nowhere", Progress(asked.tasks))
        Controller(asked, book, lease, engine, *told, prepared, plans, dropped).run()
    return book


@pytest.fixture(scope="module")
def home(document: Document, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which the study has run; nobody changes it."""
    home = Home(tmp_path_factory.mktemp("home"))
    run(document, home)
    return home


@pytest.fixture
def lorascope(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """`lorascope ARGUMENTS` on that home, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORASCOPE_HOME", str(home.path))

    def ran(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["lorascope", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as ended:
            return Ran(int(ended.code or 0), capsys.readouterr().err)
        raise AssertionError("a command ends by an exit")

    return ran


def refused(ran: Ran) -> str:
    """The one line of a refusal."""
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    return ran.err.removeprefix("error: ").rstrip("\n")


# Which adapters stay


def test_best_keeps_the_selected_settings_with_all_their_seeds_and_nothing_else(home: Home) -> None:
    book = Ledger(home.storage)
    results, trials = book.results("small"), book.trials("small")
    expected = {(trial.key, trial.seed) for trial in trials if trial.phase == "confirm"}
    assert len(expected) == 4
    for name in ("lora", "pissa"):
        means: dict[str, float] = {}
        for trial in (trial for trial in trials if (trial.variant, trial.phase) == (name, "explore")):
            means[trial.key] = means.get(trial.key, 0.0) + results[trial.key, trial.seed].val_score
        expected |= {(max(means, key=lambda key: means[key]), seed) for seed in (0, 1)}
    assert adapters.held(home.adapters) == expected


@pytest.mark.parametrize(("keep", "count"), [("all", 3 * 2 + 2), ("none", 0)])
def test_all_keeps_every_trial_and_none_no_trial(keep: str, count: int, document: Document, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    run(document | {"keep": keep, "variants": ["lora"]}, home)
    assert len(adapters.held(home.adapters)) == count


def test_what_another_study_lists_too_is_left_to_it(document: Document, tmp_path: Path) -> None:
    home, one = Home(tmp_path / "home"), document | {"variants": ["lora"], "phases": ["explore"]}
    run(one | {"keep": "all", "design": {"points": 2}}, home)
    run(one | {"name": "wider", "design": {"points": 4}}, home)
    listed = {(trial.key, trial.seed) for trial in Ledger(home.storage).trials("small")}
    assert listed <= adapters.held(home.adapters)
    assert len(adapters.held(home.adapters)) <= len(listed) + 2


def test_a_trial_that_diverges_leaves_no_adapter(document: Document, tmp_path: Path) -> None:
    home, knobs = Home(tmp_path / "home"), {"learning_rate": {"levels": [1e-2, 1e30]}}
    wild = document | {"knobs": knobs, "variants": ["lora"], "design": {"kind": "grid"}, "phases": ["explore"]}
    book = run(wild | {"keep": "all"}, home)
    states = {trial: result.state for trial, result in book.results("small").items()}
    assert set(states.values()) == {"finished", "diverged"}
    assert adapters.held(home.adapters) == {trial for trial, state in states.items() if state == "finished"}


def test_a_kept_adapter_scores_what_the_ledger_says(home: Home) -> None:
    book = Ledger(home.storage)
    bench = Bench(Setup(home.storage, home.cache, Null, {}))
    (row,) = book.studies("small")
    asked = spec.parse(row.spec, "the ledger")
    prepared, frozen = bench.task(asked.tasks[0], asked.compute)
    for trial in (trial for trial in book.trials("small") if trial.phase == "confirm"):
        one = adapters.load(home.adapters, trial.key, trial.seed)
        assert one is not None
        pack = Pack(frozen, one.method, [Member(one.seed, one.values)], one.steps, prepared.loss)
        for part in pack.parts:
            for leaf, view in part.leaves(0).items():
                view.copy_(one.leaves[leaf])
        assert evaluate(pack, prepared, "validation")[0][0] == pytest.approx(
            book.results("small")[trial.key, trial.seed].val_loss, abs=1e-6
        )


# The store


def one(home: Home) -> Adapter:
    """Some kept adapter."""
    found = adapters.load(home.adapters, *min(adapters.held(home.adapters)))
    assert found is not None
    return found


def test_what_is_saved_is_loaded_and_saving_again_changes_nothing(home: Home, tmp_path: Path) -> None:
    kept = one(home)
    for _ in range(2):
        adapters.save(tmp_path, kept)
        assert len(list(tmp_path.iterdir())) == 1
        assert adapters.held(tmp_path) == {(kept.key, kept.seed)}
    again = adapters.load(tmp_path, kept.key, kept.seed)
    assert again is not None
    assert again.record == kept.record
    assert again.leaves.keys() == kept.leaves.keys()
    assert all(torch.equal(again.leaves[leaf], value) for leaf, value in kept.leaves.items())
    adapters.drop(tmp_path, (kept.key, kept.seed))
    assert adapters.load(tmp_path, kept.key, kept.seed) is None


def test_a_write_that_fails_leaves_the_old_file_and_a_damaged_file_is_told(home: Home, tmp_path: Path) -> None:
    kept = one(home)
    adapters.save(tmp_path, kept)
    broken = Adapter(**{**vars(kept), "values": {"rank": object()}})
    with pytest.raises(TypeError):
        adapters.save(tmp_path, broken)
    assert adapters.load(tmp_path, kept.key, kept.seed) is not None
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInput, match="is no adapter"):
        adapters.load(tmp_path, kept.key, kept.seed)


# The command line


@pytest.mark.parametrize("form", ["peft", "merged"])
@pytest.mark.parametrize("name", ["lora", "pissa"])
def test_the_best_of_a_variant_leaves_as_a_model_that_scores_what_the_ledger_says(
    form: str, name: str, home: Home, lorascope: Callable[..., Ran]
) -> None:
    ran = lorascope("export", "small", "--best", name, "--format", form, "--out", "out")
    assert ran.code == 0, ran
    book = Ledger(home.storage)
    mine = [trial for trial in book.trials("small") if (trial.variant, trial.phase) == (name, "confirm")]
    best = max((book.results("small")[trial.key, trial.seed] for trial in mine), key=lambda result: result.val_score)
    assert f"trial {best.key}, seed {best.seed}" in ran.err
    read = {"peft": AutoPeftModelForSequenceClassification, "merged": AutoModelForSequenceClassification}[form]
    model = read.from_pretrained("out", num_labels=2).eval()
    (row,) = book.studies("small")
    task = spec.parse(row.spec, "the ledger").tasks[0]
    assert validation_loss(model, prepare(task, home.cache)) == pytest.approx(best.val_loss, abs=1e-5)
    if form == "merged":
        assert AutoTokenizer.from_pretrained("out")("a film").input_ids


@torch.no_grad()
def validation_loss(model: torch.nn.Module, prepared: Prepared) -> float:
    """The mean loss of somebody's model on the validation split."""
    every = range(len(prepared.splits["validation"]))
    outputs: Tensor = model(**prepared.collate("validation", every)).logits
    return float(prepared.loss(outputs, prepared.targets("validation", every)).mean())


def test_an_exported_trial_comes_back_into_another_home(
    home: Home, tmp_path: Path, lorascope: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = one(home)
    assert lorascope("export", "small", "--trial", kept.key, "--seed", kept.seed, "--out", "out").code == 0
    for _ in range(2):  # again changes nothing
        ran = lorascope("import", "out", "--home", tmp_path / "other")
        assert ran == Ran(0, f"kept: {kept.method.name}, trial {kept.key}, seed {kept.seed}\n")
    again = adapters.load(tmp_path / "other" / "adapters", kept.key, kept.seed)
    assert again is not None
    assert again.record == kept.record
    assert all(torch.equal(again.leaves[leaf], value) for leaf, value in kept.leaves.items())


def test_a_trial_that_cannot_be_exported_is_one_line(home: Home, lorascope: Callable[..., Ran]) -> None:
    kept = one(home)
    export = ("export", "small", "--out", "out")
    near = kept.key[:-1] + "xyz"
    assert refused(lorascope(*export, "--trial", near)) == (
        f"--trial: study small has no trial {near} (did you mean {kept.key}?)"
    )
    assert refused(lorascope(*export, "--trial", kept.key)).startswith("--seed: is missing (one of ")
    assert refused(lorascope(*export, "--trial", kept.key, "--seed", 99)).startswith(
        f"--seed: 99 is none of trial {kept.key}"
    )
    assert (
        refused(lorascope(*export, "--best", "lroa")) == "--best: study small has no trial of lroa (did you mean lora?)"
    )
    assert refused(lorascope(*export, "--best", "lora", "--task", "x")).startswith(
        "--task: the study has no task x (one of "
    )
    assert refused(lorascope(*export)).startswith("--trial: either this or --best")
    assert refused(lorascope(*export, "--best", "lora", "--trial", kept.key)).startswith(
        "--trial: either this or --best"
    )
    held = adapters.held(home.adapters)
    gone = next(t for t in Ledger(home.storage).trials("small") if (t.key, t.seed) not in held)
    assert refused(lorascope(*export, "--trial", gone.key, "--seed", gone.seed)).startswith(
        f"--trial: no adapter of trial {gone.key}, seed {gone.seed} is kept in this home (`keep: all`"
    )
    assert not Path("out").exists()


def test_a_folder_in_use_and_a_model_that_changed_are_refused(
    home: Home, document: Document, lorascope: Callable[..., Ran]
) -> None:
    Path("out").mkdir()
    Path("out/mine").touch()
    assert refused(lorascope("export", "small", "--best", "lora", "--out", "out")).startswith(
        "--out: out is there already"
    )
    config = Path(document["tasks"][0]["model"]) / "config.json"
    before = config.read_text()
    config.write_text(before + "\n")
    changed = refused(lorascope("export", "small", "--best", "lora", "--out", "new"))
    config.write_text(before)
    assert "is not what the trial was trained on" in changed
    assert not Path("new").exists()


def test_a_folder_that_is_no_export_is_one_line(lorascope: Callable[..., Ran]) -> None:
    assert refused(lorascope("import", "none")).startswith("none: has no lorascope.json (a folder that ")
    assert lorascope("export", "small", "--best", "lora", "--out", "peft").code == 0
    assert lorascope("export", "small", "--best", "lora", "--out", "whole", "--format", "merged").code == 0
    assert refused(lorascope("import", "whole")).startswith("whole: has no lorascope.json (a whole model is named as ")
    weights = Path("peft") / folder.WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refused(lorascope("import", "peft")).startswith(f"{weights}: is not what was exported")
    weights.write_bytes(content)
    record = json.loads((Path("peft") / folder.RECORD).read_text())
    (Path("peft") / folder.RECORD).write_text(json.dumps(record | {"variant": "dora"}))
    assert refused(lorascope("import", "peft")).startswith("peft/lorascope.json: does not describe adapter_model")
    (Path("peft") / folder.RECORD).write_text("{")
    assert refused(lorascope("import", "peft")).startswith("peft/lorascope.json: is not JSON")
