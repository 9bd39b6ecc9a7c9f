"""One YAML file -> a frozen, checked StudySpec. Every error is one line: file, key path, value, what was allowed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from study.errors import BadInput, nearest
from study.space import SCALE, Choice, Knob, Levels, LogFloat, Space, Value, named
from study.tasks import TASKS
from study.tasks.base import Source
from study.trial import Phase
from study.variants import VARIANTS, variant

CONFIRM_SEEDS_FROM = 1000  # seeds of the confirm phase are far from any that chose the setting

Count = Annotated[int, Field(gt=0, strict=True)]  # strict: neither text nor a truth value passes for a number
Rows = Mapping[Literal["train", "validation", "test"], Count]
Switch = Annotated[bool, Field(strict=True)]

# Every variant can be asked to vary it, though none declares it; where a spec does not list it, the budget's counts.
BATCH_SIZE = Levels("batch_size", (4, 8, 16), default=8)
# Likewise every variant with a rank and an alpha, instead of its alpha.
ALPHA_PER_RANK = LogFloat(SCALE, 1 / 16, 16, default=2)

ALPHA = frozenset({"alpha", SCALE})  # two names of one thing

LONGEST_VALUE = 80  # characters of a value shown in an error
MERGE = "tag:yaml.org,2002:merge"  # the key <<
# The options that stand for a key of the spec.
OPTIONS = {
    "name": "--as",
    "compute.workers": "--workers",
    "compute.pack_size": "--pack-size",
    "compute.dtype": "--dtype",
}


class Strict(BaseModel):
    """Unknown keys are refused and nothing changes after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(Strict):
    """How long every trial of a task trains."""

    steps: Count = 100
    batch_size: Count = 8
    length: Count = 32  # tokens an example is cut to

    def examples(self, values: Mapping[str, Value]) -> int:
        """Examples a step of a trial with these knobs."""
        return int(values.get(BATCH_SIZE.name, self.batch_size))

    def tokens(self, values: Mapping[str, Value]) -> int:
        """Tokens a step of a trial with these knobs, at most."""
        return self.examples(values) * self.length


class DataSpec(Strict):
    """A data set that is not a named one: a local file or folder, or a hub id, and its columns."""

    path: str
    config: str | None = None
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    rows: Rows = {}

    def source(self) -> Source:
        """The same for the task."""
        return Source(**self.model_dump())


class TaskSpec(Strict):
    """A model, its data, a score, and the training every trial gets."""

    task: str
    model: str | None = None  # a folder, an offline asset or a hub id; None: the task's own
    data: str | DataSpec | None = None
    rows: Rows = {}
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
    points: Count = 16
    seed: int = Field(default=0, ge=0, strict=True)
    halving: Switch = False  # a search stops the worse settings of a pack early
    refine: Count = 8  # settings that phase refine adds to every variant


class Seeds(Strict):
    """How many paired seeds: every setting of every variant is trained with each of them."""

    explore: Count = 2
    confirm: Count = 3

    def of(self, phase: str) -> list[int]:
        """The seeds of a phase: fresh ones in confirm, the same in all that choose the setting."""
        if phase == "confirm":
            return [CONFIRM_SEEDS_FROM + s for s in range(self.confirm)]
        return list(range(self.explore))


class Compute(Strict):
    """How trials are computed: nothing here but `dtype` can change a number by more than rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    pack_size: Count | Literal["auto"] = "auto"
    workers: Count | Literal["auto"] = "auto"
    share_batches: Switch = True  # the trials of a pack see the same examples: what they share is computed once
    unpad: Switch = True  # nothing is computed on padding, where the model allows it
    skip_unread: Switch = True  # nor, after the last attention, on tokens that the head does not read
    cache_prefix: Switch = True  # what enters the first adapted block is kept, example by example


def _listed(value: Any) -> Any:
    """`lora` means `{name: lora}`."""
    return [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def _counted(value: Any) -> Any:
    """`seeds: 3` means three for each phase."""
    return value if isinstance(value, Mapping | Seeds) else {"explore": value, "confirm": value}


class StudySpec(Strict):
    """A study as its author wrote it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    tasks: tuple[TaskSpec, ...]
    variants: Annotated[tuple[VariantSpec, ...], BeforeValidator(_listed)]
    knobs: Mapping[str, Any] = {}
    focus: str = "learning_rate"
    design: Design = Design()
    seeds: Annotated[Seeds, BeforeValidator(_counted)] = Seeds()
    phases: tuple[Phase, ...] = ("explore", "confirm")
    # in units of the score: closer than this is the same
    margin: float = Field(default=0.02, gt=0, allow_inf_nan=False, strict=True)
    keep: Literal["best", "all", "none"] = "best"  # whose trained adapters stay: those of selected settings, all, none
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _consistent(self) -> "StudySpec":
        _check_tasks(self.tasks)
        _check_variants(self.variants)
        _distinct("phases", self.phases)
        if "explore" not in self.phases:
            raise _Refused("phases", list(self.phases), "explore comes first: it chooses what confirm confirms")
        if self.design.halving and self.design.kind != "tpe":
            raise _Refused("design.halving", True, "false, or kind tpe: trials that are cut short bias a sensitivity")
        every = {name for chosen in self.variants for name in _declared(chosen)}
        for name in self.knobs:
            _known(f"knobs.{name}", "knob", name, every)
        _known("focus", "knob", self.focus, every)
        _check_focus(self)
        return self

    def halves(self, phase: str) -> bool:
        """Whether the worse settings of a pack are stopped early in that phase."""
        return self.design.halving and phase == "explore"


def load(path: Path) -> list[StudySpec]:
    """The studies that a file describes: one, or several after one another with `---` between. Raises BadInput."""
    documents = _documents(path)
    places = [str(path)] if len(documents) == 1 else [f"{path}, study {at}" for at in range(1, len(documents) + 1)]
    found = [parse(document, place) for document, place in zip(documents, places, strict=True)]
    names = [spec.name for spec in found]
    for place, name in zip(places, names, strict=True):
        if names.count(name) > 1:
            raise BadInput(f"{place}: name", repr(name), "each study's own")
    return found


def _documents(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror or error}", "a YAML file") from None
    except UnicodeDecodeError as error:
        raise BadInput(str(path), f"cannot be read: {error}", "a YAML file in UTF-8") from None
    try:
        return list(yaml.load_all(text, _Loader)) or [None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise BadInput(str(path), f"{place}{error.problem or error.context}", "YAML") from None
    except yaml.YAMLError as error:
        raise BadInput(str(path), str(error).splitlines()[0], "YAML") from None


def parse(document: Any, where: str) -> StudySpec:
    """The study that a document describes; `where` begins every error. Raises BadInput."""
    if not isinstance(document, Mapping):
        problem = "is empty" if document is None else f"holds {_shown(document)}"
        raise BadInput(where, problem, f"a mapping with {', '.join(StudySpec.model_fields)}")
    try:
        return _checked(document)
    except BadInput as refused:
        raise BadInput(f"{where}: {refused.where}", refused.problem, refused.allowed) from None


def overridden(
    spec: StudySpec, where: str, *, name: str | None, workers: int | None, pack_size: int | None, dtype: str | None
) -> StudySpec:
    """The spec with what the command line says instead. Raises BadInput that names the option."""
    compute = {"workers": workers, "pack_size": pack_size, "dtype": dtype}
    document = resolved(spec) | ({} if name is None else {"name": name})
    document["compute"] |= {field: value for field, value in compute.items() if value is not None}
    try:
        return _checked(document)
    except BadInput as refused:
        place = OPTIONS.get(refused.where, f"{where}: {refused.where}")
        raise BadInput(place, refused.problem, refused.allowed) from None


def resolved(spec: StudySpec) -> dict[str, Any]:
    """The spec with every default in it, as JSON."""
    return spec.model_dump(mode="json")


def dump(document: Mapping[str, Any]) -> str:
    """A resolved spec as YAML."""
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=110)


def space(spec: StudySpec, chosen: VariantSpec) -> Space:
    """What varies for one variant, and every other knob at its default. Raises BadInput."""
    declared = _declared(chosen)
    own = f"variants.{chosen.label}.knobs"
    for name in chosen.knobs:
        _known(f"{own}.{name}", "knob", name, declared)
    for place, given in (("knobs", spec.knobs), (own, chosen.knobs)):
        if set(given) >= ALPHA:
            raise _Refused(f"{place}.{SCALE}", given[SCALE], "alpha or scale, since one says the other")
    hidden = ALPHA if ALPHA & set(chosen.knobs) else frozenset()  # a variant's own way to say it wins
    asked = [("knobs", name, given) for name, given in spec.knobs.items() if name in declared.keys() - hidden]
    asked += [(own, name, given) for name, given in chosen.knobs.items()]  # these win
    narrowed = {name: narrow(declared[name], given, f"{place}.{name}") for place, name, given in asked}
    varied = tuple(knob for knob in narrowed.values() if isinstance(knob, LogFloat | Levels))
    fixed = {name: knob.default for name, knob in declared.items() if name not in (BATCH_SIZE.name, SCALE)}
    fixed |= {name: value for name, value in narrowed.items() if not isinstance(value, LogFloat | Levels)}
    return Space(varied, {name: value for name, value in fixed.items() if name not in {knob.name for knob in varied}})


def _declared(chosen: VariantSpec) -> dict[str, Knob]:
    own = named(variant(chosen.name, chosen.combine).knobs)
    return named((*own.values(), BATCH_SIZE, *([ALPHA_PER_RANK] if {"rank", "alpha"} <= set(own) else [])))


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
        in_order = [value for value in knob.allowed or knob.values if value in values]  # however the spec lists them
        return Choice(knob.name, tuple(in_order), in_order[0], knob.allowed)
    return Levels(knob.name, tuple(sorted(values)), values[0])


def _value(knob: Knob, given: Any, path: str) -> Value:
    if isinstance(knob, Choice):
        if given not in (allowed := knob.allowed or knob.values):
            names = [str(value) for value in allowed]
            raise _Refused(path, given, f"{_hint(str(given), names)}one of {', '.join(names)}")
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


def _check_tasks(tasks: Sequence[TaskSpec]) -> None:
    for at, task in enumerate(tasks):
        _known(f"tasks.{at}.task", "task", task.task, TASKS)
        try:
            re.compile(task.targets or "")
        except re.error as error:
            raise _Refused(f"tasks.{at}.targets", task.targets, f"a regular expression: {error}") from None
    _distinct("tasks", [task.label for task in tasks])


def _check_variants(variants: Sequence[VariantSpec]) -> None:
    for at, chosen in enumerate(variants):
        _known(f"variants.{at}.name", "variant", chosen.name, VARIANTS)
        for other in chosen.combine:
            _known(f"variants.{at}.combine", "variant", other, VARIANTS)
        try:
            variant(chosen.name, chosen.combine)
        except BadInput as conflict:
            raise BadInput(f"variants.{at}.combine", conflict.problem, conflict.allowed) from None
    _distinct("variants", [chosen.label for chosen in variants])


def _check_focus(spec: StudySpec) -> None:
    """Every knob is as its variant declares it, some vary, and the focus is one of them with a log axis to draw."""
    varied = [knob for chosen in spec.variants for knob in space(spec, chosen).varied]
    if not varied:
        raise _Refused("knobs", dict(spec.knobs), "a range or levels of at least one knob, or nothing is studied")
    has_axis = {knob.name for knob in varied} - {knob.name for knob in varied if not _is_positive(knob)}
    if spec.focus not in has_axis:
        usable = ", ".join(sorted(has_axis)) or "none of this study does"
        raise _Refused("focus", spec.focus, f"a knob of positive numbers that varies: {usable}")


def _is_positive(knob: Knob) -> bool:
    if isinstance(knob, LogFloat):
        return True
    return not isinstance(knob, Choice) and all(float(value) > 0 for value in knob.values)


class _Refused(BadInput):
    """Bad input at a key path; `parse` puts the file before it."""

    def __init__(self, path: str, value: Any, allowed: str) -> None:
        super().__init__(path, _shown(value), allowed)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _known(path: str, noun: str, name: str, allowed: Iterable[str]) -> None:
    names = sorted(allowed)
    if name not in names:
        raise BadInput(path, f"unknown {noun} {name!r}", f"{_hint(name, names)}known: {', '.join(names)}")


def _hint(name: str, allowed: Iterable[str]) -> str:
    meant = nearest(name, allowed)
    return f"did you mean {meant}? " if meant else ""


def _distinct(path: str, labels: Sequence[str]) -> None:
    if not labels:
        raise _Refused(path, [], "at least one")
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        raise _Refused(path, twice[0], "each listed once")


# Pydantic's complaints, told in one line


def _checked(document: Mapping[str, Any]) -> StudySpec:
    """The study that a document describes. Raises BadInput, which says the key path but not the file."""
    try:
        return StudySpec.model_validate(document)
    except ValidationError as error:
        raise _told(error, document) from None


def _told(error: ValidationError, document: Mapping[str, Any]) -> BadInput:
    """The complaint most worth reading: an unknown key before what it may have caused, then the deepest one."""
    complaints: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for details in error.errors():
        complaints.setdefault(_path(details, document), []).append(details)
    path = max(complaints, key=lambda path: (complaints[path][0]["type"] == "extra_forbidden", len(path)))
    first = complaints[path][0]
    allowed = " or ".join(dict.fromkeys(_allowed(details, path) for details in complaints[path]))
    others = sum(other != path[: len(other)] for other in complaints)
    more = f"; {others} more" if others else ""
    problem = {"extra_forbidden": "unknown key", "missing": "is missing"}.get(first["type"], _shown(first["input"]))
    return BadInput(".".join(map(str, path)), problem, allowed + more)


def _path(details: ErrorDetails, document: Any) -> tuple[str | int, ...]:
    """The steps that lead through the document; pydantic puts the names of the types it tried between them."""
    path: tuple[str | int, ...] = ()
    for step in details["loc"]:
        inside = dict(enumerate(document)) if isinstance(document, list) else document
        if isinstance(inside, Mapping) and step in inside:
            path, document = (*path, step), inside[step]
    last = details["loc"][-1]
    return (*path, last) if details["type"] in ("missing", "invalid_key") and last not in path[-1:] else path


def _allowed(details: ErrorDetails, path: Sequence[str | int]) -> str:
    """What pydantic would have taken instead."""
    match details["type"]:
        case "extra_forbidden":
            fields = _fields_at(path[:-1])
            return f"{_hint(str(path[-1]), fields)}known: {', '.join(fields)}"
        case "model_type":
            return f"a mapping with {', '.join(_fields_at(path))}"
        case "literal_error":
            expected = str(details["ctx"]["expected"])
            return f"{_hint(str(details['input']), re.findall(r'[a-z0-9]+', expected))}{expected}"
        case kind:
            return WORDS.get(kind, details["msg"].removeprefix("Input should be "))


WORDS = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "int_type": "a whole number",
    "invalid_key": "a word as key",
    "mapping_type": "a mapping",
    "missing": "it has no default",
    "string_pattern_mismatch": "at most 100 letters, digits and . _ - that begin with a letter or digit",
    "string_type": "text",
    "tuple_type": "a list",
}


def _fields_at(path: Sequence[str | int]) -> list[str]:
    """The keys allowed at a path of the spec."""
    models: dict[str, type[BaseModel]] = {
        "": StudySpec, "tasks": TaskSpec, "variants": VariantSpec, "design": Design, "seeds": Seeds,
        "compute": Compute, "budget": Budget, "data": DataSpec,
    }  # fmt: skip
    last = next((str(step) for step in reversed(path) if str(step) in models), "")
    return list(models[last].model_fields)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key for key, _ in node.value if key.tag != MERGE]  # a merged key may be written again: that one wins
        keys = [self.construct_object(key, deep=True) for key in written]
        twice = next((at for at, key in enumerate(keys) if key in keys[:at]), None)
        if twice is not None:
            problem = f"the key {keys[twice]!r} stands here twice"
            raise yaml.constructor.ConstructorError(None, None, problem, written[twice].start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
