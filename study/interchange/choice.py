"""Which trial of a study is meant: one by its key and seed, or the best of a variant's selected setting."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from study.adapters import Adapter, Identity, load
from study.errors import BadInput, nearest
from study.home import Home
from study.ledger import Ledger, StudyRow
from study.spec import TaskSpec
from study.tasks import task as registered
from study.trial import Result, Trial


def exact(ledger: Ledger, study: str, key: str, seed: int | None) -> Trial:
    """The study's trial of that key and seed. Raises BadInput with the nearest key, or the seeds there are."""
    trials = ledger.trials(study)
    mine = [trial for trial in trials if trial.key == key]
    if not mine:
        hint = _hint(key, (trial.key for trial in trials), f"`lorascope trials {study}` lists them")
        raise BadInput("--trial", f"study {study} has no trial {key}", hint)
    seeds = {trial.seed: trial for trial in mine}
    if seed not in seeds:
        problem = "is missing" if seed is None else f"{seed} is none of trial {key}"
        raise BadInput("--seed", problem, f"one of {', '.join(map(str, sorted(seeds)))}")
    return seeds[seed]


def best(ledger: Ledger, row: StudyRow, variant: str, task: str | None) -> Trial:
    """Of the variant's selected setting, the trial with the best validation score: of its fresh seeds where confirmed.

    Selected is the setting with the best mean. Raises BadInput where there is none, or several tasks and none is named.
    """
    tasks = {spec.label: spec for spec in map(TaskSpec.model_validate, row.spec["tasks"])}
    label = _one(task, sorted(tasks))
    trials, results = ledger.trials(row.name), ledger.results(row.name)
    mine = [trial for trial in trials if (trial.task, trial.variant) == (label, variant)]
    if not mine:
        names = dict.fromkeys(trial.variant for trial in trials)
        raise BadInput(
            "--best",
            f"study {row.name} has no trial of {variant}",
            _hint(variant, names, f"there are: {', '.join(names)}"),
        )
    sign = 1 if registered(tasks[label].task).direction == "maximize" else -1
    for phase in ("confirm", "explore"):
        done = [r for r in _selected([t for t in mine if t.phase == phase], results, sign) if r.state == "finished"]
        if done:
            first = max(done, key=lambda result: sign * result.val_score)
            return next(trial for trial in mine if (trial.key, trial.seed) == (first.key, first.seed))
    raise BadInput(
        "--best", f"no setting of {variant} on {label} is trained with all its seeds", "a study that has run"
    )


def kept(home: Home, trial: Trial) -> Adapter:
    """The trial's adapter. Raises BadInput where this home has none."""
    found = load(home.adapters, trial.key, trial.seed)
    if found is None:
        problem = f"no adapter of trial {trial.key}, seed {trial.seed} is kept in this home"
        raise BadInput("--trial", problem, "`keep: all` in a spec keeps every one that trains to its end")
    return found


def _selected(trials: Sequence[Trial], results: Mapping[Identity, Result], sign: int) -> list[Result]:
    """The results of the setting with the best mean, the first of equals, among those that have all of theirs."""
    settings: dict[str, list[Result | None]] = {}
    for trial in trials:
        settings.setdefault(trial.key, []).append(results.get((trial.key, trial.seed)))
    known = [[result for result in setting if result is not None] for setting in settings.values() if all(setting)]
    whole = [setting for setting in known if all(result.state != "stopped" for result in setting)]
    return max(whole, key=lambda setting: sign * fmean(result.val_score for result in setting), default=[])


def _one(task: str | None, labels: Sequence[str]) -> str:
    if task in labels:
        return str(task)
    if task is None and len(labels) == 1:
        return labels[0]
    problem = "is missing: the study has several tasks" if task is None else f"the study has no task {task}"
    raise BadInput("--task", problem, f"one of {', '.join(labels)}")


def _hint(given: str, names: Iterable[str], otherwise: str) -> str:
    meant = nearest(given, dict.fromkeys(names))
    return f"did you mean {meant}?" if meant else otherwise
