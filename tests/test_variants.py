"""The laws every variant obeys, over the registry: a new file is under them the day it lands."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from study.errors import BadInput
from study.part import Member
from study.space import named
from study.streams import generator
from study.variants import VARIANTS, variant
from study.variants.base import Refused, Variant, affine, merged
from tests import small

STEPS = 10
UNLIKE = "query|value|attention.output.dense"  # layers that read different things
COMBINED = (("dora", ("pissa",)), ("rslora", ("dora",)), ("lora_plus", ("dora", "rslora", "pissa")))
ALL = [*VARIANTS.values(), *(variant(name, others) for name, others in COMBINED)]
ADAPTING = [v for v in ALL if v.name != "head_only"]
STARTS = [
    (v, init) for v in ADAPTING for init in (named(v.knobs)["init"].values if "init" in named(v.knobs) else (None,))
]

RANKED = [v for v in ADAPTING if len({t.values.get("rank") for t in small.members(v)}) > 1]  # others pack equal ranks

every = pytest.mark.parametrize("method", ALL, ids=lambda v: v.name)
adapting = pytest.mark.parametrize("method", ADAPTING, ids=lambda v: v.name)
every_start = pytest.mark.parametrize(
    ("method", "init"), STARTS, ids=lambda v: v.name if isinstance(v, Variant) else str(v)
)


@every
@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 0.0), (torch.float32, 1e-4)], ids=["fp64", "fp32"])
def test_packed_equals_alone(method: Variant, dtype: torch.dtype, share: float) -> None:
    frozen, trials = small.frozen(dtype), small.members(method)
    pack = small.start(method, trials, frozen)
    before = [small.leaves(pack, k) for k in range(pack.K)]
    small.go(pack, 20)
    for k, trial in enumerate(trials):
        alone = small.start(method, [trial], frozen)
        small.go(alone, 20)
        moved = small.distance(small.leaves(alone, 0), before[k])
        assert moved > 1e-4
        assert small.distance(small.leaves(pack, k), small.leaves(alone, 0)) <= max(
            1e-9 if share == 0 else share * moved, 1e-9
        )


@every_start
def test_starts_at_the_base_model_or_declares_that_it_does_not(method: Variant, init: str | None) -> None:
    trials = small.members(method, [setting | {"init": init} for setting in small.SETTINGS])
    frozen = small.frozen()
    inputs, _ = small.batch(trials, 0)
    heads = small.start(
        variant("head_only"), [Member(t.seed, small.values(variant("head_only"))) for t in trials], frozen
    )
    pack = small.start(method, trials, frozen)
    with torch.no_grad():
        same = torch.allclose(pack.outputs(inputs), heads.outputs(inputs), rtol=0, atol=1e-12)
    assert same == (method.starts_off(pack.parts[0].plain(trials[0])) == 0)


@every
def test_padding_stays_zero(method: Variant) -> None:
    pack = small.start(method, small.members(method))
    small.go(pack, STEPS)
    for part in pack.parts:
        assert torch.equal(part.W.detach()[~part.live], torch.zeros_like(part.W[~part.live]))


@pytest.mark.parametrize("method", RANKED, ids=lambda v: v.name)
def test_padding_is_there_to_stay_zero(method: Variant) -> None:
    assert not small.start(method, small.members(method)).parts[0].live.all()


@every_start
def test_frozen_leaves_move_by_events_only(method: Variant, init: str | None) -> None:
    pack = small.start(method, small.members(method, [setting | {"init": init} for setting in small.SETTINGS]))
    weights = {name: value.clone() for name, value in pack.frozen.model.state_dict().items()}
    for t in range(STEPS):
        before = [part.frozen.clone() for part in pack.parts]
        small.go(pack, 1, since=t)
        quiet = [k for k in range(pack.K) if not small.due(pack, k)]
        assert all(torch.equal(part.frozen[quiet], was[quiet]) for part, was in zip(pack.parts, before, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in pack.frozen.model.state_dict().items())


@every
def test_every_trainable_leaf_moves_within_three_steps(method: Variant) -> None:
    pack = small.start(method, small.members(method))
    before = [small.leaves(pack, k) for k in range(pack.K)]
    small.go(pack, 3)
    for k in range(pack.K):
        after = small.leaves(pack, k)
        still = [
            leaf for part in pack.parts for leaf in part.trained.shapes if torch.equal(after[leaf], before[k][leaf])
        ]
        assert not still


@adapting
def test_merged_equals_forward_or_is_refused_because_it_cannot(method: Variant) -> None:
    pack = small.start(method, small.members(method))
    small.go(pack, STEPS)
    part = pack.parts[0]
    off = 0.0  # how far the layer of the best affine guess is from the method's own
    for site, k in ((site, k) for site in part.sites for k in range(pack.K)):
        x = small.rows(site)
        p, h = part.site_leaves(k)[site.name], {name: value[k] for name, value in part.h.items()}
        try:
            W, bias = merged(method, site, p, h)
        except Refused:
            W, bias = affine(method, site, p, h)
            off = max(off, float((F.linear(x, W, bias) - method.forward(x, site.layer(x), site, p, h)).abs().max()))
            continue
        like = functional_call(site.layer, {"weight": W} | ({} if bias is None else {"bias": bias}), (x,))
        assert torch.allclose(like, method.forward(x, site.layer(x), site, p, h), rtol=0, atol=1e-12)
        assert not torch.allclose(W, site.W, rtol=0, atol=1e-6)
    assert off > 1e-6 or method.merge is None or "refuses" not in method.merge.__qualname__


@every
def test_trainable_count_is_the_formula(method: Variant) -> None:
    trials = small.members(method)
    pack = small.start(method, trials)
    head = sum(site.I * site.O + site.O for site in pack.frozen.heads)
    sites = pack.frozen.of(method.sites)
    for k, trial in enumerate(trials):
        assert pack.trainable(k) == small.trainable(method, sites, trial) + head


@every
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_member_that_breaks_changes_its_neighbours_by_nothing(method: Variant, poison: float) -> None:
    clean, broken = small.start(method, small.members(method)), small.start(method, small.members(method))
    broken.parts[0].W.data[1] = poison
    for t in range(STEPS):
        clean.step(small.batch(clean.members, t))
        _, finite = broken.step(small.batch(broken.members, t))
        assert finite.tolist() == [True, False, True, True]
    for k in (0, 2, 3):
        assert small.distance(small.leaves(clean, k), small.leaves(broken, k)) == 0


@every
def test_dropping_members_changes_the_rest_by_nothing(method: Variant) -> None:
    whole, fewer = small.start(method, small.members(method)), small.start(method, small.members(method))
    small.go(whole, 5)
    small.go(fewer, 5)
    fewer.keep([0, 3])
    small.go(whole, 5, since=5)
    small.go(fewer, 5, since=5)
    assert small.distance(small.leaves(whole, 0), small.leaves(fewer, 0)) == 0
    assert small.distance(small.leaves(whole, 3), small.leaves(fewer, 1)) == 0


@every
def test_a_refilled_row_trains_as_if_alone(method: Variant) -> None:
    trials, frozen = small.members(method), small.frozen()
    pack = small.start(method, trials[1:], frozen)
    small.go(pack, 5)
    pack.refill(1, trials[0])
    for t in range(STEPS):  # its clock starts over, its neighbours' go on
        rows = [small.batch([m], t if k == 1 else 5 + t) for k, m in enumerate(pack.members)]
        pack.step(
            (
                {"input_ids": torch.cat([inputs["input_ids"] for inputs, _ in rows])},
                torch.cat([targets for _, targets in rows]),
            )
        )
    alone = small.start(method, [trials[0]], frozen)
    small.go(alone, STEPS)
    assert small.distance(small.leaves(pack, 1), small.leaves(alone, 0)) <= 1e-9


KNOBS = [(v, knob.name) for v in ALL for knob in v.knobs]


@pytest.mark.parametrize(("method", "name"), KNOBS, ids=lambda v: v.name if isinstance(v, Variant) else v)
def test_no_knob_is_dead(method: Variant, name: str) -> None:
    """Moving a knob moves the loss: one we forgot to wire would be published as insensitive."""
    knob, base = named(method.knobs)[name], small.values(method, {"learning_rate": 1e-2})
    final = sorted(_final_loss(method, base | {name: value}) for value in knob.grid(2))
    assert all(low < high - 1e-9 for low, high in pairwise(final))


def _final_loss(method: Variant, h: dict) -> float:
    pack = small.start(method, [Member(0, h)], small.frozen(targets=UNLIKE), steps=40)
    return float(small.go(pack, 6)[-1])


@every
def test_same_seed_same_number_and_other_seed_other_number(method: Variant) -> None:
    first, again = small.start(method, small.members(method)), small.start(method, small.members(method))
    assert torch.equal(torch.stack(small.go(first, 3)), torch.stack(small.go(again, 3)))
    h = small.members(method)[0].values
    twins = small.start(method, [Member(0, h), Member(0, h), Member(1, h)])
    assert small.distance(small.leaves(twins, 0), small.leaves(twins, 2)) > 0
    small.go(twins, 3)
    assert small.distance(small.leaves(twins, 0), small.leaves(twins, 1)) == 0


def test_variants_of_one_seed_draw_the_same_start() -> None:
    """Paired seeds pair more than the data: lora and rslora differ in nothing but what they claim to differ in."""
    lora, rslora = (small.start(VARIANTS[name], small.members(VARIANTS[name])) for name in ("lora", "rslora"))
    assert small.distance(small.leaves(lora, 0), small.leaves(rslora, 0)) == 0


def test_pissa_of_full_rank_leaves_nothing_of_the_weight() -> None:
    site = small.frozen().sites[0]
    h = small.values(VARIANTS["pissa"], {"rank": min(site.I, site.O)}) | {"init": "pissa", "scale": 0.5}
    p = VARIANTS["pissa"].init(site, h, generator(0))
    assert torch.allclose(0.5 * p["B"] @ p["A"], site.W, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", ["kaiming", "nonzero"])
def test_dora_measures_the_rows_of_the_moved_weight(init: str) -> None:
    from study.variants import dora

    pack = small.start(VARIANTS["dora"], small.members(VARIANTS["dora"], [s | {"init": init} for s in small.SETTINGS]))
    small.go(pack, STEPS)
    part, k = pack.parts[0], 2
    site = part.sites[0]
    p = {name: leaf for (owner, name), leaf in part.leaves(k).items() if owner == site.name}
    h = {name: value[k] for name, value in part.h.items()}
    moved = site.W + h["scale"] * (p["B"] @ p["A"] - (p["B0"] @ p["A0"] if "A0" in p else 0))
    assert torch.allclose(dora.lengths(site, p, h), moved.norm(dim=1), rtol=0, atol=1e-12)


CLASHES = [("head_only", "dora"), ("dora", "dora"), ("pissa", "pissa"), ("melora", "pissa"), ("loha", "pissa")]


@pytest.mark.parametrize(("first", "second"), CLASHES)
def test_methods_that_change_the_same_thing_do_not_combine(first: str, second: str) -> None:
    with pytest.raises(BadInput, match="both change"):
        variant(first, [second])


def test_a_step_size_for_a_leaf_that_is_not_there_is_refused() -> None:
    method = variant("loha", ["lora_plus"])
    with pytest.raises(BadInput, match="a step size of B"):
        small.start(method, small.members(method))


def test_a_knob_that_one_of_two_methods_has_done_away_with_is_no_knob_of_both() -> None:
    assert "init" not in named(variant("miss", ["lora_plus"]).knobs)
    assert "b_over_a" in named(variant("melora", ["lora_plus"]).knobs)
