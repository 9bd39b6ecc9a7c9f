"""What is measured of the frozen model before training: right, per seed, and once for all workers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from study import statistics, worker
from study.ledger import Ledger
from study.pack import Batch, Pack
from study.part import Member
from study.spec import Budget, Compute, DataSpec, TaskSpec, VariantSpec
from study.statistics import BATCHES, Kept, Measured, measure
from study.streams import generator, order
from study.trial import Result, Trial
from study.variants import VARIANTS, variant
from study.variants.inits import TRIPLETS
from study.worker import Bench, Job, Setup
from tests import small
from tests.tiny import tiny_data, tiny_model
from trackers.null import Null

LAYERS = "query|value|intermediate.dense"
UNSHARED = Compute(device="cpu", dtype="fp64", share_batches=False)  # freed rows are filled again


def _texts(seed: int, step: int) -> Batch:
    """Four examples of 4 to 10 tokens, padded on the right."""
    draw = generator(seed, "text", step)
    words = torch.randint(1, small.WORDS, (small.EXAMPLES, small.LENGTH), generator=draw)
    lengths = torch.randint(4, small.LENGTH + 1, (small.EXAMPLES, 1), generator=draw)
    mask = (torch.arange(small.LENGTH) < lengths).long()
    return {"input_ids": words * mask, "attention_mask": mask}, words.sum(1) % small.CLASSES


BATCH = [_texts(3, step) for step in range(3)]


def _whole(seed: int) -> nn.Module:
    """The plain model under the head that a trial of this seed has."""
    model, head = small.model(), variant("head_only")
    pack = Pack(small.frozen(), head, [Member(seed, small.values(head))], 1, small.loss)
    for (owner, name), leaf in small.leaves(pack, 0).items():
        model.get_submodule(owner).get_parameter(name).data.copy_(leaf)
    return model


def _same(one: Measured, other: Measured) -> bool:
    assert one.keys() == other.keys()
    pairs = [(part, other[site][name]) for site, of in one.items() for name, part in of.items()]
    return all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


def test_the_gradient_is_that_of_autograd_on_the_whole_model() -> None:
    frozen, model = small.frozen(targets=LAYERS), _whole(seed=3)
    found = measure(frozen, {"gradient"}, 3, BATCH, small.loss)
    weights = {site.name: model.get_submodule(site.name).get_parameter("weight") for site in frozen.sites}
    for weight in weights.values():
        weight.requires_grad_()
    sum(F.cross_entropy(model(**inputs).logits, targets) for inputs, targets in BATCH).backward()  # type: ignore[union-attr]
    for name, weight in weights.items():
        U, S, Vh = found[name]["gradient"]
        assert weight.grad is not None
        assert torch.allclose((U * S) @ Vh, weight.grad / len(BATCH), rtol=0, atol=1e-12)


def test_the_inputs_are_those_of_a_hooked_forward_without_padding() -> None:
    frozen, model = small.frozen(targets=LAYERS), _whole(seed=3)
    found = measure(frozen, {"inputs"}, 3, BATCH, small.loss)
    read: dict[str, list[Tensor]] = {site.name: [] for site in frozen.sites}
    for site in frozen.sites:
        model.get_submodule(site.name).register_forward_hook(lambda _, x, y, name=site.name: read[name].append(x[0]))
    for inputs, _ in BATCH:
        model(**inputs)
    real = [inputs["attention_mask"] != 0 for inputs, _ in BATCH]
    assert not all(mask.all() for mask in real)
    for name, batches in read.items():
        X = torch.cat([x[mask] for x, mask in zip(batches, real, strict=True)])  # N I
        _, S, Vh = found[name]["inputs"]
        assert torch.allclose((Vh.T * S) @ Vh, X.T @ X / X.square().sum(), rtol=0, atol=1e-12)


def test_layers_measured_one_after_another_are_those_measured_at_once() -> None:
    needs = {"gradient", "inputs", "places"}
    passes: list[list[str]] = []
    whole = measure(small.frozen(), needs, 0, BATCH, small.loss)
    with pytest.MonkeyPatch.context() as patched:
        summed = statistics._summed
        patched.setattr(
            statistics,
            "_summed",
            lambda m, h, sites, b: passes.append([s.name for s in sites]) or summed(m, h, sites, b),
        )
        pieces = measure(small.frozen(), needs, 0, BATCH, small.loss, dense=2 * 32 * 32 * 8)
    assert [len(sites) for sites in passes] == [2, 2, 2, 2]
    assert _same(whole, pieces)


def test_no_sign_hangs_on_the_decomposition() -> None:
    draw = torch.randn(6, 4, dtype=torch.float64, generator=generator(0, "sign"))
    U, S, Vh = statistics._top(draw)
    turned = statistics._top(-draw)
    assert torch.allclose((U * S) @ Vh, draw, rtol=0, atol=1e-12)
    assert torch.allclose(turned.U, U, rtol=0, atol=1e-12) and torch.allclose(turned.Vh, -Vh, rtol=0, atol=1e-12)


# --- on disk


def _measured() -> Measured:
    return measure(small.frozen(torch.float32), {"gradient", "inputs", "places"}, 0, BATCH, small.loss)


def _never() -> Measured:
    raise AssertionError("measured again")


def test_what_is_known_is_not_measured_again_and_survives_a_restart(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "statistics")
    first = kept.get({"seed": 0}, _measured)
    assert _same(first, _measured())
    assert kept.get({"seed": 0}, _never) is first
    assert _same(first, Kept(tmp_path / "statistics").get({"seed": 0}, _never))
    with pytest.raises(AssertionError, match="measured again"):
        kept.get({"seed": 1}, _never)


def test_only_triplets_reach_the_disk(tmp_path: Path) -> None:
    draw = torch.randn(200, 150, generator=generator(0, "large"))
    Kept(tmp_path).get({}, lambda: {"layer": {"gradient": statistics._top(draw)}})
    (path,) = tmp_path.iterdir()
    leaves = load_file(path)
    assert {name: tuple(leaf.shape) for name, leaf in leaves.items()} == {
        "layer/gradient/U": (200, TRIPLETS),
        "layer/gradient/S": (TRIPLETS,),
        "layer/gradient/Vh": (TRIPLETS, 150),
    }


def test_a_write_that_breaks_off_leaves_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(leaves: Mapping[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(statistics, "save_file", full)
        Kept(tmp_path).get({}, _measured)
    assert _same(Kept(tmp_path).get({}, _measured), _measured())


# --- in a worker


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> tuple[Setup, TaskSpec]:
    """A worker's surroundings and a task with little data."""
    folder = tmp_path_factory.mktemp("statistics")
    url = f"sqlite:///{folder / 'ledger.db'}"
    Ledger(url, migrate=True)
    task = TaskSpec(
        task="classification",
        model=str(tiny_model(folder / "model")),
        data=DataSpec(path=str(tiny_data(folder / "data"))),
        budget=Budget(steps=2, batch_size=4, length=16),
        targets="query|value",
    )
    return Setup(url, folder / "cache", Null, {}), task


def _job(task: TaskSpec, name: str, seeds: tuple[int, ...], sizes: tuple[int, ...] = (4,)) -> Job:
    values = [{**small.values(VARIANTS[name]), "batch_size": size} for size in sizes]
    trials = [Trial("study", task.label, name, "explore", str(h), seed, h) for seed in seeds for h in values]
    return Job(1, task, VariantSpec(name=name), tuple(trials), 8, 0, UNSHARED, "start", False)


def _run(bench: Bench, job: Job) -> worker._Run:
    return worker._Run(bench, job, lambda event: None)


def test_packed_trials_of_two_seeds_get_their_own_statistics(setup: tuple[Setup, TaskSpec]) -> None:
    run = _run(Bench(setup[0]), _job(setup[1], "lora_ga", (0, 1)))
    for seed in (0, 1):
        chosen = [order(seed, step, 4, len(run.prepared.splits["train"])) for step in range(BATCHES)]
        batches = [worker.batch(run.prepared, "train", each, run.frozen.device) for each in chosen]
        assert _same(run.statistics[seed], measure(run.frozen, {"gradient"}, seed, batches, run.prepared.loss))
    members = [Member(trial.seed, trial.values) for trial in run.waiting]
    pack = Pack(run.frozen, run.variant, members, 2, run.prepared.loss, run.statistics)
    for k, seed in enumerate((0, 1)):
        site = run.frozen.sites[0]
        Vh, A = run.statistics[seed][site.name]["gradient"].Vh, small.leaves(pack, k)[site.name, "A"]
        assert torch.allclose(A / A.norm(dim=1, keepdim=True), Vh[: len(A)], rtol=0, atol=1e-12)
    assert not _same(run.statistics[0], run.statistics[1])


def test_workers_of_one_cache_measure_once(setup: tuple[Setup, TaskSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    (given, task), bench = setup, Bench(setup[0])
    first = _run(bench, _job(task, "lora_one", (0,)))
    monkeypatch.setattr(worker, "measure", lambda *_: _never())
    assert _run(bench, _job(task, "lora_one", (0,))).statistics[0] is first.statistics[0]
    again = _run(Bench(given), _job(task, "lora_ga", (0,), sizes=(8, 16)))  # another process, method and batch size
    assert _same(again.statistics[0], first.statistics[0])
    with pytest.raises(AssertionError, match="measured again"):
        _run(bench, _job(task, "lora_one", (7,)))
    with pytest.raises(AssertionError, match="measured again"):
        _run(bench, _job(task.model_copy(update={"targets": "key"}), "lora_one", (0,)))


def test_a_method_that_needs_nothing_measures_nothing(
    setup: tuple[Setup, TaskSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "measure", lambda *_: _never())
    assert _run(Bench(setup[0]), _job(setup[1], "lora", (0,))).statistics == {0: {}}


def test_a_row_freed_by_one_seed_trains_the_next(
    setup: tuple[Setup, TaskSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, results = Bench(setup[0]), list[Result]()
    monkeypatch.setattr(bench.ledger, "accept", results.append)
    job = _job(setup[1], "eva", (0, 1))
    worker.work(bench, replace(job, width=1), lambda event: None)
    assert [(result.seed, result.state) for result in results] == [(0, "finished"), (1, "finished")]
