"""A sum of smooth effects of single knobs, fitted to a few points, as draws from its posterior.

    y_i = m + sum_k f_k(x_ik) + e_i

Each f_k is a Gaussian process (Matern 5/2; independent levels for a choice) on its knob's unit coordinate, projected
to average zero over the declared range (Durrande et al. 2012), so m is the mean over the design, m + f_k the marginal
response to knob k, and mean(f_k^2) its part of the variance. What f does not explain, e, is run-to-run noise and the
work of the other knobs together.

With the 8 to 16 points of a short study the maximum of the likelihood says "no noise" or "no effect" at random, so the
hyperparameters are not fitted but averaged over: effects and noise divide the variance by a Dirichlet(1/2, ...) prior,
length scales are uniform over a few values, the overall scale has Jeffreys' prior. On a line, where nothing but noise
is in e, the differences between runs of one setting are data about it and enter the likelihood. A sequential Monte
Carlo sampler (Del Moral et al. 2006) takes them from prior to posterior: importance weights, then Metropolis moves.
`benchmarks/calibrate.py` measures how often the resulting intervals hold the truth.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from study.analysis.axis import SEED, Array, Axis
from study.analysis.memo import remembered

SAMPLES = 200  # of the hyperparameters
EACH = 2  # draws of the curves per sample
LENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8)  # length scales, in units of the range
CONCENTRATION = 0.5  # of the Dirichlet prior: few effects are large
SCOUTS = 4  # prior samples per posterior sample
MOVES = 10  # Metropolis steps
STEP = 0.7  # of a log share per move
SCOUTED_POINTS = 48  # more points than this only reweight what this many have found
REWEIGHTED = 32  # samples that are reweighted on all points
LEVEL = 100.0  # prior variance of the mean m, in variances of y: flat
JITTER = 1e-8


class Effect(NamedTuple):
    """One knob's term: its axis (G places), the points' coordinates on it, and whether it may be absent."""

    axis: Axis
    at: Array  # n
    optional: bool = False


class Draws(NamedTuple):
    """S draws of everything in the sum."""

    mean: Array  # S
    curves: tuple[Array, ...]  # S G per effect, zero mean over the axis
    noise: Array  # S, variance of e


class Replicates(NamedTuple):
    """What repeated runs say about the variance of e, where nothing but their noise is in it."""

    variance: float  # of e, unbiased
    freedom: int  # 0: nothing is known


UNKNOWN = Replicates(0.0, 0)


class Target(NamedTuple):
    """What is fitted: n standardised values, and what is known of their noise."""

    y: Array
    known: Replicates

    @property
    def freedom(self) -> int:
        """Of the overall scale, once the mean is taken out."""
        return len(self.y) - 1 + self.known.freedom

    def squares(self, white: Array, noise: Array) -> Array:
        """Whitened squares of the values (... n) and of the replicates, given the noise's share (...)."""
        return (white**2).sum(axis=-1) + self.known.freedom * self.known.variance / noise


class Sample(NamedTuple):
    """P hyperparameter settings."""

    log_shares: Array  # P K+1, unnormalised; the last is the noise
    length: np.ndarray  # P K, index into an effect's covariances
    evidence: Array  # P, log marginal likelihood

    def take(self, index: np.ndarray) -> "Sample":
        return Sample(self.log_shares[index], self.length[index], self.evidence[index])

    @property
    def shares(self) -> Array:
        """P K+1, summing to one."""
        weight = np.exp(self.log_shares - self.log_shares.max(axis=1, keepdims=True))
        return weight / weight.sum(axis=1, keepdims=True)


@remembered
def fit(effects: Sequence[Effect], y: Array, known: Replicates = UNKNOWN) -> Draws:
    """Posterior draws of the sum for n > 2 values `y` that are not all equal."""
    generator = np.random.default_rng(SEED)
    scale, level = y.std(), y.mean()
    tables = [covariances(effect) for effect in effects]  # per effect: lengths, G+n, G+n
    inner = [table[:, len(e.axis.at) :, len(e.axis.at) :] for table, e in zip(tables, effects, strict=True)]
    target = Target((y - level) / scale, known._replace(variance=known.variance / scale**2))
    sample = posterior(inner, target, generator)
    draws = draw(tables, sample, target, generator)
    return Draws(level + scale * draws.mean, tuple(scale * c for c in draws.curves), scale**2 * draws.noise)


def covariances(effect: Effect) -> Array:
    """L (G+n) (G+n): per length scale, over grid and points; zero mean and mean variance one over the axis."""
    axis = effect.axis
    distance = np.abs(np.subtract.outer(*2 * [np.concatenate([axis.at, effect.at])]))
    if axis.ordered:
        scaled = [np.sqrt(5) * distance / length for length in LENGTHS]
        tables = [centred((1 + s + s * s / 3) * np.exp(-s), axis.weight) for s in scaled]
    else:
        tables = [centred((distance < JITTER).astype(float), axis.weight)]
    return np.stack(tables + [np.zeros_like(distance)] * effect.optional)  # an absent effect is a zero covariance


def centred(covariance: Array, weight: Array) -> Array:
    """Of f minus its mean over the axis (its first G places), with mean variance one there."""
    size = len(weight)
    row = covariance[:, :size] @ weight
    covariance = covariance - row[:, None] - row[None] + weight @ row[:size]
    return covariance / (weight @ np.diag(covariance)[:size])


def posterior(tables: Sequence[Array], target: Target, generator: np.random.Generator) -> Sample:
    """SAMPLES hyperparameter samples given tables (K of L n n)."""
    if len(target.y) <= SCOUTED_POINTS:
        return scouted(tables, target, generator)
    some = generator.choice(len(target.y), SCOUTED_POINTS, replace=False)
    rough = scouted([table[:, some][:, :, some] for table in tables], target._replace(y=target.y[some]), generator)
    rough = rough.take(generator.choice(SAMPLES, REWEIGHTED, replace=False))
    full = np.array([evidence(tables, rough.take(np.array([i])), target)[0] for i in range(REWEIGHTED)])
    return rough._replace(evidence=full).take(weighted(full - rough.evidence, SAMPLES, generator))


def scouted(tables: Sequence[Array], target: Target, generator: np.random.Generator) -> Sample:
    """Samples from the prior, weighted by their evidence, then moved."""
    count = SCOUTS * SAMPLES
    shares = np.log(generator.gamma(CONCENTRATION, size=(count, len(tables) + 1)) + 1e-12)
    length = np.stack([generator.integers(len(table), size=count) for table in tables], axis=1)
    sample = Sample(shares, length, np.zeros(count))
    sample = sample._replace(evidence=evidence(tables, sample, target))
    sample = sample.take(weighted(sample.evidence, SAMPLES, generator))
    for _ in range(MOVES):
        sample = moved(tables, sample, target, generator)
    return sample


def weighted(log_weight: Array, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` indices drawn with the given log weights."""
    weight = np.exp(log_weight - log_weight.max())
    return generator.choice(len(weight), count, p=weight / weight.sum())


def moved(tables: Sequence[Array], sample: Sample, target: Target, generator: np.random.Generator) -> Sample:
    """One Metropolis step of every sample: some log shares by a normal step, every length by at most one place."""
    shares, top = sample.log_shares, np.array([len(table) - 1 for table in tables])
    step = STEP * generator.normal(size=shares.shape) * (generator.random(shares.shape) < 0.6)
    length = np.clip(sample.length + generator.integers(-1, 2, size=sample.length.shape), 0, top)
    proposed = Sample(shares + step, length, sample.evidence)
    proposed = proposed._replace(evidence=evidence(tables, proposed, target))
    gain = proposed.evidence + log_prior(proposed) - sample.evidence - log_prior(sample)
    accepted = np.log(generator.random(len(gain))) < gain
    pairs = zip(proposed, sample, strict=True)
    return Sample(*(np.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old) for new, old in pairs))


def log_prior(sample: Sample) -> Array:
    """Of independent gamma variables, whose ratios to their sum are Dirichlet; in the log of each."""
    return (CONCENTRATION * sample.log_shares - np.exp(sample.log_shares)).sum(axis=1)


def covariance(tables: Sequence[Array], sample: Sample) -> Array:
    """P n n, of y in units of the overall scale."""
    shares = sample.shares
    total = LEVEL + sum(shares[:, k, None, None] * table[sample.length[:, k]] for k, table in enumerate(tables))
    diagonal = np.arange(total.shape[-1])
    total[:, diagonal, diagonal] += shares[:, -1:] + JITTER
    return total


def evidence(tables: Sequence[Array], sample: Sample, target: Target) -> Array:
    """P log marginal likelihoods of the values and replicates, mean and overall scale integrated out."""
    noise = sample.shares[:, -1]
    root = np.linalg.cholesky(covariance(tables, sample))
    white = np.linalg.solve(root, np.broadcast_to(target.y[:, None], (*root.shape[:2], 1)))[..., 0]
    log_root = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
    replicated = target.known.freedom / 2 * np.log(noise)
    return -log_root - replicated - target.freedom / 2 * np.log(target.squares(white, noise))


def draw(tables: Sequence[Array], sample: Sample, target: Target, generator: np.random.Generator) -> Draws:
    """EACH draws of the sum for every hyperparameter sample, in units of standardised y."""
    roots = [np.stack([root_of(covariance) for covariance in table]) for table in tables]
    _, first, count = np.unique(sample.log_shares, axis=0, return_index=True, return_counts=True)
    parts = [
        draw_given(tables, roots, sample.take(np.array([i])), EACH * int(c), target, generator)
        for i, c in zip(first, count, strict=True)
    ]
    curves = (np.concatenate(c) for c in zip(*(part.curves for part in parts), strict=True))
    return Draws(np.concatenate([p.mean for p in parts]), tuple(curves), np.concatenate([p.noise for p in parts]))


def root_of(covariance: Array) -> Array:
    """Cholesky factor of a covariance that may be singular; zero of an absent effect."""
    if not covariance.any():
        return covariance
    return np.linalg.cholesky(covariance + 10 * JITTER * np.eye(len(covariance))).astype(np.float64)


def draw_given(
    tables: Sequence[Array],
    roots: Sequence[Array],
    one: Sample,
    count: int,
    target: Target,
    generator: np.random.Generator,
) -> Draws:
    """`count` draws given one hyperparameter sample: prior draws, corrected by what they miss (Matheron's rule)."""
    y, n, shares = target.y, len(target.y), one.shares[0]
    tables = [table[k] for table, k in zip(tables, one.length[0], strict=True)]
    inner = [table[-n:, -n:] for table in tables]
    root = np.linalg.cholesky(covariance([t[None] for t in inner], one._replace(length=np.zeros_like(one.length)))[0])
    white = solve_triangular(root, y, lower=True)
    squares = target.squares(white, shares[-1])
    scale = np.sqrt(squares / 2 / generator.gamma(target.freedom / 2, size=count))  # of the posterior, Jeffreys' prior
    prior = [
        np.sqrt(share) * scale * (r[k] @ generator.normal(size=(r.shape[-1], count)))
        for share, r, k in zip(shares, roots, one.length[0], strict=False)
    ]  # G+n S each
    level = np.sqrt(LEVEL) * scale * generator.normal(size=count)
    noise = np.sqrt(shares[-1]) * scale * generator.normal(size=(n, count))
    missed = y[:, None] - level - noise - sum(p[-n:] for p in prior)
    weight = cho_solve((root, True), missed)  # n S
    curves = (p[:-n] + share * t[:-n, -n:] @ weight for share, t, p in zip(shares, tables, prior, strict=False))
    return Draws(level + LEVEL * weight.sum(axis=0), tuple(c.T for c in curves), shares[-1] * scale**2)
