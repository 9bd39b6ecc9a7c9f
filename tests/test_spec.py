"""A spec is read strictly, refused in one line, and what widens a study is told from what changes it."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from study import session
from study.errors import BadInput
from study.ledger import Ledger
from study.spec import StudySpec, dump, load, overridden, parse, resolved, space

ROOT = Path(__file__).resolve().parent.parent
FILE = "study.yaml"
GONE = object()  # stands for a key to leave out

TASK = {"task": "classification", "model": "./model", "data": {"path": "./sentences.csv"}, "budget": {"steps": 4}}
STUDY = {
    "name": "tiny",
    "tasks": [TASK],
    "variants": ["lora", "dora"],
    "knobs": {"learning_rate": [1e-4, 1e-1], "rank": [2, 4]},
    "design": {"points": 4},
    "seeds": {"explore": 2, "confirm": 2},
    "compute": {"device": "cpu", "dtype": "fp32"},
}


def document(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A small study in which the value at each key path is another; GONE leaves the key out."""
    changed = copy.deepcopy(STUDY)
    for path, value in (changes or {}).items():
        *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
        at: Any = changed
        for step in steps:
            at = at[step] if isinstance(at, list) else at.setdefault(step, {})
        if value is GONE:
            del at[last]
        else:
            at[last] = value
    return changed


def spec(changes: Mapping[str, Any] | None = None) -> StudySpec:
    return parse(document(changes), FILE)


def refusal(attempt: Callable[[], object]) -> str:
    """The one line that refuses it."""
    with pytest.raises(BadInput) as caught:
        attempt()
    line = str(caught.value)
    assert "\n" not in line
    return line


def refused(changes: Mapping[str, Any]) -> str:
    return refusal(lambda: spec(changes))


# What is refused: the changed field, and what the line says after the file's name

UNKNOWN = [
    ({"knob": {}}, "knob: unknown key (did you mean knobs? known: name, tasks, variants, "),
    (
        {"design.point": 3},
        "design.point: unknown key (did you mean points? known: kind, points, seed, halving, refine)",
    ),
    ({"tasks.0.modle": "x"}, "tasks.0.modle: unknown key (did you mean model? known: task, model, "),
    ({"tasks.0.budget.step": 3}, "tasks.0.budget.step: unknown key (did you mean steps? known: steps, "),
    ({"tasks.0.data.txt": "x"}, "tasks.0.data.txt: unknown key (did you mean text? known: path, "),
    ({"tasks.0.rows.tests": 9}, "tasks.0.rows.tests: 'tests' (did you mean test? "),
    ({"compute.dtpye": "fp32"}, "compute.dtpye: unknown key (did you mean dtype? "),
    ({"seeds": {"explor": 1}}, "seeds.explor: unknown key (did you mean explore? known: explore, confirm)"),
    ({"variants": [{"name": "lora", "knob": {}}]}, "variants.0.knob: unknown key (did you mean knobs? "),
    ({"variants": ["lora", "dorra"]}, "variants.1.name: unknown variant 'dorra' (did you mean dora? known: "),
    ({"tasks.0.task": "clasification"}, "tasks.0.task: unknown task 'clasification' (did you mean classification? "),
    ({"knobs.learning_rat": 1}, "knobs.learning_rat: unknown knob 'learning_rat' (did you mean learning_rate? "),
    ({"knobs.b_over_a": [1, 8]}, "knobs.b_over_a: unknown knob 'b_over_a' (known: "),  # of neither variant
    ({"focus": "learning_rat"}, "focus: unknown knob 'learning_rat' (did you mean learning_rate? "),
    ({"variants": [{"name": "lora", "knobs": {"rnak": 2}}]}, "variants.lora.knobs.rnak: unknown knob 'rnak' (did you"),
    ({"variants": [{"name": "lora", "combine": ["dorra"]}]}, "variants.0.combine: unknown variant 'dorra' (did you"),
    ({"variants": [{"name": "dora", "combine": ["dora"]}]}, "variants.0.combine: dora and dora both change "),
]
MISSING = [
    ({"name": GONE}, "name: is missing (it has no default)"),
    ({"tasks": GONE}, "tasks: is missing (it has no default)"),
    ({"variants": GONE}, "variants: is missing (it has no default)"),
    ({"name": GONE, "tasks": GONE}, "name: is missing (it has no default; 1 more)"),
    ({"tasks.0.task": GONE}, "tasks.0.task: is missing (it has no default)"),
    ({"tasks.0.data": {"text": "text"}}, "tasks.0.data.path: is missing (it has no default)"),
    ({"tasks": []}, "tasks: [] (at least one)"),
    ({"variants": []}, "variants: [] (at least one)"),
    ({"phases": []}, "phases: [] (at least one)"),
]
KNOBS = [
    ({"knobs.learning_rate": []}, "knobs.learning_rate: [] (at least one value)"),
    ({"knobs.learning_rate": [0.1, 1e-4]}, "knobs.learning_rate: [0.1, 0.0001] (a range [low, high] with low < high)"),
    ({"knobs.learning_rate": [0.1, 0.1]}, "knobs.learning_rate: [0.1, 0.1] (a range [low, high] with low < high)"),
    ({"knobs.learning_rate": [0, 0.1]}, "knobs.learning_rate: [0, 0.1] (a log range must stay above 0)"),
    ({"knobs.learning_rate": [-1, 0.1]}, "knobs.learning_rate: [-1, 0.1] (a log range must stay above 0)"),
    ({"knobs.learning_rate": [float("nan"), 0.1]}, "knobs.learning_rate: nan (a finite number)"),
    ({"knobs.learning_rate": [0.1, float("inf")]}, "knobs.learning_rate: inf (a finite number)"),
    ({"knobs.learning_rate": ["low", "high"]}, "knobs.learning_rate: 'low' (a finite number)"),
    ({"knobs.learning_rate": "fast"}, "knobs.learning_rate: 'fast' (a finite number)"),
    ({"knobs.learning_rate": None}, "knobs.learning_rate: None (a finite number)"),
    ({"knobs.learning_rate": True}, "knobs.learning_rate: True (a finite number)"),
    ({"knobs.learning_rate": -1}, "knobs.learning_rate: -1 (a number above 0)"),
    ({"knobs.learning_rate": {"level": [1]}}, "knobs.learning_rate: {'level': [1]} (a value, a list, or {levels: "),
    ({"knobs.learning_rate": {"levels": 1}}, "knobs.learning_rate: {'levels': 1} (a value, a list, or {levels: "),
    ({"knobs.rank": [0, 2]}, "knobs.rank: 0 (whole numbers from 1)"),
    ({"knobs.rank": [1.5, 2]}, "knobs.rank: 1.5 (whole numbers from 1)"),
    ({"knobs.rank": [2, 2]}, "knobs.rank: [2, 2] (values that differ)"),
    ({"knobs.rank": "two"}, "knobs.rank: 'two' (a finite number)"),
    ({"knobs.init": ["kaimin"]}, "knobs.init: 'kaimin' (did you mean kaiming? one of kaiming, "),
    ({"knobs.init": [["x"]]}, "knobs.init: ['x'] (one of kaiming, "),
    ({"knobs.batch_size": [4, 0]}, "knobs.batch_size: 0 (whole numbers from 1)"),
    ({"knobs.warmup": [0, 2]}, "knobs.warmup: 2 (a number from 0 to 1)"),
    ({"knobs": ["rank"]}, "knobs: ['rank'] (a mapping)"),
    ({"knobs.rank": "two", "variants": [{"name": "lora", "knobs": {"rank": 2}}]}, "knobs.rank: 'two' ("),
    ({"variants": [{"name": "lora", "knobs": {"rank": 0}}]}, "variants.lora.knobs.rank: 0 (whole numbers from 1)"),
]
FOCUS = [
    ({"knobs.learning_rate": 1e-3}, "focus: 'learning_rate' (a knob of positive numbers that varies: rank)"),
    ({"focus": "alpha"}, "focus: 'alpha' (a knob of positive numbers that varies: learning_rate, rank)"),
    (
        {"focus": "init", "knobs.init": ["kaiming", "gaussian"]},
        "focus: 'init' (a knob of positive numbers that varies: learning_rate, rank)",
    ),
    (
        {"focus": "weight_decay", "knobs.weight_decay": {"levels": [0, 0.1]}},
        "focus: 'weight_decay' (a knob of positive numbers that varies: learning_rate, rank)",
    ),
    (
        {"knobs": {"init": ["kaiming", "gaussian"]}},
        "focus: 'learning_rate' (a knob of positive numbers that varies: none of this study does)",
    ),
    ({"knobs": {}}, "knobs: {} (a range or levels of at least one knob, or nothing is studied)"),
    ({"knobs": {"rank": 4}}, "knobs: {'rank': 4} (a range or levels of at least one knob, or nothing is studied)"),
]
COUNTS = [
    *("tasks.0.budget.steps", "tasks.0.budget.batch_size", "tasks.0.budget.length", "tasks.0.rows.train"),
    *("design.points", "seeds", "seeds.explore", "seeds.confirm", "compute.workers", "compute.pack_size"),
]
NAMES = [
    ({"name": name}, f"name: {name!r} (at most 100 letters")
    for name in ("", "a b", "../a", "a/b", "-a", ".a", "é", "a\nb")
]
FIELDS = [
    ({"compute.dtype": "fp31"}, "compute.dtype: 'fp31' (did you mean fp32? 'auto', 'fp32', 'bf16' or 'fp64')"),
    ({"compute.device": "cud"}, "compute.device: 'cud' (did you mean cuda? 'auto', 'cpu' or 'cuda')"),
    ({"compute.unpad": 1}, "compute.unpad: 1 (true or false)"),
    ({"compute.share_batches": "no"}, "compute.share_batches: 'no' (true or false)"),
    ({"design.kind": "sobl"}, "design.kind: 'sobl' (did you mean sobol? "),
    ({"design.seed": -1}, "design.seed: -1 (greater than or equal to 0)"),
    ({"design": "sobol"}, "design: 'sobol' (a mapping with kind, points, seed, halving, refine)"),
    ({"margin": 0}, "margin: 0 (greater than 0)"),
    ({"margin": float("inf")}, "margin: inf (a finite number)"),
    ({"name": 3}, "name: 3 (text)"),
    ({"name": "x" * 101}, f"name: '{'x' * 79}... (at most 100 letters, digits "),
    ({"variants": ["lora", "lora"]}, "variants: 'lora' (each listed once)"),
    ({"variants": ["lora", {"name": "lora", "knobs": {"rank": 2}}]}, "variants: 'lora' (each listed once)"),
    ({"variants": "lora"}, "variants: 'lora' (a list)"),
    ({"variants": [3]}, "variants.0: 3 (a mapping with name, combine, knobs)"),
    ({"tasks": TASK}, "tasks: {'task': 'classification', "),
    ({"tasks": ["classification"]}, "tasks.0: 'classification' (a mapping with task, model, "),
    ({"tasks": [TASK, TASK]}, "tasks: 'classification' (each listed once)"),
    ({"tasks.0.data": 3}, "tasks.0.data: 3 (text or a mapping with path, "),
    ({"tasks.0.targets": ["query"]}, "tasks.0.targets: ['query'] (text)"),
    ({"tasks.0.targets": "(query"}, "tasks.0.targets: '(query' (a regular expression: missing ), "),
    ({"phases": ["confirm"]}, "phases: ['confirm'] (explore comes first"),
    ({"phases": ["explore", "explore"]}, "phases: 'explore' (each listed once)"),
    ({"phases": "explore"}, "phases: 'explore' (a list)"),
    ({"phases": ["refine"]}, "phases: ['refine'] (explore comes first"),
    ({"knobs.alpha": [1, 2], "knobs.scale": [1, 2]}, "knobs.scale: [1, 2] (alpha or scale, since one says the other)"),
    ({"variants": ["vera"], "knobs.scale": [1, 2]}, "knobs.scale: unknown knob 'scale' (did you mean schedule? "),
    ({"phases": ["explor"]}, "phases.0: 'explor' (did you mean explore? "),
]


@pytest.mark.parametrize(("changes", "line"), [*UNKNOWN, *MISSING, *KNOBS, *FOCUS, *NAMES, *FIELDS])
def test_a_spec_that_cannot_be_meant_is_refused_in_one_line(changes: Mapping[str, Any], line: str) -> None:
    assert refused(changes).startswith(f"{FILE}: {line}")


@pytest.mark.parametrize("path", COUNTS)
def test_what_is_counted_is_a_whole_number_from_1(path: str) -> None:
    for value in (0, -1):
        assert refused({path: value}).startswith(f"{FILE}: {path}: {value} (greater than 0")
    for other in (1.5, "4", True, None, float("nan"), [4]):
        assert refused({path: other}).startswith(f"{FILE}: {path}: {other!r} (a whole number")


@pytest.mark.parametrize("key", [3, None, 1.5])
def test_a_key_that_is_no_word_is_refused(key: Any) -> None:
    assert refusal(lambda: parse(document() | {key: "x"}, FILE)) == f"{FILE}: {key}: {key} (a word as key)"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: tiny\ntasks: [\n  a: b: c\n", "line 3, column 7: expected ',' or ']', but got ':'"),
        ("name: tiny\n\ttasks: x\n", "line 2, column 1: found character '\\t' that cannot start any token"),
        ("name: tiny\nname: other\n", "line 2, column 1: the key 'name' stands here twice"),
        ("design: {points: 4, kind: grid, points: 5}", "line 1, column 33: the key 'points' stands here twice"),
        ("name: !!python/object/apply:os.getcwd []", "line 1, column 7: could not determine a constructor"),
        ("? [a, b]\n: c\n", "line 1, column 3: found unhashable key"),
        ("name: \0", "unacceptable character #x0000"),
        ("", "is empty (a mapping with name, tasks, "),
        ("- tiny\n", "holds ['tiny'] (a mapping with name, tasks, "),
        ("tiny", "holds 'tiny' (a mapping with name, tasks, "),
    ],
)
def test_text_that_is_no_mapping_is_refused_with_its_line_and_column(text: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(text)
    assert refusal(lambda: load(file)).startswith(f"{file}: {line}")


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    assert refusal(lambda: load(tmp_path / "none")).endswith("cannot be read: No such file or directory (a YAML file)")
    assert refusal(lambda: load(tmp_path)).endswith("cannot be read: Is a directory (a YAML file)")
    (tmp_path / FILE).write_bytes(b"name: \xff")
    assert refusal(lambda: load(tmp_path / FILE)).endswith("(a YAML file in UTF-8)")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"workers": 0}, "--workers: 0 (greater than 0 or 'auto')"),
        ({"pack_size": -1}, "--pack-size: -1 (greater than 0 or 'auto')"),
        ({"dtype": "fp31"}, "--dtype: 'fp31' (did you mean fp32? 'auto', 'fp32', 'bf16' or 'fp64')"),
        ({"name": ""}, "--as: '' (at most 100 letters, digits"),
        ({"name": "a b"}, "--as: 'a b' (at most 100 letters, digits"),
    ],
)
def test_what_the_command_line_says_is_checked_as_well_and_named_as_it_was_given(
    options: Mapping[str, Any], line: str
) -> None:
    none = {"name": None, "workers": None, "pack_size": None, "dtype": None}
    assert refusal(lambda: overridden(spec(), FILE, **{**none, **options})).startswith(line)


# What is taken, and what it means


@pytest.mark.parametrize("file", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_study_that_comes_along_is_a_study(file: Path) -> None:
    assert load(file)[0].name == file.stem


def test_the_command_line_wins_over_the_file() -> None:
    asked = overridden(spec(), FILE, name="other", workers=3, pack_size=5, dtype="fp64")
    assert (asked.name, asked.compute.workers, asked.compute.pack_size, asked.compute.dtype) == ("other", 3, 5, "fp64")
    assert overridden(spec(), FILE, name=None, workers=None, pack_size=None, dtype=None) == spec()


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.e-3", ".1e-2", "+1e-3", "0.001", "1.0e-3"])
def test_a_number_is_read_as_one_however_it_is_written(written: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(yaml.safe_dump(document()) + f"margin: {written}\n")
    assert load(tmp_path / FILE)[0].margin == 1e-3


def test_merge_keys_work_and_what_is_written_beside_them_wins(tmp_path: Path) -> None:
    text = yaml.safe_dump(document({"tasks.0.budget": GONE})).replace(
        "- data:", "- budget: {<<: &short {steps: 9, length: 8}, steps: 5}\n  data:"
    )
    (tmp_path / FILE).write_text(text)
    budget = load(tmp_path / FILE)[0].tasks[0].budget
    assert (budget.steps, budget.length) == (5, 8)


def test_a_spec_reads_back_as_it_was_stored() -> None:
    rich = spec(
        {
            "variants": ["lora", {"name": "lora_plus", "knobs": {"b_over_a": [1, 64]}}],
            "knobs.learning_rate": {"levels": [1e-4, 1e-3]},
            "tasks.0.rows": {"test": 9},
            "seeds": {"explore": 1},
        }
    )
    assert parse(json.loads(json.dumps(resolved(rich))), FILE) == rich
    assert parse(yaml.safe_load(dump(resolved(rich))), FILE) == rich


def test_a_knob_that_only_some_variants_have_is_left_out_of_the_others() -> None:
    asked = spec({"variants": ["lora", "lora_plus"], "knobs.b_over_a": [1, 64]})
    spaces = [space(asked, chosen) for chosen in asked.variants]
    assert [[knob.name for knob in each.varied] for each in spaces] == [
        ["learning_rate", "rank"],
        ["learning_rate", "rank", "b_over_a"],
    ]
    assert "b_over_a" not in spaces[0].fixed


def test_the_order_in_which_levels_are_listed_moves_no_point() -> None:
    cells = []
    for ranks, inits in (([2, 4], ["kaiming", "gaussian"]), ([4, 2], ["gaussian", "kaiming"])):
        asked = spec({"knobs.rank": ranks, "knobs.init": inits})
        cells.append(space(asked, asked.variants[0]).decode({"learning_rate": 0.5, "rank": 0.9, "init": 0.9}))
    assert cells[0] == cells[1]


def test_a_variants_own_knobs_win_over_the_studys() -> None:
    asked = spec({"variants": ["lora", {"name": "dora", "knobs": {"rank": 8, "alpha": 4}}]})
    lora, dora = (space(asked, chosen) for chosen in asked.variants)
    assert {knob.name for knob in lora.varied} == {"learning_rate", "rank"}
    assert {knob.name for knob in dora.varied} == {"learning_rate"}
    assert (dora.fixed["rank"], dora.fixed["alpha"]) == (8, 4)


def test_a_variants_own_alpha_wins_over_the_studys_scale() -> None:
    asked = spec({"variants": ["lora", {"name": "dora", "knobs": {"alpha": 4}}], "knobs.scale": [0.5, 8]})
    lora, dora = (space(asked, chosen) for chosen in asked.variants)
    assert [knob.name for knob in lora.varied] == ["learning_rate", "rank", "scale"]
    assert lora.decode({"learning_rate": 0.5, "rank": 0.9, "scale": 0.5})["alpha"] == 2 * 4
    assert [knob.name for knob in dora.varied] == ["learning_rate", "rank"]
    assert dora.fixed["alpha"] == 4


def test_a_file_may_describe_several_studies(tmp_path: Path) -> None:
    both = [document() | {"name": name} for name in ("one", "two")]
    (tmp_path / FILE).write_text(yaml.safe_dump_all(both))
    assert [study.name for study in load(tmp_path / FILE)] == ["one", "two"]
    (tmp_path / FILE).write_text(yaml.safe_dump_all([both[0], both[0]]))
    line = f"{tmp_path / FILE}, study 1: name: 'one' (each study's own)"
    assert refusal(lambda: load(tmp_path / FILE)) == line
    (tmp_path / FILE).write_text(yaml.safe_dump_all([both[0], both[1] | {"margn": 1}]))
    assert refusal(lambda: load(tmp_path / FILE)).startswith(f"{tmp_path / FILE}, study 2: margn: unknown key")


def test_two_numbers_are_a_range_of_a_log_knob_and_two_levels_of_another() -> None:
    asked = spec({"knobs.rank": [4, 2], "knobs.alpha": {"levels": [8, 16]}, "knobs.init": "gaussian"})
    cell = space(asked, asked.variants[0])
    rate, rank, alpha = cell.varied
    assert (rate.decode(0), rate.decode(1)) == (1e-4, 1e-1)
    assert rank.grid(0) == [2, 4]
    assert alpha.grid(0) == [8, 16]
    assert cell.fixed["init"] == "gaussian"


# Widening


COMBINED = (["lora", "dora"], ["lora+lora_plus", "dora"])  # the labels before and after
ENDS = {"levels": [1e-4, 1e-1]}
OWN_RANK = {"name": "lora", "knobs": {"rank": [4, 8]}}


def changed(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return session.differences(spec(old), spec(new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({}, {"variants": ["dora", "lora"]}),
        ({}, {"variants": ["pissa", "lora", "lora_plus", "dora"]}),
        ({}, {"variants": ["lora", "lora_plus", "dora"], "knobs.b_over_a": [1, 64]}),  # of the new variant alone
        ({}, {"variants": ["lora", "dora", {"name": "lora", "combine": ["lora_plus"]}]}),
        ({}, {"knobs.rank": [4, 8, 2]}),
        ({}, {"knobs.rank": {"levels": [2, 4]}}),
        ({"knobs.rank": 2}, {"knobs.rank": [2, 4]}),
        ({}, {"knobs": {"rank": [2, 4], "learning_rate": [1e-4, 1e-1]}}),  # another order
        ({"knobs.init": ["gaussian", "kaiming"]}, {"knobs.init": ["kaiming", "gaussian"]}),
        ({}, {"variants": ["lora", {"name": "dora", "knobs": {"rank": [2, 4]}}]}),  # the same, written elsewhere
        ({"variants": [OWN_RANK]}, {"variants": [{"name": "lora", "knobs": {"rank": [2, 4, 8]}}]}),
        ({"variants": [OWN_RANK]}, {"variants": ["dora", OWN_RANK]}),
        ({}, {"knobs.alpha": 16}),  # what it is anyway
        ({}, {"design.points": 64}),
        ({}, {"seeds": 3}),
        ({}, {"seeds": {"explore": 2, "confirm": 9}}),
        ({"phases": ["explore"]}, {"phases": ["explore", "confirm"]}),
        ({}, {"phases": ["confirm", "explore"]}),
        ({}, {"compute.workers": 7, "compute.pack_size": 3, "compute.device": "cuda"}),
        ({}, {"compute.share_batches": False, "compute.unpad": False}),
        ({}, {"compute.skip_unread": False, "compute.cache_prefix": False}),
        ({"knobs.batch_size": [4, 8]}, {"knobs.batch_size": [4, 8, 16]}),
        ({}, {"tasks.0.budget": {"batch_size": 8, "steps": 4}}),  # the default, written out
    ],
)  # fmt: skip
def test_the_same_or_more_is_the_same_study(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    assert changed(old, new) == []


def test_the_order_of_keys_and_of_tasks_is_no_difference() -> None:
    backwards = dict(reversed(document().items()))
    assert session.differences(spec(), parse(backwards, FILE)) == []
    other = {"task": "sentiment"}
    assert changed({"tasks": [TASK, other]}, {"tasks": [other, TASK]}) == []


@pytest.mark.parametrize(
    ("new", "difference"),
    [
        ({"variants": ["lora"]}, ("variants", ["lora", "dora"], ["lora"])),
        ({"variants": [{"name": "lora", "combine": ["lora_plus"]}, "dora"]}, ("variants", *COMBINED)),
        ({"variants": ["lora", {"name": "dora", "knobs": {"rank": 2}}]}, ("variants.dora.knobs.rank", [2, 4], 2)),
        ({"knobs.rank": [2]}, ("knobs.rank", [2, 4], 2)),
        ({"knobs.rank": [2, 8]}, ("knobs.rank", [2, 4], [2, 8])),
        ({"knobs.rank": GONE}, ("knobs.rank", [2, 4], 8)),
        ({"knobs.learning_rate": [1e-5, 1e-1]}, ("knobs.learning_rate", [1e-4, 1e-1], [1e-5, 1e-1])),
        ({"knobs.learning_rate": ENDS}, ("knobs.learning_rate", [1e-4, 1e-1], ENDS)),
        ({"knobs.alpha": [8, 32]}, ("knobs.alpha", 16, [8, 32])),
        ({"knobs.alpha": 32}, ("knobs.alpha", 16, 32)),
        ({"knobs.batch_size": [4, 8]}, ("knobs.batch_size", None, [4, 8])),  # before, the budget's counted
        ({"design.points": 3}, ("design.points", 4, 3)),
        ({"design.kind": "grid"}, ("design.kind", "sobol", "grid")),
        ({"design.seed": 1}, ("design.seed", 0, 1)),
        ({"seeds": {"explore": 1, "confirm": 2}}, ("seeds.explore", 2, 1)),
        ({"phases": ["explore"]}, ("phases", ["explore", "confirm"], ["explore"])),
        ({"focus": "rank"}, ("focus", "learning_rate", "rank")),
        ({"margin": 0.03}, ("margin", 0.02, 0.03)),
        ({"compute.dtype": "fp64"}, ("compute.dtype", "fp32", "fp64")),
        ({"tasks.0.budget.steps": 5}, ("tasks.classification.budget.steps", 4, 5)),
        ({"tasks.0.targets": "query"}, ("tasks.classification.targets", None, "query")),
        ({"tasks.0.model": "./other"}, ("tasks.classification.model", "./model", "./other")),
        ({"tasks.0.data.text": "body"}, ("tasks.classification.data.text", "text", "body")),
        ({"tasks.0.rows": {"test": 9}}, ("tasks.classification.rows.test", None, 9)),
        ({"tasks": [{"task": "sentiment"}]}, ("tasks", ["classification"], ["sentiment"])),
        ({"tasks": [TASK, {"task": "sentiment"}]}, ("tasks", ["classification"], ["classification", "sentiment"])),
    ],
)  # fmt: skip
def test_any_other_difference_is_told_by_its_field(new: Mapping[str, Any], difference: tuple[str, Any, Any]) -> None:
    assert changed({}, new) == [difference]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger in which the study exists."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", migrate=True)
    ledger.create_study("tiny", resolved(spec()), [])
    return ledger


def test_a_changed_study_is_refused_with_every_field_and_the_way_out(ledger: Ledger) -> None:
    asked = spec({"margin": 0.03, "tasks.0.budget.steps": 5, "knobs.rank": [2, 8]})
    assert refusal(lambda: session.admit(ledger, asked, FILE)) == (
        f"{FILE}: study tiny exists and differs: tasks.classification.budget.steps: was 4, is 5; "
        "margin: was 0.02, is 0.03; knobs.rank: was [2, 4], is [2, 8] (widen it, or run this one --as NEW-NAME)"
    )
    assert session.admit(ledger, asked.model_copy(update={"name": "other"}), FILE).name == "other"


def test_a_wider_study_is_admitted_as_it_was_asked_for(ledger: Ledger) -> None:
    asked = spec({"variants": ["pissa", "lora", "dora"], "design.points": 8, "compute.workers": 3})
    assert session.admit(ledger, asked, FILE) == asked


def test_a_study_keeps_the_device_it_began_with_and_says_where_that_is_missing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "fast_device", lambda: "cpu")
    ledger.create_study("far", resolved(spec({"name": "far", "compute.device": "cuda"})), [])
    assert refusal(lambda: session.admit(ledger, spec({"name": "far", "compute.device": "auto"}), FILE)) == (
        f"{FILE}: compute.device: cuda, and there is none here (cpu, or a machine that has one)"
    )
    assert session.admit(ledger, spec({"name": "far"}), FILE).compute.device == "cpu"
    assert session.admit(ledger, spec({"name": "new", "compute.device": "auto"}), FILE).compute.device == "cpu"


def test_a_batch_size_that_is_not_listed_is_the_budgets_and_no_knob_of_the_trial() -> None:
    asked, listed = spec({"tasks.0.budget": {"batch_size": 5}}), spec({"knobs.batch_size": 6})
    assert "batch_size" not in space(asked, asked.variants[0]).fixed
    assert asked.tasks[0].budget.examples(space(asked, asked.variants[0]).fixed) == 5
    assert listed.tasks[0].budget.examples(space(listed, listed.variants[0]).fixed) == 6


def test_a_study_keeps_the_dtype_it_began_with_on_any_machine(ledger: Ledger) -> None:
    for dtype in ("fp32", "bf16", "fp64"):
        name = f"in-{dtype}"
        ledger.create_study(name, resolved(spec({"name": name, "compute.dtype": dtype})), [])
        asked = spec({"name": name, "compute.dtype": "auto"})
        assert session.admit(ledger, asked, FILE).compute.dtype == dtype
    assert session.admit(ledger, spec({"name": "new", "compute.dtype": "auto"}), FILE).compute.dtype in ("fp32", "bf16")
