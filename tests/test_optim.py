"""Optimizers against torch.optim, schedules against their formula."""

import pytest
import torch
from torch.func import vmap

from study import optim
from study.optim import Columns


def _h(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_adamw_equals_torch() -> None:
    p = torch.randn(40, dtype=torch.float64)
    theirs = torch.nn.Parameter(p.clone())
    reference = torch.optim.AdamW([theirs], lr=3e-3, weight_decay=0.1)
    at = Columns({("site", "A"): (5, 8)})
    state = optim.adamw(_h()).init(p, at)
    for _ in range(20):
        g = torch.randn(40, dtype=torch.float64)
        theirs.grad = g.clone()
        reference.step()
        u, state = optim.adamw(_h(learning_rate=3e-3, weight_decay=0.1)).update(g, state, p, at)
        p = p + u
    assert torch.allclose(p, theirs.detach(), rtol=0, atol=1e-12)


def test_a_lifted_optimizer_equals_the_rows_alone() -> None:
    at = Columns({("site", "A"): (2, 3), ("site", "B"): (4,)})
    p, g = torch.randn(3, 10, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
    h = {
        "learning_rate": torch.tensor([1e-3, 1e-2, 0.1], dtype=torch.float64),
        "weight_decay": torch.zeros(3, dtype=torch.float64),
        "b_over_a": torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64),
    }

    def step(p, g, h):
        rule = optim.chain(optim.adamw(h), optim.scale_leaf("B", h["b_over_a"]))
        return rule.update(g, rule.init(p, at), p, at)[0]

    together = vmap(step)(p, g, h)
    for k in range(3):
        assert torch.equal(together[k], step(p[k], g[k], {name: value[k] for name, value in h.items()}))


def test_scale_leaf_scales_its_leaf_and_no_other() -> None:
    at = Columns({("one", "A"): (2,), ("one", "B"): (3,), ("two", "B"): (1,)})
    u, _ = optim.scale_leaf("B", torch.tensor(4.0)).update(torch.ones(6), {}, torch.zeros(6), at)
    assert u.tolist() == [1, 1, 4, 4, 4, 4]


def test_columns_split_and_name_every_leaf() -> None:
    at = Columns({("one", "A"): (2, 3), ("two", "B"): (4,)})
    views = at.views(torch.arange(20.0).reshape(2, 10))
    assert at.size == 10
    assert views["one", "A"].shape == (2, 2, 3)
    assert views["two", "B"][1].tolist() == [16, 17, 18, 19]
    assert Columns({}).views(torch.zeros(3, 0)) == {}


def test_clipping_is_per_row_and_over_all_parts() -> None:
    parts = [torch.tensor([[3.0], [0.3]]), torch.tensor([[4.0], [0.4]])]
    clipped, norms = optim.clip_by_norm(parts, torch.tensor([1.0, 1.0]))
    assert norms.tolist() == pytest.approx([5.0, 0.5])
    assert optim.row_norms(clipped).tolist() == pytest.approx([1.0, 0.5], rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464]),
    ],
)
def test_schedules_warm_up_then_fall(schedule: str, rates: list[float]) -> None:
    h = {"learning_rate": 1.0, "warmup": 0.3, "schedule": schedule}
    assert [optim.scheduled(h, t, 6) for t in range(6)] == pytest.approx(rates, abs=1e-4)
