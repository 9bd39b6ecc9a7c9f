"""Shares of variance: pairs, factorials, narrower ranges and the gates before them, against known answers."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import qmc

from study.analysis import POOLED, Finding, Plan
from study.analysis.cells import Cells, cells, explored
from study.analysis.factorial import Noise, components, factorial, means_of, white_noise
from study.analysis.factorial import runs as runs_of
from study.analysis.known import Surface, simulate, truth
from study.analysis.plan import Direction
from study.analysis.sampling import sampling_refusal
from study.analysis.sobol import Indices
from study.analysis.total_effects import noise_floor, stand_in
from study.analysis.variance import variance_of
from study.space import Choice, Knob, Levels, LogFloat

TASK = "task"
RATE = LogFloat("learning_rate", 1e-5, 1e-1, 1e-3)
LINE = Levels("learning_rate", tuple(RATE.grid(9)), 1e-3)
RANK, INIT = Levels("rank", (2, 4, 8), 4), Choice("init", ("a", "b"), "a")
GRID = Plan({TASK: "maximize"}, {"lora": (LINE, RANK, INIT)}, design="grid")

Score = Callable[[np.ndarray], np.ndarray]  # M F unit coordinates -> M


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def runs(variant: str, knobs: tuple[Knob, ...], cube: np.ndarray, score: np.ndarray) -> pd.DataFrame:
    """A table of scores (seeds x points) at points of the unit cube."""
    values = {knob.name: [knob.decode(u) for u in column] for knob, column in zip(knobs, cube.T, strict=True)}
    keys = [f"{variant}-{i}" for i in range(len(cube))]
    frames = [pd.DataFrame(values | {"seed": s, "val_score": y, "key": keys}) for s, y in enumerate(score)]
    fixed = {"task": TASK, "variant": variant, "phase": "explore", "state": "finished", "diverged": False}
    started = {"test_score": np.nan, "loss0": 1e3, "score0": -1e3}
    table = pd.concat(frames, ignore_index=True)
    return table.assign(**fixed, **started, val_loss=-table["val_score"])


def noisy(score: np.ndarray, noise: float, seeds: int, draw: np.random.Generator) -> np.ndarray:
    return score + noise * draw.normal(size=(seeds, len(score)))


def sampled(knobs: tuple[Knob, ...], function: Score, points: int, seed: int = 7, noise: float = 0.03) -> pd.DataFrame:
    cube = qmc.Sobol(32, rng=generator(seed)).random(points)[:, : len(knobs)]
    score = function(cube)
    return runs("lora", knobs, cube, noisy(score, noise * score.std(), 2, generator(seed)))


def crossed(knobs: tuple[Knob, ...]) -> np.ndarray:
    """Every combination of the levels, in unit coordinates."""
    return np.array(list(itertools.product(*([knob.encode(v) for v in knob.grid(9)] for knob in knobs))))


def gridded(score: Score, noise: float = 0.05, seeds: int = 3, seed: int = 0, variant: str = "lora") -> pd.DataFrame:
    cube = crossed(GRID.knobs["lora"])
    return runs(variant, GRID.knobs["lora"], cube, noisy(score(cube), noise, seeds, generator(seed)))


def rugged(u: np.ndarray) -> np.ndarray:
    """With every main effect, every pair and the combination of all three."""
    x, r, i = u[:, 0] - 0.5, u[:, 1] - 0.5, u[:, 2] - 0.5
    return -2 * x**2 + 0.3 * r + 0.2 * i + 0.8 * x * r + 0.5 * r * i + 0.4 * x * i + 2 * x * r * i


def cell_of(table: pd.DataFrame, plan: Plan) -> Cells:
    return cells(explored(table, TASK, plan.responsive), plan, TASK, "score")


def logs(*names: str) -> tuple[Knob, ...]:
    return tuple(LogFloat(name, 1e-3, 1.0, 0.1) for name in names)


def of_one(knobs: tuple[Knob, ...], table: pd.DataFrame) -> Finding:
    found = variance_of(table, Plan({TASK: "maximize"}, {"lora": knobs}, focus=knobs[0].name), TASK, "lora")
    assert found.answered, found.sentence
    return found


# Pairs


def test_ishigamis_only_pair_is_recovered() -> None:
    def ishigami(u: np.ndarray) -> np.ndarray:
        x = np.pi * (2 * u - 1)
        return np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])

    knobs = logs("a", "b", "c")
    found = of_one(knobs, sampled(knobs, ishigami, 256))
    truths = {"a x b": 0.0, "a x c": 0.2437, "b x c": 0.0}
    assert found.values["pairs"].keys() == truths.keys()
    for pair, true in truths.items():
        estimate = found.values["pairs"][pair]
        assert abs(estimate.value - true) < 0.05, (pair, estimate)
        assert estimate.low <= true <= estimate.high, (pair, estimate)
    assert "of which a x c" in found.sentence


def test_the_pairs_of_the_g_function_are_recovered() -> None:
    a = np.array([0, 1, 4.5, 9])
    part = 1 / (3 * (1 + a) ** 2)
    whole, knobs = np.prod(1 + part) - 1, logs("a", "b", "c", "d")
    found = of_one(knobs, sampled(knobs, lambda u: np.prod((np.abs(4 * u - 2) + a) / (1 + a), axis=1), 128))
    for i, j in itertools.combinations(range(4), 2):
        estimate, true = found.values["pairs"][f"{'abcd'[i]} x {'abcd'[j]}"], part[i] * part[j] / whole
        assert abs(estimate.value - true) < 0.03, (i, j, estimate, true)
        assert estimate.low - 1e-3 <= true <= estimate.high + 1e-3, (i, j, estimate, true)


def test_a_sum_has_no_pair_and_names_none() -> None:
    knobs = (*logs("a", "b"), RANK)
    found = of_one(knobs, sampled(knobs, lambda u: u[:, 0] + u[:, 1], 64))
    assert all(pair.low == 0 and pair.high < 0.06 for pair in found.values["pairs"].values())
    assert "of which" not in found.sentence.split("A knob without")[0]


# Factorials


def pieces_of_exact() -> Indices:
    """Components of the noise-free cells."""
    return components(EXACT[None], EXACT[None][:0], Noise(np.zeros(1), np.zeros(1)))


def pieces(scores: np.ndarray) -> Indices:
    """Components of the means of one study (seeds x levels), its noise taken off."""
    means = means_of(scores)
    return components(means.of, means.errors, means.noise)


EXACT = rugged(crossed(GRID.knobs["lora"])).reshape(9, 3, 2)


@pytest.mark.parametrize(("seeds", "shift"), [(2, 0.0), (3, 0.0), (3, 0.3), (5, 0.3)])
def test_the_components_of_a_factorial_are_unbiased(seeds: int, shift: float) -> None:
    """Averaged over noisy studies they are those of the mean over all seeds, whatever a seed does to which cells."""
    draw, u = generator(0), crossed(GRID.knobs["lora"])
    bend = np.stack([(u[:, 0] * u[:, 1]).reshape(9, 3, 2), (u[:, 0] > 0.5).reshape(9, 3, 2) * 1.0])
    found = []
    for _ in range(500):
        moved = shift * np.tensordot(draw.normal(size=(seeds, 2)), bend, axes=1)
        found.append(pieces(EXACT + moved + 0.2 * draw.normal(size=(seeds, 9, 3, 2))))
    true = pieces_of_exact()
    for draws, truths in zip(map(np.concatenate, zip(*found, strict=True)), true, strict=True):
        assert (np.abs(draws.mean(axis=0) - truths[0]) < 4 * draws.std(axis=0) / np.sqrt(500)).all()


def test_white_noise_of_a_factorial_is_that_of_a_mean_over_seeds() -> None:
    draw = generator(0)
    drift = draw.normal(size=(3, 1, 1, 1)) + draw.normal(size=(3, 9, 1, 1)) + draw.normal(size=(3, 1, 3, 2))
    noise, freedom = white_noise(EXACT + drift + 0.05 * draw.normal(size=(3, 9, 3, 2)))
    assert noise == pytest.approx(0.05**2 / 3, rel=0.5)
    assert freedom == 2 * 8 * 2 * 1


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_runs_of_a_factorial_are_those_of_its_cells(direction: Direction) -> None:
    """Whatever the order of the rows: their means over seeds are the cells', of each variant."""
    plan = replace(GRID, knobs=dict.fromkeys(("pissa", "lora"), GRID.knobs["lora"]), directions={TASK: direction})
    table = pd.concat([gridded(rugged, seed=i, variant=v) for i, v in enumerate(plan.knobs)], ignore_index=True)
    cell = cell_of(table.sample(frac=1, random_state=0), plan)
    grid = factorial(cell)
    assert grid is not None
    assert grid.names == ("learning_rate", "rank", "init", "variant")
    sign = 1 if direction == "maximize" else -1
    scores = runs_of(cell, plan, grid)
    assert np.corrcoef(scores[..., 0].mean(axis=0).ravel(), sign * EXACT.ravel())[0, 1] > 0.97
    for variant in range(2):
        assert np.sort(scores[..., variant].mean(axis=0), axis=None) == pytest.approx(np.sort(cell.good[variant]))


def test_the_intervals_of_a_factorial_hold_the_truth() -> None:
    true = pieces_of_exact()
    plan, held = replace(GRID, focus="steps"), []
    for seed in range(60):
        values = variance_of(gridded(rugged, 0.1, seed=seed), plan, TASK, "lora").values
        for kind, truths in (("first", true.first), ("total", true.total)):
            pairs = zip(("learning_rate", "rank", "init"), truths[0] / true.variance[0], strict=True)
            held += [values[kind][name].low <= share <= values[kind][name].high for name, share in pairs]
    assert np.mean(held) > 0.92


def test_a_factorial_needs_no_surrogate_and_few_levels() -> None:
    plan = replace(GRID, knobs={"lora": (Levels("learning_rate", (1e-4, 1e-3, 1e-2), 1e-3), RANK)})
    cube = crossed(plan.knobs["lora"])
    table = runs("lora", plan.knobs["lora"], cube, noisy(cube[:, 0] + cube[:, 1], 0.01, 2, generator(0)))
    found = variance_of(table, plan, TASK, "lora")
    assert found.answered, found.sentence
    assert "analysis of variance of a full factorial" in found.basis["method"]
    assert found.values["first"]["rank"].value == pytest.approx(0.5, abs=0.05)
    assert found.values["pairs"]["learning_rate x rank"].low == 0


def test_one_knob_and_the_variant_are_the_factors_of_a_line() -> None:
    plan = replace(GRID, knobs=dict.fromkeys(("lora", "pissa", "dora"), (LINE,)))
    u = crossed((LINE,))
    tops = {"lora": 0.6, "pissa": 0.3, "dora": 0.6}
    exact = np.stack([-((u[:, 0] - top) ** 2) for top in tops.values()])
    tables = [
        runs(v, (LINE,), u, noisy(y, 0.01, 3, generator(i))) for i, (v, y) in enumerate(zip(tops, exact, strict=True))
    ]
    found = variance_of(pd.concat(tables, ignore_index=True), plan, TASK, POOLED).values
    for name, share in (("learning_rate", exact.mean(axis=0).var()), ("variant", exact.mean(axis=1).var())):
        assert found["first"][name].low <= share / exact.var() <= found["first"][name].high
        assert found["first"][name].value == pytest.approx(share / exact.var(), abs=0.03)


def test_a_single_run_per_cell_takes_the_combination_of_all_for_noise() -> None:
    found = variance_of(gridded(rugged, seeds=1), GRID, TASK, "lora")
    assert found.answered
    assert "taken as noise" in found.basis["method"]
    assert found.values["first"]["learning_rate"].high > found.values["first"]["learning_rate"].low


@pytest.mark.parametrize("spoil", [lambda t: t.drop(index=5), lambda t: t[~((t["seed"] == 2) & (t["rank"] == 2))]])
def test_a_grid_with_holes_is_no_factorial(spoil: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    assert factorial(cell_of(gridded(rugged), GRID)) is not None
    assert factorial(cell_of(spoil(gridded(rugged)), GRID)) is None


# Seeds


def test_seeds_that_move_the_optimum_widen_the_intervals() -> None:
    plan = Plan({TASK: "maximize"}, {"lora": (RATE, RANK)})
    surface = Surface({"lora": -2.0}, curvature=0.05, floor=False, noise=0.005)
    widths = []
    for shift in (0.0, 0.5):
        table = simulate(replace(surface, seed_shift=shift), plan, 64, 4, generator(1))
        share = variance_of(table, plan, TASK, "lora").values["deviation"]
        widths.append(share.high - share.low)
    assert widths[1] > 1.5 * widths[0]


def test_the_shares_of_a_factorial_hold_over_seeds_that_move_the_optimum() -> None:
    plan = replace(GRID, knobs={"lora": (LINE, Levels("rank", (2, 4, 8, 16), 4), Levels("alpha", (4, 16, 64), 16))})
    surface = Surface({"lora": -2.6}, curvature=0.15, seed_shift=0.2)
    true, held, errors = truth(surface, plan, ("lora",)), [], []
    for seed in range(30):
        values = variance_of(simulate(surface, plan, 9, 3, generator(seed)), plan, TASK, "lora").values
        for kind, shares in (("first", true.first), ("total", true.total)):
            for name in ("learning_rate", "rank", "alpha"):
                held.append(values[kind][name].low <= shares[name] <= values[kind][name].high)
        held.append(values["deviation"].low <= true.deviation <= values["deviation"].high)
        errors.append(values["first"]["learning_rate"].value - true.first["learning_rate"])
    assert np.mean(held) > 0.92
    assert abs(np.mean(errors)) < 0.006  # 0.03 where the seeds' errors are taken for noise alike in all cells


# The focus knob's share against the width of its range


def peaked(u: np.ndarray) -> np.ndarray:
    """A parabola over four decades of the learning rate, its top at 10^-2.6, beside another knob's ramp."""
    return -0.06 * (4 * u[:, 0] - 2.4) ** 2 + 0.2 * u[:, 1]


def exact_share(low: float, high: float) -> float:
    decades = np.linspace(np.log10(low), np.log10(high), 10001)
    part = (-0.06 * (decades + 2.6) ** 2).var()
    return float(part / (part + 0.04 / 12))


@pytest.mark.parametrize(("points", "error"), [(64, 0.05), (16, 0.2)])
def test_a_narrower_range_shrinks_the_share_as_quadrature_says(points: int, error: float) -> None:
    knobs = (RATE, LogFloat("alpha", 4, 64, 8))
    plan = Plan({TASK: "maximize"}, {"lora": knobs})
    widths = variance_of(sampled(knobs, peaked, points), plan, TASK, POOLED).values["by_width"]
    assert [round(row["decades"], 6) for row in widths] == [4, 2, 1]
    for row in widths:
        true = exact_share(row["low"], row["high"])
        assert row["low"] <= 10**-2.6 <= row["high"]
        assert row["first"].low <= true <= row["first"].high, (row, true)
        assert row["first"].value == pytest.approx(true, abs=error)
    assert widths[0]["first"].value > 0.6 > 0.3 > widths[2]["first"].value


def test_the_widths_of_a_factorial_are_its_levels() -> None:
    table = gridded(lambda u: -0.06 * (4 * u[:, 0] - 2.4) ** 2 + 0.2 * u[:, 1], noise=0.01)
    found = variance_of(table, GRID, TASK, "lora").values
    assert found["by_width"][0]["first"] == found["first"]["learning_rate"]
    whole, two, one = found["by_width"]
    for row in (two, one):
        inside = np.array([LINE.encode(v) for v in LINE.values if row["low"] * 0.999 <= v <= row["high"] * 1.001])
        part = np.var(-0.06 * (4 * inside - 2.4) ** 2)
        true = part / (part + 0.04 * np.var([1 / 6, 3 / 6, 5 / 6]))
        assert row["first"].low <= true <= row["first"].high
    assert whole["first"].value > one["first"].value


# Gates


KNOBS: tuple[Knob, ...] = (RATE, RANK, LogFloat("alpha", 4, 64, 8), INIT, LogFloat("dropout", 1e-3, 1, 0.1))
FOREIGN = Plan({TASK: "maximize"}, {"lora": KNOBS}, design="foreign")


@cache
def any_cell() -> Cells:
    return cell_of(runs("lora", KNOBS, generator(0).random((8, 5)), np.arange(8.0)[None]), FOREIGN)


def refused(cube: np.ndarray) -> str | None:
    where = {k.name: np.array([k.encode(k.decode(u)) for u in column]) for k, column in zip(KNOBS, cube.T, strict=True)}
    return sampling_refusal(any_cell()._replace(where=where, good=cube[None, :, 0]), FOREIGN)


@pytest.mark.parametrize("points", [24, 100, 400])
def test_independent_designs_are_refused_once_in_ten_at_most(points: int) -> None:
    assert np.mean([bool(refused(generator(seed).random((points, 5)))) for seed in range(50)]) <= 0.1


@pytest.mark.parametrize(
    ("spoil", "pair"),
    [
        (lambda u: np.abs(2 * u[:, 0] - 1), (2, "learning_rate and alpha moved together")),  # no correlation
        (lambda u: (u[:, 0] + 0.2 * u[:, 1]) / 1.2, (2, "learning_rate and alpha moved together (correlation")),
        (lambda u: (np.abs(u[:, 0] - 0.5) > 0.25) / 2.0, (3, "learning_rate and init moved together")),
    ],
)
def test_dependent_knobs_are_refused_whatever_the_shape(
    spoil: Callable[[np.ndarray], np.ndarray], pair: tuple[int, str]
) -> None:
    cube = generator(0).random((100, 5))
    cube[:, pair[0]] = spoil(cube)
    assert pair[1] in str(refused(cube))


def test_variants_with_different_values_of_a_knob_are_refused() -> None:
    plan = replace(FOREIGN, knobs={"lora": KNOBS, "dora": KNOBS})
    low, high = generator(2).random((64, 5)), generator(3).random((64, 5))
    low[:, 4], high[:, 4] = low[:, 4] / 2, 0.5 + high[:, 4] / 2
    tables = [runs(v, KNOBS, cube, cube[None, :, 0]) for v, cube in (("lora", low), ("dora", high))]
    cell = cell_of(pd.concat(tables, ignore_index=True), plan)
    assert "the variants were given different values of dropout" in str(sampling_refusal(cell, plan))


def test_a_foreign_table_that_crowds_where_results_were_good_is_refused() -> None:
    cube = generator(0).random((100, 5))
    cube[20:, 0] = 0.6 + 0.05 * generator(1).normal(size=80)
    assert "crowd" in str(refused(cube))


def test_a_robust_subject_is_told_with_both_deviations() -> None:
    found = variance_of(gridded(lambda u: 1e-3 * u[:, 0], noise=0.05), GRID, TASK, "lora")
    assert not found.answered
    assert "there is little to explain: settings differ with an SD of" in found.sentence
    assert "seeds alone give" in found.sentence
    assert [record.unit for record in found.records] == ["score", "score"]
    settings, seeds = (record.estimate.value for record in found.records)
    assert seeds == pytest.approx(0.05 / np.sqrt(3), rel=0.2)
    assert settings < 1.4 * seeds


def test_a_made_up_knob_shows_less_than_a_real_one_and_more_in_noise() -> None:
    knobs = (RATE, LogFloat("alpha", 4, 64, 8))
    plan = Plan({TASK: "maximize"}, {"lora": knobs})
    floors = [noise_floor(stand_in(cell_of(sampled(knobs, peaked, 64, noise=noise), plan))) for noise in (0.03, 0.8)]
    assert floors[0] < 0.01
    assert floors[0] < floors[1] < 0.3


# Records


def test_every_number_is_recorded_and_every_share_names_its_deviation() -> None:
    found = variance_of(gridded(rugged), GRID, TASK, "lora")
    shares = [record for record in found.records if "share" in record.quantity]
    assert all(record.unit.startswith("share of an SD of ") for record in shares)
    published = [*found.values["first"].values(), *found.values["total"].values(), *found.values["pairs"].values()]
    published += [row[kind] for row in found.values["by_width"] for kind in ("first", "total", "deviation")]
    recorded = [record.estimate for record in found.records]
    assert all(estimate in recorded for estimate in published)
    assert all(
        record.given for record in shares if record.estimate in [row["first"] for row in found.values["by_width"][1:]]
    )
