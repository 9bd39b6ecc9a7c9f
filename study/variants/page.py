"""docs/variants.md, written from the registry: `python -m study.variants.page` prints it, `make docs` keeps it."""

import re
import sys
from collections.abc import Iterable, Sequence

from study.space import Knob, LogFloat
from study.variants import VARIANTS
from study.variants.taxonomy import EVERY, Entry, by_axis

MANY = 6  # users of a knob that are counted, no longer named
PAGE = """# Variants

{count} methods, by the axis of the taxonomy of [2601.22708](https://arxiv.org/abs/2601.22708) that they change. This
page is written by `make docs` from the files in `study/variants/`; `lorascope variants` prints the same, `--json` for
programs.

*Own knobs*: those beside {every},
which all have. *Equal in a pack*: trials train as one batch where these have the same value, whatever else differs;
`init` counts by whether the start is zero or is taken off again. *Merges*: whether a trained layer can be written as
one weight and bias. *Trained*: parameters of an adapted layer, head left out, in I inputs, O outputs and rank r; W and
b are the sizes of weight and bias. What a group of L layers shares is counted once, with the group's largest I and O.
{axes}
## Knobs

| knob | values | default | of |
| --- | --- | --- | --- |
{knobs}
"""


def page() -> str:
    """The page as Markdown."""
    axes = "".join(f"\n## {axis.capitalize()}\n\n{_table(rows)}\n" for axis, rows in by_axis(VARIANTS.values()).items())
    return PAGE.format(count=len(VARIANTS), every=_code(EVERY), axes=axes, knobs="\n".join(_knobs()))


def _table(rows: Sequence[Entry]) -> str:
    lines = [_cells(row) for row in rows]
    head = list(lines[0])
    return "\n".join([_row(head), _row(["---"] * len(head)), *(_row(line.values()) for line in lines)])


def _cells(row: Entry) -> dict[str, str]:
    """What is shown of a method, in Markdown."""
    code = {"variant": [row.name], "own knobs": row.own, "equal in a pack": row.equal_in_a_pack}
    ticked = {column: _code(words) for column, words in (code | {"trained": [row.trained]}).items()}
    return row.shown() | ticked | {"paper": _link(row.paper)}


def _knobs() -> list[str]:
    """A line for every knob, or for each of its ranges where methods disagree."""
    users: dict[Knob, list[str]] = {}
    for variant in VARIANTS.values():
        for knob in variant.knobs:
            users.setdefault(knob, []).append(variant.name)
    names = [knob.name for knob in users]
    ordered = sorted(users, key=lambda knob: names.index(knob.name))
    return [_row((f"`{knob.name}`", _values(knob), str(knob.default), _users(users[knob]))) for knob in ordered]


def _users(names: Sequence[str]) -> str:
    if len(names) == len(VARIANTS):
        return "all"
    return _code(names) if len(names) < MANY else f"{len(names)} variants, above"


def _values(knob: Knob) -> str:
    if isinstance(knob, LogFloat):
        return f"{knob.low:g} to {knob.high:g}"
    return ", ".join(str(value) for value in knob.values)


def _link(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper})" if re.fullmatch(r"\d{4}\.\d{5}", paper) else paper


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
