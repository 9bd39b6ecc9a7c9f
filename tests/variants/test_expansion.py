"""Rank expansion: HF peft as the oracle where it has the method, else the paper's equation in loops; and the ranks."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from peft import GraloraConfig, HiraConfig, LoHaConfig, LoKrConfig, MissConfig, RandLoraConfig, get_peft_model
from peft.config import PeftConfig
from torch import Tensor, nn

from study.errors import BadInput
from study.pack import Pack
from study.part import Member
from study.space import Value
from study.streams import generator
from study.variants import VARIANTS
from study.variants.base import Leaves, Lifted, Site, Variant, affine, count
from tests import small, test_variants
from tests.oracle import RATE, STEPS, adamw, merged_model, their_head, trained

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

ALPHA = 16
UNEQUAL = r"intermediate\.dense|\d\.output\.dense"  # 32 to 64 and back


class Oracle(NamedTuple):
    """What peft calls a method: its configuration at our knobs, and our leaves of one site under its names."""

    knobs: dict[str, Value]
    config: Callable[..., PeftConfig]
    extra: dict[str, Value]
    leaves: Callable[[Leaves], dict[str, Tensor]]


def _gralora(p: Leaves) -> dict[str, Tensor]:
    A, B = p["A"].permute(0, 3, 1, 2), p["B"].permute(1, 0, 3, 2)  # k I/k k R; k k R O/k, output block first
    return {"gralora_A": A.flatten(2), "gralora_B": B.flatten(1, 2)}


def _randlora(p: Leaves) -> dict[str, Tensor]:
    """Theirs counts B's columns by base and A's rows by rank: column q of the one meets row q of the other."""
    rank, n, outputs = p["B"].shape
    bases = {"randlora_A": p["A"][:, None], "randlora_B": p["B"].flatten(0, 1).T.reshape(outputs, n, rank)}
    return {"randlora_lambda": p["lambda"], "randlora_gamma": p["gamma"]} | bases


ORACLES = {
    "gralora": Oracle({"rank": 4, "k": 2}, GraloraConfig, {"alpha": ALPHA, "gralora_k": 2}, _gralora),
    "hira": Oracle({"rank": 4}, HiraConfig, {}, lambda p: {"hira_A": p["A"], "hira_B": p["B"]}),
    "loha": Oracle(
        {"rank": 4},
        LoHaConfig,
        {"alpha": ALPHA},
        lambda p: {"hada_w1_a": p["B1"], "hada_w1_b": p["A1"], "hada_w2_a": p["B2"], "hada_w2_b": p["A2"]},
    ),
    "lokr": Oracle(
        {"rank": 2, "factor": 4},
        LoKrConfig,
        {"alpha": ALPHA, "decompose_factor": 4, "init_weights": "lycoris"},
        lambda p: {"lokr_w1": p["C"], "lokr_w2_a": p["B"], "lokr_w2_b": p["A"]},
    ),
    "randlora": Oracle({"rank": 4}, RandLoraConfig, {"randlora_alpha": ALPHA}, _randlora),
    "miss": Oracle({"rank": 6}, MissConfig, {}, lambda p: {"miss_block": p["D"]}),  # 6 does not divide 32
}


@pytest.mark.parametrize("name", ORACLES)
def test_weights_losses_and_the_merged_model_agree_with_peft(name: str) -> None:
    pack, theirs = _ours(name), _theirs(name).double()
    for layer, leaves in _both(pack, theirs, name):
        for leaf, value in leaves.items():
            layer[leaf].copy_(value)
    with torch.no_grad():
        their_head(theirs).load_state_dict(_head(pack))
    trained(pack, theirs, adamw(theirs))
    for layer, leaves in _both(pack, theirs, name):
        assert max(float((layer[leaf] - value).abs().max()) for leaf, value in leaves.items()) < 1e-8
    inputs, _ = small.batch(pack.members, STEPS)
    with torch.no_grad():
        merged_theirs = theirs.float().merge_and_unload()(**inputs).logits
        assert torch.allclose(merged_model(pack)(**inputs).logits, merged_theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ORACLES)
def test_every_leaf_starts_as_wide_as_in_peft(name: str) -> None:
    widths: dict[str, list[Tensor]] = {}
    for layer, leaves in _both(_ours(name), _theirs(name), name):
        for leaf, value in leaves.items():
            widths.setdefault(leaf, []).append(torch.stack([layer[leaf].abs().max().double(), value.abs().max()]))
    for sites in widths.values():
        theirs, ours = torch.stack(sites).amax(0)
        assert abs(ours - theirs) <= 0.1 * theirs


def test_lokr_differs_from_peft_as_its_file_says() -> None:
    """Its default starts at C = 0, and has the second factor whole from half its longer side on."""
    config = LoKrConfig(r=4, alpha=ALPHA, decompose_factor=4, target_modules=["query"])
    theirs = dict(get_peft_model(small.model(torch.float32), config).named_parameters())
    small_factors = [p for name, p in theirs.items() if "lokr_w1." in name]
    assert all(torch.equal(C, torch.zeros(4, 4)) for C in small_factors)
    assert any("lokr_w2." in name for name in theirs) and not any("lokr_w2_a" in name for name in theirs)
    p, _ = _drawn("lokr", _site(), {"rank": 4, "factor": 4})
    assert {name: tuple(leaf.shape) for name, leaf in p.items()} == {"C": (4, 4), "A": (4, 8), "B": (8, 4)}


def _loop_melora(x: Tensor, p: Leaves, s: Tensor) -> Tensor:
    """arXiv:2402.17263, one mini-LoRA after another."""
    size = x.shape[1] // len(p["A"])
    parts = [
        s * x[:, i * size : (i + 1) * size] @ A.T @ B.T for i, (A, B) in enumerate(zip(p["A"], p["B"], strict=True))
    ]
    return torch.cat(parts, 1)


def _loop_gralora(x: Tensor, p: Leaves, s: Tensor) -> Tensor:
    """arXiv:2505.20355: the update, block by block."""
    k = len(p["A"])
    rows = [torch.cat([p["B"][i, j] @ p["A"][i, j] for i in range(k)], 1) for j in range(k)]
    return s * x @ torch.cat(rows).T


def _loop_moslora(x: Tensor, p: Leaves, s: Tensor) -> Tensor:
    """arXiv:2406.11909: every pair of subspaces."""
    rank = len(p["M"])
    update = sum(p["M"][i, j] * torch.outer(p["B"][:, i], p["A"][j]) for i in range(rank) for j in range(rank))
    return s * x @ update.T


def _loop_lokr(x: Tensor, p: Leaves, s: Tensor) -> Tensor:
    """The matrix of arXiv:2309.14859, formed."""
    return s * x @ torch.kron(p["C"], p["B"] @ p["A"]).T


def _loop_randlora(x: Tensor, p: Leaves, s: Tensor) -> Tensor:
    """arXiv:2502.00987: one base after another, on the corner of the shared ones."""
    n, shorter = p["gamma"].shape
    longer = 64
    update = sum(
        p["B"][:, j, :longer].T @ torch.diag(p["lambda"][:, j]) @ p["A"][:, :shorter] @ torch.diag(p["gamma"][j])
        for j in range(n)
    )
    return s * x @ (update.T if x.shape[1] == shorter else update)


LOOPS = {
    "melora": _loop_melora,
    "gralora": _loop_gralora,
    "moslora": _loop_moslora,
    "lokr": _loop_lokr,
    "randlora": _loop_randlora,
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("at", [0, 1], ids=["32 to 64", "64 to 32"])
def test_the_forward_is_the_papers_equation_written_as_loops(name: str, at: int) -> None:
    site = small.frozen(targets=UNEQUAL).sites[at]
    p, h = _drawn(name, site, {"rank": 4})
    x, y = small.rows(site), torch.zeros(7, site.O, dtype=torch.float64)
    assert torch.allclose(VARIANTS[name].forward(x, y, site, p, h), LOOPS[name](x, p, h["scale"]), rtol=0, atol=1e-10)


RANKS = [  # knobs, the rank of the update, parameters of a layer of 32 by 32
    ("melora", {"rank": 8, "mini": 4}, 8, 8 * 64 // 4),
    ("gralora", {"rank": 4, "k": 2}, 8, 4 * 64),
    ("gralora", {"rank": 4, "k": 4}, 16, 4 * 64),
    ("moslora", {"rank": 4}, 4, 4 * 64 + 16),
    ("hira", {"rank": 2}, 32, 2 * 64),
    ("loha", {"rank": 3}, 9, 2 * 3 * 64),
    ("lokr", {"rank": 2, "factor": 4}, 8, 16 + 2 * 64 // 4),
    ("randlora", {"rank": 8}, 32, 4 * (8 + 32)),
    ("miss", {"rank": 4}, 4, 4 * 32),
]


@pytest.mark.parametrize(("name", "given", "rank", "size"), RANKS)
def test_the_update_has_the_rank_that_the_paper_promises(
    name: str, given: dict[str, Value], rank: int, size: int
) -> None:
    site, method = _site(), VARIANTS[name]
    p, h = _drawn(name, site, given)
    assert torch.linalg.matrix_rank(affine(method, site, p, h)[0] - site.W) == rank
    assert count(method.trainable, [site], small.values(method, given)) == size


def test_hira_multiplies_the_ranks_of_its_update_and_of_the_weight() -> None:
    layer = nn.Linear(32, 32).double()
    draw = generator(0, "weight")
    layer.weight.data = torch.randn(32, 3, generator=draw).double() @ torch.randn(3, 32, generator=draw).double()
    site = Site("low", layer.requires_grad_(False))
    p, h = _drawn("hira", site, {"rank": 4})
    assert torch.linalg.matrix_rank(affine(VARIANTS["hira"], site, p, h)[0] - site.W) == 4 * 3


def test_moslora_with_the_identity_for_its_mixer_is_lora() -> None:
    site = _site()
    p, h = _drawn("moslora", site, {"rank": 4})
    x, y = small.rows(site), torch.zeros(7, site.O, dtype=torch.float64)
    p["M"] = torch.eye(4, dtype=torch.float64)
    assert torch.equal(VARIANTS["moslora"].forward(x, y, site, p, h), VARIANTS["lora"].forward(x, y, site, p, h))


def test_an_orthogonal_mixer_is_orthogonal() -> None:
    h = small.values(VARIANTS["moslora"], {"rank": 8, "mixer": "orthogonal"}) | {"scale": 1.0}
    M = VARIANTS["moslora"].init(_site(), h, generator(0))["M"]
    assert torch.allclose(M @ M.T, torch.eye(8), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "blocks"), [("melora", "mini"), ("gralora", "k")])
def test_a_rank_below_the_number_of_blocks_counts_as_one_each(name: str, blocks: str) -> None:
    (low, h), (even, g) = (_drawn(name, _site(), {"rank": rank, blocks: 4}) for rank in (2, 4))
    assert {leaf: value.shape for leaf, value in low.items()} == {leaf: value.shape for leaf, value in even.items()}
    assert h["scale"] == g["scale"]


def test_a_mini_lora_starts_and_scales_as_a_lora_of_its_own_size() -> None:
    site, melora, lora = _site(), VARIANTS["melora"], VARIANTS["lora"]
    alone = Site("part", nn.Linear(site.I // 4, site.O // 4))
    h, own = small.values(melora, {"rank": 8, "mini": 4}), small.values(lora, {"rank": 2})
    assert melora.scaling(h) == lora.scaling(own)  # type: ignore[arg-type]
    first = melora.init(site, h, generator(0))["A"][0]
    assert torch.allclose(first, lora.init(alone, own, generator(0))["A"], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("name", "knob"), [("melora", "mini"), ("gralora", "k"), ("lokr", "factor")])
@pytest.mark.parametrize("shape", [(30, 32), (32, 30)])
def test_a_layer_that_does_not_divide_is_refused(name: str, knob: str, shape: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="4 does not divide odd"):
        _drawn(name, Site("odd", nn.Linear(*shape)), {"rank": 4, knob: 4})


def test_a_loha_of_two_zero_products_is_caught() -> None:
    """Planted: B = 0 in both factors, as one would start two LoRAs; no leaf ever gets a gradient."""

    def dead(site, h, generator):
        p = VARIANTS["loha"].init(site, h, generator)
        return p | {"A1": torch.zeros_like(p["A1"])}

    with pytest.raises(AssertionError):
        test_variants.test_every_trainable_leaf_moves_within_three_steps(VARIANTS["loha"]._replace(init=dead))


def test_a_base_drawn_from_the_trials_seed_is_caught() -> None:
    """Planted: RandLoRA's common bases from the trial's own stream; in a pack all would train on the first one's."""

    def own(sites, h, generator):
        bases = VARIANTS["randlora"].shared(sites, h, generator)
        return {name: torch.randn(leaf.shape, generator=generator) for name, leaf in bases.items()}

    with pytest.raises(AssertionError):
        test_variants.test_packed_equals_alone(VARIANTS["randlora"]._replace(shared=own), torch.float64, 0.0)


def _site() -> Site:
    return small.frozen().sites[0]


def _drawn(name: str, site: Site, given: dict[str, Value]) -> tuple[Leaves, Lifted]:
    """Leaves of the method's shapes, every one of them random, and its knobs; a larger layer shares what is shared."""
    method, draw, wide = VARIANTS[name], generator(0, "leaves"), Site("wide", nn.Linear(48, 80))
    plain = small.values(method, given)
    plain |= {"scale": method.scaling(plain)}  # type: ignore[arg-type]
    shapes = method.init(site, plain, draw) | (method.shared([site, wide], plain, draw) if method.shared else {})
    p = {leaf: torch.randn(value.shape, generator=draw, dtype=torch.float64) for leaf, value in shapes.items()}
    numbers = {knob: value for knob, value in plain.items() if not isinstance(value, str)}
    return p, {knob: torch.tensor(float(value), dtype=torch.float64) for knob, value in numbers.items()}


def _ours(name: str) -> Pack:
    method: Variant = VARIANTS[name]
    knobs = {"learning_rate": RATE, "alpha": ALPHA, "schedule": "constant", "warmup": 0.0, "max_grad_norm": 1e9}
    trial = Member(0, small.values(method, knobs | ORACLES[name].knobs))
    return Pack(small.frozen(), method, [trial], STEPS, small.loss)


def _theirs(name: str) -> nn.Module:
    knobs, config, extra, _ = ORACLES[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        chosen = config(r=knobs["rank"], target_modules=["query", "value"], modules_to_save=["classifier"], **extra)
        return get_peft_model(small.model(torch.float32), chosen).eval()


def _both(pack: Pack, theirs: nn.Module, name: str) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Of every site: peft's tensors, and ours under the same names."""
    pairs = []
    for site, p in pack.parts[0].site_leaves(0).items():
        layer = theirs.base_model.model.get_submodule(site)
        tensors = dict(layer.named_parameters()) | dict(layer.named_buffers())
        leaves = ORACLES[name].leaves(p)
        pairs.append(({leaf: tensors[f"{leaf}.default"].detach() for leaf in leaves}, leaves))
    return pairs


def _head(pack: Pack) -> dict[str, Tensor]:
    return {name: value for (site, name), value in small.leaves(pack, 0).items() if site == "classifier"}
