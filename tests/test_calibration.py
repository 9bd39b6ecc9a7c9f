"""The calibration: what is counted, what the page says, and that it is about the cases there are."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibrate import main
from benchmarks.calibration import Result, frequencies, page, tallies
from benchmarks.cases import BUMP, CASES, THREE_KNOBS, Number, Outcome, Rate, exact_cost, outcome
from study.analysis import Estimate
from study.analysis.known import START, TOP

PAGE = Path(__file__).resolve().parent.parent / "docs" / "calibration.md"
ABOUT = dict.fromkeys(("date", "commit", "python", "machine"), "x")


def studies(held: int, below: int, above: int) -> Result:
    """A case of so many studies whose intervals hold 1, lie below it or above it, and half of which saw something."""
    ends = [(0.0, 2.0)] * held + [(0.0, 0.5)] * below + [(1.5, 2.0)] * above
    return Result(
        "a case",
        [
            Outcome([Number("n", 1.0, Estimate((low + high) / 2, low, high)), Rate("seen", i % 2 == 0, 0.05)], 0.5)
            for i, (low, high) in enumerate(ends)
        ],
    )


def test_coverage_and_bias_are_counted() -> None:
    (found,) = tallies(studies(90, 8, 2))
    assert (found.count, found.held, found.low, found.high) == (100, pytest.approx(0.9), 0.08, 0.02)
    assert found.bias == pytest.approx((8 * -0.75 + 2 * 0.75) / 100)
    assert found.error == pytest.approx(0.031, abs=0.002)
    assert frequencies(studies(90, 8, 2)) == [("seen", 100, 0.5, pytest.approx(0.05))]


@pytest.mark.parametrize(
    ("held", "below", "undecided"),
    [(475, 25, False), (460, 40, True), (400, 100, False), (492, 8, True), (500, 0, False)],
)
def test_more_studies_are_asked_for_where_chance_may_have_done_it(held: int, below: int, undecided: bool) -> None:
    assert tallies(studies(held, below, 0))[0].undecided == undecided


def test_a_number_without_an_interval_has_a_bias_alone() -> None:
    told = Outcome([Number("n", 1.0, Estimate(1.5, None, None))], 0.0)
    (found,) = tallies(Result("a case", [told]))
    assert (found.held, found.bias, found.undecided) == (None, 0.5, False)
    assert "| a case | n | 1 | 1.0000 | 1.5000 | 0.5000 |  |  |  |  |  |" in page(
        [Result("a case", [told])], ABOUT, "c"
    )


def test_the_page_names_what_covers_too_little() -> None:
    text = page([studies(95, 5, 0), studies(80, 20, 0), studies(100, 0, 0)], ABOUT, "python -m benchmarks.calibrate")
    assert "Of 3 intervals 1 cover 93 to 97 % of the time, 1 more often" in text
    assert "- a case: n, 80.0 ± 4.0 %" in text
    assert "| a case | seen | 100 | 5.0 | 50.0 ± 4.9 |" in text


def test_the_same_seed_gives_the_same_study() -> None:
    name = "comparison, equal variants"
    assert outcome(name, 3).told == outcome(name, 3).told != outcome(name, 4).told


def test_the_exact_cost_at_a_setting_is_its_closed_form() -> None:
    """With the learning rate retuned only the rank's own cost is left, and alpha costs nothing."""
    setting = {"learning_rate": 10**-2.6, "rank": 4, "alpha": 4.0}
    ranks = 0.004 * (np.log2([2, 4, 8, 16]) - 2.5) ** 2
    assert exact_cost(BUMP, THREE_KNOBS, setting, "rank", True) == pytest.approx(ranks.mean() - ranks.min(), abs=1e-4)
    assert exact_cost(BUMP, THREE_KNOBS, setting, "alpha", True) == pytest.approx(0, abs=1e-4)
    fall = np.maximum(TOP - 0.001 - 0.15 * (np.linspace(-5, -1, 2001) + 2.6) ** 2, START)
    whole = exact_cost(BUMP, THREE_KNOBS, setting, "learning_rate", False)
    assert whole == pytest.approx(fall.max() - fall.mean(), abs=1e-3)


def test_an_unknown_case_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "everything"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --only: no case is called 'everything'")
    assert told.count("\n") == 1


def test_the_committed_page_is_about_the_cases_there_are() -> None:
    rows = PAGE.read_text().partition("\n## Studies\n")[2]
    assert set(re.findall(r"^\| ([^|]+?) \| \d+ \| \d+ \|", rows, re.MULTILINE)) == set(CASES)
