"""A stand-in for the score over the whole space: a Gaussian process or a forest, whichever predicts new points better.

Everything is held out, resampled and judged by the point of the design: the same point in another variant or seed
would give the answer away.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg import cho_solve
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

from study.analysis.axis import SEED, Array

FOLDS = 10
FITTED = 128  # rows that the kernel's hyperparameters are fitted to; all rows then condition the process
ENOUGH = 0.9  # of the explainable part: a process that predicts as much needs no rival
TREES = 100
DRAWS = 200  # of a process
FORESTS = 25  # refitted to resampled points
TREES_OF_A_DRAW = 30
JITTER = 1e-6


class Data(NamedTuple):
    """N cells: encoded factors, standardised score, and the point of the design each belongs to."""

    x: Array  # N C
    y: Array  # N
    point: np.ndarray  # N


class Draw(Protocol):
    """Draws of the score at x (M C), S M, as if draw s had seen its targets moved by row s of `shift` (S N)."""

    def __call__(self, x: Array, shift: Array | None = None) -> Array: ...


class Surrogate(NamedTuple):
    """A fitted stand-in."""

    method: str
    q2: float  # 1 - squared error of held-out points / variance
    predict: Callable[[Array], Array]  # M C -> M
    draws: Draw
    smooth: bool  # a process rather than a forest


def better(data: Data, explainable: float) -> Surrogate:
    """The one with the larger Q2; the forest, which is slow, only where the process leaves much unexplained."""
    process = gaussian_process(data)
    return process if process.q2 > ENOUGH * explainable else max(process, forest(data), key=lambda each: each.q2)


def held_out(data: Data, predict: Callable[[Data, Array], Array]) -> float:
    """Q2 over folds of points; `predict` fits to the first argument and predicts at the second."""
    names, point = np.unique(data.point, return_inverse=True)
    fold = np.random.default_rng(SEED).permutation(len(names))[point] % FOLDS
    guess = np.empty(len(data.y))
    for k in np.unique(fold):
        out = fold == k
        guess[out] = predict(Data(data.x[~out], data.y[~out], data.point[~out]), data.x[out])
    return 1 - float(np.mean((data.y - guess) ** 2) / np.var(data.y))


def gaussian_process(data: Data) -> Surrogate:
    """Matern 5/2 with a length per column and white noise; hyperparameters by maximum likelihood, once."""
    signal, noise = hyperparameters(data)

    def given(some: Data) -> GaussianProcessRegressor:
        return GaussianProcessRegressor(signal, alpha=noise, optimizer=None).fit(some.x, some.y)

    process = given(data)

    def draws(x: Array, shift: Array | None = None) -> Array:
        mean, covariance = process.predict(x, return_cov=True)
        root = np.linalg.cholesky(covariance + JITTER * signal.diag(x[:1]) * np.eye(len(x)))
        drawn = mean + np.random.default_rng(SEED).normal(size=(DRAWS, len(x))) @ root.T
        return drawn if shift is None else drawn + (signal(x, data.x) @ cho_solve((process.L_, True), shift.T)).T

    q2 = held_out(data, lambda some, x: given(some).predict(x))
    return Surrogate(
        "Gaussian process (Matern 5/2 ARD, white noise), posterior draws", q2, process.predict, draws, True
    )


def hyperparameters(data: Data) -> tuple[Kernel, float]:
    """The fitted signal kernel and the noise variance, from at most FITTED rows."""
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(np.full(data.x.shape[1], 0.5), (0.05, 20.0), nu=2.5)
    kernel += WhiteKernel(0.05, (1e-6, 2.0))
    some = np.random.default_rng(SEED).permutation(len(data.y))[:FITTED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a null knob's length belongs at its bound
        fitted = GaussianProcessRegressor(kernel, alpha=1e-8).fit(data.x[some], data.y[some]).kernel_
    return fitted.k1, fitted.k2.noise_level


def forest(data: Data) -> Surrogate:
    """Regression trees on resampled rows; draws are forests refitted to resampled points."""

    def given(some: Data, trees: int, seed: int) -> RandomForestRegressor:
        return RandomForestRegressor(trees, random_state=seed).fit(some.x, some.y)

    def draws(x: Array, shift: Array | None = None) -> Array:
        generator = np.random.default_rng(SEED)
        moved = np.zeros((FORESTS, len(data.y))) if shift is None else shift
        samples = [resampled(data._replace(y=data.y + moved[seed]), generator) for seed in range(FORESTS)]
        return np.stack([given(some, TREES_OF_A_DRAW, seed).predict(x) for seed, some in enumerate(samples)])

    q2 = held_out(data, lambda some, x: given(some, TREES, 0).predict(x))
    return Surrogate("random forest, refitted to resampled points", q2, given(data, TREES, 0).predict, draws, False)


def resampled(data: Data, generator: np.random.Generator) -> Data:
    """As many points drawn with replacement, each with all its rows."""
    names = np.unique(data.point)
    chosen = generator.choice(names, len(names))
    rows = np.concatenate([np.flatnonzero(data.point == name) for name in chosen])
    return Data(data.x[rows], data.y[rows], data.point[rows])
