"""Which settings a study tries: one design per task that all its variants read, so that they share points.

A design is a table of unit coordinates, DESIGN_WIDTH columns wide. A knob owns a column by order of first use and a
variant reads its own columns, so adding a variant, a knob or points moves no point that was there before.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy
from scipy.stats import qmc

from study.errors import BadInput
from study.space import Space, Value

DESIGN_WIDTH = 32


def owners(columns: Sequence[str], spaces: Iterable[Space]) -> list[str]:
    """The knobs that own a column, old ones first, then new ones of these spaces. Raises BadInput past the width."""
    names = list(dict.fromkeys([*columns, *(knob.name for space in spaces for knob in space.varied)]))
    if len(names) > DESIGN_WIDTH:
        raise BadInput("knobs", f"{len(names)} vary", f"at most {DESIGN_WIDTH}")
    return names


def settings(kind: str, points: int, seed: int, columns: Sequence[str], space: Space) -> list[dict[str, Value]]:
    """The settings of one variant, in the design's order; a setting that recurs is listed once."""
    rows = _grid(points, space) if kind == "grid" else _sampled(kind, points, seed, columns, space)
    return list({tuple(sorted(row.items())): row for row in rows}.values())


def _grid(points: int, space: Space) -> list[dict[str, Value]]:
    axes = [knob.grid(points) for knob in space.varied]
    names = [knob.name for knob in space.varied]
    return [space.setting(dict(zip(names, values, strict=True))) for values in itertools.product(*axes)]


def _sampled(kind: str, points: int, seed: int, columns: Sequence[str], space: Space) -> list[dict[str, Value]]:
    table = _sobol(points, seed) if kind == "sobol" else numpy.random.default_rng(seed).random((points, DESIGN_WIDTH))
    return [space.decode({name: float(row[at]) for at, name in enumerate(columns)}) for row in table]


def _sobol(points: int, seed: int) -> numpy.ndarray:
    """The first `points` of the scrambled sequence: a longer table begins with the shorter one."""
    sequence = qmc.Sobol(DESIGN_WIDTH, scramble=True, rng=numpy.random.default_rng(seed))
    return sequence.random_base2(math.ceil(math.log2(max(points, 2))))[:points]
