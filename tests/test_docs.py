"""The documentation under test (an idea of Simon Willison's): every list is read from the code, none is kept here."""

import re
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup, TyperOption

from study import spec
from study.cli import app
from study.space import named
from study.tasks import TASKS
from study.variants import VARIANTS

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
