"""Methods that choose where A and B start: against peft, their papers' equations and their invariants."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.utils.incremental_pca import IncrementalPCA
from torch import Tensor, nn

from study.errors import BadInput
from study.pack import Pack
from study.part import Member
from study.space import Value
from study.statistics import measure
from study.streams import generator
from study.variants import VARIANTS, inits, variant
from study.variants.base import Leaves, Plain, Site, Variant
from tests import small
from tests.oracle import RATE, STEPS, adamw, merged_model, their_head, trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # peft reads transformers' old name

DECAY, RANK, ALPHA = 0.1, 4, 16
UNLIKE = "query|attention.output.dense"  # layers that read different things
SITES = r".*(query|attention\.output\.dense)"
PLAIN = {"learning_rate": RATE, "weight_decay": DECAY, "schedule": "constant", "warmup": 0.0, "max_grad_norm": 1e9}
GIVEN: dict[str, Value] = {**PLAIN, "rank": RANK, "alpha": ALPHA}
METHODS = ("milora", "olora", "nzlora", "lora_ga", "lora_one", "eva")
ROOTED = ("lora_ga", "lora_one")  # s = alpha / sqrt r


def _pack(name: str, given: dict[str, Value], targets: str = UNLIKE, seed: int = 0) -> Pack:
    method = VARIANTS[name]
    return small.start(method, [Member(seed, small.values(method, given))], small.frozen(targets=targets), STEPS)


def _start(site: Site, name: str, given: dict[str, Value], seed: int = 0) -> tuple[Leaves, float]:
    """One site's first leaves, and s."""
    method = VARIANTS[name]
    h: dict[str, Value] = small.values(method, given) | dict(method.fixed)
    s = method.scaling(h)  # type: ignore[arg-type]
    return method.init(site, h | {"scale": s}, generator(seed, site.name, "init")), s


def _measured(targets: str = UNLIKE, needs: tuple[str, ...] = ("gradient", "inputs", "places")) -> list[Site]:
    """The sites with what the first two batches of seed 0 say of them."""
    frozen = small.frozen(targets=targets)
    found = measure(frozen, needs, 0, _batches(), small.loss)
    return [site.measured(found[site.name]) for site in frozen.sites]


def _batches() -> list[tuple[dict[str, Tensor], Tensor]]:
    return [small.batch([Member(0, {})], t) for t in range(2)]


def _gradient(site: Site) -> Tensor:
    U, S, Vh = site.stats["gradient"]
    return (U * S) @ Vh


# --- peft


@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_and_the_merged_model_agree_with_peft(name: str) -> None:
    pack = _pack(name, GIVEN)
    theirs = _same_start(name, pack)
    trained(pack, theirs, adamw(theirs, DECAY))
    leaves = small.leaves(pack, 0)
    assert max(float((leaves[at] - weight.detach()).abs().max()) for at, weight in _theirs(theirs, pack).items()) < 1e-8
    ids = small.batch(pack.members, STEPS)[0]["input_ids"]
    assert (merged_model(pack)(ids).logits - theirs.merge_and_unload().float()(ids).logits).abs().max() < 1e-5


@torch.no_grad()
def _same_start(name: str, pack: Pack) -> nn.Module:
    """Peft's model with our start; it keeps the residual weight where ours takes the start off, site by site."""
    ranks = {site.name: len(small.leaves(pack, 0)[site.name, "A"]) for site in pack.frozen.sites}
    pattern = {"rank_pattern": ranks, "alpha_pattern": {site: ALPHA * rank / RANK for site, rank in ranks.items()}}
    chosen = pattern if name == "eva" else {"use_rslora": name in ROOTED}
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=SITES, modules_to_save=["classifier"], **chosen)
    theirs = get_peft_model(small.model(torch.float32), config).double().eval()
    for leaf, weight in _theirs(theirs, pack).items():
        weight.copy_(small.leaves(pack, 0)[leaf])
    for site in pack.frozen.sites:
        p = pack.parts[0].site_leaves(0)[site.name]
        start = float(pack.parts[0].h["scale"]) * p["B0"] @ p["A0"] if "A0" in p else torch.zeros(())
        theirs.base_model.model.get_submodule(site.name).base_layer.weight.copy_(site.W - start)
    return theirs


def _theirs(model: nn.Module, pack: Pack) -> dict[tuple[str, str], Tensor]:
    """Peft's parameter for each of ours."""
    found = {}
    for site, leaf in pack.parts[0].trained.shapes:
        found[site, leaf] = model.base_model.model.get_submodule(site).get_parameter(f"lora_{leaf}.default.weight")
    return found | {("classifier", leaf): their_head(model).get_parameter(leaf) for leaf in ("weight", "bias")}


def _starts_of_peft(start: str, sites: list[Site], **chosen: object) -> dict[str, nn.Module]:
    """Peft's layers as peft starts them; where it asks for gradients, from ours."""
    model = small.model(torch.float32)
    for site in sites:
        model.get_submodule(site.name)._peft_loraga_grad = _gradient(site).float()  # read by its lora_ga alone
    config = LoraConfig(r=8, lora_alpha=ALPHA, target_modules=SITES, init_lora_weights=start, **chosen)
    theirs = get_peft_model(model, config)
    return {site.name: theirs.base_model.model.get_submodule(site.name) for site in sites}


def test_olora_starts_where_peft_does() -> None:
    sites = _measured()
    for site, theirs in zip(sites, _starts_of_peft("olora", sites).values(), strict=True):
        p, s = _start(site, "olora", {"rank": 8, "alpha": ALPHA})
        assert torch.allclose(p["A"], theirs.lora_A["default"].weight.double(), rtol=0, atol=1e-5)
        assert torch.allclose(p["B"], theirs.lora_B["default"].weight.double(), rtol=0, atol=1e-5)
        assert torch.allclose(site.W - s * p["B"] @ p["A"], theirs.base_layer.weight.double(), rtol=0, atol=1e-5)


def test_lora_ga_has_the_directions_of_peft_and_the_sizes_of_the_paper() -> None:
    sites = _measured()
    layers = _starts_of_peft("lora_ga", sites, lora_ga_config=LoraGAConfig(), use_rslora=True)
    for site, theirs in zip(sites, layers.values(), strict=True):
        p, _ = _start(site, "lora_ga", {"rank": 8, "alpha": ALPHA})
        S, size = site.stats["gradient"].S[8:16], site.O**0.25 / 16**0.5
        apart = [i for i in range(8) if S[i] > 1e-4 * S[0]]  # vectors of a singular value that rounding has not made
        A, B = theirs.lora_A["default"].weight.double(), theirs.lora_B["default"].weight.double()
        assert torch.allclose(size * A.abs(), p["A"].abs(), rtol=0, atol=1e-4)
        assert torch.allclose(B.abs()[:, apart], (p["B"] * S).abs()[:, apart], rtol=0, atol=1e-5)
        assert not torch.allclose(B.abs(), p["B"].abs(), rtol=0, atol=1e-2)


def test_eva_decomposes_what_peft_centers_first() -> None:
    sites = _measured("query")
    read: list[Tensor] = []
    model = small.model()
    model.get_submodule(sites[0].name).register_forward_hook(lambda _, x, y: read.append(x[0].flatten(0, 1)))
    for inputs, _ in _batches():
        model(**inputs)
    X = torch.cat(read)  # N I
    peft = IncrementalPCA(n_components=RANK).partial_fit(X).components_
    p, _ = _start(sites[0], "eva", GIVEN | {"rho": 1.0})
    ours, centered = [torch.linalg.svd(each, full_matrices=False)[2][:RANK] for each in (X, X - X.mean(0))]
    assert torch.allclose((p["A"] @ ours.T).abs(), torch.eye(RANK, dtype=X.dtype), rtol=0, atol=1e-8)
    assert torch.allclose((peft.double() @ centered.T).abs(), torch.eye(RANK, dtype=X.dtype), rtol=0, atol=1e-5)
    assert (ours @ centered.T).abs().diagonal().min() < 0.9


# --- the papers' equations


def test_pissa_and_milora_take_disjoint_triplets_and_half_of_each_is_the_weight() -> None:
    site = small.frozen().sites[0]
    (most, s), (least, _) = [_start(site, name, {"rank": 16, "alpha": ALPHA}) for name in ("pissa", "milora")]
    assert (most["A"] @ least["A"].T).abs().max() < 1e-12
    assert (most["B"].T @ least["B"]).abs().max() < 1e-12
    assert torch.allclose(s * (most["B"] @ most["A"] + least["B"] @ least["A"]), site.W, rtol=0, atol=1e-12)


def test_milora_is_the_sum_of_the_smallest_triplets() -> None:
    site = small.frozen(targets="intermediate.dense").sites[0]  # 64 x 32
    U, S, Vh = torch.linalg.svd(site.W)
    minor = torch.zeros_like(site.W)
    for i in range(32 - RANK, 32):
        minor += S[i] * torch.outer(U[:, i], Vh[i])
    p, s = _start(site, "milora", GIVEN)
    assert torch.allclose(s * p["B"] @ p["A"], minor, rtol=0, atol=1e-10)
    assert torch.allclose(p["A"] @ p["A"].T, p["B"].T @ p["B"], rtol=0, atol=1e-10)  # the root of S on either side


def test_nzlora_draws_both_from_one_range_and_is_lora_from_nonzero() -> None:
    site = small.frozen(targets="intermediate.dense").sites[0]
    p, _ = _start(site, "nzlora", {"rank": 32})
    for leaf in (p["A"], p["B"]):
        assert 0.99 * 32**-0.5 < leaf.abs().max() <= 32**-0.5 and abs(leaf.mean()) < 0.02
    nzlora = _pack("nzlora", GIVEN)
    lora = small.start(
        VARIANTS["lora"], [Member(0, small.values(VARIANTS["lora"], GIVEN | {"init": "nonzero"}))], nzlora.frozen
    )
    assert torch.equal(torch.stack(small.go(nzlora, 3)), torch.stack(small.go(lora, 3)))


def test_lora_ga_s_first_gradients_are_the_best_approximation_of_the_full_one() -> None:
    """The equivalent gradient s (B g_A + g_B A) is the full one, cut to rank 2 r, times s^2 sqrt(O) / gamma."""
    pack, sites = _pack("lora_ga", GIVEN), _measured()
    part, s = pack.parts[0], float(pack.parts[0].h["scale"])
    losses = torch.stack([pack.losses(pack.outputs(inputs), targets) for inputs, targets in _batches()])
    (row,) = torch.autograd.grad(losses.mean(), [part.W])
    gradients, leaves = part.trained.views(row[0]), small.leaves(pack, 0)
    for site in sites:
        gA, gB = gradients[site.name, "A"], gradients[site.name, "B"]
        step = s * (leaves[site.name, "B"] @ gA + gB @ leaves[site.name, "A"])
        U, S, Vh = (
            part.narrow(axis, 0, 2 * RANK) for part, axis in zip(site.stats["gradient"], (1, 0, 0), strict=True)
        )
        best = s**2 * site.O**0.5 / 16 * (U * S) @ Vh
        assert torch.allclose(step, best, rtol=0, atol=1e-10 * float(best.abs().max()))


def test_lora_one_starts_with_the_best_descent_step_of_its_rank() -> None:
    for site in _measured():
        G = _gradient(site)
        U, S, Vh = torch.linalg.svd(-G)
        step = torch.zeros_like(G)
        for i in range(RANK):
            step += S[i] / (128 * S[0]) * torch.outer(U[:, i], Vh[i])
        p, s = _start(site, "lora_one", GIVEN)
        assert torch.allclose(p["B"] @ p["A"], step, rtol=0, atol=1e-10)
        assert torch.allclose(torch.linalg.matrix_norm(s * p["B"] @ p["A"], 2), torch.tensor(s / 128).double())


Init = Callable[[Site, Plain, torch.Generator], Leaves]


def _cosine(init: Init, site: Site) -> float:
    """Of the start of full rank and the gradient."""
    p = init(site, {"rank": 32, "gamma": 128.0}, generator(0))
    return float(torch.cosine_similarity((p["B"] @ p["A"]).flatten(), _gradient(site).flatten(), dim=0))


def test_lora_one_goes_downhill() -> None:
    sites = _measured(needs=("gradient",))
    assert all(_cosine(inits.lora_one, site) == pytest.approx(-1) for site in sites)
    pack, base = _pack("lora_one", GIVEN | {"gamma": 16.0}), _pack("lora", GIVEN)
    losses = [sum(p.losses(p.outputs(x), y).item() for x, y in _batches()) for p in (pack, base)]
    assert losses[0] < losses[1] - 1e-3


def test_a_missing_minus_is_seen() -> None:
    def uphill(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
        p = inits.lora_one(site, h, generator)
        return p | {"B": -p["B"]}

    assert all(_cosine(uphill, site) == pytest.approx(1) for site in _measured(needs=("gradient",)))


# --- EVA's ranks


def test_eva_shares_ranks_out_to_the_components_that_explain_most() -> None:
    sites = _measured()
    for rank, rho in ((2, 1.0), (4, 1.5), (8, 2.0)):
        most, ranks = round(rank * rho), dict.fromkeys([site.name for site in sites], 0)
        pool = [(float(share), site.name) for site in sites for share in site.stats["inputs"].S[:most]]
        for _, name in sorted(pool, key=lambda entry: -entry[0])[: rank * len(sites)]:
            ranks[name] += 1
        for site in sites:
            p, _ = _start(site, "eva", {"rank": rank, "rho": rho})
            assert p["A"].shape == (ranks[site.name], 32) and p["B"].shape == (32, ranks[site.name])
            assert torch.equal(p["A"], site.stats["inputs"].Vh[: ranks[site.name]])
        assert (rho == 1.0) == (set(ranks.values()) == {rank})


def test_of_equal_components_eva_gives_the_rank_to_the_earlier_layer() -> None:
    sites = _measured("query|value|attention.output.dense")  # query and value read the same
    ranks = [len(_start(site, "eva", {"rank": 3, "rho": 2.0})[0]["A"]) for site in sites]
    same = [(ranks[i], ranks[i + 1]) for i in range(0, len(sites), 3)]
    assert all(0 <= first - second <= 1 for first, second in same) and sum(ranks) == 3 * len(sites)


def test_trials_of_different_rho_share_a_pack() -> None:
    method, frozen = VARIANTS["eva"], small.frozen(targets=UNLIKE)
    trials = [Member(seed, small.values(method, {"rank": 8, "rho": rho})) for seed, rho in enumerate((1.0, 1.5, 2.0))]
    pack = small.start(method, trials, frozen)
    small.go(pack, 5)
    for k, trial in enumerate(trials):
        alone = small.start(method, [trial], frozen)
        small.go(alone, 5)
        assert small.distance(small.leaves(pack, k), small.leaves(alone, 0)) <= 1e-9


# --- all of them


@pytest.mark.parametrize("init", sorted(inits.COMPENSATED))
@pytest.mark.parametrize("name", ["lora", "dora"])
def test_a_start_that_is_taken_off_leaves_the_base_model(name: str, init: str) -> None:
    method = VARIANTS[name]
    trials = [Member(0, small.values(method, {"init": init, "alpha": 128, "rank": 8}))]
    frozen = small.frozen(targets="query|intermediate.dense")
    pack, head = small.start(method, trials, frozen), variant("head_only")
    base = small.start(head, [Member(0, small.values(head))], frozen)
    inputs, _ = small.batch(trials, 0)
    p = pack.parts[0].site_leaves(0)[frozen.sites[0].name]
    assert (p["B"] @ p["A"]).abs().max() > 1e-4
    assert torch.allclose(pack.outputs(inputs), base.outputs(inputs), rtol=0, atol=1e-12)


def test_every_start_can_be_asked_of_lora_and_put_under_dora() -> None:
    for init in inits.INITS:
        assert VARIANTS["lora"].needs({"init": init}) == inits.NEEDS.get(init, frozenset())
    for name in METHODS:
        both = variant("dora", [name])
        pack = small.start(both, small.members(both))
        assert all(torch.stack(small.go(pack, 2)).isfinite().flatten())
        _same_needs(both, VARIANTS[name])


def _same_needs(one: Variant, other: Variant) -> None:
    h = [small.values(method) | dict(method.fixed) for method in (one, other)]
    assert one.needs(h[0]) == other.needs(h[1])


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("lora_ga", {"rank": 17}, "asks for 34 singular triplets of the gradient"),
        ("lora_one", {"rank": 33}, "asks for 33 singular triplets of the gradient"),
        ("eva", {"rank": 33, "rho": 2.0}, "33 asks for up to 66 components of a layer's inputs"),
    ],
)
def test_a_rank_beyond_what_is_known_is_refused(name: str, given: dict[str, Value], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        _start(_measured()[0], name, given)
