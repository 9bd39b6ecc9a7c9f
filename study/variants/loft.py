"""LoFT: A and B in turn take AdamW's step of the full weight, projected (Tastan et al. 2025, arXiv:2505.21289).

LoFT-AdamW: alternating updates, scaled gradients, calibrated moments, projected full update; s = 1, so alpha is no
knob. With A and B of full rank it is AdamW on W itself. Two differences: gradients are clipped as every method's are,
before they are scaled, and weight decay is decoupled, on the factor whose turn it is. The authors' code moves the
second moment by C' where the first one moves by C, adds 1e-6 to B'B and 1e-4 to the root of the second moment.
"""

import torch
from torch import Tensor

from study import optim
from study.optim import BETA1, BETA2, EPSILON, Columns, Leaf, State, Transform
from study.variants import lora
from study.variants.base import Axis, Lifted
from study.variants.linalg import gram
from study.variants.lora_pro import pairs, row

RIDGE = 1e-8


def optimizer(h: Lifted) -> Transform:
    """LoFT-AdamW on every pair, B at odd steps and A at even ones; AdamW on what is in no pair."""
    adamw = optim.adamw(h)

    def init(p: Tensor, at: Columns) -> State:
        """AdamW's, the row at the last step, and every factor's second moments: N R R."""
        cross = {" ".join(leaf): p.new_zeros(*F.shape, F.shape[1]) for leaf, (F, _) in factors(p, at).items()}
        return adamw.init(p, at) | {"last": p.clone()} | cross

    def update(g: Tensor, state: State, p: Tensor, at: Columns) -> tuple[Tensor, State]:
        u, after = adamw.update(g, state, p, at)
        steps, moments, t = at.views(u), at.views(after["m"]), after["t"]
        gradients, old, last = factors(g, at), factors(state["m"], at), factors(state["last"], at)
        for leaf, (F, M) in factors(p, at).items():
            inverse = torch.linalg.inv_ex(gram(M, RIDGE, h["rank"])).inverse
            C = last[leaf][1] @ M.T @ inverse
            m, v = calibrated(gradients[leaf][0] @ inverse, old[leaf][0], state[" ".join(leaf)].double(), C)
            turn = t % 2 if leaf[1] == "B" else 1 - t % 2  # B, which may be zero, goes first
            step = -h["learning_rate"] * turn * (projected(m, v, M, inverse, t) + h["weight_decay"] * F)
            steps[leaf], moments[leaf] = (step, m) if leaf[1] == "B" else (step.T, m.T)
            after[" ".join(leaf)] = v.to(p.dtype)
        return row(steps, u, at), after | {"m": row(moments, u, at), "last": p}

    return Transform(init, update)


def factors(flat: Tensor, at: Columns) -> dict[Leaf, tuple[Tensor, Tensor]]:
    """Each leaf of a pair as F: N R, the other one as M: R S, so that Delta W or its transpose is F M for both.

    In float64: the roots of the second moments cancel in float32.
    """
    leaves = {leaf: view.double() for leaf, view in at.views(flat).items()}
    of_A = {(owner, "A"): (leaves[owner, "A"].T, leaves[owner, "B"].T) for owner in pairs(at)}
    return of_A | {(owner, "B"): (leaves[owner, "B"], leaves[owner, "A"]) for owner in pairs(at)}


def calibrated(g: Tensor, m: Tensor, v: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """The moments m: N R and v: N R R of the scaled gradient g: N R, moved by C = M_last M' (M M')^-1 first."""
    m = BETA1 * (m @ C) + (1 - BETA1) * g
    return m, BETA2 * (C.T @ v @ C) + (1 - BETA2) * g[:, :, None] * g[:, None, :]


def projected(m: Tensor, v: Tensor, M: Tensor, inverse: Tensor, t: Tensor) -> Tensor:
    """AdamW's direction for the full weight, N S, as the F that comes nearest to it: N R."""
    square = v.flatten(1) @ (M[:, None] * M).flatten(0, 1)  # N S: entry ij is m_j' v_i m_j
    root = (square.clamp_min(0) / (1 - BETA2**t)).sqrt()
    return (m @ M / (1 - BETA1**t) / (root + EPSILON)) @ M.T @ inverse


VARIANT = lora.VARIANT._replace(
    name="loft",
    axis=Axis.OPTIMIZATION,
    category="gradient alignment",
    paper="2505.21289",
    knobs=tuple(knob for knob in lora.KNOBS if knob.name != "alpha"),
    optimizer=optimizer,
    scaling=lambda h: h["alpha"],
    fixed={"alpha": 1.0},
)
