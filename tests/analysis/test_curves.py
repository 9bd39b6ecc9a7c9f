"""Curves and their costs on surfaces whose answers are known: seeds, selected settings, rankings, bounds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import qmc

from study.analysis import POOLED, Estimate, Plan
from study.analysis.axis import axis_of
from study.analysis.cells import Cells, cells, explored
from study.analysis.conditional import selected
from study.analysis.curves import locate, one_decade, window_width
from study.analysis.known import Surface, simulate, truth
from study.analysis.marginal import marginal
from study.analysis.response import response_of
from study.analysis.seeds import per_seed, seed_draws, seed_effects
from study.analysis.sensitivity import Cost, cost, cost_on, sensitivity_of, verdict
from study.space import Levels, LogFloat

TASK = "task"
RATE, ALPHA = LogFloat("learning_rate", 1e-5, 1e-1, 1e-3), LogFloat("alpha", 1e-1, 1e1, 1)
RANK = Levels("rank", (2, 8), 2)
LINE = Plan({TASK: "maximize"}, {"lora": (RATE,)})
PAIR = Plan({TASK: "maximize"}, {"lora": (RATE, ALPHA)})
SURFACE = Surface({"lora": -2.6}, curvature=0.06, floor=False)
BUMP = Surface({"lora": -2.6}, curvature=0.15)


def one_cell(surface: Surface, plan: Plan, points: int, seeds: int, seed: int) -> Cells:
    table = simulate(surface, plan, points, seeds, np.random.default_rng(seed))
    return cells(explored(table, TASK, ("lora",)), plan, TASK, "score")


def of_decades(function: Callable[[np.ndarray, np.ndarray], np.ndarray], points: int = 64) -> pd.DataFrame:
    """A study of one variant, 2 seeds: the score is a function of log10 learning rate and log10 alpha."""
    cube = qmc.Sobol(2, rng=np.random.default_rng(7)).random(points)
    rate, alpha = np.array([[RATE.decode(u), ALPHA.decode(v)] for u, v in cube]).T
    score = function(np.log10(rate), np.log10(alpha))
    frame = pd.DataFrame({"learning_rate": rate, "alpha": alpha, "key": [f"k{i}" for i in range(points)]})
    noise = [0.002 * np.random.default_rng(seed).normal(size=points) for seed in (0, 1)]
    table = pd.concat([frame.assign(seed=seed, val_score=score + noise[seed]) for seed in (0, 1)], ignore_index=True)
    fixed = {"task": TASK, "variant": "lora", "phase": "explore", "state": "finished", "diverged": False}
    return table.assign(**fixed, val_loss=-table["val_score"], test_score=np.nan, loss0=1e3, score0=-1e3)


# Seeds


def test_the_effects_of_seeds_are_recovered_with_the_noise_taken_out() -> None:
    surface = replace(SURFACE, seed_level=0.03, seed_shift=0.1, noise=0.01)
    found = [per_seed(one_cell(surface, LINE, 16, 40, seed), LINE) for seed in range(4)]
    level, slope = np.mean([one.effects.var(axis=0, ddof=1) - one.error for one in found], axis=0)
    assert np.mean([one.noise for one in found]) == pytest.approx(0.01**2, rel=0.1)
    assert slope == pytest.approx((2 * 0.06 * 4 * 0.1) ** 2, rel=0.3)  # 2 k d per decade, 4 decades
    assert level == pytest.approx(0.03**2 + (2 * 0.06 * 0.4 * 0.1) ** 2, rel=0.3)  # the middle is 0.4 decades off


def test_draws_over_three_seeds_have_the_tails_of_two_degrees_of_freedom() -> None:
    cell = one_cell(replace(SURFACE, seed_level=0.05, noise=1e-4), LINE, 16, 3, 0)
    level = seed_effects(cell, LINE, 20000, np.random.default_rng(0)).level
    error = np.sqrt(per_seed(cell, LINE).effects[:, 0].var(ddof=1) / 3)
    assert np.percentile(level, 97.5) == pytest.approx(4.30 * error, rel=0.1)
    assert level.mean() == pytest.approx(0, abs=1e-12)


def test_two_seeds_add_nothing() -> None:
    cell = one_cell(SURFACE, LINE, 16, 2, 0)
    assert not seed_draws(cell, LINE, 10, np.random.default_rng(0)).any()


def test_three_seeds_widen_the_best_scores_interval_and_leave_the_cost_alone() -> None:
    calm, lucky = (one_cell(replace(SURFACE, curvature=0.03, seed_level=s), LINE, 13, 3, 1) for s in (0.0, 0.05))
    top = [np.percentile(marginal(c, LINE, "learning_rate").response.max(axis=1), (2.5, 97.5)) for c in (calm, lucky)]
    assert np.ptp(top[1]) > 3 * np.ptp(top[0])
    costs = [tuple(cost(cell, LINE, "learning_rate").range) for cell in (calm, lucky)]
    assert costs[1] == pytest.approx(costs[0], rel=1e-3)


def test_a_sentence_over_three_seeds_says_so() -> None:
    found = response_of(simulate(SURFACE, LINE, 13, 3, np.random.default_rng(0)), LINE, TASK, "lora")
    assert "intervals hold over seeds" in found.sentence


@pytest.mark.parametrize(("surface", "points"), [(replace(SURFACE, seed_shift=0.2), 13), (SURFACE, 32)])
def test_intervals_over_seeds_hold_the_truth(surface: Surface, points: int) -> None:
    """A smoke test: `make calibrate` counts the share."""
    studies, true, held = 20, truth(surface, LINE, ("lora",)), np.zeros(3)
    for seed in range(studies):
        table = simulate(surface, LINE, points, 3, np.random.default_rng(seed))
        values = response_of(table, LINE, TASK, "lora").values
        cell = cells(explored(table, TASK, ("lora",)), LINE, TASK, "score")
        intervals = [
            (*np.log10(values["best"][1:]), true.best),
            (*values["window_decades"][1:], true.window),
            (*cost(cell, LINE, "learning_rate").range[1:], true.sensitivity),
        ]
        held += [low <= middle + 1e-9 and middle <= high + 1e-9 for low, high, middle in intervals]
    assert (held / studies >= 0.75).all(), held / studies


# Selected settings


def test_conditional_and_marginal_costs_of_a_coupled_knob_are_their_closed_forms() -> None:
    """k (x + g a)^2: fixed at (0, 0) alpha costs k g^2 E[a^2]; averaged over x as much; retuned nothing."""
    k, g, rate = 0.05, 1.0, -3.0
    table = of_decades(lambda x, a: 0.8 - k * (x - rate + g * a) ** 2)
    best = table["val_score"].idxmax()
    x, a = np.log10(table.loc[best, "learning_rate"]) - rate, np.log10(table.loc[best, "alpha"])
    values = sensitivity_of(table, PAIR, TASK, "lora").values
    marginals, fixed, retuned = (values[kind] for kind in ("score", "conditional", "retuned"))
    fixed, retuned = fixed["score"], retuned["score"]
    assert retuned.keys() == {"alpha"}
    assert retuned["alpha"]["range"].value < 0.1 * fixed["alpha"]["range"].value
    assert fixed["alpha"]["range"].value == pytest.approx(k * (1 / 3 + x**2), rel=0.2)  # its best is at -x
    assert fixed["learning_rate"]["range"].value == pytest.approx(k * (4 / 3 + a**2), rel=0.15)
    assert marginals["learning_rate"]["range"].value == pytest.approx(k * 4 / 3, rel=0.15)


def test_averaging_over_a_coupled_knob_hides_what_it_costs_with_the_rest_fixed() -> None:
    """(x - r) a has no main effect of alpha at all, and costs |x - r| away from the middle."""
    table = of_decades(lambda x, a: 0.8 - 0.05 * (x + 3) ** 2 + 0.1 * (x + 3) * a - 0.01 * a**2)
    values = sensitivity_of(table, PAIR, TASK, "lora").values
    assert values["conditional"]["score"]["alpha"]["range"].value > 3 * values["score"]["alpha"]["range"].value


def test_every_phase_but_confirm_may_select() -> None:
    table = simulate(SURFACE, LINE, 16, 2, np.random.default_rng(0))
    better = table[:1].assign(phase="refine", key="new", learning_rate=2e-3, val_score=0.95)
    fresh = table[:1].assign(phase="confirm", key="fresh", learning_rate=5e-5, val_score=0.99)
    assert selected(pd.concat([table, better, fresh]), LINE, TASK, "lora") == {"learning_rate": 2e-3}


def test_on_a_line_the_conditional_cost_is_the_marginal_one_and_is_said_so() -> None:
    found = sensitivity_of(simulate(SURFACE, LINE, 13, 3, np.random.default_rng(0)), LINE, TASK, "lora")
    assert found.values["conditional"]["score"] == found.values["score"]
    assert any("Only one knob varied" in caveat for caveat in found.caveats)


def test_too_few_points_leave_the_selected_setting_out_with_a_reason() -> None:
    found = sensitivity_of(of_decades(lambda x, a: -(x**2), points=8), PAIR, TASK, "lora")
    assert found.values["conditional"]["score"] == {}
    assert any("would be needed" in caveat for caveat in found.caveats)


# Rankings


def test_equal_curvature_per_decade_is_not_called_dominance() -> None:
    found = sensitivity_of(of_decades(lambda x, a: 0.8 - 0.05 * ((x + 3) ** 2 + a**2)), PAIR, TASK, POOLED)
    ranks = found.values["ranking"]
    assert ranks["by_range"] == ["learning_rate", "alpha"]
    assert not ranks["agree"]
    assert "the ranking depends on the declared ranges" in found.sentence


def test_a_knob_that_leads_in_both_measures_is_named() -> None:
    found = sensitivity_of(of_decades(lambda x, a: 0.8 - 0.05 * (x + 3) ** 2 - 0.001 * a**2), PAIR, TASK, POOLED)
    assert found.values["ranking"]["agree"]
    assert "learning_rate costs most in both measures" in found.sentence


def test_a_knob_without_a_decade_is_in_one_ranking_only() -> None:
    rate, init = Cost(Estimate(2, 1.5, 2.5), Estimate(1, 0.9, 1.1)), Cost(Estimate(3, 2, 4), None)
    ranks = verdict({"learning_rate": rate, "init": init})
    assert ranks == (["init", "learning_rate"], ["learning_rate"], False)


# Levels, bounds, units


def test_a_response_is_told_at_every_level_that_has_enough_settings() -> None:
    """The optimum moves with log10(alpha / rank): by half of log10(8 / 2) between the levels."""
    alpha = LogFloat("alpha", 8, 8.0001, 8)
    plan = Plan({TASK: "maximize"}, {"lora": (RATE, RANK, alpha)})
    surface = replace(SURFACE, noise=0.002)
    found = response_of(simulate(surface, plan, 64, 2, np.random.default_rng(0)), plan, TASK, "lora")
    at = found.values["by_level"]["rank"]
    assert np.log10(at["8"]["best"].value / at["2"]["best"].value) == pytest.approx(0.5 * np.log10(4), abs=0.1)
    assert len(at["2"]["x"]) == 13
    assert {record.given for record in found.records} == {"", "rank=2", "rank=8"}
    few = response_of(simulate(surface, plan, 6, 2, np.random.default_rng(0)), plan, TASK, "lora")
    assert few.values["by_level"] == {}


def test_censoring_a_diverged_run_raises_the_cost() -> None:
    calm = replace(SURFACE, floor=True, noise=0.003)
    costs = [cost(one_cell(replace(calm, cliff=c), LINE, 32, 3, 0), LINE, "learning_rate").range for c in (np.inf, -2)]
    assert costs[1].low > costs[0].value


def test_a_table_without_the_untouched_models_score_is_analysed_and_says_so() -> None:
    table = simulate(SURFACE, LINE, 16, 3, np.random.default_rng(0)).assign(score0=-np.inf)
    table.loc[table.index[:2], ["val_score", "diverged"]] = [np.nan, True]
    plan = replace(LINE, measures=("score",))
    for question in (response_of, sensitivity_of):
        found = question(table, plan, TASK, "lora")
        assert found.answered
        assert any("was not measured" in caveat for caveat in found.caveats)
        assert all(np.isfinite(record.estimate).all() for record in found.records)


def test_the_unit_of_the_learning_rate_does_not_matter() -> None:
    milli = LogFloat("learning_rate", 1e-2, 1e2, 1)
    table = simulate(SURFACE, LINE, 16, 2, np.random.default_rng(0))
    scaled = table.assign(learning_rate=1e3 * table["learning_rate"])
    plain, other = (
        sensitivity_of(t, replace(LINE, knobs={"lora": (k,)}), TASK, "lora").values["score"]["learning_rate"]
        for t, k in ((table, RATE), (scaled, milli))
    )
    assert other["range"] == pytest.approx(plain["range"], rel=1e-3)
    assert other["decade"] == pytest.approx(plain["decade"], rel=1e-3)


def test_the_range_is_the_declared_one_whatever_the_data_reach() -> None:
    table = simulate(SURFACE, LINE, 32, 2, np.random.default_rng(0))
    inner = table[table["learning_rate"].between(1e-4, 1e-2)]
    extended = table[:1].assign(phase="extend", learning_rate=1.0, key="beyond", val_score=0.3)
    whole, grown = (
        sensitivity_of(t, LINE, TASK, "lora").values["score"]["learning_rate"]["range"]
        for t in (table, pd.concat([table, extended]))
    )
    assert grown == whole
    narrow = sensitivity_of(inner, LINE, TASK, "lora").values["score"]["learning_rate"]["range"]
    assert narrow.high - narrow.low > 2 * (whole.high - whole.low)


# Functionals of draws


def test_the_window_of_noisy_draws_of_a_plateau_reaches_its_edges() -> None:
    at = np.linspace(0, 1, 101)
    flat = -np.maximum(np.abs(at - 0.5) - 0.25, 0)
    wiggles = 0.02 * np.random.default_rng(0).normal(size=(400, 101))
    low, high = window_width(flat + wiggles, at, 50, 0.01, np.linspace(0, 1, 13))[1:]
    assert low <= 0.52 <= high


def test_the_best_place_of_a_plateau_is_its_middle_whatever_wiggle_tops_it() -> None:
    axis = axis_of(RATE)
    flat = -np.maximum(np.abs(axis.at - 0.5) - 0.25, 0)
    draws = flat + 0.02 * np.random.default_rng(0).normal(size=(400, 121))
    middle = flat + np.where(np.arange(121) == 40, 0.001, 0)
    best = locate(draws, middle, axis)
    assert axis.at[best.place] == pytest.approx(0.5, abs=0.05)
    assert best.low <= 40 <= best.high


def test_a_top_at_an_end_of_the_range_is_the_best_place_itself() -> None:
    axis = axis_of(RATE)
    draws = axis.at + 0.5 * np.random.default_rng(0).normal(size=(400, 121))
    assert locate(draws, axis.at, axis).place == 120


@pytest.mark.parametrize("surface", [replace(BUMP, flat=0.04), replace(BUMP, curvature=0.08, cliff=-2.0), BUMP])
def test_the_best_value_and_its_decade_are_found_before_a_cliff_and_on_a_plateau(surface: Surface) -> None:
    """The top of the mean is 0.4 decades off before the cliff, and its decade falls over the edge."""
    plan, studies = replace(LINE, design="grid"), 12
    true = truth(surface, plan, ("lora",))
    cell = [one_cell(surface, plan, 13, 3, seed) for seed in range(studies)]
    fits = [marginal(one, plan, "learning_rate") for one in cell]
    best = [f.axis.decades[locate(f.response, f.response.mean(axis=0), f.axis).place] for f in fits]
    assert np.mean(best) == pytest.approx(true.best, abs=0.15)
    costs = [cost(one, plan, "learning_rate").decade for one in cell]
    assert np.mean([one.value for one in costs]) == pytest.approx(true.decade, abs=0.006)
    assert sum(one.low <= true.decade + 1e-9 and true.decade <= one.high + 1e-9 for one in costs) >= studies - 2


def test_the_cost_of_a_decade_is_uncertain_where_the_best_place_is() -> None:
    """Two tops alike, a narrow and a broad one: either may be the best, and their decades cost differently."""
    axis = axis_of(RATE)
    twin = np.maximum(-((axis.at - 0.25) ** 2), -30 * (axis.at - 0.75) ** 2)
    draws = twin + 0.01 * np.random.default_rng(0).normal(size=(400, 1)) * (axis.at > 0.5)
    found = cost_on(axis, draws, twin, -np.inf).decade
    narrow, broad = (twin[best] - twin @ one_decade(axis, best) for best in (90, 30))
    assert found.low <= broad < narrow <= found.high
