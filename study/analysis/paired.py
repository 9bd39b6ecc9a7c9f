"""A mean over seeds, or over seeds and test examples: how sure is it?

Every seed is scored on the same examples, so the two are crossed: y_se = mu + a_s + b_e + e_se. The mean has the
variance (MS_a + MS_b - MS_e) / (S N), kept as the part that more seeds shrink, MS_a / (S N), and the part that only
more examples would, max(MS_b - MS_e, 0) / (S N); its degrees of freedom are those of Hillis 2007 (Statistics in
Medicine 26:596; readers for seeds, cases for examples). Without examples this is the t interval over seeds.
"""

import math
from typing import NamedTuple

from scipy import stats

from study.analysis.axis import Array
from study.analysis.finding import Estimate

LEAST_SEEDS = 3  # for an interval
NORMAL = 1e9  # degrees of freedom that no interval tells from infinitely many
EXACT = 1e-24  # variance of numbers that are all equal: keeps a ratio to it finite


class Mean(NamedTuple):
    """A mean over seeds and the two parts of its variance."""

    value: float
    seeds: int
    per_seed: float  # variance of one seed's value; NaN with one seed
    fixed: float = 0.0  # variance that no number of seeds takes away: of the test examples, of the selection

    @property
    def variance(self) -> float:
        return self.per_seed / self.seeds + self.fixed + EXACT

    @property
    def error(self) -> float:
        """Standard error."""
        return math.sqrt(self.variance)

    @property
    def freedom(self) -> float:
        """Degrees of freedom: seeds - 1 where seeds are all that varies, more where other things do."""
        return min(self.variance**2 * (self.seeds - 1) / (self.per_seed / self.seeds + EXACT) ** 2, NORMAL)

    @property
    def estimate(self) -> Estimate:
        """With its 95 % interval, from three seeds on."""
        if self.seeds < LEAST_SEEDS:
            return Estimate(self.value, None, None)
        half = float(stats.t.ppf(0.975, self.freedom)) * self.error
        return Estimate(self.value, self.value - half, self.value + half)


def over_seeds(y: Array) -> Mean:
    """Of a number per seed (S)."""
    return Mean(float(y.mean()), len(y), float(y.var(ddof=1)) if len(y) > 1 else math.nan)


def over_seeds_and_examples(y: Array) -> Mean:
    """Of a number per seed and example (S N)."""
    seeds, examples = y.shape
    mean, by_seed, by_example = y.mean(), y.mean(axis=1), y.mean(axis=0)
    if min(seeds, examples) < 2:
        return over_seeds(by_seed)
    rest = y - by_seed[:, None] - by_example + mean
    between = seeds * by_example.var(ddof=1) - (rest**2).sum() / ((seeds - 1) * (examples - 1))
    return over_seeds(by_seed)._replace(fixed=max(float(between), 0.0) / (seeds * examples))
