"""The benchmarks: both sides do equal work, what is asked wrongly is refused in one line, results can be read."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import equal, rates, table
from benchmarks.__main__ import main
from benchmarks.files import make_files
from benchmarks.processes import Turn
from benchmarks.sides import side, turn
from benchmarks.work import LENGTH, SHAPES, TARGETS, Cell, batches, cell, flop, tokens
from study.tasks.quiet import quiet

STEPS = 3
ABOUT = dict.fromkeys(("date", "machine", "python", "torch", "transformers", "peft", "optuna", "commit"), "x")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the tiny model."""
    return make_files(tmp_path_factory.mktemp("benchmarks"), ["tiny"])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Denormal numbers as they were, and no notices of transformers."""
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft reads an old name
        yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("where", TARGETS)
@pytest.mark.parametrize(("rival", "most"), [("peft", 1e-5), ("peft-bf16", 1e-2)])
def test_rival_and_pack_have_the_same_losses(place: Path, rival: str, most: float, where: str) -> None:
    assert equal.difference(rival, Cell("tiny", 4, where), place, STEPS) < most


def test_losses_beyond_the_tolerance_end_the_benchmark(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal, "TOLERANCE", {"peft": 0.0})
    with pytest.raises(equal.Unequal, match="peft and lorascope differ by"):
        equal.check(place, 1)


@pytest.mark.parametrize(("name", "trials"), [("peft", 1), ("trainer", 1), ("ours", 2), ("ours-apart", 2)])
def test_every_side_counts_its_trial_steps(place: Path, name: str, trials: int) -> None:
    run = side(name, Cell("tiny", 4), place, K=trials)
    steps, seconds = run.go(0.0)
    assert steps >= 1
    assert seconds > 0
    assert run.trials == trials
    measured = turn(run, 0.0)
    assert min(measured["rate"], measured["cpu_rate"], measured["pss"]) > 0


def test_padding_is_counted_as_a_rival_multiplies_it() -> None:
    asked = cell("minilm-8")
    assert tokens(asked) == sum(inputs["attention_mask"].numel() for inputs, _ in batches(asked)) / len(batches(asked))
    assert 8 * LENGTH * 0.75 < tokens(asked) <= 8 * LENGTH
    assert flop(asked) == 4 * tokens(asked) * 6 * (4 * 384**2 + 2 * 384 * 1536)


def test_pairs_alternate_their_order_and_the_limit_is_measured_in_the_same_run() -> None:
    turns = rates.plan("tiny-4", 20.0, 5).turns
    pairs = [name for name, seconds in turns if seconds == 20.0]
    assert pairs == ["peft-bf16", "ours-auto", "ours-auto", "peft-bf16"] * 2 + ["peft-bf16", "ours-auto"]
    assert {name for name, _ in turns} >= {"gemm-fp32", "gemm-bf16", "ours-apart", "ours"}
    assert [seconds for name, seconds in turns if name == "peft"] == [10.0] * 3


@pytest.mark.parametrize("name", ["huge-8", "tiny", "tiny-0", "tiny-08", "tiny-8-some", "tiny-x"])
def test_an_unknown_cell_is_refused_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cells", name]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: --cells: unknown cell '{name}' (MODEL-BATCH")
    assert told.err.count("\n") == 1
    assert all(model in told.err for model in SHAPES)


def test_an_unknown_part_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--skip", "everything"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_table_shows_ratios_and_which_target_is_met() -> None:
    page = table.render(canned())
    assert "| lorascope, bf16, pack size auto, K = 32 | 300.0 (200.0 to 400.0) | 125.0 |  |  |  | 150% | 3 |" in page
    assert "eager attention | 100.0 (100.0 to 100.0) | 50.0 | 3.00 (2.00 to 4.00) | 2.50 | met: 3 | 50% | 2 |" in page
    assert "| (a) peft, fp32 | 100.0 (100.0 to 100.0) | 50.0 | 3.00 (2.00 to 4.00) | 2.50 | missed: 4 |" in page
    assert "8 trials a pack over (b): 4.00, by CPU 4.00." in page
    assert "| (b) peft, bf16 autocast, eager attention | 12 x 3 | 750 (700 to 800) | 2.50 | met: 2 |" in page
    assert "| 6.0 | 194.0 | 195.0 | 2.5% | met: 3% |" in page
    assert "+1.0% seconds, -0.5% CPU seconds" in page
    assert "Ours holds 22.0% of the least rival (target met: 25%)." in page


def canned() -> dict[str, object]:
    """A result document with round numbers."""
    limit = 1 / (4 * 4 * LENGTH * SHAPES["tiny"].linear / flop(Cell("tiny", 4)))
    found = {side: [Turn(200.0 * limit, 1.0, 1)] for side in rates.LIMITS}
    found |= {"peft": [Turn(100.0, 50.0, 2 << 20)] * 2, "peft-bf16": [Turn(100.0, 50.0, 2 << 20)] * 2}
    found["ours"] = [Turn(400.0, 200.0, 1)]
    found["ours-auto"] = [Turn(200.0, 125.0, 1 << 20), Turn(400.0, 125.0, 3 << 20)]
    trials = dict.fromkeys(found, 1) | {"ours-auto": 32}
    search = {
        "cell": "minilm-8",
        "trials": 100,
        "steps": 100,
        "ours": rates.spread([300.0]),
        "theirs": {"peft-bf16": rates.spread([700.0, 750.0, 800.0]) | {"ran": 12}},
        "ratios": {"peft-bf16": rates.spread([2.5])},
        "best": "peft-bf16",
        "cpu": [{"wall": 300.0, "controller": 6.0, "workers": 194.0, "training": 195.0}],
    }
    mirror = {name: {unit: rates.spread([30.0]) for unit in ("wall", "cpu")} for name in ("null", "down")}
    return {
        "about": ABOUT,
        "command": "python -m benchmarks",
        "seconds": 60.0,
        "load": {"before": 0.1, "after": 2.0},
        "equal": {"peft": 4e-7, "peft-bf16": 5e-4},
        "rates": [rates.document(Cell("tiny", 4), trials, found)],
        "end-to-end": [search],
        "overheads": [
            {"cell": "tiny-8", "trials": 25, "steps": 100, "sides": mirror, "costs": {"wall": 0.01, "cpu": -0.005}}
        ],
        "memory": [{"cell": "minilm-16", "pss": {"peft": 100, "ours": 22}, "share": 0.22}],
    }
