"""Mixtures of experts against their equations, written out token by token and expert by expert."""

import pytest
import torch
from torch import Tensor

from study.pack import Pack
from study.space import Value
from study.streams import generator
from study.variants import VARIANTS, goat, loramoe
from study.variants.base import Leaves, Lifted, Site
from tests import small
from tests.test_variants import test_packed_equals_alone as packed_equals_alone

LORA, LORAMOE, GOAT = (VARIANTS[name] for name in ("lora", "loramoe", "goat"))
both = pytest.mark.parametrize("method", [LORAMOE, GOAT], ids=lambda v: v.name)


@both
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_forward_is_the_sum_over_a_tokens_largest_gates(method, top_k: int) -> None:
    for site, p, h in layers(trained(method, top_k=top_k)):
        x = small.rows(site)
        y = site.layer(x)
        assert torch.allclose(method.forward(x, y, site, p, h), y + written_out(site, x, p, h), rtol=0, atol=1e-10)


def written_out(site: Site, x: Tensor, p: Leaves, h: Lifted) -> Tensor:
    """s sum_e w_e B_e A_e x, less GOAT's start under its first router: N O."""
    s = h["scale"] * (site.I**0.5 if "rho" in h else 1)
    rows = []
    for token in x:
        now = torch.zeros(site.O, dtype=x.dtype)
        for e, w in largest_gates(p["G"] @ token, int(h["top_k"])).items():
            now += s * w * p["B"][:, :, e] @ p["A"][:, e] @ token
        for e, w in largest_gates(p["G0"] @ token, int(h["top_k"])).items() if "G0" in p else ():
            now -= s * w * p["B0"][:, :, e] @ p["A0"][:, e] @ token
        rows.append(now)
    return torch.stack(rows)


def largest_gates(logits: Tensor, k: int) -> dict[int, Tensor]:
    """Softmax over all experts, then the k largest renormalized."""
    values, experts = logits.softmax(0).topk(k)
    return dict(zip(experts.tolist(), values / values.sum(), strict=True))


def test_loramoe_penalty_is_the_squared_variation_of_the_experts_use() -> None:
    for site, p, h in layers(trained(LORAMOE)):
        x, valid = small.rows(site), torch.tensor([1, 1, 0, 1, 1, 0, 0]).double()
        Q = torch.stack([(p["G"] @ token).softmax(0) for token in x[valid > 0]]).sum(0)
        mean = Q.sum() / len(Q)
        expected = h["balance"] * ((Q - mean) ** 2).sum() / len(Q) / mean**2
        assert torch.allclose(LORAMOE.penalty(x, site, p, h | {"valid": valid}), expected, rtol=0, atol=1e-10)


def test_goat_penalty_is_share_times_probability() -> None:
    for site, p, h in layers(trained(GOAT)):
        x, valid = small.rows(site), torch.tensor([1, 1, 0, 1, 1, 0, 0]).double()
        counts, P, E = torch.zeros(4), torch.zeros(4, dtype=x.dtype), 4
        for token in x[valid > 0]:
            P += (p["G"] @ token).softmax(0) / 4  # of 4 real tokens
            for e in largest_gates(p["G"] @ token, 2):
                counts[e] += 1
        expected = h["balance"] * E * sum(counts[e] / 4 * P[e] for e in range(E))
        assert torch.allclose(GOAT.penalty(x, site, p, h | {"valid": valid}), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("init", ["kaiming", "nonzero"])
def test_one_expert_is_lora(init: str) -> None:
    given = [{**setting, "init": init, "experts": 1} for setting in small.SETTINGS]
    mixed, plain = small.start(LORAMOE, small.members(LORAMOE, given)), small.start(LORA, small.members(LORA, given))
    losses = [torch.stack(small.go(pack, 10)) for pack in (mixed, plain)]
    assert torch.allclose(*losses, rtol=0, atol=1e-12)
    for k in range(4):
        ours, theirs = small.leaves(mixed, k), small.leaves(plain, k)
        assert all(torch.allclose(ours[leaf].reshape(value.shape), value) for leaf, value in theirs.items())


@pytest.mark.parametrize("init", ["kaiming", "orthogonal"])
def test_a_zero_router_over_all_experts_is_their_mean_and_lora_of_the_whole_rank(init: str) -> None:
    site, h = small.frozen().sites[0], small.values(LORAMOE, {"rank": 8, "init": init})
    p = {name: leaf.double() for name, leaf in LORAMOE.init(site, h, generator(0)).items()}
    pair = {name: leaf.double() for name, leaf in LORA.init(site, h, generator(0)).items()}
    p["B"] = torch.randn(p["B"].shape, dtype=torch.float64, generator=generator(1))
    p["G"], s = torch.zeros_like(p["G"]), torch.tensor(LORAMOE.scaling(h))
    x = small.rows(site)
    moved = LORAMOE.forward(x, torch.zeros(7, site.O), site, p, {"scale": s, "top_k": torch.tensor(4.0)})
    mean = sum(s * x @ p["A"][:, e].T @ p["B"][:, :, e].T for e in range(4)) / 4
    assert torch.allclose(moved, mean, rtol=0, atol=1e-12)
    whole = LORA.scaling(h) * x @ pair["A"].T @ p["B"].flatten(1).T
    assert torch.allclose(moved, whole, rtol=0, atol=1e-12)


@both
def test_routing_never_looks_at_another_trials_tokens(method) -> None:
    pack = trained(method)
    inputs, _ = small.batch(pack.members, 7)
    other = {"input_ids": inputs["input_ids"].clone()}
    other["input_ids"][small.EXAMPLES : 2 * small.EXAMPLES] += 1
    other["input_ids"] %= small.WORDS
    penalties: tuple[list[Tensor], list[Tensor]] = [], []
    with torch.no_grad():
        first, second = (
            pack.outputs(given, into).unflatten(0, (4, -1))
            for given, into in zip((inputs, other), penalties, strict=True)
        )
    for a, b in ((first, second), *zip(*penalties, strict=True)):
        assert [torch.equal(a[k], b[k]) for k in range(4)] == [True, False, True, True]


@both
def test_padding_does_not_count_in_the_balance(method) -> None:
    """Trials with sentences of 10, 9, 8 and 7 words in one padded batch, and each alone without padding."""
    pack = trained(method)
    words, _ = small.batch(pack.members, 7)
    mask = torch.ones_like(words["input_ids"])
    for k in range(4):
        mask[k * small.EXAMPLES : (k + 1) * small.EXAMPLES, small.LENGTH - k :] = 0
    together: list[Tensor] = []
    pack.outputs(words | {"attention_mask": mask}, together)
    for k in range(4):
        rows, alone = slice(k * small.EXAMPLES, (k + 1) * small.EXAMPLES), list[Tensor]()
        pack.rows([k]).outputs({"input_ids": words["input_ids"][rows, : small.LENGTH - k]}, alone)
        assert torch.allclose(torch.stack(together)[:, k], torch.stack(alone)[:, 0], rtol=0, atol=1e-12)


def test_goat_starts_exactly_at_the_base_model_where_the_papers_mean_start_does_not() -> None:
    for site, p, h in layers(small.start(GOAT, small.members(GOAT))):
        x = small.rows(site)
        y = site.layer(x)
        assert torch.equal(GOAT.forward(x, y, site, p, h), y)
        s, w = h["scale"] * site.I**0.5, loramoe.gates(x, p["G"], h["top_k"])
        mean = loramoe.mixture(x, {"A": p["A"], "B": p["B"]}, (s / 4).expand(len(x), 4))
        off = loramoe.mixture(x, {"A": p["A"], "B": p["B"]}, s * w) - mean
        assert off.abs().max() > 1e-3


def test_goat_experts_hold_the_segments_of_the_spectrum() -> None:
    site, h = small.frozen().sites[0], small.values(GOAT, {"rank": 8})
    scale = GOAT.scaling(h)
    p = goat.init(site, h | {"scale": scale}, generator(0))
    U, S, Vh = site.svd
    for e in range(4):
        segment = slice(e * 8, e * 8 + 2)  # 32 triplets in 4 segments, 2 ranks an expert
        part = U[:, segment] * S[segment] @ Vh[segment]
        assert torch.allclose(10 * scale * site.I**0.5 * p["B"][:, :, e] @ p["A"][:, e], part, rtol=0, atol=1e-12)
    assert scale * site.I**0.5 == pytest.approx((3 * site.I / 2) ** 0.5)


@both
def test_with_one_expert_a_token_only_the_balance_teaches_the_router(method) -> None:
    """The one gate left is 1 whatever the router says."""
    for site, p, h in layers(trained(method, top_k=1)):
        G = p["G"].clone().requires_grad_()
        x = small.rows(site)
        assert not torch.autograd.grad(method.forward(x, x, site, p | {"G": G}, h).sum(), G)[0].any()
        assert torch.autograd.grad(method.penalty(x, site, p | {"G": G}, h | {"valid": torch.ones(7)}), G)[0].any()


@both
def test_a_router_shared_across_trials_is_caught(method) -> None:
    """Planted: every trial of a pack is routed by the first one's router."""
    with pytest.raises(AssertionError):
        packed_equals_alone(method._replace(common=frozenset({"G"})), torch.float64, 0.0)


@both
def test_a_balance_that_counts_padding_is_caught(method) -> None:
    """Planted: the mask is ignored."""
    careless = method._replace(penalty=lambda x, site, p, h: method.penalty(x, site, p, h | {"valid": x[:, 0] * 0 + 1}))
    with pytest.raises(AssertionError):
        test_padding_does_not_count_in_the_balance(careless)


def trained(method, **knobs: Value) -> Pack:
    """Four trials after five steps."""
    pack = small.start(method, small.members(method, [{**setting, **knobs} for setting in small.SETTINGS]))
    small.go(pack, 5)
    return pack


def layers(pack: Pack) -> list[tuple[Site, Leaves, Lifted]]:
    """Each site of each trial: what its forward sees."""
    part = pack.parts[0]
    own = [(part.site_leaves(k), {name: value[k] for name, value in part.h.items()}) for k in range(pack.K)]
    return [(site, leaves[site.name], h) for site in part.sites for leaves, h in own]
