"""Studies whose answers are known, and what the analyses say of them: the cases of `benchmarks.calibrate`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from study.analysis import POOLED, Estimate, Plan
from study.analysis.axis import axis_of
from study.analysis.cells import Cells, cells, explored
from study.analysis.compare import score_and_setting
from study.analysis.conditional import selected
from study.analysis.confirmed import confirmed
from study.analysis.curves import shortfall
from study.analysis.difference import difference
from study.analysis.equivalence import p_equivalent, power_of_equivalence
from study.analysis.holm import ALPHA as LEVEL
from study.analysis.known import START, TOP, Surface, expected, simulate, truth
from study.analysis.known_confirm import confirm
from study.analysis.marginal import marginal
from study.analysis.power import p_different, power
from study.analysis.response import COARSE, described
from study.analysis.selection import selection_variance
from study.analysis.sensitivity import cost, costs_of, sensitivity_of
from study.analysis.variance import variance_of
from study.space import Choice, Knob, Levels, LogFloat, Value

TASK = "task"
RATE, ALPHA = LogFloat("learning_rate", 1e-5, 1e-1, 1e-3), LogFloat("alpha", 4, 64, 8)
RANK, INIT = Levels("rank", (2, 4, 8, 16), 4), Choice("init", ("a", "b", "c", "d"), "a")
KNOBS: tuple[Knob, ...] = (RATE, RANK, ALPHA, INIT)
BEST = {"lora": -2.6, "rslora": -2.7, "lora_plus": -2.9, "dora": -2.6, "pissa": -3.2}
FIVE = Plan({TASK: "maximize"}, {v: KNOBS[:3] if v == "pissa" else KNOBS for v in BEST})
ONE = replace(FIVE, knobs={"lora": KNOBS})
THREE_KNOBS = replace(FIVE, knobs={"lora": KNOBS[:3]})
QUARTERS = LogFloat("learning_rate", 10**-4.25, 10**-1.25, 1e-3)  # 13 quarter-decades
LINE = replace(FIVE, knobs={"lora": (QUARTERS,)}, design="grid")
LEVELS = (Levels("learning_rate", tuple(RATE.grid(9)), 1e-3), RANK, Levels("alpha", (4, 16, 64), 16))
GRID = replace(FIVE, knobs={"lora": LEVELS}, design="grid")
BUMP = Surface(BEST, init={"b": 0.01, "c": -0.01, "d": 0.02}, curvature=0.15)
PARABOLA = replace(BUMP, curvature=0.03, floor=False)
SHIFTING = replace(BUMP, seed_shift=0.2)  # decades
PLATEAU = replace(BUMP, flat=0.04)
CLIFF = replace(BUMP, curvature=0.08, cliff=-2.0)
EQUAL = Surface({"lora": -3.0}, curvature=0.05, alpha_cost=0.05, coupling=0.0, floor=False)
TWINS = replace(THREE_KNOBS, knobs=dict.fromkeys(("lora", "dora"), KNOBS[:3]), margin=0.02)
SETTINGS, FRESH, EXAMPLES = 50, 8, 2000  # of each twin: settings of two seeds, confirming seeds, test examples


class Number(NamedTuple):
    """An estimate and what it estimates."""

    name: str
    true: float
    estimate: Estimate


class Rate(NamedTuple):
    """Whether something happened, and how often it should."""

    name: str
    happened: bool
    advertised: float


Told = list[Number | Rate]
Study = Callable[[np.random.Generator], Told]


class Case(NamedTuple):
    """A kind of study."""

    prepare: Callable[[], Study]  # computes the truth once
    studies: int
    most: int  # where so many studies leave a number's coverage undecided


def cell_of(surface: Surface, plan: Plan, points: int, seeds: int, generator: np.random.Generator) -> Cells:
    """The cells of a simulated study."""
    table = simulate(surface, plan, points, seeds, generator)
    return cells(explored(table, TASK, plan.responsive), plan, TASK, "score")


def responses(surface: Surface, plan: Plan, points: int, seeds: int) -> Study:
    """Best value, window and cost of the response, pooled over the plan's variants."""
    true = truth(surface, plan, plan.responsive)

    def study(generator: np.random.Generator) -> Told:
        cell = cell_of(surface, plan, points, seeds, generator)
        values = described(marginal(cell, plan, plan.focus), plan, TASK, COARSE)
        costs = cost(cell, plan, plan.focus)
        return [
            Number("log10 of the best learning rate", true.best, Estimate(*np.log10(values["best"]).tolist())),
            Number("window, decades", true.window, values["window_decades"]),
            Number("cost over the declared range", true.sensitivity, costs.range),
            *([Number("cost over one decade", true.decade, costs.decade)] if costs.decade else []),
        ]

    return study


def shares(surface: Surface, plan: Plan, points: int, seeds: int) -> Study:
    """Shares of variance and the SD that they are shares of, where the gates open."""
    true = truth(surface, plan, plan.responsive)

    def study(generator: np.random.Generator) -> Told:
        found = variance_of(simulate(surface, plan, points, seeds, generator), plan, TASK, POOLED)
        if not found.answered:
            return []
        first, total = found.values["first"], found.values["total"] or {}
        return [
            Number("SD", true.deviation, found.values["deviation"]),
            *(Number(f"{name}, first", true.first[name], first[name]) for name in true.first if name in first),
            *(Number(f"{name}, total", true.total[name], total[name]) for name in true.total if name in total),
        ]

    return study


def at_selected(surface: Surface, plan: Plan, points: int, seeds: int) -> Study:
    """What knobs cost with the others at the selected setting, where the surrogate's gate opens."""

    def study(generator: np.random.Generator) -> Told:
        table = simulate(surface, plan, points, seeds, generator)
        setting = selected(table, plan, TASK, "lora")
        cell = cells(explored(table, TASK, ("lora",)), plan, TASK, "score")
        found = costs_of(cell, plan, setting)
        fixed = [
            Number(f"{name}, others fixed", exact_cost(surface, plan, setting, name, False), of.range)
            for name, of in found.conditional.items()
        ]
        retuned = [
            Number(f"{name}, {plan.focus} retuned", exact_cost(surface, plan, setting, name, True), of.range)
            for name, of in found.retuned.items()
        ]
        return [*fixed, *retuned]

    return study


def exact_cost(surface: Surface, plan: Plan, setting: Mapping[str, Value], name: str, retuned: bool) -> float:
    """The cost of one knob of lora around a setting, by the surface itself."""
    knobs = {knob.name: knob for knob in plan.knobs["lora"]}
    axis = axis_of(knobs[name])
    focus = axis_of(knobs[plan.focus]).values if retuned else [setting[plan.focus]]
    values = {other: np.full((len(axis.at), len(focus)), value) for other, value in setting.items()}
    values[plan.focus] = np.tile(np.array(focus), (len(axis.at), 1))
    values[name] = np.tile(np.array(axis.values)[:, None], len(focus))
    return shortfall(expected(surface, "lora", values).max(axis=1), axis.weight, START)


def equal_curvature(points: int, seeds: int) -> Study:
    """Two knobs that cost the same per decade, of ranges of 4 and 1.2 decades."""
    plan = replace(FIVE, knobs={"lora": (RATE, ALPHA)}, measures=("score",))
    decade = EQUAL.curvature / 12

    def study(generator: np.random.Generator) -> Told:
        values = sensitivity_of(simulate(EQUAL, plan, points, seeds, generator), plan, TASK, POOLED).values
        costs = values["score"]
        whole = {knob.name: decade * np.log10(knob.high / knob.low) ** 2 for knob in (RATE, ALPHA)}
        return [
            *(
                Number(f"{name}, cost over the declared range", true, costs[name]["range"])
                for name, true in whole.items()
            ),
            *(Number(f"{name}, cost over one decade", decade, costs[name]["decade"]) for name in whole),
            Rate("one knob is said to cost most in both measures", values["ranking"]["agree"], LEVEL),
        ]

    return study


def comparison(gap: float) -> Study:
    """Two variants, tuned alike, of which one is better by `gap`; confirmed on fresh paired seeds and one test set."""
    surface = Surface(dict.fromkeys(TWINS.knobs, BEST["lora"]), level={"dora": TOP + gap})

    def study(generator: np.random.Generator) -> Told:
        tuned = confirm(surface, TWINS, simulate(surface, TWINS, SETTINGS, 2, generator), FRESH, EXAMPLES, generator)
        rows = confirmed(tuned.table, TWINS, TASK)
        luck = {variant: selection_variance(tuned.table, TWINS, TASK, variant) for variant in TWINS.knobs}
        found = difference(rows["dora"], rows["lora"], luck["dora"], luck["lora"])
        assert found is not None  # every seed is paired
        shown = LEVEL if gap else power_of_equivalence(found.tuned, TWINS.margin, LEVEL)
        score = score_and_setting(rows["lora"], TWINS, "lora")["test_score"]
        return [
            Rate("a difference is seen", p_different(found.tuned) < LEVEL, power(found.tuned, gap, LEVEL)),
            Rate("equivalence is shown", p_equivalent(found.tuned, TWINS.margin) < LEVEL, shown),
            Number("difference of tuned variants", gap, found.tuned.estimate),
            Number("difference of their settings", tuned.score["dora"] - tuned.score["lora"], found.settings.estimate),
            Number("test score of the selected setting", tuned.score["lora"], score),
            Number("score it was selected by", tuned.score["lora"], Estimate(tuned.explored["lora"], None, None)),
        ]

    return study


def case(kind: Callable[..., Study], *asked: object, studies: int, most: int = 0) -> Case:
    """A case whose truth is computed where it is needed."""
    return Case(lambda: kind(*asked), studies, max(most, studies))


SHAPES = {"bump": BUMP, "parabola": PARABOLA, "plateau": PLATEAU, "cliff": CLIFF, "shifting seeds": SHIFTING}
WHO = {"lora": ONE, "five variants": FIVE}
SEEDS = {2: BUMP, 3: SHIFTING}  # three tell how seeds differ, two are conditional on themselves
RESPONSES = {16: 500, 64: 500, 128: 200}  # points -> studies; about 0.1 CPU seconds each
SHARES = {  # whose, points -> studies; 0.4 to 2.5 CPU seconds each
    ("five variants", 16): 100,
    ("five variants", 64): 40,
    ("five variants", 128): 12,
    ("lora", 64): 200,
    ("lora", 128): 100,
}
CASES = {
    **{
        f"response, {name}, 13 rates x 3 seeds": case(responses, surface, LINE, 13, 3, studies=500)
        for name, surface in SHAPES.items()
    },
    **{
        f"response, {who}, {points} points x {seeds} seeds": case(responses, surface, plan, points, seeds, studies=n)
        for who, plan in WHO.items()
        for points, n in RESPONSES.items()
        for seeds, surface in SEEDS.items()
    },
    **{
        f"shares, {who}, {points} points x {seeds} seeds": case(shares, surface, WHO[who], points, seeds, studies=n)
        for (who, points), n in SHARES.items()
        for seeds, surface in SEEDS.items()
    },
    "shares, parabola, lora, 128 points x 2 seeds": case(shares, PARABOLA, ONE, 128, 2, studies=100),
    **{
        f"shares, {name}, lora, factorial of 108 x 3 seeds": case(shares, surface, GRID, 9, 3, studies=500)
        for name, surface in {"bump": BUMP, "shifting seeds": SHIFTING}.items()
    },
    "selected setting, lora, 64 points x 3 seeds": case(at_selected, SHIFTING, THREE_KNOBS, 64, 3, studies=100),
    "equal curvature, 64 points x 2 seeds": case(equal_curvature, 64, 2, studies=200),
    "comparison, equal variants": case(comparison, 0.0, studies=500, most=2000),
    "comparison, a margin apart": case(comparison, TWINS.margin, studies=500, most=2000),
}


class Outcome(NamedTuple):
    """What one study told, and what it took."""

    told: Told
    seconds: float  # of CPU


@cache
def prepared(name: str) -> Study:
    """A case with its truth."""
    return CASES[name].prepare()


def outcome(name: str, seed: int) -> Outcome:
    """One study of a case; the same seed gives the same study."""
    study, began = prepared(name), time.process_time()
    return Outcome(study(np.random.default_rng(seed)), time.process_time() - began)
