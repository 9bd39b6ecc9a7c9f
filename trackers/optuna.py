"""Trials of an Optuna study, read from its storage: a database's URL, or the path of a journal file."""

import math
from collections import Counter
from pathlib import Path

import optuna
import pandas as pd
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from study.analysis.plan import Direction
from study.errors import BadInput, instead
from study.foreign.source import Source
from study.redact import redact
from study.space import Choice, Knob, LinearFloat, LogFloat

VALUE = "value"
TAKEN = (TrialState.COMPLETE, TrialState.FAIL)  # Optuna calls a trial failed whose objective was NaN


def trials(storage: str, name: str) -> Source:
    """A row per finished or failed trial: parameters, user attributes, and `value` or a study's own metric names.

    Raises BadInput where the storage cannot be read or has no such study.
    """
    study = opened(storage, name)
    found = study.get_trials(deepcopy=False)
    taken = [trial for trial in found if trial.state in TAKEN]
    left = Counter(trial.state.name.lower() for trial in found if trial.state not in TAKEN)
    metrics = study.metric_names or (
        [VALUE] if len(study.directions) == 1 else [f"{VALUE}_{i}" for i in range(len(study.directions))]
    )
    knobs = declared(taken)
    rows = [row(trial, metrics) for trial in taken]
    frame = pd.DataFrame(rows, index=pd.Index([trial.number for trial in taken], name="trial"))
    one = len(study.directions) == 1
    notes = tuple(f"{count} {state} trials are left out" for state, count in left.items())
    return Source(name, frame, knobs, metrics[0] if one else None, direction(study) if one else None, notes)


def opened(storage: str, name: str) -> optuna.Study:
    """The study; nothing is created, as Optuna would where a file is missing."""
    file = storage.removeprefix("sqlite:///") if "://" in storage else storage
    if "://" not in file and not Path(file).is_file():
        raise BadInput(redact(storage), "does not exist", "an Optuna storage: a database URL or a journal file")
    try:
        place = reached(storage)
        names = optuna.get_all_study_names(place)
    except Exception as error:  # SQLAlchemy's, the driver's or the journal's own
        reason = redact(" ".join(str(error).split()))
        raise BadInput(redact(storage), f"cannot be read: {reason}", "an Optuna storage") from None
    if name not in names:
        raise BadInput(f"study {name}", "is not there", instead(name, names))
    return optuna.load_study(study_name=name, storage=place)


def reached(storage: str) -> BaseStorage:
    """The storage behind a URL or a path."""
    if "://" not in storage:
        return JournalStorage(JournalFileBackend(storage))
    return RDBStorage(storage, skip_table_creation=True)


def direction(study: optuna.Study) -> Direction:
    """Which values are good."""
    return "maximize" if study.direction == optuna.study.StudyDirection.MAXIMIZE else "minimize"


def row(trial: FrozenTrial, metrics: list[str]) -> dict[str, object]:
    """One trial; a parameter's name comes before an attribute's."""
    values = trial.values or [math.nan] * len(metrics)
    params = {
        name: str(value) if isinstance(trial.distributions[name], CategoricalDistribution) else value
        for name, value in trial.params.items()
    }
    return {**trial.user_attrs, **dict(zip(metrics, values, strict=True)), **params}


def declared(trials: list[FrozenTrial]) -> dict[str, Knob]:
    """Every parameter as Optuna was told of it; one whose range was changed on the way is left to the table."""
    seen: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if distribution not in seen.setdefault(name, []):
                seen[name].append(distribution)
    return {name: knob(name, found[0]) for name, found in seen.items() if len(found) == 1}


def knob(name: str, distribution: BaseDistribution) -> Knob:
    """The same range or choices in our words."""
    if isinstance(distribution, CategoricalDistribution):
        levels = tuple(map(str, distribution.choices))
        return Choice(name, levels, levels[0])
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    made = LogFloat if distribution.log else LinearFloat
    return made(name, float(distribution.low), float(distribution.high), float(distribution.low))
