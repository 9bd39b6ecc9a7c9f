"""Methods that change how the pair learns, and (IA)^3: against peft, their papers' equations and their invariants."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import pytest
import torch
from peft import DeloraConfig, IA3Config, LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.func import vmap

from study.errors import BadInput
from study.optim import BETA1, BETA2, EPSILON, Columns, Leaf, Transform
from study.pack import Pack
from study.part import Member
from study.variants import VARIANTS, delora, loft, lora_pro, variant
from study.variants.linalg import per_trial
from tests import small
from tests.oracle import RATE, STEPS, adamw, merged_model, their_head, trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # peft reads transformers' old name

DECAY, RANK, ALPHA, LAMBDA = 0.1, 4, 16, 8.0
WHERE = {"target_modules": ["query", "value"], "modules_to_save": ["classifier"]}


class Oracle(NamedTuple):
    """What peft calls a method, and each of our leaves."""

    config: PeftConfig
    leaves: Mapping[str, str]


PAIR = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
ORACLES = {
    "lora_fa": Oracle(LoraConfig(r=RANK, lora_alpha=ALPHA, **WHERE), PAIR),
    "rslora": Oracle(LoraConfig(r=RANK, lora_alpha=ALPHA, use_rslora=True, **WHERE), PAIR),
    "dora": Oracle(
        LoraConfig(r=RANK, lora_alpha=ALPHA, use_dora=True, **WHERE),
        PAIR | {"m": "lora_magnitude_vector.default.weight"},
    ),
    "delora": Oracle(
        DeloraConfig(r=RANK, delora_lambda=LAMBDA, init_weights=False, **WHERE),
        {"A": "delora_A.default", "B": "delora_B.default", "lambda": "delora_lambda.default"},
    ),
    "ia3": Oracle(IA3Config(feedforward_modules=[], **WHERE), {"l": "ia3_l.default"}),
}


@pytest.mark.parametrize("name", ORACLES)
def test_twenty_steps_and_the_merged_model_agree_with_peft(name: str) -> None:
    given = {"learning_rate": RATE, "weight_decay": DECAY, "rank": RANK, "alpha": ALPHA, "delora_lambda": LAMBDA}
    given |= {"schedule": "constant", "warmup": 0.0, "max_grad_norm": 1e9}
    trial = Member(0, small.values(VARIANTS[name], given))
    pack = Pack(small.frozen(), VARIANTS[name], [trial], STEPS, small.loss)
    theirs = _same_start(name, pack)
    trained(pack, theirs, adamw(theirs, DECAY))
    for leaf, weight in _theirs(name, theirs, pack).items():
        assert (small.leaves(pack, 0)[leaf] - weight.view_as(small.leaves(pack, 0)[leaf])).abs().max() < 1e-8
    ids = small.batch([trial], STEPS)[0]["input_ids"]
    unmerged, ours = theirs(ids).logits, merged_model(pack)(ids).logits
    assert (ours - theirs.merge_and_unload().float()(ids).logits).abs().max() < 1e-5
    assert (ours - unmerged).abs().max() < 1e-5


@torch.no_grad()
def _same_start(name: str, pack: Pack) -> nn.Module:
    """Peft's model with our start; its DeLoRA keeps the residual weight, ours the start that is taken off."""
    theirs = get_peft_model(small.model(torch.float32), ORACLES[name].config).double().eval()
    for leaf, weight in _theirs(name, theirs, pack).items():
        weight.copy_(small.leaves(pack, 0)[leaf].view_as(weight))
        weight.requires_grad_(leaf in pack.parts[0].trained.shapes or leaf in pack.parts[1].trained.shapes)
    for site in pack.frozen.sites if name == "delora" else ():
        layer = theirs.base_model.model.get_submodule(site.name)
        layer.delora_w_norm["default"] = site.W.norm(dim=0)
        layer.base_layer.weight -= layer.get_delta_weight("default")
    return theirs


@torch.no_grad()
def _theirs(name: str, model: nn.Module, pack: Pack) -> dict[Leaf, Tensor]:
    """Peft's parameter for each of our leaves that it has."""
    names, found = ORACLES[name].leaves, {}
    for site, leaf in small.leaves(pack, 0):
        if leaf in names:
            found[site, leaf] = model.base_model.model.get_submodule(site).get_parameter(names[leaf])
        elif leaf in ("weight", "bias"):
            found[site, leaf] = their_head(model).get_parameter(leaf)
    return found


def test_lora_fa_keeps_A_bit_for_bit_and_moves_B() -> None:
    pack = small.start(VARIANTS["lora_fa"], small.members(VARIANTS["lora_fa"]))
    before = [small.leaves(pack, k) for k in range(pack.K)]
    small.go(pack, 5)
    for k in range(pack.K):
        after = small.leaves(pack, k)
        assert all(torch.equal(after[leaf], before[k][leaf]) == (leaf[1] == "A") for leaf in after)


def test_lora_fa_from_nonzero_is_lora_fa_from_kaiming() -> None:
    starts = [
        small.members(VARIANTS["lora_fa"], [setting | {"init": init} for setting in small.SETTINGS])
        for init in ("kaiming", "nonzero")
    ]
    first, second = (small.go(small.start(VARIANTS["lora_fa"], trials), 5) for trials in starts)
    assert torch.allclose(torch.stack(first), torch.stack(second), rtol=0, atol=1e-12)


# DeLoRA


def _delta(p: dict[str, Tensor]) -> Tensor:
    """lambda / r B Xi A |W| now, without its start."""
    unit = delora.directions(p)
    return unit["B"] @ unit["A"] / len(p["A"])


def test_delora_moves_each_column_by_at_most_lambda_times_its_length() -> None:
    pack = small.start(VARIANTS["delora"], small.members(VARIANTS["delora"]))
    small.go(pack, 10)
    for k in range(pack.K):
        for p in pack.parts[0].site_leaves(k).values():
            assert (_delta(p) / p["w"]).norm() <= p["lambda"].item() * (1 + 1e-12)


def test_delora_does_not_feel_the_lengths_of_A_and_B() -> None:
    pack = small.start(VARIANTS["delora"], small.members(VARIANTS["delora"]))
    for p in pack.parts[0].site_leaves(1).values():
        longer = p | {"A": 7 * p["A"], "B": p["B"] * torch.tensor([0.5, 3, 10, 100])}
        assert torch.allclose(_delta(longer), _delta(p), rtol=0, atol=1e-12)


# LoRA-Pro and LoFT: one layer 6 x 5 of rank 2, alone or in a pack of rank 4

O, I, R = 6, 5, 2
AT = {rank: Columns({("layer", "A"): (rank, I), ("layer", "B"): (O, rank)}) for rank in (R, 4)}
H = {"rank": R, "scale": 3.0, "learning_rate": 0.05, "weight_decay": 0.1}


def _lifted(changed: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in (H | dict(changed or {})).items()}


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _full_gradient(W: Tensor) -> Tensor:
    """Of a sum of fourth powers: it turns as W moves."""
    return (W - _draw(*W.shape, seed=9)) ** 3


def _padded(A: Tensor, B: Tensor, rank: int) -> Tensor:
    return torch.cat(
        [nn.functional.pad(A, (0, 0, 0, rank - R)).flatten(), nn.functional.pad(B, (0, rank - R)).flatten()]
    )


def _train(transform: Transform, A: Tensor, B: Tensor, s: float, rank: int, steps: int) -> Tensor:
    """The row after some steps on `_full_gradient`."""
    at, p = AT[rank], _padded(A, B, rank)
    state = transform.init(p, at)
    for _ in range(steps):
        leaves = at.views(p)
        G = s * _full_gradient(s * leaves["layer", "B"] @ leaves["layer", "A"])
        g_A, g_B = leaves["layer", "B"].T @ G, G @ leaves["layer", "A"].T
        u, state = transform.update(torch.cat([g_A.flatten(), g_B.flatten()]), state, p, at)
        p = p + u
    return p


def _projection(A: Tensor, B: Tensor, G: Tensor) -> Tensor:
    """G on the span of all B X + Y A, by explicit least squares over the entries of X and Y."""
    basis = [B @ X.view(R, I) for X in torch.eye(R * I).double()] + [
        Y.view(O, R) @ A for Y in torch.eye(O * R).double()
    ]
    M = torch.stack([matrix.flatten() for matrix in basis], 1)  # O*I, R*(I+O)
    return (M @ torch.linalg.pinv(M) @ G.flatten()).view(O, I)


def _equivalent(scale: float) -> tuple[Tensor, Tensor]:
    """LoRA-Pro's s (B g_A + g_B A) where s is 3, told that it is `scale`; and the projection."""
    A, B, G, s = _draw(R, I), _draw(O, R, seed=1), _draw(O, I, seed=2), H["scale"]
    g_A, g_B = lora_pro.adjusted(A, B, s * B.T @ G, s * G @ A.T, _lifted({"scale": scale}))
    return s * (B @ g_A + g_B @ A), _projection(A, B, G)


def test_lora_pro_steps_along_the_projection_of_the_full_gradient() -> None:
    ours, nearest = _equivalent(H["scale"])
    assert torch.allclose(ours, nearest, rtol=0, atol=1e-6)  # the ridge is 1e-8


def test_a_wrong_scale_in_lora_pro_is_seen() -> None:
    ours, nearest = _equivalent(H["scale"] ** 0.5)
    assert not torch.allclose(ours, nearest, rtol=0, atol=1e-2)


def test_lora_pro_stays_as_near_to_the_old_gradients_as_the_projection_allows() -> None:
    A, B, G, s = _draw(R, I), _draw(O, R, seed=1), _draw(O, I, seed=2), H["scale"]
    old_A, old_B = s * B.T @ G, s * G @ A.T
    g_A, g_B = lora_pro.adjusted(A, B, old_A, old_B, _lifted())
    for seed in range(5):
        X = 1e-3 * _draw(R, R, seed=seed)
        off = ((g_A + X @ A - old_A) ** 2).sum() + ((g_B - B @ X - old_B) ** 2).sum()
        assert off > ((g_A - old_A) ** 2).sum() + ((g_B - old_B) ** 2).sum()


@pytest.mark.parametrize("rank", [R, 4])
def test_lora_pro_is_its_theorems_and_adamw(rank: int) -> None:
    A, B, s = _draw(R, I), torch.zeros(O, R).double(), H["scale"]
    ours = _train(lora_pro.optimizer(_lifted()), A, B, s, rank, steps=8)
    A, B, eye = A.clone(), B.clone(), torch.eye(R).double()
    rule = torch.optim.AdamW([A, B], lr=H["learning_rate"], weight_decay=H["weight_decay"])
    for _ in range(8):
        G = _full_gradient(s * B @ A)
        g_A, g_B = s * B.T @ G, s * G @ A.T
        BB, AA = B.T @ B + lora_pro.RIDGE * eye, A @ A.T + lora_pro.RIDGE * eye
        right = -(1 / s**2) * torch.linalg.inv(BB) @ g_A @ A.T
        X = torch.linalg.solve(torch.kron(BB, eye) + torch.kron(eye, AA), right.flatten()).view(R, R)  # Sylvester
        A.grad = (1 / s**2) * torch.linalg.inv(BB) @ g_A + X @ A
        P = torch.eye(O).double() - B @ torch.linalg.inv(BB) @ B.T
        B.grad = (1 / s**2) * P @ g_B @ torch.linalg.inv(AA) - B @ X
        rule.step()
    assert (ours - _padded(A, B, rank)).abs().max() < 1e-10


@pytest.mark.parametrize("rank", [R, 4])
def test_loft_is_its_algorithm_row_by_row(rank: int) -> None:
    A, B = _draw(R, I), torch.zeros(O, R).double()
    ours = _train(loft.optimizer(_lifted()), A, B, 1.0, rank, steps=8)
    A, B = _loft_by_hand(A, B, steps=8)
    assert (ours - _padded(A, B, rank)).abs().max() < 1e-10


def _loft_by_hand(A: Tensor, B: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """W = U V' with U = B and V = A', and the roles exchanged; a row's second moment is the Kronecker square's."""
    UV, last = {"U": B, "V": A.T}, {"U": B, "V": A.T}
    m = {name: torch.zeros_like(F) for name, F in UV.items()}
    v = {name: torch.zeros(len(F), R * R).double() for name, F in UV.items()}
    for t in range(1, steps + 1):
        new, G = dict(UV), _full_gradient(UV["U"] @ UV["V"].T)
        for name, other, full in (("U", "V", G), ("V", "U", G.T)):
            F, V = UV[name], UV[other]
            inverse = torch.linalg.inv(V.T @ V + loft.RIDGE * torch.eye(R))
            C = last[other].T @ V @ inverse
            move = torch.zeros_like(F)
            for i in range(len(F)):
                g = full[i] @ V @ inverse
                m[name][i] = BETA1 * m[name][i] @ C + (1 - BETA1) * g
                v[name][i] = BETA2 * v[name][i] @ torch.kron(C, C) + (1 - BETA2) * torch.kron(g, g)
                first = V @ m[name][i] / (1 - BETA1**t)
                second = torch.stack([torch.kron(row, row) @ v[name][i] for row in V]) / (1 - BETA2**t)
                move[i] = first / (second.clamp_min(0).sqrt() + EPSILON) @ V @ inverse
            if (name == "U") == (t % 2 == 1):
                new[name] = F - H["learning_rate"] * (move + H["weight_decay"] * F)
        last, UV = UV, new
    return UV["V"].T, UV["U"]


def _loft_of_full_rank() -> tuple[Tensor, Tensor]:
    """B A after twelve steps of LoFT with square A, B, and W after twelve of torch's AdamW."""
    at = Columns({("layer", "A"): (I, I), ("layer", "B"): (I, I)})
    A, B = (2 * torch.eye(I).double() + 0.1 * _draw(I, I, seed=seed) for seed in (3, 4))
    W = B @ A
    transform, p = loft.optimizer(_lifted({"rank": I, "weight_decay": 0})), torch.cat([A.flatten(), B.flatten()])
    rule, state = torch.optim.AdamW([W], lr=H["learning_rate"], weight_decay=0), transform.init(p, at)
    for _ in range(12):
        A, B = at.views(p).values()
        G = _full_gradient(B @ A)
        u, state = transform.update(torch.cat([(B.T @ G).flatten(), (G @ A.T).flatten()]), state, p, at)
        p, W.grad = p + u, _full_gradient(W)
        rule.step()
    A, B = at.views(p).values()
    return B @ A, W


def test_loft_of_full_rank_is_adamw_on_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loft, "RIDGE", 0.0)  # which nothing but a factor that is zero needs
    ours, adamw = _loft_of_full_rank()
    assert torch.allclose(ours, adamw, rtol=0, atol=1e-6)  # a second moment that cancels keeps half the digits


def test_a_second_moment_moved_the_wrong_way_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def transposed(g: Tensor, m: Tensor, v: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        return calibrated(g, m, v, C)[0], calibrated(g, m, v, C.T)[1]

    calibrated = loft.calibrated
    monkeypatch.setattr(loft, "calibrated", transposed)
    ours, adamw = _loft_of_full_rank()
    assert not torch.allclose(ours, adamw, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["lora_pro", "loft"])
def test_a_method_that_moves_pairs_refuses_one_that_trains_none(name: str) -> None:
    method = variant(name, ["lora_fa"])
    with pytest.raises(BadInput, match="no layer trains both"):
        small.start(method, small.members(method))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_decomposition_per_trial_leaves_the_others_alone(poison: float) -> None:
    M = torch.stack([X @ X.T for X in _draw(3, 4, 4)])
    broken = M.clone()
    broken[1, 2, 2] = poison
    values, vectors = vmap(lambda M: per_trial(torch.linalg.eigh, M))(broken)
    wanted, directions = torch.linalg.eigh(M)
    assert torch.equal(values[[0, 2]], wanted[[0, 2]]) and torch.equal(vectors[[0, 2]], directions[[0, 2]])
    assert values[1].isnan().all() and vectors[1].isnan().all()
