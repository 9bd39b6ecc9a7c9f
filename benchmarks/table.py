"""A result document as markdown; it computes nothing but units."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import end_to_end, rates
from benchmarks.sides import SIDES
from benchmarks.work import PACK

Document = Mapping[str, Any]

MEMORY_TARGET, OUTSIDE_TARGET = 0.25, 0.03


def render(document: Document) -> str:
    """The whole page; parts that were skipped are left out."""
    parts = {"rates": _rates, "end-to-end": _end_to_end, "overheads": _overheads, "memory": _memory}
    lines = [*_head(document)]
    for name, part in parts.items():
        for at, one in enumerate(document.get(name, [])):
            lines += part(one, at == 0)
    return "\n".join(lines) + "\n"


def _head(document: Document) -> Iterator[str]:
    about, load = document["about"], document["load"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", "torch", "transformers", "peft", "optuna"))
    losses = ", ".join(f"{SIDES[side]}: {value:.1g}" for side, value in document["equal"].items())
    yield f"# {about['date']}, {about['machine']}"
    yield ""
    yield f"{versions}; commit {about['commit']}; load {load['before']:.2f} before and {load['after']:.2f} after."
    yield f"Command: `{document['command']}`, {document['seconds'] / 60:.0f} minutes."
    yield f"Equal work: largest difference of a loss over the first steps, same start and batches: {losses}."


def _rates(one: Document, first: bool) -> Iterator[str]:
    if first:
        yield from ("", "## Trial-steps per second of the machine", "")
        yield "Two processes a side, one thread each. Median (least to most) of the turns, ratios of pairs."
    limits = ", ".join(f"{name.removeprefix('gemm-')} {value / 1e9:.0f}" for name, value in one["limits"].items())
    yield ""
    yield f"**{one['cell']}**: {one['tokens']:.0f} tokens and {one['flop'] / 1e9:.2f} GFLOP a trial-step;"
    yield f"matrix products alone, GFLOP/s: {limits}."
    yield ""
    rows = [_rate(one, side) for side in SIDES if side in one["sides"]]
    columns = ("side", "trial-steps/s", "per CPU s", "ours over it", "by CPU", "target", "of the limit", "PSS, MiB")
    yield from _table(columns, rows)
    if one["usual"]:
        yield from (
            "",
            f"{PACK} trials a pack over (b): {_spread(one['usual'], '.2f')}, by CPU {one['usual']['cpu']:.2f}.",
        )


def _rate(one: Document, side: str) -> list[str]:
    found = one["sides"][side]
    ratio = one["ratios"].get(side)
    target = rates.TARGETS.get(side, {}).get(one["cell"])
    packed = f", K = {found['trials']}" if found["trials"] > 1 else ""
    shown = [f"{SIDES[side]}{packed}", _spread(found, ".1f"), f"{found['cpu']:.1f}"]
    shown += [_spread(ratio, ".2f"), f"{ratio['cpu']:.2f}"] if ratio else ["", ""]
    return [*shown, _target(ratio, target), f"{found['share']:.0%}", f"{found['pss'] / 2**20:.0f}"]


def _end_to_end(one: Document, first: bool) -> Iterator[str]:
    yield from ("", f"## {one['trials']} trials of {one['steps']} steps end to end, {one['cell']}", "")
    if first:
        yield "A rival's trials are independent processes: it ran the trials given, scaled to all. Ours ran all of"
        yield "them; where the rivals ran more often, our last run stands for the rest."
        yield ""
    rows = [
        ["lorascope launch", f"{one['trials']} x {len(one['ours']['values'])}", _spread(one["ours"], ".0f"), "", ""]
    ]
    for side, found in one["theirs"].items():
        ratio = one["ratios"][side]
        target = end_to_end.TARGETS.get(one["cell"]) if side == one["best"] else None
        counted = f"{found['ran']} x {len(found['values'])}"
        rows.append([SIDES[side], counted, _spread(found, ".0f"), _spread(ratio, ".2f"), _target(ratio, target)])
    yield from _table(("search", "trials run", "seconds of all", "ours faster by", "target"), rows)
    if one["cpu"]:
        yield from ("", "Where our CPU seconds went, launch by launch:", "")
        yield from _table(("controller", "workers", "of it training", "outside training", "target"), _cpu(one))


def _cpu(one: Document) -> list[list[str]]:
    rows = []
    for run in one["cpu"]:
        outside = 1 - run["training"] / (run["controller"] + run["workers"])
        target = f"{_word(outside < OUTSIDE_TARGET)}: {OUTSIDE_TARGET:.0%}" if one["cell"].startswith("minilm") else ""
        seconds = [f"{run[name]:.1f}" for name in ("controller", "workers", "training")]
        rows.append([*seconds, f"{outside:.1%}", target])
    return rows


def _overheads(one: Document, first: bool) -> Iterator[str]:
    yield from ("", "## A tracking server that is down", "")
    yield f"{one['cell']}, {one['trials']} trials of {one['steps']} steps, against no tracker:"
    yield f"{one['costs']['wall']:+.1%} seconds, {one['costs']['cpu']:+.1%} CPU seconds."
    yield ""
    rows = [[name, _spread(s["wall"], ".1f"), _spread(s["cpu"], ".1f")] for name, s in one["sides"].items()]
    yield from _table(("tracker", "seconds", "CPU seconds"), rows)


def _memory(one: Document, first: bool) -> Iterator[str]:
    target = f"{_word(one['share'] < MEMORY_TARGET)}: {MEMORY_TARGET:.0%}"
    yield from ("", f"## Memory of 8 trials, {one['cell']}", "")
    yield f"Ours holds {one['share']:.1%} of the least rival (target {target})."
    yield ""
    rows = [[SIDES[side], f"{held / 2**20:.0f}"] for side, held in one["pss"].items()]
    yield from _table(("side", "peak PSS of its processes, MiB"), rows)


def _spread(found: Document, form: str) -> str:
    if len(found["values"]) == 1:
        return format(found["median"], form)
    return f"{found['median']:{form}} ({found['least']:{form}} to {found['most']:{form}})"


def _target(ratio: Document | None, target: float | None) -> str:
    return f"{_word(ratio['median'] >= target)}: {target:g}" if ratio and target else ""


def _word(met: bool) -> str:
    return "met" if met else "missed"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
