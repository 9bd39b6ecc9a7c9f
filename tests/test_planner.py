"""Packs are as wide as memory and speed allow, and no switch of `compute` changes a result by more than rounding."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas
import pytest
import torch
from torch import nn

from study import hardware, needs, planner, spec, worker
from study.errors import BadInput
from study.frozen import Frozen
from study.ledger import Ledger
from study.pack import Pack
from study.part import Member
from study.space import Levels, Space, Value
from study.spec import Budget, Compute
from study.variants import VARIANTS, variant
from study.variants.base import Variant
from tests import small
from tests.test_study import Document, Tiny, left, require_same, run_here, tiny, with_budget

__all__ = ["tiny"]  # a fixture

GIB = 1 << 30
BUDGET = Budget(steps=20, batch_size=small.EXAMPLES, length=small.LENGTH)
CPU = Compute(device="cpu", dtype="fp32")


# What a trial needs


def full_knobs(method: Variant, values: Mapping[str, Value]) -> dict[str, Value]:
    """As `init` sees them."""
    h = {**values, **method.fixed}
    return h | {"scale": method.scaling(h), "steps": BUDGET.steps}  # type: ignore[arg-type]


@pytest.mark.parametrize("method", VARIANTS.values(), ids=lambda method: method.name)
def test_the_entries_of_a_trials_leaves_are_counted_as_the_pack_stores_them(method: Variant) -> None:
    frozen, values = small.frozen(), small.values(method)
    h = full_knobs(method, values)
    counted = needs.entries(method, frozen.of(method.sites), h)
    pack = small.start(method, [Member(0, values)], frozen)
    part = next((part for part in pack.parts if part.variant is method), None)
    common = sum(leaf.numel() for leaf in part.common.values()) if part else 0
    stored = (part.trained.size, part.carried.size, common) if part else (0, 0, 0)
    if method.needs(h):  # the data may give a layer less than the most it can have
        assert all(most >= own for most, own in zip(counted, stored, strict=True))
    else:
        assert counted == stored


@pytest.mark.parametrize(
    ("name", "given"), [("lora", {}), ("lora", {"init": "nonzero"}), ("lora", {"rank": 32}), ("dora", {}), ("full", {})]
)
def test_the_bytes_of_a_trial_are_those_of_its_rows(name: str, given: Mapping[str, Value]) -> None:
    method, frozen = variant(name), small.frozen(torch.float32)
    values = small.values(method, given)
    pack = small.start(method, [Member(0, values)] * 3, frozen)
    kept = 0
    for part in pack.parts:
        moments = [value for value in part.state.values() if value.shape == part.W.shape]
        kept += part.W.nbytes + part.W.nbytes + sum(moment.nbytes for moment in moments) + part.frozen.nbytes
    assert needs.stored(method, frozen, values, BUDGET.steps, torch.bfloat16).kept * 3 == kept


def kept_for_backward(pack: Pack, batch: tuple[dict[str, torch.Tensor], torch.Tensor]) -> int:
    """Bytes that one forward leaves to its backward, each storage once, the model's own and the leaves left out."""
    known = {parameter.untyped_storage().data_ptr() for parameter in pack.frozen.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = pack.outputs(batch[0])
    assert outputs.requires_grad
    return sum(size for storage, size in kept.items() if storage not in known)


def test_a_step_keeps_about_the_bytes_that_are_planned_for_it() -> None:
    method, frozen = variant("lora"), small.frozen(torch.float32)
    trials = [Member(seed, small.values(method, {"rank": 2})) for seed in range(4)]
    planned = needs.activations(method, frozen, BUDGET.tokens(trials[0].values), torch.float32)
    kept = kept_for_backward(small.start(method, trials, frozen), small.batch(trials, 0)) / len(trials)
    assert 0.5 < kept / planned < 2


def test_the_largest_setting_of_a_cell_is_what_is_planned_for() -> None:
    method, frozen = variant("lora"), small.frozen(torch.float32)
    cell = Space(
        (Levels("rank", (2, 32, 4), 2), Levels("init", ("nonzero", "kaiming"), "kaiming")), small.values(method)
    )
    found = needs.largest(cell, lambda values: needs.needs(method, frozen, values, BUDGET, torch.float32).trial)
    assert (found["rank"], found["init"]) == (32, "nonzero")


# How wide a pack is


def planned(free: int, name: str = "lora", compute: Compute = CPU, workers: int = 1) -> planner.Plan:
    method = variant(name)
    cell = Space((), small.values(method))
    return planner.plan(method, small.frozen(torch.float32), cell, BUDGET, compute, free, workers)


def just_enough(name: str) -> int:
    """Free bytes of which one trial's pack may use enough."""
    one = planned(100 * GIB, name, CPU.model_copy(update={"pack_size": 1}))
    return int(one.worker / planner.USED) + 2


@pytest.mark.parametrize("name", ["lora", "dora", "full"])
def test_packs_grow_with_memory_from_one_trial_to_what_is_fast(name: str) -> None:
    least = just_enough(name)
    widths = [planned(least + extra, name).width for extra in (0, 10**5, 10**6, 10**7, 10**8, 10**9)]
    assert widths[0] == 1
    assert all(before <= after for before, after in pairwise(widths))
    assert widths[-1] == planner.WIDEST


def test_dense_leaves_make_packs_smaller() -> None:
    free = just_enough("full") + 10**6
    assert planned(free, "full").width < planned(free, "lora").width


def test_workers_share_the_memory_there_is() -> None:
    assert planned(8 * GIB, workers=4).room == planned(2 * GIB, workers=1).room


def test_a_cell_of_which_not_one_trial_fits_is_refused_in_one_line() -> None:
    with pytest.raises(
        BadInput, match=r"^full: one trial needs 5\d\d MiB, each of 2 workers has 205 MiB of 512 MiB free \("
    ):
        planned(GIB // 2, "full", workers=2)


def test_a_pack_never_needs_more_than_its_workers_room() -> None:
    plan = planned(just_enough("full") + 10**6, "full")
    assert plan.width * plan.trial <= plan.room


def test_the_pack_size_that_a_study_names_is_its_pack_size() -> None:
    assert planned(8 * GIB, compute=CPU.model_copy(update={"pack_size": 5})).width == 5


@pytest.mark.parametrize(
    ("dtype", "ff", "tokens", "fastest"),
    [
        ("bf16", 512, 128, 32),
        ("bf16", 512, 512, 16),
        ("bf16", 1536, 256, 11),
        ("fp32", 512, 128, 8),
        ("fp32", 1536, 512, 4),
    ],
)
def test_small_trials_make_large_packs_and_large_trials_small_ones(
    dtype: Any, ff: int, tokens: int, fastest: int
) -> None:
    size = 2 if dtype == "bf16" else 4
    assert planner.fastest(ff * tokens * size, Compute(device="cpu", dtype=dtype)) == fastest


def test_on_a_cuda_device_memory_alone_limits_a_pack_up_to_64() -> None:
    assert planner.fastest(10**9, Compute(device="cuda", dtype="bf16")) == 64


# Who goes with whom


def members(ranks: Sequence[int], seeds: Sequence[int], batches: Sequence[int] = (8,)) -> list[Member]:
    """Every combination, seeds innermost."""
    given = [(r, b, s) for r in ranks for b in batches for s in seeds]
    return [Member(s, small.values(variant("lora"), {"rank": r}) | {"batch_size": b}) for r, b, s in given]


def packed(
    trials: Sequence[Member], share: bool, width: int = 8, side: int = 384, design: Mapping[str, Any] = {}
) -> list[list[Member]]:
    document = {"name": "p", "tasks": [{"task": "sentiment"}], "variants": ["lora"], "knobs": {"rank": [2, 4]}}
    compute = {"share_batches": share}
    asked = spec.parse(document | {"focus": "rank", "compute": compute, "design": design}, "this test")
    return planner.packs(trials, variant("lora"), BUDGET, planner.Plan(width=width, side=side), asked, "explore")


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("width", [1, 3, 8])
def test_every_trial_is_in_one_pack_and_no_pack_is_too_wide(share: bool, width: int) -> None:
    trials = members((2, 4, 8, 16, 32), (0, 1, 2), (4, 8))
    found = packed(trials, share, width, side=32)
    assert sorted(map(repr, trials)) == sorted(repr(trial) for pack in found for trial in pack)
    assert max(map(len, found)) <= width


def test_a_pack_that_shares_batches_has_one_seed_and_one_batch_size() -> None:
    found = packed(members((2, 4, 8, 16), (0, 1), (4, 8)), share=True)
    assert [len(pack) for pack in found] == [4, 4, 4, 4]
    assert all(len({(t.seed, t.values["batch_size"]) for t in pack}) == 1 for pack in found)


def test_the_few_trials_of_a_seed_share_a_pack_rather_than_batches() -> None:
    assert [len(pack) for pack in packed(members((8,), range(6)), share=True)] == [6]


def test_without_sharing_seeds_and_batch_sizes_mix() -> None:
    assert [len(pack) for pack in packed(members((2, 4, 8, 16), (0, 1), (4, 8)), share=False)] == [8, 8]


def test_ranks_that_are_far_apart_are_kept_apart_only_where_padding_costs() -> None:
    assert planner.buckets((2, 4, 8, 16, 32), side=1024) == dict.fromkeys((32, 16, 8, 4, 2), 32)
    assert planner.buckets((2, 4, 8, 16, 32), side=128) == {32: 32, 16: 32, 8: 32, 4: 4, 2: 4}
    small_side = packed(members((2, 32), range(4)), share=False, side=128)
    assert [{trial.values["rank"] for trial in pack} for pack in small_side] == [{2}, {32}]


def test_a_search_that_compares_the_settings_of_a_pack_keeps_the_seeds_of_each_together() -> None:
    search = {"kind": "tpe", "halving": True}
    found = packed(members((2, 4, 8, 16, 32), (0, 1, 2)), share=True, design=search)
    assert [len(pack) for pack in found] == [3, 6, 6]
    assert all(set(Counter(trial.values["rank"] for trial in pack).values()) == {3} for pack in found)


# In a worker


def results(home: Any, study: str) -> list[Any]:
    return list(Ledger(home.storage).results(study).values())


def short(document: Document, changes: Mapping[str, Any]) -> Document:
    """LoRA's explore phase in fp32 with gentle learning rates: 4 settings, 2 seeds, 6 steps."""
    knobs = {"learning_rate": [1e-3, 1e-2], "rank": [2, 4]}
    base = with_budget(document, steps=6) | {"variants": ["lora"], "knobs": knobs, "phases": ["explore"]}
    return base | changes | {"compute": {"device": "cpu", "dtype": "fp32"} | changes.get("compute", {})}


def spied(monkeypatch: pytest.MonkeyPatch, see: Callable[[Pack, bool], None]) -> None:
    """Have `see` told of every step: the pack, and whether its trials see the same examples."""
    step = Pack.step

    def spy(self: Pack, batch: Any, *, shared: bool = False, sizes: Any = None) -> Any:
        see(self, shared)
        return step(self, batch, shared=shared, sizes=sizes)

    monkeypatch.setattr(Pack, "step", spy)


SWITCHES = {"share_batches", "unpad", "skip_unread", "cache_prefix"}


@pytest.mark.parametrize("switch", sorted(SWITCHES))
def test_a_switch_changes_no_key_and_no_result_by_more_than_rounding(
    switch: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, seen = [], set[str]()
    spied(monkeypatch, lambda pack, shared: seen.add("share_batches" if shared else ""))

    def built(model: nn.Module, targets: str | None, heads: Iterable[str], **switches: bool) -> Frozen:
        seen.update(name for name, on in switches.items() if on)
        return Frozen(model, targets, heads, **switches)

    monkeypatch.setattr(worker, "Frozen", built)
    for on in (True, False):
        seen.clear()
        tables.append(run_here(short(tiny.document, {"compute": {switch: on}}), tiny.home(tmp_path / str(on))))
        assert seen - {""} == SWITCHES - (set() if on else {switch})
    require_same(*tables, 1e-4)


def out_of_memory(monkeypatch: pytest.MonkeyPatch, error: Exception, fits: int) -> None:
    """Let a step of more than so many trials fail."""

    def see(pack: Pack, shared: bool) -> None:
        if fits < pack.K:
            raise error

    spied(monkeypatch, see)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_a_pack_that_dies_of_memory_is_trained_in_halves_and_says_so(
    error: Exception, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory(monkeypatch, error, fits=2)
    home = tiny.home(tmp_path / "home")
    table = run_here(short(tiny.document, {"compute": {"pack_size": 4}}), home)
    assert (table.state == "finished").all() and len(table) == 8
    told = [result.provenance for result in results(home, "small")]
    assert {each["pack"] for each in told} == {"2"}
    assert sum(each.get("retried") == "out of memory at pack size 4" for each in told) == 4, "the second pack knows"


def test_a_pack_that_dies_of_memory_again_fails(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory(monkeypatch, MemoryError("no more"), fits=1)
    with pytest.raises(MemoryError, match="no more"):
        run_here(short(tiny.document, {"compute": {"pack_size": 4}}), tiny.home(tmp_path / "home"))


def test_another_error_is_not_retried(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory(monkeypatch, RuntimeError("shapes differ"), fits=3)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_here(short(tiny.document, {"compute": {"pack_size": 4}}), tiny.home(tmp_path / "home"))


def test_later_packs_are_as_wide_as_the_first_step_of_one_has_shown(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "peak_memory", lambda device: hardware.memory(device) + (1 << 60))
    home = tiny.home(tmp_path / "home")
    run_here(short(tiny.document, {"compute": {"pack_size": 4}}), home)
    assert Counter(result.provenance["pack"] for result in results(home, "small")) == {"4": 4, "1": 4}


# Batch size as a knob


def by_setting(table: pandas.DataFrame) -> pandas.Series:
    """Validation losses by what was set."""
    return table.set_index([name for name in ("learning_rate", "rank", "batch_size", "seed") if name in table]).val_loss


def test_a_batch_size_that_a_study_varies_moves_the_loss_and_the_budgets_own_is_among_them(
    tiny: Tiny, tmp_path: Path
) -> None:
    knobs = {"learning_rate": {"levels": [1e-3, 1e-2]}, "rank": 2}
    grid = {"design": {"kind": "grid"}, "knobs": knobs}
    plain = run_here(short(tiny.document, grid), tiny.home(tmp_path / "plain"))
    studied = run_here(
        short(tiny.document, grid | {"knobs": knobs | {"batch_size": [2, 4, 8]}}), tiny.home(tmp_path / "studied")
    )
    losses = by_setting(studied).unstack("batch_size")
    assert "batch_size" not in plain
    assert (losses.nunique(axis=1) == 3).all()
    expected = by_setting(plain)
    pandas.testing.assert_series_equal(losses[4].sort_index(), expected.sort_index(), rtol=1e-4, check_names=False)


def test_trials_of_several_batch_sizes_learn_in_one_pack_what_they_learn_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: set[int] = set()
    spied(monkeypatch, lambda pack, shared: widths.add(pack.K))
    knobs = {"learning_rate": {"levels": [1e-3, 1e-2]}, "rank": 2, "batch_size": [2, 4]}
    document = short(tiny.document, {"design": {"kind": "grid"}, "knobs": knobs})
    tables = [
        run_here(document | {"compute": {"device": "cpu", "dtype": "fp32", **given}}, tiny.home(tmp_path / str(at)))
        for at, given in enumerate(({"pack_size": 8, "share_batches": False}, {"pack_size": 1}))
    ]
    require_same(*tables, 1e-4)
    assert widths == {8, 1}


def test_every_variant_can_be_asked_to_vary_the_batch_size() -> None:
    knobs = {"batch_size": [4, 8]}
    document = {"name": "sizes", "tasks": [{"task": "sentiment"}], "variants": list(VARIANTS), "focus": "batch_size"}
    asked = spec.parse(document | {"knobs": knobs}, "this test")
    assert {spec.space(asked, chosen).varied for chosen in asked.variants} == {(Levels("batch_size", (4, 8), 4),)}


# Successive halving


def searched(document: Document, halving: bool) -> Document:
    """Two waves of 8 settings with 2 seeds, in packs of 8."""
    design = {"kind": "tpe", "points": 8, "halving": halving}
    knobs = {"learning_rate": [1e-5, 1e-1], "rank": [2, 4]}
    changes = {"design": design, "knobs": knobs, "phases": ["explore", "confirm"], "compute": {"pack_size": 8}}
    return with_budget(short(document, changes), steps=18)


def test_halving_trains_the_better_settings_of_a_pack_to_the_end_and_stops_the_others_at_its_rungs(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, looked = tiny.home(tmp_path / "home"), list[tuple[list[str], list[float]]]()
    evaluate = worker.evaluate

    def watching(pack: Pack, prepared: Any, split: str) -> worker.Scored:
        found = evaluate(pack, prepared, split)
        if split == "validation" and pack.K > 2:
            looked.append(([str(member.values) for member in pack.members], found.losses))
        return found

    monkeypatch.setattr(worker, "evaluate", watching)
    table = run_here(searched(tiny.document, halving=True), home)
    ended = results(home, "small")
    explored = {trial.key: str(trial.values) for trial in Ledger(home.storage).trials("small", "explore")}
    steps = {}
    for result in ended:
        if result.key in explored:
            steps.setdefault(explored[result.key], set()).add((result.state, result.steps))
    assert Counter(next(iter(kinds)) for kinds in steps.values()) == {
        ("stopped", 2): 4,
        ("stopped", 6): 2,
        ("finished", 18): 2,
    }
    assert all(len(kinds) == 1 for kinds in steps.values()), "the seeds of a setting end together"
    for names, losses in looked:
        means = {
            name: fmean(loss for loss, other in zip(losses, names, strict=True) if other == name) for name in names
        }
        stopped = [name for name in means if steps[name] == {("stopped", 2 if len(means) == 4 else 6)}]
        assert max(means, key=lambda name: means[name]) in stopped
        assert min(means, key=lambda name: means[name]) not in stopped
    assert set(table.state) == {"finished"} and Counter(table.phase) == {"explore": 4, "confirm": 2}


def test_a_search_that_halves_goes_on_where_it_was_and_shares_no_result_with_one_that_does_not(
    tiny: Tiny, tmp_path: Path
) -> None:
    home = tiny.home(tmp_path / "home")
    run_here(searched(tiny.document, halving=True), home, jobs=1)
    before = left(home)
    run_here(searched(tiny.document, halving=True), home)
    after = left(home)
    assert len(before) == 8 and before.items() <= after.items()
    run_here(searched(tiny.document, halving=True), home)
    assert left(home) == after
    whole = run_here(searched(tiny.document, halving=False) | {"name": "whole", "phases": ["explore"]}, home)
    assert (whole.steps == 18).all() and len(whole) == 16


@pytest.mark.parametrize("kind", ["sobol", "grid", "random"])
def test_halving_is_refused_where_it_would_bias_what_is_found(kind: str, tiny: Tiny) -> None:
    with pytest.raises(
        BadInput, match=r"^this test: design.halving: True \(false, or kind tpe: .* bias a sensitivity\)$"
    ):
        spec.parse(tiny.document | {"design": {"kind": kind, "halving": True}}, "this test")
