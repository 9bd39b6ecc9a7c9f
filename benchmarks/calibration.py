"""How often intervals held the truth and tests were right, counted over simulated studies and told in a page."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.cases import EXAMPLES, FRESH, SETTINGS, SHIFTING, Number, Outcome, Rate
from study.grouping import grouped

LOW, HIGH = 0.93, 0.97  # of the coverage of a 95 % interval
UNDECIDED = 3.0  # Monte Carlo errors: a coverage outside but as near as this may be inside
ROUNDING = 1e-9
NUMBERS = (
    "| case | number | studies | truth | median estimate | bias | coverage, % | too low, % | too high, % | width | |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
)
RATES = "| case | event | studies | advertised, % | found, % |\n|---|---|--:|--:|--:|"
COSTS = "| case | studies | answered | CPU seconds each |\n|---|--:|--:|--:|"


class Tally(NamedTuple):
    """One number over the studies that gave it."""

    name: str
    count: int
    true: float  # median; it differs between studies where it is about what they selected
    estimate: float  # median
    bias: float  # mean of estimate - truth
    held: float | None  # share of intervals that hold the truth; None without intervals
    low: float  # share of intervals that lie below the truth
    high: float
    width: float  # median

    @property
    def error(self) -> float:
        """Monte Carlo error of `held`."""
        return monte_carlo(self.held or 0.0, self.count)

    @property
    def undecided(self) -> bool:
        """Outside of LOW to HIGH, by no more than chance might do."""
        if self.held is None or LOW <= self.held <= HIGH:
            return False
        return max(LOW - self.held, self.held - HIGH) < UNDECIDED * self.error


class Frequency(NamedTuple):
    """How often something happened over the studies."""

    name: str
    count: int
    found: float
    advertised: float  # mean


class Result(NamedTuple):
    """One case."""

    case: str
    outcomes: Sequence[Outcome]

    @property
    def seconds(self) -> float:
        """Of CPU, a study."""
        return sum(outcome.seconds for outcome in self.outcomes) / len(self.outcomes)

    @property
    def answered(self) -> int:
        """Studies whose gates opened."""
        return sum(bool(outcome.told) for outcome in self.outcomes)


def monte_carlo(share: float, count: int) -> float:
    """The standard error of a share of so many studies, with two more of either kind: not zero at 100 %."""
    near = (share * count + 2) / (count + 4)
    return math.sqrt(near * (1 - near) / (count + 4))


def tallies(result: Result) -> list[Tally]:
    """Every number of a case."""
    told = [one for outcome in result.outcomes for one in outcome.told if isinstance(one, Number)]
    return [tally(name, numbers) for name, numbers in grouped(told, lambda one: one.name).items()]


def tally(name: str, numbers: Sequence[Number]) -> Tally:
    """Of one number's estimates; either all have an interval or none has."""
    true = np.array([one.true for one in numbers])
    value, low, high = np.array([one.estimate for one in numbers], dtype=float).T  # NaN where there is no end
    below, above = float(np.mean(high < true - ROUNDING)), float(np.mean(low > true + ROUNDING))
    held = None if np.isnan(low).any() else 1 - below - above
    return Tally(
        name,
        len(numbers),
        float(np.median(true)),
        float(np.median(value)),
        float(np.mean(value - true)),
        held,
        below,
        above,
        float(np.median(high - low)),
    )


def frequencies(result: Result) -> list[Frequency]:
    """Every rate of a case."""
    told = [one for outcome in result.outcomes for one in outcome.told if isinstance(one, Rate)]
    return [
        Frequency(
            name, len(rates), float(np.mean([r.happened for r in rates])), float(np.mean([r.advertised for r in rates]))
        )
        for name, rates in grouped(told, lambda one: one.name).items()
    ]


def page(results: Sequence[Result], about: Mapping[str, str], command: str) -> str:
    """The whole document."""
    lines = [(result.case, tally) for result in results for tally in tallies(result)]
    rates = [(result.case, rate) for result in results for rate in frequencies(result)]
    seconds = sum(result.seconds * len(result.outcomes) for result in results)
    return (
        "\n\n".join(
            [
                "# Calibration: do the 95 % intervals hold the truth?",
                INTRODUCTION.format(command=command, minutes=seconds / 60, shift=SHIFTING.seed_shift, **about),
                "## In short",
                summary(lines),
                "## Intervals",
                "\n".join([NUMBERS, *(number_row(case, tally) for case, tally in lines)]),
                "## Tests",
                TESTS.format(settings=SETTINGS, fresh=FRESH, examples=EXAMPLES),
                "\n".join([RATES, *(rate_row(case, rate) for case, rate in rates)]),
                "## Studies",
                "\n".join([COSTS, *map(cost_row, results)]),
            ]
        )
        + "\n"
    )


INTRODUCTION = """`{command}` simulates studies whose answers are known (`study/analysis/known.py`), analyses each as
any study and counts; it wrote this page, numbers and all. {date}, commit {commit}, Python {python}, {machine},
{minutes:.0f} CPU minutes. The seeds of the studies are 0, 1, 2, ...; a case whose studies are cheap goes on to 2,000
where a coverage lies outside 93 to 97 % by less than three of its Monte Carlo errors.

*Truth* is the average over the declared space and over all seeds there are, not only a study's. The *bump* is an
inverted U over the learning rate that levels off at the score of the untouched model; *parabola*, *plateau* and *cliff*
change its foot, its top or its right side. In *shifting seeds*, and in the Sobol designs of three seeds, every seed
moves the optimum by a draw of SD {shift:g} decades that all settings share. Two seeds carry no estimate of that, their
intervals are conditional on them, and their studies have none. *Too low* is the share of intervals that lie below the
truth. After a coverage stands its Monte Carlo error."""

TESTS = """Two variants of the same surface, the best of {settings} settings of two seeds each, confirmed on {fresh}
fresh paired seeds and {examples:,} test examples. A test of a difference at 5 % should see one 5 % of the time where
there is none, and as often as its power says where they are a margin apart; a test of equivalence should show it at
most 5 % of the time a margin apart, and as often as its power says where they are equal."""


def summary(lines: Sequence[tuple[str, Tally]]) -> str:
    """How many intervals cover as they should, and which cover less."""
    held = [(case, tally, tally.held) for case, tally in lines if tally.held is not None]
    less = [(case, tally, share) for case, tally, share in held if share < LOW]
    more = sum(share > HIGH for _, _, share in held)
    told = (
        f"Of {len(held)} intervals {len(held) - len(less) - more} cover {100 * LOW:.0f} to {100 * HIGH:.0f} % of the "
        f"time, {more} more often (they are wider than they need be) and {len(less)} less often{':' if less else '.'}"
    )
    return "\n".join([told, "", *(f"- {case}: {tally.name}, {coverage(tally)} %" for case, tally, _ in less)]).rstrip()


def coverage(tally: Tally) -> str:
    """In percent, with its Monte Carlo error."""
    return "" if tally.held is None else f"{100 * tally.held:.1f} ± {100 * tally.error:.1f}"


def number_row(case: str, tally: Tally) -> str:
    """One line of the table of intervals."""
    where = "" if tally.held is None or LOW <= tally.held <= HIGH else "less" if tally.held < LOW else "more"
    ends = (
        ("", "", "")
        if tally.held is None
        else (f"{100 * tally.low:.1f}", f"{100 * tally.high:.1f}", digits(tally.width))
    )
    numbers = (digits(tally.true), digits(tally.estimate), digits(tally.bias), coverage(tally), *ends)
    return f"| {case} | {tally.name} | {tally.count} | {' | '.join(numbers)} | {where} |"


def rate_row(case: str, rate: Frequency) -> str:
    """One line of the table of tests."""
    found = f"{100 * rate.found:.1f} ± {100 * monte_carlo(rate.found, rate.count):.1f}"
    return f"| {case} | {rate.name} | {rate.count} | {100 * rate.advertised:.1f} | {found} |"


def cost_row(result: Result) -> str:
    """One line of the table of studies."""
    return f"| {result.case} | {len(result.outcomes)} | {result.answered} | {result.seconds:.2f} |"


def digits(value: float) -> str:
    """Four decimals: scores and shares differ in the third."""
    return f"{value:.4f}"
