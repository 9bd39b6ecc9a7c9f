"""The shape of the house: which file may import what, where heavy libraries enter, and what no file may say."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("study", "trackers", "dashboards")
COMPOSITION_ROOT = "study.cli"  # wires everything together; nobody imports it
LONGEST_FUNCTION = 80  # lines, docstring included

# From the leaves up: a module imports its own layer and those above it in this list, never below.
LAYERS = (
    (
        "study",
        "study.errors",
        "study.space",
        "study.trial",
        "study.tracking",
        "study.redact",
        "study.grouping",
        "study.files",
    ),
    ("study.analysis.*",),
    ("study.foreign.*",),
    (
        "study.optim",
        "study.lanczos",
        "study.streams",
        "study.tokens",
        "study.assets",
        "study.design",
        "study.hardware",
        "study.home",
    ),
    ("study.variants.*", "study.tasks.*"),
    ("study.stack",),
    ("study.spec", "study.frozen", "study.part", "study.needs", "study.adapters"),
    ("study.pack",),
    ("study.statistics",),
    ("study.ledger", "study.migrations.*", "study.table"),
    ("study.worker",),
    (
        "study.cell",
        "study.proposer",
        "study.engines.*",
        "study.planner",
        "study.controller",
        "study.progress",
        "study.curvature",
    ),
    ("study.session", "study.interchange.*"),
    ("trackers.*", "dashboards.*"),
    ("study.cli",),
)

# The only files that may import a heavy library; a `/*` is a folder.
DOORWAYS = {
    "optuna": ("study/proposer.py", "trackers/optuna.py", "study/analysis/peers.py"),
    "sqlalchemy": ("study/ledger.py", "study/migrations/*"),
    "alembic": ("study/ledger.py", "study/migrations/*"),
    "mlflow": ("trackers/mlflow.py", "trackers/runs.py"),
    "yaml": ("study/spec.py",),
    "fastapi": ("dashboards/web.py",),
    "uvicorn": ("dashboards/web.py",),
    "typer": ("study/cli.py",),
    "rich": ("study/cli.py", "study/progress.py"),
    "ray": ("study/engines/ray.py",),
    "altair": ("dashboards/charts.py", "dashboards/curves.py", "dashboards/intervals.py", "dashboards/heat.py"),
    "vl_convert": ("dashboards/*",),
    "jinja2": ("dashboards/*",),
    "sklearn": ("study/analysis/*", "study/tasks/images.py"),
    "SALib": ("study/analysis/*",),
    "transformers": ("study/tasks/*",),
    "datasets": ("study/tasks/*",),
}

# Raise, or stop every trial, when one member of the batch is singular or not finite.
RAW_LINALG = {"eigh", "eigvalsh", "svd", "svdvals", "cholesky", "inv", "solve", "qr", "pinv"}
LIFTED = ("forward", "penalty", "optimizer")  # the functions of a variant file that run under vmap


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def imported(file: Path) -> Iterator[str]:
    """Every dotted name the file imports, inside functions too: `from a import b` gives a.b."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def edges() -> dict[str, set[str]]:
    """Which of our modules each of our modules imports."""
    return {name: {ours(full) for full in imported(file)} - {"", name} for name, file in modules().items()}


def ours(full: str) -> str:
    """The module of ours that holds `full` (a module, or a name inside one); empty where it is not ours."""
    return full if full in modules() else full.rpartition(".")[0] if full.rpartition(".")[0] in modules() else ""


def layer(module: str) -> int:
    """The place of a module in LAYERS; a package has its files' place."""
    found = [
        i
        for i, names in enumerate(LAYERS)
        if any(fnmatch(f"{module}{dot}", name) for name in names for dot in ("", "."))
    ]
    assert len(found) == 1, f"{module} has {len(found)} places in LAYERS: give it one"
    return found[0]


def functions(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    """The calls of a bare name inside `node`."""
    found = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    return [call for call in found if isinstance(call.func, ast.Name) and call.func.id == name]


def shown(file: Path, node: ast.stmt | ast.expr) -> str:
    return f"{file.relative_to(ROOT)}:{node.lineno}"


@cache
def repository() -> list[Path]:
    """Every file of the repository: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [file for file in files if file.is_file()]


def test_imports_form_a_dag() -> None:
    list(TopologicalSorter(edges()).static_order())  # raises CycleError with the circle


def test_imports_point_towards_the_leaves() -> None:
    wrong = [f"{a} imports {b}" for a, targets in edges().items() for b in targets if b and layer(b) > layer(a)]
    assert not wrong


def test_the_leaves_need_the_standard_library_only() -> None:
    leaves = [name for name in modules() if layer(name) == 0]
    allowed = sys.stdlib_module_names | {"study"}
    foreign = [
        f"{name} imports {full}"
        for name in leaves
        for full in imported(modules()[name])
        if full.split(".")[0] not in allowed
    ]
    assert not foreign


def test_study_never_imports_trackers_or_dashboards() -> None:
    inner = [name for name in modules() if name.startswith("study") and name != COMPOSITION_ROOT]
    outward = [f"{a} imports {b}" for a in inner for b in edges()[a] if b.startswith(("trackers", "dashboards"))]
    assert not outward


def test_nobody_imports_the_composition_root() -> None:
    assert not [name for name, targets in edges().items() if COMPOSITION_ROOT in targets]


@pytest.mark.parametrize("library", DOORWAYS)
def test_a_heavy_library_enters_by_its_doorways_only(library: str) -> None:
    users = [
        file.relative_to(ROOT)
        for file in modules().values()
        if library in {full.split(".")[0] for full in imported(file)}
    ]
    assert not [str(file) for file in users if not any(fnmatch(str(file), door) for door in DOORWAYS[library])]


def test_every_package_imported_is_declared() -> None:
    declared = {normal(name) for name, _, _ in requirements()}
    needed = {full.split(".")[0]: file for file in modules().values() for full in imported(file)}
    foreign = needed.keys() - sys.stdlib_module_names - set(PACKAGES)
    undeclared = [f"{needed[name]}: {name}" for name in foreign if not distributions(name) & declared]
    assert not undeclared


def test_every_requirement_names_a_file_that_needs_it() -> None:
    wrong = [f"{name}: {file}" for name, file, why in requirements() if not needs(ROOT / file, name, why)]
    assert not wrong


def needs(file: Path, distribution: str, why: str) -> bool:
    """Whether a file is there and, unless its comment says why it does not, imports the distribution."""
    if why or file.suffix != ".py":
        return file.exists()
    return file.exists() and any(normal(distribution) in distributions(full.split(".")[0]) for full in imported(file))


def distributions(package: str) -> set[str]:
    """What pip calls the distributions that bring an importable package."""
    return {normal(name) for name in installed().get(package, ())}


@cache
def installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def requirements() -> list[tuple[str, str, str]]:
    """(distribution, file, reason or nothing) of each requirement's line in pyproject.toml, extras included."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = tomllib.loads(text)["project"]
    wanted = [*listed["dependencies"], *(line for extra in listed["optional-dependencies"].values() for line in extra)]
    line = r'^    "([\w-]+)[^"]*", +# ([\w./-]+\w)(?:$|: (.+))'
    found = re.findall(line, text.split("[tool.")[0], re.MULTILINE)
    assert len(found) == len(wanted), "a requirement without a comment that names its file"
    return found


def normal(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("file", [*modules().values()], ids=modules())
def test_no_star_import_and_no_attribute_by_a_computed_name(file: Path) -> None:
    stars = [node for node in ast.walk(tree(file)) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    guesses = calls(tree(file), "hasattr")
    by_name = [call for call in calls(tree(file), "getattr") if not isinstance(call.args[1], ast.Constant)]
    assert not [shown(file, node) for node in (*stars, *guesses, *by_name)]


@pytest.mark.parametrize("file", [*modules().values()], ids=modules())
def test_no_function_is_longer_than_a_screen(file: Path) -> None:
    long = [f for f in functions(file) if (f.end_lineno or f.lineno) - f.lineno >= LONGEST_FUNCTION]
    assert not [f"{shown(file, f)} {f.name}" for f in long]


@pytest.mark.parametrize("file", sorted((ROOT / "study" / "variants").glob("*.py")), ids=lambda file: file.stem)
def test_lifted_code_calls_no_raw_decomposition(file: Path) -> None:
    assert not [shown(file, call) for call in raw_decompositions(file)]


def raw_decompositions(file: Path) -> list[ast.Call]:
    """Calls of torch.linalg.<raw> in the lifted functions of a variant file and in what they call there."""
    defined = {f.name: f for f in functions(file)}
    reached, waiting = set[str](), [name for name in LIFTED if name in defined]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += [other for other in defined.keys() - reached if calls(defined[name], other)]
    inside = [node for name in reached for node in ast.walk(defined[name]) if isinstance(node, ast.Call)]
    return [
        call for call in inside if re.fullmatch(rf"torch\.(linalg\.)?({'|'.join(RAW_LINALG)})", ast.unparse(call.func))
    ]


def test_a_raw_decomposition_in_lifted_code_is_found(tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    body = "def init(W):\n    return torch.linalg.svd(W)\ndef basis(x):\n    return torch.linalg.qr(x)\n"
    file.write_text(body + "def forward(x):\n    return basis(x)\n")
    assert [ast.unparse(call.func) for call in raw_decompositions(file)] == ["torch.linalg.qr"]


def test_no_file_names_a_registry_or_a_machine() -> None:
    # Put together here, so that this file does not name them either.
    hosts = [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("debian", "org")]
    hosts += [("ubuntu", "com"), ("pytorch", "org/whl")]
    folders = "|".join(("work", "tmp", "root", "home/[a-z]+"))
    pattern = re.compile(rf"{'|'.join(map('[.]'.join, hosts))}|(?<![\w.}}/])/({folders})/".encode())
    found = [(file, pattern.search(file.read_bytes())) for file in repository()]
    assert not [f"{file.relative_to(ROOT)}: {match.group().decode()}" for file, match in found if match]
