"""VeRA, RaSA, DenseLoRA, ReLoRA and AdaLoRA: against peft, against the papers' equations, and what each promises."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, VeraConfig, get_peft_model
from torch import Tensor, nn

from study.pack import Pack
from study.part import Member
from study.variants import VARIANTS, adalora, relora
from study.variants.base import Leaves, Lifted, Site, Variant, merged
from tests import small, test_variants
from tests.oracle import RATE, STEPS, adamw, merged_model, their_head, together, trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # peft reads transformers' old name

RANK, ALPHA = 4, 16
PLAIN = {"learning_rate": RATE, "rank": RANK, "alpha": ALPHA, "schedule": "constant", "warmup": 0.0}
FREE = PLAIN | {"max_grad_norm": 1e9, "orthogonality": 0.0}
TARGETS = ["query", "value"]
THEIR_NAMES = {
    "A": "lora_A.default.weight",
    "B": "lora_B.default.weight",
    "b": "vera_lambda_b.default",
    "d": "vera_lambda_d.default",
    "P": "lora_B.default",
    "e": "lora_E.default",
    "Q": "lora_A.default",
}


# ---------------------------------------------------------------- peft


def test_vera_agrees_with_peft() -> None:
    pack, theirs = _pair("vera", VeraConfig(r=RANK))
    with torch.no_grad():
        for name in ("A", "B"):
            common = pack.parts[0].site_leaves(0)[pack.frozen.sites[0].name][name]
            theirs.base_model.get_submodule(f"vera_{name}")["default"].copy_(common)
    trained(pack, theirs, adamw(theirs))
    assert _apart(pack, theirs) < 1e-8
    assert _merged_apart(pack, theirs) < 1e-5


def test_adalora_agrees_with_peft_budget_and_all() -> None:
    config = AdaLoraConfig(
        init_r=6, target_r=RANK, lora_alpha=ALPHA, tinit=2, tfinal=10, deltaT=1, total_step=STEPS, orth_reg_weight=0
    )
    pack, theirs = _pair("adalora", config)
    for name, parameter in theirs.named_parameters():
        if "ranknum" in name:
            parameter.data -= 1e-5  # peft adds it to the rank that it divides by
    rule, allocator, h = adamw(theirs), theirs.base_model.rankallocator, pack.parts[0].plain(pack.members[0])
    pattern = None
    for t in together(pack, theirs, rule, before_the_step=lambda: allocator.update_ipt(theirs)):
        budget, due = allocator.budget_schedule(t)
        assert budget == (adalora.budget(h, t, 4) if t > 2 else 24)
        assert adalora.due(h, t) == (due and t <= 10)
        if t <= 10 and due:
            pattern = allocator.mask_to_budget(theirs, budget)
        elif t > 10:
            allocator.mask_using_rank_pattern(theirs, pattern)
    for state, ipt in (("0.mean", allocator.exp_avg_ipt), ("0.spread", allocator.exp_avg_unc)):
        for (site, leaf), ours in pack.parts[0].trained.views(pack.parts[0].state[state][0]).items():
            smoothed = ipt[f"base_model.model.{site}.{THEIR_NAMES[leaf]}"].reshape(ours.shape)
            assert torch.allclose(ours, smoothed, rtol=1e-8, atol=0)
    assert _apart(pack, theirs) < 1e-8
    assert _merged_apart(pack, theirs) < 1e-5


def test_relora_is_pefts_lora_restarted_by_hand() -> None:
    """Algorithm 1 around peft's LoRA and torch's AdamW: merge, draw, prune both moments, climb back to the rate."""
    pack, theirs = _pair("relora", LoraConfig(r=RANK, lora_alpha=ALPHA), {"restart_every": 0.25, "restart_warmup": 0.6})
    adapters = [p for name, p in theirs.named_parameters() if "lora_" in name]
    head = [p for name, p in theirs.named_parameters() if p.requires_grad and "lora_" not in name]
    rule = torch.optim.AdamW([{"params": adapters}, {"params": head}], lr=RATE, weight_decay=0.0)
    for t in together(pack, theirs, rule):
        if t in (5, 10, 15):
            _restart(theirs, rule, small.leaves(pack, 0))
        since = math.inf if t < 5 else t % 5 + 1
        rule.param_groups[0]["lr"] = RATE * min(1, since / 3)
    assert _apart(pack, theirs) < 1e-8
    assert _merged_apart(pack, theirs) < 1e-5


def _restart(theirs: PeftModel, rule: torch.optim.Optimizer, drawn: dict[tuple[str, str], Tensor]) -> None:
    with torch.no_grad():
        for (site, leaf), A in drawn.items():
            if leaf == "A":
                pair = _theirs(theirs, site, "A"), _theirs(theirs, site, "B")
                layer = theirs.base_model.model.get_submodule(site)
                layer.base_layer.weight += ALPHA / RANK * pair[1] @ pair[0]
                pair[0].copy_(A)
                pair[1].zero_()
                for moment in (rule.state[p][name] for p in pair for name in ("exp_avg", "exp_avg_sq")):
                    smallest = moment.flatten().abs().argsort()[: int(0.99 * moment.numel())]
                    moment.view(-1)[smallest] = 0


# ---------------------------------------------------------------- the papers' equations, in loops


def test_rasa_is_the_sum_over_its_own_and_the_pools_ranks() -> None:
    method = VARIANTS["rasa"]
    for site, p, h in _trained(method):
        own = [(p["e"][i], p["B"][:, i], p["A"][i]) for i in range(len(p["e"]))]
        e_S = p[f"e_S of {site.name}"]
        pool = [(e_S[i], p["B_S"][:, i], p["A_S"][i]) for i in range(len(e_S))]
        update = sum(e * torch.outer(b, a) for e, b, a in own + pool)
        x = small.rows(site)
        assert _close(method.forward(x, site.layer(x), site, p, h), site.layer(x) + x @ update.T)
        assert _close(merged(method, site, p, h)[0], site.W + update)
        assert sum(e * torch.outer(b, a) for e, b, a in pool).abs().max() > 1e-6


def test_rasa_starts_with_half_of_alpha_on_each_part() -> None:
    method, h = VARIANTS["rasa"], PLAIN | {"rank": 8, "pool_share": 0.25}
    p = small.start(method, [Member(0, small.values(method, h))]).parts[0].site_leaves(0)
    for name, leaves in p.items():
        assert leaves["e"].tolist() == pytest.approx([ALPHA / 2 / 6] * 6)
        assert leaves[f"e_S of {name}"].tolist() == pytest.approx([ALPHA / 2 / 4] * 4)  # k = 2 ranks of L = 2 layers


def test_denselora_is_two_nonlinear_steps_around_one_small_matrix() -> None:
    method = VARIANTS["denselora"]
    for site, p, h in _trained(method):
        x = small.rows(site)
        y = site.layer(x)
        for n in range(2):
            inside = [_gelu(float(p["A"][i] @ x[n])) for i in range(len(p["A"]))]
            mixed = [sum(float(p["M"][i, j]) * inside[j] for j in range(len(inside))) for i in range(len(inside))]
            out = [_gelu(sum(float(p["B"][o, i]) * mixed[i] for i in range(len(mixed)))) for o in range(site.O)]
            expected = y[n] + h["scale"] * torch.tensor(out, dtype=torch.float64)
            assert _close(method.forward(x, y, site, p, h)[n], expected)


def _gelu(z: float) -> float:
    return z * (1 + math.erf(z / math.sqrt(2))) / 2


def test_adaloras_penalty_counts_the_ranks_a_trial_owns() -> None:
    method = VARIANTS["adalora"]
    pack = small.start(method, small.members(method))
    small.go(pack, 3)
    part = pack.parts[0]
    padded = part.views()
    for site, k in ((site, k) for site in part.sites for k in range(pack.K)):
        p, h = part.site_leaves(k)[site.name], {name: value[k] for name, value in part.h.items()}
        R, expected = len(p["e"]), 0.0
        for i, j in ((i, j) for i in range(R) for j in range(R)):
            expected += (float(p["P"][:, i] @ p["P"][:, j]) - (i == j)) ** 2
            expected += (float(p["Q"][i] @ p["Q"][j]) - (i == j)) ** 2
        row = {name: leaf[k].detach() for name, leaf in padded[site.name].items()}
        found = method.penalty(small.rows(site), site, row, h)  # type: ignore[misc]
        assert abs(float(found) - 0.1 * expected) < 1e-10


# ---------------------------------------------------------------- what each method promises


def test_adalora_ends_with_exactly_its_budget_spread_unevenly_and_trial_by_trial() -> None:
    method = VARIANTS["adalora"]
    pack = small.start(method, small.members(method))
    spread = set()
    for t in range(STEPS):
        small.go(pack, 1, since=t)
        if t + 1 < STEPS // 2:
            continue
        for k, member in enumerate(pack.members):
            p = pack.parts[0].site_leaves(k).values()
            live = [int((leaves["e"] * leaves["kept"]).count_nonzero()) for leaves in p]
            assert sum(live) == member.values["rank"] * len(live)
            spread.add(len(set(live)))
    assert spread != {1}


def test_adalora_cuts_the_triplets_of_least_importance() -> None:
    """Equation 7 by hand: 27 and 12 in layer a, 11 and 14 in b; sums for means, or e alone, would choose others."""
    h = {"rank": 1, "steps": 10, "t_initial": 0.0, "t_final": 0.5}
    leaves = {
        o: {"P": torch.ones(3, 2), "e": torch.ones(2), "Q": torch.ones(2, 4), "kept": torch.ones(2)} for o in "ab"
    }
    mean = {
        "a": {"P": torch.tensor([[1.0, 0], [1, 30], [1, 0]]), "e": torch.tensor([25.0, 1]), "Q": torch.ones(2, 4)},
        "b": {"P": torch.ones(3, 2), "e": torch.tensor([9.0, 4]), "Q": torch.tensor([[1.0] * 4, [0, 36, 0, 0]])},
    }
    spread = {o: {name: torch.ones_like(leaf) for name, leaf in mine.items()} for o, mine in mean.items()}
    adalora.allocate(leaves, {"0.mean": mean, "0.spread": spread}, h, 5, torch.Generator())
    assert {o: p["e"].tolist() for o, p in leaves.items()} == {"a": [1, 0], "b": [0, 1]}


def test_a_restart_keeps_the_function() -> None:
    pack = _before_a_restart()
    inputs, _ = small.batch(pack.members, 99)
    outputs = pack.outputs(inputs).detach()
    _restart_all(pack)
    assert _close(pack.outputs(inputs).detach(), outputs)


def test_a_restart_resets_the_pair_and_99_percent_of_its_moments_and_nothing_else() -> None:
    pack = _before_a_restart()
    part, before = pack.parts[0], small.leaves(pack, 2)
    steps, head = part.state["0.t"].clone(), {name: value.clone() for name, value in pack.parts[1].state.items()}
    _restart_all(pack)
    for (owner, name), leaf in small.leaves(pack, 2).items():
        assert torch.equal(leaf, before[owner, name]) == (name not in ("A", "B", "D")), name
    assert torch.equal(part.state["0.t"], steps)
    assert all(torch.equal(value, head[name]) for name, value in pack.parts[1].state.items())
    for k, shapes in enumerate(part.shapes):
        for moment in ("0.m", "0.v"):
            views = part.trained.views(part.state[moment][k])
            sizes = {leaf: math.prod(shape) for leaf, shape in shapes.items() if leaf[1] in ("A", "B")}
            assert all(int(views[leaf].count_nonzero()) == n - int(0.99 * n) for leaf, n in sizes.items())


def test_restarted_ranks_add_up() -> None:
    method = VARIANTS["relora"]
    pack = small.start(method, [Member(0, small.values(method, PLAIN | {"rank": 2, "restart_every": 0.25}))])
    small.go(pack, STEPS)
    ranks = [int(torch.linalg.matrix_rank(p["D"])) for p in pack.parts[0].site_leaves(0).values()]
    assert ranks == [6, 6, 6, 6]  # after steps 5, 10 and 15


def test_padding_would_reach_veras_vectors_so_its_packs_have_one_rank() -> None:
    """The projection is not padded: d has a gradient where a smaller rank has no entry, and B is drawn by rank."""
    method = VARIANTS["vera"]
    trials = [Member(0, small.values(method, PLAIN | {"rank": rank})) for rank in (8, 2)]
    assert len({method.pack_key(trial.values) for trial in trials}) == 2
    mixed = small.start(method, trials)
    small.go(mixed, 2)
    inputs, targets = small.batch(trials, 2)
    W = mixed.parts[0].W
    (gradient,) = torch.autograd.grad(mixed.losses(mixed.outputs(inputs), targets).sum(), W)
    assert gradient[1][~mixed.parts[0].live[1]].abs().max() > 1e-8
    alone = small.start(method, trials[1:])
    small.go(alone, 2)
    assert small.distance(small.leaves(mixed, 1), small.leaves(alone, 0)) > 1e-6


@pytest.mark.parametrize(("name", "leaf"), [("denselora", "A"), ("denselora", "B"), ("rasa", "A_S"), ("rasa", "B_S")])
def test_the_gradient_of_a_shared_leaf_is_the_sum_over_its_layers(name: str, leaf: str) -> None:
    method = VARIANTS[name]
    pack = small.start(method, small.members(method))
    small.go(pack, 3)
    whole = _gradient(pack, method)
    single = [_gradient(pack, method._replace(forward=_but_for(method, site, leaf))) for site in pack.parts[0].sites]
    for owned in (o for o in whole if o[1] == leaf):
        assert whole[owned].abs().max() > 1e-8
        assert _close(sum(gradients[owned] for gradients in single), whole[owned])


def test_layers_of_two_kinds_share_nothing() -> None:
    method = VARIANTS["denselora"]
    leaves = small.leaves(small.start(method, small.members(method)), 0)
    assert len([leaf for leaf in leaves if leaf[1] == "A"]) == 2  # query and value, over two layers each


# ---------------------------------------------------------------- mistakes planted


def test_a_merge_without_the_pool_is_caught() -> None:
    """Planted: RaSA merged from the layer's own ranks alone."""

    def forgetful(variant: Variant, site: Site, p: Leaves, h: Lifted) -> tuple[Tensor, Tensor | None]:
        return site.W + p["B"] @ (p["e"][:, None] * p["A"]), site.bias

    with pytest.raises(AssertionError):
        test_variants.test_merged_equals_forward_or_is_refused_because_it_cannot(
            VARIANTS["rasa"]._replace(merge=forgetful)
        )


def test_a_restart_that_does_not_merge_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the pair drawn anew, the update thrown away."""

    def forgetful(leaves, state, h, t, generator):  # type: ignore[no-untyped-def]
        relora.restart(leaves, state, {**h, "scale": 0.0}, t, generator)

    event = relora.VARIANT.events[0]._replace(act=forgetful)
    monkeypatch.setattr(relora, "VARIANT", relora.VARIANT._replace(events=(event,)))
    with pytest.raises(AssertionError):
        test_a_restart_keeps_the_function()


# ---------------------------------------------------------------- helpers


def _pair(name: str, config: PeftConfig, given: dict[str, float] | None = None) -> tuple[Pack, PeftModel]:
    """One trial and a peft model of float64 with its start."""
    method = VARIANTS[name]
    config.target_modules, config.modules_to_save = set(TARGETS), ["classifier"]
    pack = Pack(small.frozen(), method, [Member(0, small.values(method, FREE | (given or {})))], STEPS, small.loss)
    theirs = get_peft_model(small.model(torch.float32), config).double().eval()
    with torch.no_grad():
        for (site, leaf), value in small.leaves(pack, 0).items():
            if leaf in THEIR_NAMES:
                _theirs(theirs, site, leaf).copy_(value)
            elif leaf in ("weight", "bias"):
                their_head(theirs).get_parameter(leaf).copy_(value)
    return pack, theirs


def _theirs(theirs: nn.Module, site: str, leaf: str) -> Tensor:
    found = theirs.base_model.model.get_submodule(site).get_parameter(THEIR_NAMES[leaf])
    return found[:, 0] if leaf == "e" else found


def _apart(pack: Pack, theirs: nn.Module) -> float:
    """The largest difference of a trained weight; a triplet's value counts where it is kept."""
    ours = small.leaves(pack, 0)
    masked = {at: leaf * ours[at[0], "kept"] if at[1] == "e" else leaf for at, leaf in ours.items()}
    named = {at: leaf for at, leaf in masked.items() if at[1] in THEIR_NAMES}
    return max(float((leaf - _theirs(theirs, *at)).detach().abs().max()) for at, leaf in named.items())


def _merged_apart(pack: Pack, theirs: PeftModel) -> float:
    """The largest difference of a logit of the two merged models in fp32."""
    inputs = small.batch(pack.members, 99)[0]
    both = merged_model(pack)(**inputs).logits - theirs.float().merge_and_unload()(**inputs).logits
    return float(both.detach().abs().max())


def _trained(method: Variant) -> Iterator[tuple[Site, Leaves, Lifted]]:
    """Each layer of four trials of different ranks after some steps, and what its forward sees."""
    pack = small.start(method, small.members(method))
    small.go(pack, 5)
    part = pack.parts[0]
    for k in range(pack.K):
        h = {name: value[k] for name, value in part.h.items()}
        yield from ((site, part.site_leaves(k)[site.name], h) for site in part.sites)


def _before_a_restart() -> Pack:
    """Four trials of different ranks after five steps, the restart that is due then still to come."""
    quiet = VARIANTS["relora"]._replace(events=())
    pack = small.start(quiet, small.members(quiet, [setting | {"restart_every": 0.25} for setting in small.SETTINGS]))
    small.go(pack, 5)
    return pack


def _restart_all(pack: Pack) -> None:
    part, before = pack.parts[0], small.leaves(pack, 0)
    part.variant = relora.VARIANT
    assert all(part.act(k, member, 5) for k, member in enumerate(pack.members))
    assert small.distance(small.leaves(pack, 0), before) > 1e-2


def _gradient(pack: Pack, method: Variant) -> dict[tuple[str, str], Tensor]:
    part = pack.parts[0]
    part.variant = method
    inputs, targets = small.batch(pack.members, 9)
    (gradient,) = torch.autograd.grad(pack.losses(pack.outputs(inputs), targets).sum(), [part.W])
    return part.trained.views(gradient)


def _but_for(method: Variant, chosen: Site, leaf: str) -> Callable[[Tensor, Tensor, Site, Leaves, Lifted], Tensor]:
    """The method's forward with the shared leaf a constant everywhere but at one layer."""

    def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
        return method.forward(x, y, site, p if site is chosen else p | {leaf: p[leaf].detach()}, h)

    return forward


def _close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=0, atol=1e-10)
