"""The ends of a symmetric operator's spectrum from its products with vectors alone: Lanczos (arXiv:2602.04998)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

LEAST, MOST = 5, 100  # steps: none is believed before the least; after the most the ends are bounds from inside
BREAKDOWN = 1e-6  # of the operator's size: what is left beyond it is rounding, and the space is exhausted

Product = Callable[[Tensor], Tensor]  # v: P -> H v: P


class Ends(NamedTuple):
    """The largest and the smallest eigenvalue, and the products it took."""

    top: float
    bottom: float
    steps: int


def ends(product: Product, start: Tensor, tol: float, most: int = MOST) -> Ends:
    """Lanczos with full re-orthogonalisation from `start`: P, not zero.

    It stops when one step moves neither end by more than `tol` of the larger one.
    """
    basis = (start / start.norm())[None]  # i P
    diagonal, beside = list[float](), list[float]()
    found = Ends(torch.inf, -torch.inf, 0)
    for _ in range(min(most, len(start))):
        w = product(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        for _ in range(2):  # once is not enough in finite precision
            w = w - (basis @ w) @ basis
        ritz = eigvalsh_tridiagonal(diagonal, beside)
        before, found = found, Ends(float(ritz[-1]), float(ritz[0]), len(diagonal))
        left, size = float(w.norm()), max(abs(found.top), abs(found.bottom))
        if left <= BREAKDOWN * size or (found.steps >= LEAST and _moved(before, found) <= tol * size):
            break
        beside.append(left)
        basis = torch.cat([basis, w[None] / left])
    return found


def _moved(before: Ends, now: Ends) -> float:
    return max(abs(now.top - before.top), abs(now.bottom - before.bottom))
