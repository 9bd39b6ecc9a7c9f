"""How often do the 95 % intervals of the analyses hold the truth?

    python -m benchmarks.coverage [--simulations 100] [--only NAME]

Simulates studies whose answers are known (`study.analysis.known`), analyses each, and prints per number the truth, the
median estimate, the share of intervals that hold the truth, and their median width.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from study.analysis import Estimate, Plan
from study.analysis.cells import cells, explored
from study.analysis.finding import POOLED
from study.analysis.known import Surface, Truth, simulate, truth
from study.analysis.main_effects import Shares, main_effects
from study.analysis.marginal import marginal
from study.analysis.response import finding
from study.analysis.sensitivity import cost
from study.analysis.total_effects import stand_in, total_effects
from study.analysis.variance import Q2_GATE, least_points
from study.space import Choice, Knob, Levels, LogFloat

TASK = "task"
RATE, ALPHA = LogFloat("learning_rate", 1e-5, 1e-1, 1e-3), LogFloat("alpha", 4, 64, 8)
RANK, INIT = Levels("rank", (2, 4, 8, 16), 4), Choice("init", ("a", "b", "c", "d"), "a")
KNOBS: tuple[Knob, ...] = (RATE, RANK, ALPHA, INIT)
BEST = {"lora": -2.6, "rslora": -2.7, "lora_plus": -2.9, "dora": -2.6, "pissa": -3.2}
PLAN = Plan({TASK: "maximize"}, {v: KNOBS[:3] if v == "pissa" else KNOBS for v in BEST})
ONE = replace(PLAN, knobs={"lora": KNOBS})
LINE = Plan({TASK: "maximize"}, {"lora": (RATE,)})
BUMP = Surface(BEST, init={"b": 0.01, "c": -0.01, "d": 0.02}, curvature=0.15)
PARABOLA = replace(BUMP, curvature=0.03, floor=False)
SHIFTING = replace(BUMP, seed_shift=0.2)  # decades: what "conditional on these seeds" leaves out
PLATEAU = replace(BUMP, flat=0.04)
CLIFF = replace(BUMP, curvature=0.08, cliff=-2.0)

Numbers = Iterable[tuple[str, float, Estimate]]  # name, truth, estimate


def curve_numbers(surface: Surface, plan: Plan, points: int, seeds: int) -> Callable[[np.random.Generator], Numbers]:
    """Best value, window and sensitivity of the pooled response."""
    true = truth(surface, plan, plan.responsive)

    def run(generator: np.random.Generator) -> Numbers:
        cell = cells(
            explored(simulate(surface, plan, points, seeds, generator), TASK, plan.responsive), plan, TASK, "score"
        )
        values = finding(marginal(cell, plan, plan.focus), cell, plan, TASK, POOLED).values
        yield "log10 best", true.best, Estimate(*np.log10(values["best"]).tolist())
        yield "window", true.window, values["window_decades"]
        yield "sensitivity", true.sensitivity, cost(cell, plan, plan.focus).range

    return run


def share_numbers(surface: Surface, plan: Plan, points: int, seeds: int) -> Callable[[np.random.Generator], Numbers]:
    """Shares of variance: main effects of small designs, both indices of larger ones whose gate opens."""
    true = truth(surface, plan, plan.responsive)

    def run(generator: np.random.Generator) -> Numbers:
        cell = cells(
            explored(simulate(surface, plan, points, seeds, generator), TASK, plan.responsive), plan, TASK, "score"
        )
        if points < least_points(cell):
            return compared(true, main_effects(cell, plan))
        stand = stand_in(cell)
        return compared(true, total_effects(stand)) if stand.missing <= 1 - Q2_GATE else []

    return run


def compared(true: Truth, shares: Shares) -> Numbers:
    """Every share with its truth."""
    yield "SD", true.deviation, shares.deviation
    for name, estimate in shares.first.items():
        yield f"{name} S1", true.first[name], estimate
    for name, estimate in (shares.total or {}).items():
        yield f"{name} ST", true.total[name], estimate


SURFACES = {"bump": BUMP, "parabola": PARABOLA, "cliff": CLIFF}
CURVES = SURFACES | {"plateau": PLATEAU, "seeds that shift the optimum": SHIFTING}
CASES = {
    **{
        f"curve, {name}, {points} points pooled": curve_numbers(surface, PLAN, points, 2)
        for name, surface in CURVES.items()
        for points in (8, 16, 64)
    },
    **{f"curve, {name}, line of 13": curve_numbers(surface, LINE, 13, 3) for name, surface in CURVES.items()},
    **{
        f"shares, {name}, {points} points pooled": share_numbers(surface, PLAN, points, 2)
        for name, surface in SURFACES.items()
        for points in (8, 16, 64)
    },
    **{
        f"shares, {name}, {points} points of lora": share_numbers(surface, ONE, points, 2)
        for name, surface in SURFACES.items()
        for points in (64, 128)
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--only", default="", help="run the cases whose name holds this")
    options = parser.parse_args()
    for name, run in CASES.items():
        if options.only in name:
            report(name, run, options.simulations)


def report(name: str, run: Callable[[np.random.Generator], Numbers], simulations: int) -> None:
    """One case's table."""
    started, found = time.monotonic(), defaultdict(list)
    for simulation in range(simulations):
        for number, true, estimate in run(np.random.default_rng(simulation)):
            found[number].append((true, *estimate))
    print(f"\n{name}: {simulations} studies, {(time.monotonic() - started) / simulations:.2f} s each")
    for number, values in found.items():
        true, value, low, high = np.array(values, dtype=float).T
        held = np.mean((low <= true + 1e-9) & (true <= high + 1e-9))
        off = f"too low {100 * np.mean(high < true):.1f}, too high {100 * np.mean(low > true):.1f}"
        middle, width = np.median(value), np.median(high - low)
        print(f"  {number:18} true {true[0]:7.3f}  median {middle:7.3f}  width {width:.3f}", end="  ")
        print(f"holds {100 * held:5.1f} % of {len(low)} ({off})", flush=True)


if __name__ == "__main__":
    main()
