"""LoRA-Pro: the gradients of A and B whose step is nearest to the full gradient's (Wang et al. 2024, arXiv:2407.18242).

AdamW runs on the adjusted gradients, so that no trial holds a matrix O I. The authors' released optimizer holds two:
it keeps AdamW's moments of the equivalent gradient s B g_A + s g_B A and adjusts the direction they give.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from study import optim
from study.errors import BadInput
from study.optim import Columns, Leaf, State, Transform
from study.variants import lora
from study.variants.base import Axis, Lifted
from study.variants.linalg import gram, per_trial

RIDGE = 1e-8  # the released code's; B is zero at the first step


def optimizer(h: Lifted) -> Transform:
    """AdamW on the adjusted gradients."""
    return optim.chain(adjust(h), optim.adamw(h))


def adjust(h: Lifted) -> Transform:
    """Each pair's gradients replaced by the adjusted ones; other leaves keep theirs."""

    def init(p: Tensor, at: Columns) -> State:
        pairs(at)  # raises before the first step where there is nothing to adjust
        return {}

    def update(g: Tensor, state: State, p: Tensor, at: Columns) -> tuple[Tensor, State]:
        G, W = at.views(g), at.views(p)
        for owner in pairs(at):
            A, B = (owner, "A"), (owner, "B")
            G[A], G[B] = adjusted(W[A], W[B], G[A], G[B], h)
        return row(G, g, at), state

    return Transform(init, update)


def adjusted(A: Tensor, B: Tensor, g_A: Tensor, g_B: Tensor, h: Lifted) -> tuple[Tensor, Tensor]:
    """Theorem 2.1 with the X of theorem 2.2, for A, g_A: R I and B, g_B: O R, in float64.

    g_A' = (B'B)^-1 g_A / s^2 + X A and g_B' = (1 - B (B'B)^-1 B') g_B (A A')^-1 / s^2 - B X, where X: R R solves
    B'B X + X A A' = -(B'B)^-1 g_A A' / s^2, which leaves both as near to their old gradients as can be.
    """
    b, Q = per_trial(torch.linalg.eigh, gram(B.T, RIDGE, h["rank"]))  # B'B = Q diag(b) Q'
    a, P = per_trial(torch.linalg.eigh, gram(A, RIDGE, h["rank"]))  # A A' = P diag(a) P'
    A, B, g_A, g_B = A.double(), B.double(), g_A.double() / h["scale"] ** 2, g_B.double() / h["scale"] ** 2
    inverse_B, inverse_A = (Q / b) @ Q.T, (P / a) @ P.T  # R R
    nearest_A, nearest_B = inverse_B @ g_A, (g_B - B @ (inverse_B @ (B.T @ g_B))) @ inverse_A
    X = -Q @ ((Q.T @ nearest_A @ A.T @ P) / (b[:, None] + a)) @ P.T
    real = torch.arange(len(b), device=b.device) < h["rank"]
    return torch.where(real[:, None], nearest_A + X @ A, 0), torch.where(real, nearest_B - B @ X, 0)


def pairs(at: Columns) -> list[str]:
    """Who owns a trained A and a trained B. Raises BadInput where nobody does."""
    owners = [owner for owner, name in at.shapes if name == "A" and (owner, "B") in at.shapes]
    if not owners:
        raise BadInput("combine", "this optimizer moves A and B together, no layer trains both", "a method that does")
    return owners


def row(leaves: Mapping[Leaf, Tensor], like: Tensor, at: Columns) -> Tensor:
    """The leaves as one flat row P, in the precision of `like`."""
    return torch.cat([leaves[leaf].reshape(-1).to(like.dtype) for leaf in at.shapes])


VARIANT = lora.VARIANT._replace(
    name="lora_pro",
    axis=Axis.OPTIMIZATION,
    category="gradient alignment",
    paper="2407.18242",
    optimizer=optimizer,
)
