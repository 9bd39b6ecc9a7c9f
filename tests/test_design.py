"""Designs and spaces: points that stay where they are, whatever is added; every value inside what was declared."""

import itertools
import math

import numpy
import pytest

from study import design
from study.errors import BadInput
from study.space import Choice, Knob, Levels, LogFloat, Space, Value

RATE = LogFloat("learning_rate", 1e-5, 1e-1, default=1e-3)
RANK = Levels("rank", (2, 4, 8, 16), default=8)
ALPHA = LogFloat("alpha", 1, 128, default=16)
INIT = Choice("init", ("kaiming", "gaussian"), default="kaiming")
EXTRA = LogFloat("b_over_a", 1, 64, default=16)
WIDEST = LogFloat("widest", 1e-300, 1e300, default=1)  # its ends have no finite ratio

LORA = Space((RATE, RANK, ALPHA), {"warmup": 0.06})
PLUS = Space((RATE, RANK, ALPHA, EXTRA), {"warmup": 0.06})
SAMPLED = ("sobol", "random")


def points(kind: str, count: int, space: Space, columns: list[str] | None = None) -> list[dict[str, Value]]:
    """The settings of a design of seed 0; without columns of its own the space is the study's first."""
    return design.settings(kind, count, 0, columns or design.owners([], [space]), space)


def many(count: int) -> Space:
    """A space of so many knobs."""
    return Space(tuple(LogFloat(f"knob_{i}", 1, 10, default=1) for i in range(count)), {})


# What is added moves nothing


@pytest.mark.parametrize("kind", SAMPLED)
@pytest.mark.parametrize("more", [2, 9, 16, 100])
def test_more_points_begin_with_the_same_ones(kind: str, more: int) -> None:
    assert points(kind, 8 + more, LORA)[:8] == points(kind, 8, LORA)


@pytest.mark.parametrize("kind", SAMPLED)
def test_another_variant_moves_no_point(kind: str) -> None:
    before = design.owners([], [LORA])
    after = design.owners(before, [PLUS, LORA])
    assert points(kind, 16, LORA, after) == points(kind, 16, LORA, before)


@pytest.mark.parametrize("kind", SAMPLED)
def test_another_knob_moves_no_point(kind: str) -> None:
    before = design.owners([], [LORA])
    wider = Space((INIT, *LORA.varied), LORA.fixed)
    after = points(kind, 16, wider, design.owners(before, [wider]))
    assert [{name: row[name] for name in before} for row in after] == [
        {name: row[name] for name in before} for row in points(kind, 16, LORA, before)
    ]


@pytest.mark.parametrize("kind", SAMPLED)
def test_all_variants_share_the_points_of_the_knobs_they_share(kind: str) -> None:
    columns = design.owners([], [LORA, PLUS])
    one, other = points(kind, 16, LORA, columns), points(kind, 16, PLUS, columns)
    assert one == [{name: value for name, value in row.items() if name != "b_over_a"} for row in other]


def test_a_knob_keeps_its_column_when_its_variant_is_gone_or_comes_later() -> None:
    columns = design.owners([], [PLUS])
    assert columns == ["learning_rate", "rank", "alpha", "b_over_a"]
    assert design.owners(columns, [LORA]) == columns
    assert design.owners(columns, [Space((INIT, RATE), {})]) == [*columns, "init"]


def test_a_column_belongs_to_one_knob_whatever_the_order_of_the_variants() -> None:
    assert design.owners([], [LORA, PLUS]) == design.owners([], [LORA, PLUS, LORA])
    assert design.owners(["alpha"], [LORA]) == ["alpha", "learning_rate", "rank"]


def test_a_study_varies_no_more_knobs_than_the_design_has_columns() -> None:
    assert len(design.owners([], [many(design.DESIGN_WIDTH)])) == design.DESIGN_WIDTH == 32
    with pytest.raises(BadInput, match=r"knobs: 33 vary \(at most 32\)"):
        design.owners([], [many(design.DESIGN_WIDTH + 1)])
    with pytest.raises(BadInput, match="at most 32"):
        design.owners(["of a variant that is gone"], [many(design.DESIGN_WIDTH)])


# What a design is


@pytest.mark.parametrize("count", [2, 16, 64])
def test_sobol_points_fill_every_equal_share_of_every_column_once(count: int) -> None:
    space = many(design.DESIGN_WIDTH)
    table = [[knob.encode(row[knob.name]) for knob in space.varied] for row in points("sobol", count, space)]
    shares = numpy.sort((numpy.array(table) * count).astype(int), axis=0)
    assert (shares == numpy.arange(count)[:, None]).all()


@pytest.mark.parametrize("kind", SAMPLED)
def test_the_seed_decides_the_points(kind: str) -> None:
    columns = design.owners([], [LORA])
    drawn = [design.settings(kind, 8, seed, columns, LORA) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert all(row not in drawn[0] for row in drawn[2])


@pytest.mark.parametrize("count", [1, 3, 7, 16])
@pytest.mark.parametrize("kind", SAMPLED)
def test_a_design_has_as_many_points_as_asked_for(kind: str, count: int) -> None:
    assert len(points(kind, count, LORA)) == count


def test_a_setting_that_recurs_is_listed_once() -> None:
    only_levels = Space((RANK, INIT), {})
    assert len(points("sobol", 64, only_levels)) == 8
    assert points("sobol", 16, Space((), {"rank": 4})) == [{"rank": 4}]


def test_a_grid_is_every_combination_with_both_ends_of_every_range() -> None:
    space = Space((RATE, RANK, INIT), {"warmup": 0.06})
    rows = points("grid", 5, space)
    rates = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    expected = itertools.product(rates, RANK.values, INIT.values)
    assert [(row["learning_rate"], row["rank"], row["init"]) for row in rows] == list(expected)
    assert all(row["warmup"] == 0.06 for row in rows)


@pytest.mark.parametrize("kind", [*SAMPLED, "grid"])
def test_every_setting_lies_inside_its_space(kind: str) -> None:
    for row in points(kind, 33, PLUS):
        assert row.keys() == {"learning_rate", "rank", "alpha", "b_over_a", "warmup"}
        assert RATE.low <= row["learning_rate"] <= RATE.high
        assert row["rank"] in RANK.values
        assert row["warmup"] == 0.06


# Knobs


@pytest.mark.parametrize("u", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("knob", [RATE, ALPHA, WIDEST], ids=lambda knob: knob.name)
def test_a_log_range_is_even_in_the_logarithm_and_reads_back_as_printed(knob: LogFloat, u: float) -> None:
    value = knob.decode(u)
    decades = math.log10(knob.high) - math.log10(knob.low)
    assert math.log10(value) - math.log10(knob.low) == pytest.approx(u * decades, abs=1e-5)
    assert knob.encode(value) == pytest.approx(u, abs=1e-6)
    assert float(f"{value:.6g}") == value


@pytest.mark.parametrize("knob", [RANK, INIT], ids=lambda knob: knob.name)
def test_every_level_has_an_equal_share_of_its_column(knob: Levels) -> None:
    drawn = [knob.decode((i + 0.5) / 120) for i in range(120)]
    assert [drawn.count(value) for value in knob.values] == [120 // len(knob.values)] * len(knob.values)
    assert knob.decode(0.0) == knob.values[0]
    assert knob.decode(1.0) == knob.values[-1]


@pytest.mark.parametrize("knob", [RANK, INIT], ids=lambda knob: knob.name)
def test_a_level_encodes_into_its_own_share(knob: Knob) -> None:
    assert isinstance(knob, Levels)
    assert [knob.decode(knob.encode(value)) for value in knob.values] == list(knob.values)
