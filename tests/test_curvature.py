"""Curvature at the start: Lanczos finds what a dense Hessian has, and LoRA's Hessian has the blocks it must have."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from study import curvature as module
from study.analysis import POOLED, Plan
from study.analysis.known import Surface, simulate
from study.analysis.sharpness import agreement, ratios, sharpness
from study.curvature import Row, alone, curvature, hessian, measurable, measure
from study.errors import BadInput
from study.frozen import Frozen
from study.lanczos import MOST, Product, ends
from study.pack import Batch, Pack
from study.part import Member
from study.space import LogFloat
from study.spec import Compute, DataSpec, StudySpec, TaskSpec, parse
from study.statistics import measure as measured
from study.streams import generator
from study.tasks import attention
from study.variants import VARIANTS, variant
from study.variants.base import Site, Variant
from study.worker import prepare
from tests import small
from tests.tiny import tiny_data, tiny_model

SETTING = {"rank": 2, "alpha": 12}
MEASURED = [method for method in VARIANTS.values() if measurable(method)]


def _batches(sizes: tuple[int, ...]) -> list[Batch]:
    """The same examples, cut into batches of these sizes."""
    drawn = [small.batch([Member(7, {})], step) for step in range(3)]
    inputs, targets = torch.cat([each["input_ids"] for each, _ in drawn]), torch.cat([each for _, each in drawn])
    assert sum(sizes) == len(targets)
    return [({"input_ids": some}, right) for some, right in zip(inputs.split(sizes), targets.split(sizes), strict=True)]


def _alone(method: Variant, on: Frozen | None = None, given: dict[str, object] | None = None) -> Pack:
    frozen = on or small.frozen()
    member = Member(3, small.values(method, SETTING | (given or {})))  # type: ignore[arg-type]
    return alone(frozen, method, member, frozen.sites[1], small.loss, small.statistics(frozen, method, [member]))


def _dense(product: Product, size: int) -> Tensor:
    return torch.stack([product(e) for e in torch.eye(size, dtype=torch.float64)])


@cache
def _whole() -> tuple[Pack, Tensor]:
    """LoRA at one layer: its pack and dense Hessian."""
    pack = _alone(VARIANTS["lora"])
    return pack, _dense(hessian(pack, _batches((12,))), pack.parts[0].trained.size)


# --- Lanczos


def _matrix(eigenvalues: Tensor) -> Tensor:
    Q, _ = torch.linalg.qr(
        torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64, generator=generator(0, "q"))
    )
    return (Q * eigenvalues) @ Q.T


def _start(size: int) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=generator(0, "start"))


def test_lanczos_finds_both_ends_of_a_spectrum() -> None:
    H = _matrix(torch.linspace(-2, 5, 200, dtype=torch.float64) ** 3)
    found = ends(lambda v: H @ v, _start(200), 1e-10)
    assert found.top == pytest.approx(125, rel=1e-6) and found.bottom == pytest.approx(-8, rel=1e-6)
    assert found.steps < MOST


def test_lanczos_is_exact_where_the_space_is_exhausted() -> None:
    H = _matrix(torch.tensor([3.0, 3.0, 3.0, -1.0, -1.0, 0.0], dtype=torch.float64))
    assert ends(lambda v: H @ v, _start(6), 0.0) == (pytest.approx(3), pytest.approx(-1), 3)


def test_an_operator_that_is_zero_has_no_curvature() -> None:
    assert ends(torch.zeros_like, _start(6), 1e-3) == (0, 0, 1)


# --- the Hessian


def test_products_are_those_of_the_hessian_of_the_mean_loss() -> None:
    pack = _alone(VARIANTS["lora"])
    part, ((inputs, targets),) = pack.parts[0], _batches((12,))
    product, W = hessian(pack, [(inputs, targets)]), part.W.detach().clone()

    def gradient(at: Tensor) -> Tensor:
        part.W = at.clone().requires_grad_()
        (found,) = torch.autograd.grad(pack.losses(pack.outputs(inputs), targets).sum(), part.W)
        return found[0]

    v = torch.randn_like(W)
    by_differences = (gradient(W + 1e-5 * v) - gradient(W - 1e-5 * v)) / 2e-5
    assert torch.allclose(product(v[0]), by_differences, rtol=1e-6, atol=1e-9)


def test_lanczos_on_a_module_is_the_largest_eigenvalue_of_its_explicit_hessian() -> None:
    pack, H = _whole()
    assert len(H) <= 300
    exact = torch.linalg.eigvalsh(H)
    found = ends(hessian(pack, _batches((12,))), _start(len(H)), 1e-12)
    assert found.top == pytest.approx(float(exact[-1]), rel=1e-5)
    assert found.bottom == pytest.approx(float(exact[0]), rel=1e-5)


@pytest.mark.parametrize("method", MEASURED, ids=lambda v: v.name)
def test_the_hessian_of_every_method_is_there_and_symmetric(method: Variant) -> None:
    pack = _alone(method)
    product, size = hessian(pack, _batches((12,))), pack.parts[0].trained.size
    u, v = torch.randn(2, size, dtype=torch.float64, generator=generator(1, "pair"))
    Hu, Hv = product(u), product(v)
    assert float(Hv.norm()) > 0
    assert float(u @ Hv) == pytest.approx(float(v @ Hu), rel=1e-9, abs=1e-12 * float(u.norm() * Hv.norm()))


def test_batches_of_unequal_size_have_the_hessian_of_one_batch() -> None:
    one, other = hessian(_alone(VARIANTS["lora"]), _batches((12,))), hessian(_alone(VARIANTS["lora"]), _batches((5, 7)))
    v = _start(2 * 64)
    assert torch.allclose(one(v), other(v), rtol=0, atol=1e-14)


def _gradient(site: Site, frozen: Frozen) -> float:
    """The largest singular value of the gradient with respect to the layer's weight, under the head of seed 3."""
    return float(measured(frozen, {"gradient"}, 3, _batches((12,)), small.loss)[site.name]["gradient"].S[0])


def test_the_hessian_of_lora_at_zero_B_has_the_blocks_that_its_gradient_says() -> None:
    pack, H = _whole()
    part, frozen = pack.parts[0], pack.frozen
    is_A = part.trained.where("A")
    s, G = float(part.h["scale"][0]), _gradient(frozen.sites[1], frozen)
    assert float(H[is_A][:, is_A].abs().max()) == 0
    assert float(torch.linalg.matrix_norm(H[is_A][:, ~is_A], 2)) == pytest.approx(s * G, rel=1e-9)
    eigenvalues = torch.linalg.eigvalsh(H)
    assert float(eigenvalues[-1]) >= s * G * (1 - 1e-12) and float(eigenvalues[0]) <= 0


def test_the_hessian_of_lora_grows_with_the_square_of_the_scale_in_B_alone() -> None:
    packs = [_alone(VARIANTS["lora"], given={"alpha": alpha}) for alpha in (4, 12)]
    is_B = packs[0].parts[0].trained.where("B")
    one, other = (hessian(pack, _batches((12,)))(_start(len(is_B)) * is_B) for pack in packs)
    assert torch.allclose(other[is_B], 9 * one[is_B], rtol=1e-9, atol=1e-14)
    assert torch.allclose(other[~is_B], 3 * one[~is_B], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["lora", "vera", "rasa", "denselora", "lora_ga"])
def test_one_layer_alone_has_the_leaves_that_it_has_in_company(name: str) -> None:
    method, frozen = VARIANTS[name], small.frozen(targets="query|value|intermediate.dense")
    member, site = Member(3, small.values(method, SETTING)), frozen.sites[1]
    stats = small.statistics(frozen, method, [member])
    single = alone(frozen, method, member, site, small.loss, stats).parts[0].site_leaves(0)[site.name]
    company = Pack(frozen, method, [member], 1, small.loss, stats).parts[0].site_leaves(0)[site.name]
    assert single.keys() == company.keys() and all(torch.equal(single[leaf], company[leaf]) for leaf in single)


def test_the_other_layers_are_where_the_method_starts_them() -> None:
    method, frozen = VARIANTS["lora"], small.frozen()
    inputs, _ = _batches((12,))[0]
    for init in ("kaiming", "nonzero"):
        member = Member(3, small.values(method, SETTING | {"init": init}))
        pack = alone(frozen, method, member, frozen.sites[1], small.loss, {})
        whole = Pack(frozen, method, [member], 1, small.loss)
        assert torch.allclose(pack.outputs(inputs), whole.outputs(inputs), rtol=0, atol=1e-12)


# --- a study's


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskSpec:
    folder = tmp_path_factory.mktemp("tiny")
    data = DataSpec(path=str(tiny_data(folder)))
    return TaskSpec(task="classification", model=str(tiny_model(folder / "model")), data=data, targets="query|value")


def _spec(task: TaskSpec, *names: str) -> StudySpec:
    document = {"name": "curved", "tasks": [task.model_dump()], "variants": list(names)}
    spec = parse(document | {"knobs": {"learning_rate": [1e-4, 1e-1], "rank": [2, 4]}}, "here")
    return spec.model_copy(update={"compute": Compute(device="cpu", dtype="fp64")})


def test_a_study_is_measured_at_every_query_and_once(
    task: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(task, "lora", "head_only", "layer_norm", "lora_ga")
    rows = measure(spec, tmp_path)
    assert [row.variant for row in rows] == ["lora", "lora", "lora_ga", "lora_ga"]
    assert all(row.site.endswith("query") and row.top > 0 >= row.bottom for row in rows)
    monkeypatch.setattr(module, "curvature", lambda *_, **__: pytest.fail("measured again"))
    assert measure(spec, tmp_path) == rows
    assert measure(_spec(task, "lora_ga"), tmp_path) == rows[2:]


def test_the_fused_attention_of_packs_has_the_curvature_of_plain_attention(task: TaskSpec, tmp_path: Path) -> None:
    prepared, lora = prepare(task, tmp_path), VARIANTS["lora"]
    found = []
    for kernel in (attention.NAME, "eager"):
        frozen = Frozen(prepared.load(torch.float64, kernel)[0], task.targets, ["classifier"])
        found.append(curvature(prepared, frozen, lora, small.values(lora), 0, examples=8, tol=1e-7))
    for ours, plain in zip(*found, strict=True):
        assert (ours.top, ours.bottom) == pytest.approx((plain.top, plain.bottom), rel=1e-8)


def test_what_cannot_be_measured_is_refused_by_name(task: TaskSpec, tmp_path: Path) -> None:
    prepared = prepare(task, tmp_path)
    frozen = Frozen(prepared.load(torch.float64, "eager")[0], task.targets, ["classifier"])
    for name in ("head_only", "layer_norm"):
        with pytest.raises(BadInput, match=f"{name} trains nothing in the target layers"):
            curvature(prepared, frozen, variant(name), small.values(variant(name)), 0)
    with pytest.raises(BadInput, match="lora adapts no pooler"):
        curvature(prepared, frozen, VARIANTS["lora"], small.values(VARIANTS["lora"]), 0, sites=["pooler"])


# --- what it says of learning rates

RATE = LogFloat("learning_rate", 1e-5, 1e-1, 1e-3)
BEST = {"lora": -2.4, "dora": -2.8, "milora": -3.1, "pissa": -3.4, "olora": -3.7}
PLAN = Plan({"task": "maximize"}, dict.fromkeys(BEST, (RATE,)))
TABLE = simulate(Surface(BEST, noise=0.003), PLAN, 16, 2, np.random.default_rng(0))


def _curved(power: float = -1.0, names: tuple[str, ...] = tuple(BEST)) -> pd.DataFrame:
    """Curvatures that are a power of the best learning rate, at three layers that differ in level."""
    return pd.DataFrame(
        [
            Row("task", name, f"{i}.query", (i + 1) * 10 ** (power * BEST[name]), 0.0, 9)
            for name in names
            for i in range(3)
        ]
    )


def test_sharper_variants_that_want_smaller_rates_correlate_negatively() -> None:
    pooled, *each = sharpness(TABLE, PLAN, "task", _curved())
    assert pooled.subject == POOLED and pooled.answered and pooled.values["tau"].value == pytest.approx(-1)
    assert -1 <= pooled.values["tau"].low <= pooled.values["tau"].high < 0 and pooled.values["p"] < 0.05
    assert pooled.values["agreement"].value == pytest.approx(1)
    assert [finding.subject for finding in each] == list(BEST)
    assert each[3].values["median"] == pytest.approx(10.0) and "10 times that of lora" in each[3].sentence
    assert pooled.values["points"]["pissa"]["shift"].value == pytest.approx(-1.0, abs=0.2)


def test_curvature_without_relation_is_not_said_to_order_the_variants() -> None:
    curved = _curved()
    order = dict(zip(BEST, ("dora", "olora", "lora", "pissa", "milora"), strict=True))
    tau = sharpness(TABLE, PLAN, "task", curved.assign(variant=curved["variant"].map(order)))[0].values["tau"]
    assert tau.low <= 0.2 and abs(tau.value) < 0.5


def test_too_few_located_optima_close_the_gate() -> None:
    pooled = sharpness(TABLE, PLAN, "task", _curved(names=("lora", "dora", "pissa")))[0]
    assert (
        not pooled.answered and "3 variants have a best learning_rate inside the range, 4 are needed" in pooled.sentence
    )
    assert "no curvature was measured: milora, olora." in pooled.caveats[-1]
    assert all("rank correlation" not in record.quantity for record in pooled.records)


def test_a_variant_whose_best_rate_is_at_the_end_of_the_range_is_left_out_and_named() -> None:
    edge = simulate(Surface(BEST | {"olora": -5.5}, noise=0.003), PLAN, 16, 2, np.random.default_rng(0))
    pooled = sharpness(edge, PLAN, "task", _curved())[0]
    assert pooled.values["used"] == ["lora", "dora", "milora", "pissa"] and "olora" in pooled.caveats[0]


def test_without_the_reference_there_is_no_ratio() -> None:
    (refused,) = sharpness(TABLE, PLAN, "task", _curved(names=("dora", "pissa")))
    assert not refused.answered and "no curvature was measured where lora has some" in refused.sentence
    assert ratios(_curved(), replace(PLAN, reference="full")).empty


def test_layers_that_order_the_variants_at_random_do_not_agree() -> None:
    draw = np.random.default_rng(0).permuted(np.tile(np.arange(1.0, 9), (40, 1)), axis=1)
    found = agreement(pd.DataFrame(draw.T))
    assert found is not None and found.value < 0.1
