"""Decompositions inside the lift: LAPACK raises for a whole pack where one trial is not finite, these do not."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def per_trial(decompose: Callable[[Tensor], Sequence[Tensor]], M: Tensor) -> tuple[Tensor, ...]:
    """The factors of one trial's M: R S, all NaN where M is not finite; for eigh, svd and their like."""
    ok = M.isfinite().all()
    factors = decompose(torch.where(ok, M, torch.eye(M.shape[-2], M.shape[-1], dtype=M.dtype, device=M.device)))
    return tuple(torch.where(ok, factor, torch.nan) for factor in factors)


def gram(M: Tensor, ridge: float, rank: Tensor) -> Tensor:
    """M M' + ridge I: R R in float64, for M: R N with `rank` real rows; a padded one gets 1 and mixes with none."""
    real = torch.arange(M.shape[-2], device=M.device) < rank
    return M.double() @ M.double().T + torch.diag(torch.where(real, ridge, 1.0))
