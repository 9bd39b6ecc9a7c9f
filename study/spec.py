"""One YAML file -> a frozen, checked StudySpec. Every error is one line: file, key path, value, what was allowed."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from study.errors import BadInput
from study.space import Choice, Knob, Levels, LogFloat, Space, Value, named
from study.tasks import TASKS
from study.tasks.base import Source
from study.variants import VARIANTS, variant

CONFIRM_SEEDS_FROM = 1000  # seeds of the confirm phase are far from any that chose the setting


class Strict(BaseModel):
    """Unknown keys are refused and nothing changes after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(Strict):
    """How long every trial of a task trains."""

    steps: PositiveInt = 100
    batch_size: PositiveInt = 8
    length: PositiveInt = 32  # tokens an example is cut to


class DataSpec(Strict):
    """A data set that is not a named one: a local file or folder, or a hub id, and its columns."""

    path: str
    config: str | None = None
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    rows: Mapping[Literal["train", "validation", "test"], PositiveInt] = {}

    def source(self) -> Source:
        """The same for the task."""
        return Source(**self.model_dump())


class TaskSpec(Strict):
    """A model, its data, a score, and the training every trial gets."""

    task: str
    model: str | None = None  # a folder, an offline asset or a hub id; None: the task's own
    data: str | DataSpec | None = None
    rows: Mapping[Literal["train", "validation", "test"], PositiveInt] = {}
    budget: Budget = Budget()
    targets: str | None = None  # a regular expression on layer names; None: all linear layers of the blocks

    @property
    def label(self) -> str:
        """What the ledger and the report call this task."""
        return f"{self.task}/{self.data}" if isinstance(self.data, str) else self.task


class VariantSpec(Strict):
    """A method and what is particular about it in this study."""

    name: str
    combine: tuple[str, ...] = ()
    knobs: Mapping[str, Any] = {}

    @property
    def label(self) -> str:
        """What the ledger and the report call this variant."""
        return "+".join((self.name, *self.combine))


class Design(Strict):
    """Which settings every variant is tried at."""

    kind: Literal["sobol", "grid", "random", "tpe"] = "sobol"
    points: PositiveInt = 16
    seed: int = Field(default=0, ge=0)


class Seeds(Strict):
    """How many paired seeds: every setting of every variant is trained with each of them."""

    explore: PositiveInt = 2
    confirm: PositiveInt = 3

    def of(self, phase: str) -> list[int]:
        """The seeds of a phase."""
        return list(range(self.explore)) if phase == "explore" else [CONFIRM_SEEDS_FROM + s for s in range(self.confirm)]


class Compute(Strict):
    """How trials are computed: nothing here but `dtype` can change a number by more than rounding."""

    dtype: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    pack_size: PositiveInt | Literal["auto"] = "auto"
    workers: PositiveInt | Literal["auto"] = "auto"


def _listed(value: Any) -> Any:
    """`lora` means `{name: lora}`."""
    return [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def _counted(value: Any) -> Any:
    """`seeds: 3` means three for each phase."""
    return {"explore": value, "confirm": value} if isinstance(value, int) and not isinstance(value, bool) else value


class StudySpec(Strict):
    """A study as its author wrote it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    variants: Annotated[tuple[VariantSpec, ...], BeforeValidator(_listed)] = Field(min_length=1)
    knobs: Mapping[str, Any] = {}
    focus: str = "learning_rate"
    design: Design = Design()
    seeds: Annotated[Seeds, BeforeValidator(_counted)] = Seeds()
    phases: tuple[Literal["explore", "confirm"], ...] = ("explore", "confirm")
    margin: float = Field(default=0.01, gt=0)  # in units of the score: closer than this is the same
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _names(self) -> "StudySpec":
        for at, task in enumerate(self.tasks):
            _known(f"tasks.{at}.task", task.task, TASKS)
        for at, chosen in enumerate(self.variants):
            _known(f"variants.{at}.name", chosen.name, VARIANTS)
            for other in chosen.combine:
                _known(f"variants.{at}.combine", other, VARIANTS)
            variant(chosen.name, chosen.combine)
        _distinct("tasks", [task.label for task in self.tasks])
        _distinct("variants", [chosen.label for chosen in self.variants])
        _distinct("phases", self.phases)
        if "explore" not in self.phases:
            raise _Refused("phases", list(self.phases), "explore comes first: it chooses what confirm confirms")
        every = {name for chosen in self.variants for name in named(variant(chosen.name, chosen.combine).knobs)}
        for name in self.knobs:
            _known(f"knobs.{name}", name, every)
        _known("focus", self.focus, every)
        for chosen in self.variants:
            space(self, chosen)
        return self


def load(path: Path) -> StudySpec:
    """The study that a file describes. Raises BadInput."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}", "a YAML file") from None
    try:
        document = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise BadInput(str(path), f"{line}{getattr(error, 'problem', None) or 'not YAML'}", "a YAML mapping") from None
    return parse(document, str(path))


def parse(document: Any, where: str) -> StudySpec:
    """The study that a document describes; `where` begins every error. Raises BadInput."""
    if not isinstance(document, Mapping):
        raise BadInput(where, f"is {type(document).__name__}", "a YAML mapping with name, tasks, variants, knobs")
    try:
        return StudySpec.model_validate(document)
    except _Refused as refused:
        raise BadInput(f"{where}: {refused.where}", refused.problem, refused.allowed) from None
    except ValidationError as error:
        raise _told(error, where) from None


def overridden(spec: StudySpec, where: str, *, name: str | None, workers: int | None, pack_size: int | None, dtype: str | None) -> StudySpec:
    """The spec with what the command line says instead. Raises BadInput."""
    compute = {"workers": workers, "pack_size": pack_size, "dtype": dtype}
    document = resolved(spec)
    document["compute"] |= {field: value for field, value in compute.items() if value is not None}
    return parse(document | ({"name": name} if name else {}), where)


def resolved(spec: StudySpec) -> dict[str, Any]:
    """The spec with every default in it, as JSON."""
    return spec.model_dump(mode="json")


def dump(document: Mapping[str, Any]) -> str:
    """A resolved spec as YAML."""
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=110)


def space(spec: StudySpec, chosen: VariantSpec) -> Space:
    """What varies for one variant, and every other knob at its default. Raises BadInput."""
    method = variant(chosen.name, chosen.combine)
    declared = named(method.knobs)
    for name in chosen.knobs:
        _known(f"variants.{chosen.label}.knobs.{name}", name, declared)
    asked = {name: ("knobs", given) for name, given in spec.knobs.items() if name in declared}
    asked |= {name: (f"variants.{chosen.label}.knobs", given) for name, given in chosen.knobs.items()}
    narrowed = {name: narrow(declared[name], given, f"{place}.{name}") for name, (place, given) in asked.items()}
    varied = tuple(knob for knob in narrowed.values() if isinstance(knob, LogFloat | Levels))
    fixed = {name: knob.default for name, knob in declared.items()} | dict(method.fixed)
    fixed |= {name: value for name, value in narrowed.items() if not isinstance(value, LogFloat | Levels)}
    return Space(varied, {name: value for name, value in fixed.items() if name not in {knob.name for knob in varied}})


def narrow(knob: Knob, given: Any, path: str) -> Knob | Value:
    """A declared knob as the spec wants it: a range, a list of levels, or one fixed value. Raises BadInput.

    `[a, b]` is a range where the knob is a log range and two levels elsewhere; `{levels: [...]}` is always levels.
    """
    if isinstance(given, Mapping):
        if set(given) != {"levels"} or not isinstance(given["levels"], list):
            raise _Refused(path, dict(given), "a value, a list, or {levels: [...]}")
        return _levels(knob, given["levels"], path)
    if not isinstance(given, list):
        return _value(knob, given, path)
    if isinstance(knob, LogFloat) and len(given) == 2:
        return _range(knob, given, path)
    return _levels(knob, given, path)


def _range(knob: LogFloat, given: Sequence[Any], path: str) -> LogFloat:
    low, high = (_number(value, path) for value in given)
    if low <= 0:
        raise _Refused(path, list(given), "a log range must stay above 0")
    if low >= high:
        raise _Refused(path, list(given), "a range [low, high] with low < high")
    return LogFloat(knob.name, low, high, knob.default)


def _levels(knob: Knob, given: Sequence[Any], path: str) -> Knob | Value:
    if not given:
        raise _Refused(path, list(given), "at least one value")
    values = [_value(knob, value, path) for value in given]
    if len(set(values)) < len(values):
        raise _Refused(path, list(given), "values that differ")
    if len(values) == 1:
        return values[0]
    if isinstance(knob, Choice):
        return Choice(knob.name, tuple(values), values[0], knob.allowed)
    return Levels(knob.name, tuple(sorted(values)), values[0])


def _value(knob: Knob, given: Any, path: str) -> Value:
    if isinstance(knob, Choice):
        if given not in (allowed := knob.allowed or knob.values):
            raise _Refused(path, given, f"{_nearest(str(given), map(str, allowed))}one of {', '.join(map(str, allowed))}")
        return given
    number = _number(given, path)
    if isinstance(knob, LogFloat):
        if number != knob.default and number <= 0:
            raise _Refused(path, given, "a number above 0")
        return number
    if isinstance(knob.default, int):
        if number != int(number) or number < 1:
            raise _Refused(path, given, "whole numbers from 1")
        return int(number)
    if not 0 <= number <= 1:
        raise _Refused(path, given, "a number from 0 to 1")
    return number


def _number(given: Any, path: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or given != given or abs(given) == float("inf"):
        raise _Refused(path, given, "a finite number")
    return float(given)


class _Refused(BadInput):
    """Bad input at a key path; `parse` puts the file before it."""

    def __init__(self, path: str, value: Any, allowed: str) -> None:
        super().__init__(path, repr(value), allowed)


def _known(path: str, name: str, allowed: Any) -> None:
    if name not in allowed:
        raise _Refused(path, name, f"{_nearest(name, allowed)}known: {', '.join(sorted(allowed))}")


def _nearest(name: str, allowed: Any) -> str:
    close = difflib.get_close_matches(name, list(allowed), 1)
    return f"did you mean {close[0]}? " if close else ""


def _distinct(path: str, labels: Sequence[str]) -> None:
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        raise _Refused(path, twice[0], "each listed once")


def _told(error: ValidationError, where: str) -> BadInput:
    """The first of pydantic's complaints in one line."""
    first, *rest = error.errors()
    path = ".".join(map(str, first["loc"]))
    more = f"; {len(rest)} more" if rest else ""
    if first["type"] == "extra_forbidden":
        fields = _fields_at(first["loc"][:-1])
        return BadInput(f"{where}: {path}", "unknown key", f"{_nearest(str(first['loc'][-1]), fields)}known: {', '.join(fields)}{more}")
    if first["type"] == "missing":
        return BadInput(f"{where}: {path}", "is missing", f"{first['msg']}{more}")
    return BadInput(f"{where}: {path}", repr(first["input"]), f"{first['msg']}{more}")


def _fields_at(path: Sequence[str | int]) -> list[str]:
    """The keys allowed at a path of the spec."""
    models: dict[str, type[BaseModel]] = {
        "": StudySpec, "tasks": TaskSpec, "variants": VariantSpec, "design": Design, "seeds": Seeds,
        "compute": Compute, "budget": Budget, "data": DataSpec, "DataSpec": DataSpec,
    }  # fmt: skip
    last = next((str(step) for step in reversed(path) if str(step) in models), "")
    return list(models[last].model_fields)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (key_node, _), key in zip(node.value, keys, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands here twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
