"""A and B as one plain pair, which every reader of LoRA understands, whatever the pair came from."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import svd

from study.variants import inits
from study.variants.base import Leaves, Plain

NEGLIGIBLE = 1e-6  # of the largest singular value: what rounding makes of a sum of pairs that is kept in float32


def whole_pair(p: Leaves) -> tuple[Tensor, Tensor]:
    """One pair for the update: B A - B0 A0 is [B, -B0] [A; A0]. A layer without a rank gets one that is zero."""
    A, B = p["A"], p["B"]
    if "A0" in p:
        A, B = torch.cat([A, p["A0"]]), torch.cat([B, -p["B0"]], 1)
    missing = max(0, 1 - len(A))
    return F.pad(A, (0, 0, 0, missing)), F.pad(B, (0, missing))


def pair_and_start(A: Tensor, B: Tensor, h: Plain) -> Leaves:
    """The inverse of `whole_pair`, for a trial with these knobs."""
    if not inits.has_start(h):
        return {"A": A, "B": B}
    R = len(A) // 2
    return {"A": A[:R], "B": B[:, :R], "A0": A[R:], "B0": -B[:, R:]}


def factors(update: Tensor) -> tuple[Tensor, Tensor]:
    """A: R I and B: O R of the smallest rank, at least 1, with B A the update O I; in float64."""
    U, S, Vh = svd(update.double(), full_matrices=False)
    R = max(1, int((S / S[0] > NEGLIGIBLE).sum()))
    root = S[:R].sqrt()
    return root[:, None] * Vh[:R], U[:, :R] * root
