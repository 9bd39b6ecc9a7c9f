"""Holm's correction: p-values that stay honest when several variants are compared (Holm 1979)."""

from collections.abc import Mapping

import numpy as np

ALPHA = 0.05


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values by name; the i-th smallest of m counts m - i times, and none is below a smaller one's."""
    names = sorted(p, key=lambda name: p[name])
    stepped = [(len(names) - i) * p[name] for i, name in enumerate(names)]
    return dict(zip(names, np.minimum(np.maximum.accumulate(stepped), 1.0).tolist(), strict=True)) if names else {}
