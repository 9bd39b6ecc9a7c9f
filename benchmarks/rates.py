"""Steps per second of the whole machine: each side as two processes, turn about, in pairs whose order alternates."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.ours import compute, planned
from benchmarks.processes import Crew, Turn
from benchmarks.work import LENGTH, PACK, SHAPES, Cell, cell, flop, tokens

PROCESSES = 2  # of each side, one a core
START_SECONDS = {"gemm": 2.5, "peft": 5.5, "trainer": 5.5, "ours": 7.0}  # until a process is warm, roughly

RIVAL, OURS, AUTO = "peft-bf16", "ours", "ours-auto"
LIMITS = {
    "gemm-fp32": ("peft", "trainer"),
    "gemm-bf16": ("peft-bf16", "peft-bf16-weights", "ours", "ours-auto", "ours-apart"),
}
REQUIRED = ("tiny-4", "tiny-16", "minilm-8", "minilm-16")
EXTRA = ("tiny-8", "minilm-4", "minilm-8-all")
FULL = (*REQUIRED, *EXTRA, "tiny-4-all", "tiny-8-all", "tiny-16-all", "minilm-4-all", "minilm-16-all")
TRAINER_CELL, APART_CELLS = "tiny-8", ("tiny-4", "minilm-8")  # the only ones with these sides, to save time
# What a cell must show, ours over theirs: the project's own targets.
TARGETS = {
    "peft-bf16": {"minilm-16": 1.4, "minilm-8": 1.7, "tiny-16": 2.0, "tiny-4": 3.0},
    "peft": {"minilm-16": 2.5, "minilm-8": 3.0, "tiny-16": 2.5, "tiny-4": 4.0},
}


class Plan(NamedTuple):
    """The turns of one cell, in order: (side, seconds)."""

    cell: Cell
    turns: tuple[tuple[str, float], ...]

    @property
    def sides(self) -> list[str]:
        """Who takes part."""
        return list(dict.fromkeys(side for side, _ in self.turns))

    @property
    def estimate(self) -> float:
        """Seconds, starts included."""
        starts = sum(START_SECONDS[side.partition("-")[0]] for side in self.sides)
        return starts + sum(seconds for _, seconds in self.turns)


def plan(name: str, seconds: float, pairs: int) -> Plan:
    """Pairs of (b) and us whose order alternates, and after each of the first few a shorter turn of the others.

    Ours is the pack size that users get, `auto`; where that is another than PACK, PACK is one of the others. A required
    cell has `pairs` of `seconds` a side; any other has at most 2 of a quarter of that.
    """
    asked, required = cell(name), name in REQUIRED
    long, times = (seconds, pairs) if required else (seconds / 4, min(2, pairs))
    others = _others(asked, seconds, required)
    mine = AUTO if OURS in others else OURS
    turns: list[tuple[str, float]] = [(limit, seconds / 8) for limit in LIMITS]
    for i in range(times):
        turns += [(side, long) for side in ((RIVAL, mine) if i % 2 == 0 else (mine, RIVAL))]
        turns += others.items() if i < 3 else ()
    return Plan(asked, tuple(turns))


def _others(asked: Cell, seconds: float, required: bool) -> dict[str, float]:
    """Seconds of a turn of each further side."""
    long, short = (seconds / 2 if required else seconds / 8), seconds / 8
    found = {"peft": long}
    if planned(asked, compute("bf16")) != PACK:
        found[OURS] = long
    wanted = {
        "peft-bf16-weights": required,
        "trainer": asked.name == TRAINER_CELL,
        "ours-apart": asked.name in APART_CELLS,
    }
    return found | {side: short for side, here in wanted.items() if here}


def measure(asked: Plan, place: Path) -> dict[str, Any]:
    """One cell, as a document."""
    found: dict[str, list[Turn]] = defaultdict(list)
    with ExitStack() as stack:
        crews = {side: stack.enter_context(Crew(side, asked.cell.name, place, PROCESSES)) for side in asked.sides}
        trials = {side: crew.wait() for side, crew in crews.items()}
        for side, seconds in asked.turns:
            found[side].append(crews[side].train(seconds))
    return document(asked.cell, trials, found)


def document(asked: Cell, trials: Mapping[str, int], found: Mapping[str, list[Turn]]) -> dict[str, Any]:
    """Rates, ratios turn by turn, and shares of the limit."""
    rates = {side: spread([turn.rate for turn in turns]) for side, turns in found.items()}
    full = 4 * asked.batch * LENGTH * SHAPES[asked.shape].linear  # FLOP of a step of the matrix products alone
    limits = {limit: rates[limit]["median"] * full for limit in LIMITS}
    shares = {
        s: rates[s]["median"] * flop(asked) / limits[limit] for limit, of in LIMITS.items() for s in of if s in rates
    }
    mine = AUTO if AUTO in found else OURS
    return {
        "cell": asked.name,
        "tokens": tokens(asked),
        "flop": flop(asked),
        "limits": limits,
        "sides": {
            side: rates[side]
            | {
                "trials": trials[side],
                "cpu": median(turn.cpu_rate for turn in found[side]),
                "share": share,
                "pss": max(turn.pss for turn in found[side]),
            }
            for side, share in shares.items()
        },
        "ratios": {side: _ratio(found[mine], found[side]) for side in shares if side != mine},
        "usual": _ratio(found[OURS], found[RIVAL]) if mine == AUTO else None,
    }


def _ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, Any]:
    """Of the turns that lay beside each other: by wall time, and the median by CPU time."""
    beside = list(zip(ours, theirs, strict=False))
    by_cpu = median(mine.cpu_rate / other.cpu_rate for mine, other in beside)
    return spread([mine.rate / other.rate for mine, other in beside]) | {"cpu": by_cpu}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least, most, and all of them."""
    return {"median": median(values), "least": min(values), "most": max(values), "values": list(values)}
