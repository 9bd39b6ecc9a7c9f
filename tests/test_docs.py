"""The documentation under test (an idea of Simon Willison's): every list is read from the code, none is kept here."""

import ast
import re
import runpy
import shutil
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup, TyperOption

from study import spec
from study.cli import app
from study.errors import BadInput
from study.space import named
from study.tasks import TASKS
from study.variants import NAMES, VARIANTS, new, page, taxonomy
from tests import test_variants as laws

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOCS = "\n".join(file.read_text() for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
OURS = ("study", "trackers", "dashboards", "studies", "tests", "benchmarks", "docs", ".ci")  # folders of the repository


def commands() -> dict[str, TyperCommand]:
    """Every command of `lorascope` by name."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return {name: command for name, command in group.commands.items() if isinstance(command, TyperCommand)}


def options() -> dict[str, str | None]:
    """What every long option says of itself, as `command --option`."""
    found = [(name, param) for name, command in commands().items() for param in command.params]
    spelled = [
        (name, option, param) for name, param in found if isinstance(param, TyperOption) for option in param.opts
    ]
    return {f"{name} {option}": param.help for name, option, param in spelled if option.startswith("--")}


def keys() -> set[str]:
    """Every key that a spec may hold."""
    models = [m for m in vars(spec).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    return {key for model in models for key in model.model_fields}


def knobs() -> set[str]:
    """Every knob of every variant."""
    return {name for variant in VARIANTS.values() for name in named(variant.knobs)}


def says(text: str, word: str) -> bool:
    """Whether `word` stands in `text` as a word of its own."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def code(text: str) -> str:
    """What stands between backticks, inline or in a block: prose that happens to use a word documents nothing."""
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))])


def missing(words: Iterable[str], text: str) -> list[str]:
    """The words that stand nowhere in the code of `text`."""
    shown = code(text)
    return [word for word in sorted(words) if not says(shown, word)]


def test_every_command_is_in_the_readme() -> None:
    assert not missing((f"lorascope {name}" for name in commands()), README)


def test_every_option_is_in_the_readme_and_explains_itself() -> None:
    assert not missing({name.split()[1] for name in options()}, README)
    assert not [name for name, text in options().items() if not text]


def test_every_key_of_a_spec_is_in_the_readme() -> None:
    assert not missing(keys(), README)


@pytest.mark.parametrize("names", [VARIANTS, TASKS, knobs()], ids=["variants", "tasks", "knobs"])
def test_everything_registered_has_its_line_in_the_docs(names: Collection[str]) -> None:
    assert names
    assert not missing(names, DOCS)


def test_every_make_target_in_the_docs_exists_and_the_two_commands_are_among_them() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", code(DOCS), re.MULTILINE))
    assert {"study", "test"} <= told <= targets


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_every_file_named_in_the_docs_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    assert not [name for name in files_named(text) if not list(ROOT.glob(name))]


def files_named(text: str) -> set[str]:
    """Paths of the repository: the targets of links, and in backticks what begins with a folder of ours."""
    links = {link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link}
    quoted = {path for path in re.findall(r"[\w./*-]+", code(text)) if "/" in path and path.split("/")[0] in OURS}
    return {path.rstrip("./") for path in links | quoted}


def test_the_changelog_has_an_entry_for_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## \[{re.escape(version)}\]", CHANGELOG, re.MULTILINE)


def test_the_example_environment_lists_what_compose_reads() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)) == used


def test_the_page_of_variants_is_current() -> None:
    assert (ROOT / "docs" / "variants.md").read_text() == page.page(), "run `make docs`"


def test_every_variant_has_one_line_in_the_page_that_says_what_it_does() -> None:
    methods = page.page().partition("\n## Knobs\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \| [^| ][^|]+ \|", methods, re.MULTILINE)) == sorted(VARIANTS)


def test_the_readme_counts_the_variants_of_every_axis() -> None:
    counts = {axis: str(len(rows)) for axis, rows in taxonomy.by_axis(VARIANTS.values()).items()}
    table = README.partition("| axis | variants |")[2].partition("\n\n")[0]
    assert dict(re.findall(r"^\| ([a-z ]+) \| (\d+) \|", table, re.MULTILINE)) == counts


@pytest.mark.parametrize(
    ("name", "equal", "merges"),
    [
        ("lora", ["init"], True),
        ("pissa", [], True),
        ("loramoe", ["init", "experts"], False),
        ("goat", ["experts"], False),
    ],
)
def test_the_taxonomy_knows_what_packs_and_what_merges(name: str, equal: list[str], merges: bool) -> None:
    row = taxonomy.entry(VARIANTS[name])
    assert (row.equal_in_a_pack, row.merges) == (equal, merges)


def test_a_new_variant_is_registered_and_obeys_the_laws_at_once(tmp_path: Path) -> None:
    shutil.copy(Path(new.__file__).with_name("__init__.py"), tmp_path)
    method = runpy.run_path(str(new.lay("my_lora", tmp_path)))["VARIANT"]
    assigned = [node for node in ast.parse((tmp_path / "__init__.py").read_text()).body if isinstance(node, ast.Assign)]
    assert {node.targets[0].id: ast.literal_eval(node.value) for node in assigned[:1]} == {"NAMES": (*NAMES, "my_lora")}
    laws.test_starts_at_the_base_model_or_declares_that_it_does_not(method, "kaiming")
    laws.test_every_trainable_leaf_moves_within_three_steps(method)
    laws.test_merged_equals_forward_or_is_refused_because_it_cannot(method)
    laws.test_trainable_count_is_the_formula(method)


@pytest.mark.parametrize("name", ["", "My_lora", "class", "2lora", "../lora", "base", "taken"])
def test_a_name_that_no_new_variant_can_have_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    registry = tmp_path / "__init__.py"
    registry.write_text('NAMES = (\n    "taken",\n)\n')
    for taken in ("base", "taken"):
        (tmp_path / f"{taken}.py").touch()
    with pytest.raises(BadInput, match="NAME"):
        new.lay(name, tmp_path)
    assert registry.read_text() == 'NAMES = (\n    "taken",\n)\n'
    assert len(list(tmp_path.iterdir())) == 3


def test_the_tour_visits_every_variant() -> None:
    (tour,) = spec.load(ROOT / "studies" / "taxonomy-tour.yaml")
    assert sorted(chosen.name for chosen in tour.variants) == sorted(VARIANTS)
