"""Which settings a cell tries next. The only file that knows Optuna.

Optuna keeps one study per cell, in memory, rebuilt from the ledger at every start: there is nothing to reconcile.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from study import design
from study.cell import Cell
from study.space import Knob, LogFloat, Value, coordinate, rounded, settled
from study.spec import StudySpec
from study.tasks import task as registered
from study.trial import Phase, Result, Trial

BEYOND = (0.25, 0.5, 0.75, 1.0)  # decades past the end of the focus knob's range that phase extend tries

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Asked(NamedTuple):
    """A setting on a cell's list, since which phase, and as Optuna knows it; None where it lies outside the space."""

    values: Mapping[str, Value]
    phase: Phase
    trial: optuna.Trial | None


class Proposer:
    """A cell's Optuna study: settings in, mean validation scores back, the best one out."""

    def __init__(self, cell: Cell, spec: StudySpec, columns: Sequence[str]) -> None:
        self.cell, self.spec = cell, spec
        direction = registered(cell.spec.task).direction
        self.better = max if direction == "maximize" else min
        sampler = optuna.samplers.TPESampler(seed=spec.design.seed)
        self.study = optuna.create_study(direction=direction, sampler=sampler)
        self.distributions = {knob.name: _distribution(knob) for knob in cell.space.varied}
        kind, points = spec.design.kind, spec.design.points
        self.planned = [] if kind == "tpe" else design.settings(kind, points, spec.design.seed, columns, cell.space)
        self.asked: dict[str, Asked] = {}
        self.told: set[str] = set()
        self.means: dict[str, float] = {}  # validation scores of the settings that were trained to the end

    def ask(self, values: Mapping[str, Value], phase: Phase) -> None:
        """Put one given setting on the list, unless it is there."""
        key = self.cell.trial(values, phase, 0).key
        if key in self.asked:
            return
        at = {knob.name: coordinate(knob.name, values) for knob in self.cell.space.varied}
        trial = None
        if all(_inside(knob, at[knob.name]) for knob in self.cell.space.varied):
            self.study.enqueue_trial(at)
            trial = self.study.ask(self.distributions)
        self.asked[key] = Asked(values, phase, trial)

    def propose(self, most: int, phase: Phase) -> bool:
        """At most `most` more settings: what is left of the design, or what the sampler suggests. False: none is."""
        before = len(self.asked)
        if phase == "explore" and self.spec.design.kind != "tpe":
            for values in self.planned:
                self.ask(values, phase)
        elif phase in ("explore", "refine"):
            wanted = self.spec.design.points if phase == "explore" else self.spec.design.refine
            for _ in range(min(most, wanted - sum(asked.phase == phase for asked in self.asked.values()))):
                self._suggest(phase)
        return len(self.asked) > before

    def _suggest(self, phase: Phase) -> None:
        trial = self.study.ask(self.distributions)
        drawn = {name: rounded(value) if isinstance(value, float) else value for name, value in trial.params.items()}
        values = self.cell.space.setting(drawn)
        self.asked.setdefault(self.cell.trial(values, phase, 0).key, Asked(values, phase, trial))

    def extend(self, edge: str) -> None:
        """Past one end of the focus knob's range ("low" or "high"), everything else as in the best setting."""
        knob = next(knob for knob in self.cell.space.varied if knob.name == self.spec.focus)
        best = self.best()
        if best is None or not isinstance(knob.default, float):  # there is no rank between two ranks
            return
        ends = [float(value) for value in knob.grid(2)]
        for step in BEYOND:
            value = min(ends) / 10**step if edge == "low" else max(ends) * 10**step
            self.ask(settled({**best, knob.name: rounded(value)}), "extend")

    def trials(self, phase: Phase) -> list[Trial]:
        """Every setting that a phase asked for, with every seed."""
        seeds = self.spec.seeds.of(phase)
        asked = [asked.values for asked in self.asked.values() if asked.phase == phase]
        return [self.cell.trial(values, phase, seed) for values in asked for seed in seeds]

    def tell(self, results: Mapping[tuple[str, int], Result]) -> None:
        """Close every setting all of whose seeds have a result; one that was stopped early is pruned."""
        for key in [key for key in self.asked if key not in self.told]:
            mine = [results[key, seed] for seed in self.spec.seeds.of("explore") if (key, seed) in results]
            if len(mine) == self.spec.seeds.explore:
                self.told.add(key)
                self._close(key, mine)

    def _close(self, key: str, mine: Sequence[Result]) -> None:
        score, trial = fmean(result.val_score for result in mine), self.asked[key].trial
        stopped = any(result.state == "stopped" for result in mine)
        if not stopped:
            self.means[key] = score
        if trial is not None and stopped:
            trial.report(score, max(result.steps for result in mine))
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif trial is not None:
            self.study.tell(trial, score)

    def best(self) -> Mapping[str, Value] | None:
        """The setting with the best mean validation score, the first of equals; None before there is one."""
        key = self.selected()
        return None if key is None else self.asked[key].values

    def selected(self) -> str | None:
        """The key of the best setting, None before there is one."""
        in_order = [key for key in self.asked if key in self.means]
        return self.better(in_order, key=lambda key: self.means[key]) if in_order else None


def _distribution(knob: Knob) -> BaseDistribution:
    if isinstance(knob, LogFloat):
        return FloatDistribution(knob.low, knob.high, log=True)
    return CategoricalDistribution(knob.values)


def _inside(knob: Knob, value: Value) -> bool:
    return knob.low <= float(value) <= knob.high if isinstance(knob, LogFloat) else value in knob.values
