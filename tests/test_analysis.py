"""What every analysis promises: an answer or a reason in one sentence, from the design's own results only."""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from study.analysis import POOLED, Finding, Plan, analyze, ranking
from study.analysis.axis import axis_of
from study.analysis.cells import cells, explored, replicate_variance
from study.analysis.compare import compare
from study.analysis.cost import cost
from study.analysis.curves import one_decade, shortfall, window
from study.analysis.known import START, Surface, simulate
from study.analysis.response import response_of
from study.analysis.sensitivity import sensitivity_of
from study.analysis.surrogate import Data, held_out, resampled
from study.analysis.total_effects import data_of, factors_of
from study.analysis.variance import variance_of
from study.errors import BadInput
from study.space import Choice, Knob, Levels, LogFloat

TASK = "task"
RATE, ALPHA = LogFloat("learning_rate", 1e-5, 1e-1, 1e-3), LogFloat("alpha", 4, 64, 8)
RANK, INIT = Levels("rank", (2, 4, 8, 16), 4), Choice("init", ("a", "b"), "a")
SURFACE = Surface({"lora": -2.6, "pissa": -3.2}, curvature=0.1)
PLAN = Plan({TASK: "maximize"}, {"lora": (RATE, RANK, ALPHA, INIT), "pissa": (RATE, RANK, ALPHA)})
ONE = replace(PLAN, knobs={"lora": PLAN.knobs["lora"]})
QUESTIONS = ("response", "sensitivity", "variance")


def study(points: int = 16, seeds: int = 2, plan: Plan = PLAN, surface: Surface = SURFACE) -> pd.DataFrame:
    return simulate(surface, plan, points, seeds, np.random.default_rng(0))


def confirm(table: pd.DataFrame, seeds: int, gap: float = 0.0) -> pd.DataFrame:
    """The table with a confirm phase: the first setting of each variant on fresh seeds, pissa `gap` above lora."""
    rows = []
    for (variant, first), seed in itertools.product(
        table.groupby("variant").first().iterrows(), range(100, 100 + seeds)
    ):
        score = 0.8 + 0.001 * (seed % 7) + gap * (variant == "pissa") + 0.0005 * (seed % 2) * (variant == "lora")
        scores = {"val_score": score, "test_score": score, "diverged": False, "state": "finished"}
        rows.append(first.to_dict() | scores | {"variant": variant, "phase": "confirm", "seed": seed})
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)


def test_cost_is_the_median_step_against_the_reference() -> None:
    table = study(8).assign(steps=10, trainable=7)
    table["cpu_seconds"] = table["variant"].map({"lora": 0.2, "pissa": 0.3})
    lora, pissa = cost(table, PLAN, TASK)
    assert lora.values == {"CPU ms per step": pytest.approx(20), "trainable parameters": 7}
    assert pissa.values["times lora"] == pytest.approx(1.5)
    assert "1.5 times that of lora; it trains 7 parameters" in pissa.sentence


def test_results_without_their_cost_are_not_asked_for_it() -> None:
    assert cost(study(8), PLAN, TASK) == []


# The findings as a whole


@pytest.fixture(scope="module")
def quickstart() -> list[Finding]:
    return analyze(confirm(study(), seeds=2), PLAN)


def test_every_question_is_put_to_every_subject(quickstart: list[Finding]) -> None:
    asked = [(finding.question, finding.subject) for finding in quickstart]
    everyone = (POOLED, "lora", "pissa")
    assert asked == [
        *itertools.product((*QUESTIONS, "peers"), everyone),
        *(("comparison", variant) for variant in PLAN.knobs),
        ("stability", POOLED),
        ("shared value", POOLED),
        *((question, "pissa") for question in ("shift", "tunability")),
        ("budget", POOLED),
    ]


def test_findings_are_json(quickstart: list[Finding]) -> None:
    documents = json.loads(json.dumps([finding.document() for finding in quickstart], allow_nan=False))
    assert documents[0]["values"]["best"].keys() == {"value", "low", "high"}


def test_a_sentence_says_what_it_stands_on(quickstart: list[Finding]) -> None:
    pooled = [f for f in quickstart if f.subject == POOLED and f.question in QUESTIONS]
    assert len(pooled) == 3
    for finding in pooled:
        assert "From 32 settings of 2 variants, 2 seeds, 64 runs of which 0 diverged" in finding.sentence
        assert "conditional on these 2 seeds" in finding.sentence
        assert "[" in finding.sentence


def test_every_interval_holds_its_value(quickstart: list[Finding]) -> None:
    def estimates(value: object) -> list[dict[str, float]]:
        if isinstance(value, dict):
            here = [value] if value.keys() == {"value", "low", "high"} else []
            return here + [inner for part in value.values() for inner in estimates(part)]
        return []

    found = [e for finding in quickstart for e in estimates(finding.document()["values"])]
    assert len(found) > 40
    assert all(e["low"] is None or e["low"] <= e["value"] <= e["high"] for e in found)


def test_the_same_table_gives_the_same_findings() -> None:
    table = study(plan=ONE)
    first, again = (variance_of(some, ONE, TASK, POOLED).document() for some in (table, table.sample(frac=1)))
    assert first["values"]["first"] == again["values"]["first"]


def test_a_quickstart_is_analysed_in_seconds() -> None:
    variants = dict.fromkeys(("lora", "rslora", "lora_plus", "dora", "pissa"), PLAN.knobs["lora"])
    plan = replace(PLAN, knobs=variants)
    table = study(16, plan=plan, surface=Surface(dict.fromkeys(variants, -2.6)))
    start = time.process_time()
    analyze(table, plan)
    assert time.process_time() - start < 20


def test_the_ranking_is_the_pooled_shares_largest_first(quickstart: list[Finding]) -> None:
    ranks = ranking(quickstart)
    assert {rank.knob for rank in ranks} == {"learning_rate", "rank", "alpha", "init", "variant"}
    assert ranks[0].knob == "learning_rate"
    shares = [rank.first.value for rank in ranks]
    assert shares == sorted(shares, reverse=True)
    assert all(rank.deviation > 0 and rank.task == TASK for rank in ranks)


def test_a_ranking_of_refusals_is_empty() -> None:
    assert ranking(analyze(study()[:0], PLAN)) == []


# What cannot be answered


def all_diverged(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(state="diverged", diverged=True, val_score=np.nan, val_loss=np.inf)


UNANSWERABLE: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "no rows": (lambda table: table[:0], "no explore result"),
    "no columns": (lambda table: pd.DataFrame(), "no explore result"),
    "only confirmed rows": (lambda table: table.assign(phase="confirm"), "no explore result"),
    "three settings": (lambda table: table[table["key"].str.endswith(("-0", "-1", "-2"))], "3 settings are too few"),
    "all diverged": (all_diverged, "all 64 runs diverged"),
    "constant score": (lambda table: table.assign(val_score=0.7), "every run scored 0.7"),
    "three learning rates": (
        lambda table: table.assign(learning_rate=table["learning_rate"].rank(method="dense").mod(3).add(1).mul(1e-3)),
        "learning_rate took 3 values",
    ),
}


@pytest.mark.parametrize("case", UNANSWERABLE)
def test_too_little_is_told_with_its_reason(case: str) -> None:
    change, reason = UNANSWERABLE[case]
    findings = analyze(change(study()), PLAN)
    pooled = [f for f in findings if f.subject == POOLED and f.question in QUESTIONS]
    assert len(pooled) == 3
    for finding in pooled:
        assert not finding.answered
        assert reason in finding.sentence


def pure_noise(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(val_score=0.7 + np.random.default_rng(3).normal(0, 0.01, len(table)))


SHARELESS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], Plan, str]] = {
    "adaptive design": (lambda t: t, replace(PLAN, design="tpe"), "looking at earlier results"),
    "pure noise": (pure_noise, PLAN, "little to explain"),
    "one seed": (lambda t: t[t["seed"] == 0], PLAN, "run-to-run noise is unknown"),
    "one knob": (lambda t: t[t["variant"] == "lora"], replace(PLAN, knobs={"lora": (RATE,)}), "only one knob varied"),
    "few points": (lambda t: t[t["key"].str.contains("-[0-6]$")], PLAN, "64 would be needed"),
}


@pytest.mark.parametrize("case", SHARELESS)
def test_shares_are_refused_with_their_reason(case: str) -> None:
    change, plan, reason = SHARELESS[case]
    finding = variance_of(change(study()), plan, TASK, POOLED)
    assert not finding.answered
    assert reason in finding.sentence


def test_knobs_that_moved_together_get_no_shares() -> None:
    table = study(64, plan=ONE)
    together = table.assign(alpha=[ALPHA.decode(RATE.encode(rate)) for rate in table["learning_rate"]])
    finding = variance_of(together, ONE, TASK, "lora")
    assert not finding.answered
    assert "moved together" in finding.sentence


def test_a_short_study_of_one_variant_gets_advice_instead_of_shares() -> None:
    finding = variance_of(study(), PLAN, TASK, "lora")
    assert not finding.answered
    assert "16 points cannot tell combinations of 4 knobs apart; 64 would be needed" in finding.sentence


def test_a_knob_of_one_level_is_left_out() -> None:
    plan = replace(ONE, knobs={"lora": (RATE, Levels("rank", (4,), 4), ALPHA)})
    finding = variance_of(study(plan=ONE).assign(rank=4), plan, TASK, POOLED)
    assert finding.answered
    assert finding.values["first"].keys() == {"learning_rate", "alpha"}


def test_a_focus_that_did_not_vary_in_a_variant_is_told_for_it_and_left_out_of_the_pool() -> None:
    plan = replace(PLAN, knobs=PLAN.knobs | {"pissa": (RANK, ALPHA)})
    table = study(plan=PLAN)
    table.loc[table["variant"] == "pissa", "learning_rate"] = 1e-3
    assert "learning_rate did not vary" in response_of(table, plan, TASK, "pissa").sentence
    assert response_of(table, plan, TASK, POOLED).basis["variants"] == 1


def test_a_value_that_a_spec_fixed_for_one_variant_is_no_place_on_the_others_axis() -> None:
    plan = replace(PLAN, knobs={"lora": PLAN.knobs["lora"], "pissa": (RATE, ALPHA)})
    table = study()
    table.loc[table["variant"] == "pissa", "rank"] = 64
    pooled = variance_of(table, plan, TASK, POOLED)
    assert pooled.answered
    assert "rank" in pooled.values["first"]


def test_variants_with_different_ranges_are_not_pooled() -> None:
    plan = replace(PLAN, knobs=PLAN.knobs | {"pissa": (LogFloat("learning_rate", 1e-6, 1e-1, 1e-3), RANK, ALPHA)})
    assert "different ranges" in response_of(study(), plan, TASK, POOLED).sentence
    assert response_of(study(), plan, TASK, "pissa").answered


# What enters


def test_only_explore_results_enter() -> None:
    table = study(plan=ONE)
    extra = table[:8].assign(phase="confirm", val_score=0.99, learning_rate=1e-5, seed=7)
    first, second = (response_of(t, ONE, TASK, POOLED) for t in (table, pd.concat([table, extra])))
    assert first == second


def test_a_diverged_run_stands_at_the_untouched_model() -> None:
    table = study(plan=ONE)
    lost = table["learning_rate"] > 1e-2
    told = table.assign(diverged=lost, state=np.where(lost, "diverged", "finished"))
    told.loc[lost, ["val_score", "val_loss"]] = [np.nan, np.inf]
    raw = response_of(told, ONE, TASK, POOLED).values["raw"]
    assert sum(raw["diverged"]) == lost.sum() > 0
    assert {y for y, diverged in zip(raw["y"], raw["diverged"], strict=True) if diverged} == {START}


def test_a_run_that_ended_in_no_number_counts_as_diverged() -> None:
    table = study(plan=ONE)
    table.loc[table.index[:2], "val_loss"] = np.nan
    assert response_of(table, ONE, TASK, POOLED).basis["diverged"] == 2


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadInput, match="table: no column val_loss"):
        analyze(study().drop(columns="val_loss"), PLAN)


def test_a_value_that_was_not_declared_is_named() -> None:
    with pytest.raises(BadInput, match=r"column rank: 3 was not declared \(2, 4, 8, 16\)"):
        analyze(study().assign(rank=3), PLAN)


def test_an_empty_value_of_a_knob_that_the_variant_has_is_named() -> None:
    with pytest.raises(BadInput, match="column alpha: is empty"):
        analyze(study().assign(alpha=np.nan), PLAN)


@pytest.mark.parametrize("knob", [INIT, Levels("steps", (0, 10), 0), Levels("use_bias", (True, False), True)])
def test_a_focus_without_a_logarithm_is_refused(knob: Knob) -> None:
    with pytest.raises(BadInput, match="has no logarithm"):
        Plan({TASK: "maximize"}, {"lora": (knob,)}, focus=knob.name)


def test_a_table_with_holes_is_analysed() -> None:
    table = study().drop(index=range(0, 64, 7)).query("not (variant == 'pissa' and seed == 1 and rank == 2)")
    findings = [question(table, PLAN, TASK, POOLED) for question in (response_of, sensitivity_of, variance_of)]
    assert all(finding.answered for finding in findings)


# Points, cells and folds


def test_variants_share_the_points_of_the_design() -> None:
    cell = cells(explored(study(), TASK, PLAN.responsive), PLAN, TASK, "score")
    assert cell.good.shape == (2, 16)
    assert np.isfinite(cell.good).all()
    assert cell.has["init"].tolist() == [1, 0]


def test_a_level_shared_by_all_settings_of_a_seed_is_not_replicate_noise() -> None:
    table = study(32, seeds=4, plan=ONE, surface=replace(SURFACE, noise=0.01, seed_level=0.2))
    found = replicate_variance(table["val_score"], table["variant"], table["learning_rate"], table["seed"])
    assert found == pytest.approx(0.01**2, rel=0.4)


def test_a_point_is_held_out_with_all_its_rows() -> None:
    cell = cells(explored(study(), TASK, PLAN.responsive), PLAN, TASK, "score")
    data, _ = data_of(cell, factors_of(cell))
    seen: list[set[int]] = []

    def predict(some: Data, x: np.ndarray) -> np.ndarray:
        seen.append(set(some.point.tolist()))
        assert len(some.y) == 2 * len(seen[-1])
        assert len(x) == len(data.y) - len(some.y)
        return np.zeros(len(x))

    assert held_out(data, predict) == pytest.approx(0)
    assert set.intersection(*seen) == set()


def test_a_resampled_point_keeps_all_its_rows() -> None:
    data = Data(np.arange(12.0)[:, None], np.arange(12.0), np.arange(12) % 4)
    _, counts = np.unique(resampled(data, np.random.default_rng(0)).point, return_counts=True)
    assert (counts % 3 == 0).all()


def test_a_choice_is_one_factor_and_is_neutral_where_a_variant_lacks_it() -> None:
    cell = cells(explored(study(), TASK, PLAN.responsive), PLAN, TASK, "score")
    factors = factors_of(cell)
    data, _ = data_of(cell, factors)
    assert [factor.name for factor in factors] == ["learning_rate", "rank", "alpha", "init", "variant"]
    assert data.x.shape == (32, 3 + 2 + 2)
    assert (data.x[:16, 3:5].sum(axis=1) == 1).all()
    assert (data.x[16:, 3:5] == 0).all()


# Curves


def test_a_window_is_contiguous_interpolated_and_says_where_it_is_cut() -> None:
    at = np.linspace(0, 1, 101)
    curve = -np.abs(at - 0.3)
    found = window(curve, at, 0.101)
    assert (found.low, found.high) == pytest.approx((0.199, 0.401))
    assert not found.cut_low
    assert not found.cut_high
    twin = np.maximum(curve, -np.abs(at - 0.9))
    assert window(twin, at, 0.101).high == pytest.approx(0.401)
    assert window(curve, at, 0.35).cut_low


def test_no_value_costs_more_than_not_training() -> None:
    weight = np.full(4, 0.25)
    assert shortfall(np.array([1.0, 0.5, -9.0, -99.0]), weight, 0.0) == pytest.approx(0.625)
    assert shortfall(np.array([-1.0, -2.0, -3.0, -4.0]), weight, 0.0) == 0


def test_a_decade_around_the_best_stays_inside_the_range() -> None:
    axis = axis_of(RATE)
    for best in (0, 60, 120):
        inside = axis.decades[one_decade(axis, best) > 0]
        assert np.ptp(inside) == pytest.approx(1, abs=0.04)
        assert inside.min() - 1e-6 <= axis.decades[best] <= inside.max() + 1e-6
    assert np.allclose(one_decade(axis_of(RANK), 0), 1 / 4)  # 0.9 decades: all of it
    assert one_decade(axis_of(INIT), 0) is None


def test_an_optimum_at_the_end_of_the_range_is_told_and_not_ranked() -> None:
    finding = response_of(study(plan=ONE, surface=replace(SURFACE, best={"lora": 1.0}, floor=False)), ONE, TASK, "lora")
    assert finding.values["boundary"] == "high"
    assert not finding.values["ranked"]
    assert finding.values["window"]["cut_high"]
    assert "not ranked" in finding.sentence


def test_a_score_to_minimize_is_the_mirror_of_one_to_maximize() -> None:
    table = study(plan=ONE)
    mirrored = table.assign(val_score=-table["val_score"], score0=-table["score0"])
    up = response_of(table, ONE, TASK, "lora").values
    down = response_of(mirrored, replace(ONE, directions={TASK: "minimize"}), TASK, "lora").values
    assert down["best"] == up["best"]
    assert down["mean"] == pytest.approx([-y for y in up["mean"]])
    assert down["low"] == pytest.approx([-y for y in up["high"]])
    assert down["best_score"] == pytest.approx((-up["best_score"].value, -up["best_score"].high, -up["best_score"].low))


def test_learning_rates_given_as_levels_give_the_response_of_their_range() -> None:
    grid = RATE.grid(13)
    plan = Plan({TASK: "maximize"}, {"lora": (Levels("learning_rate", tuple(grid), 1e-3),)}, design="grid")
    scores = [0.8 - 0.1 * (np.log10(rate) + 2.6) ** 2 for rate in grid]
    table = study(13, seeds=1, plan=plan).assign(learning_rate=grid, val_score=scores, key=[f"k{i}" for i in range(13)])
    values = response_of(table, plan, TASK, "lora").values
    assert len(values["x"]) == 61
    assert (values["x"][0], values["x"][-1]) == (1e-5, 1e-1)
    assert np.log10(values["best"].value) == pytest.approx(-2.6, abs=0.05)


# Comparisons


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "within the margin"), (0.05, "better"), (-0.05, "worse")])
def test_a_difference_is_paired_and_judged_by_its_interval(gap: float, verdict: str) -> None:
    finding = compare(confirm(study(8), 5, gap), PLAN, TASK)[1]
    assert finding.answered
    assert finding.values["verdict"] == verdict
    assert finding.values["difference"].value == pytest.approx(gap, abs=0.001)
    assert finding.values["pairs"] == 5


def test_two_seeds_give_a_difference_without_an_interval() -> None:
    finding = compare(confirm(study(8), 2, 0.05), PLAN, TASK)[1]
    assert finding.values["difference"] == (pytest.approx(0.05, abs=0.001), None, None)
    assert finding.values["verdict"] == "not decided"
    assert "too few for an interval" in finding.sentence


def test_without_a_confirmed_reference_there_is_no_difference() -> None:
    table = confirm(study(8), 5)
    findings = compare(table[(table["variant"] != "lora") | (table["phase"] == "explore")], PLAN, TASK)
    assert [finding.answered for finding in findings] == [False, False]
    assert "difference" not in findings[1].values
    assert "no seed was confirmed" in findings[1].sentence


def test_the_selected_setting_is_told_in_declared_values() -> None:
    setting = compare(confirm(study(8), 3), PLAN, TASK)[0].values["setting"]
    assert setting.keys() == {"learning_rate", "rank", "alpha", "init"}
    assert isinstance(setting["rank"], int)
