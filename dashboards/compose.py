"""From a study in the ledger to all that its report is made of."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import pandas as pd

from dashboards.page import ReportData, Score
from study import spec as specs
from study import table
from study.analysis import analyze
from study.ledger import Ledger, StudyRow
from study.spec import StudySpec, TaskSpec
from study.tasks import task as registered

BETTER = {"maximize": "higher is better", "minimize": "lower is better"}
VERSIONS = (
    "lorascope",
    "commit",
    "python",
    "torch",
    "transformers",
    "optuna",
    "mlflow",
    "datasets",
    "scipy",
    "scikit-learn",
    "SALib",
)


def compose(ledger: Ledger, row: StudyRow, curvature: pd.DataFrame | None = None, runs: str = "") -> ReportData:
    """The study's findings so far, and how they came about; `curvature` as `study.curvature` measures it.

    `runs`: the address of a run in the tracker, its id left out.
    """
    spec = specs.parse(row.spec, f"study {row.name}")
    trials = table.trials(ledger, row.name)
    return ReportData(
        study=row.name,
        runs=runs,
        spec=specs.dump(row.spec),
        findings=analyze(_with_examples(ledger, trials, row.name), table.plan(spec), curvature) if len(trials) else [],
        trials=trials,
        focus=spec.focus,
        scores={task.label: _score(task) for task in spec.tasks},
        method=_method(spec),
        facts=_facts(ledger, row),
        failed=_failed(ledger, row.name),
        commands=(
            f"lorascope launch {row.name}.yaml",
            f"lorascope report {row.name} --out DIR",
            f"lorascope trials {row.name} --format csv",
        ),
    )


def _with_examples(ledger: Ledger, trials: pd.DataFrame, study: str) -> pd.DataFrame:
    """The table with what each confirmed trial got right, example by example."""
    correct = table.correct(ledger, study)
    identity = zip(trials["key"], trials["seed"], strict=True)
    return trials.assign(test_correct=pd.Series([correct.get(one) for one in identity], trials.index, dtype=object))


def _score(task: TaskSpec) -> Score:
    return Score(registered(task.task).metric, BETTER[registered(task.task).direction])


def _method(spec: StudySpec) -> dict[str, str]:
    design, seeds = spec.design, spec.seeds
    told = {
        "Design": f"{design.kind}, {design.points} points, seed {design.seed}; every variant reads the same points",
        "Seeds": f"{seeds.explore} paired in explore; {seeds.confirm} fresh paired ones in confirm",
        "Selection": "each variant's setting with the best mean validation score over the explore seeds",
        "Test split": "looked at once, in confirm, for the selected settings alone",
        "Diverged trials": "kept, at the loss and score of the untrained model",
        "Margin": f"{spec.margin:g}: scores closer than this count as the same",
        "Computed in": f"{spec.compute.dtype}, adapters and optimizer in fp32 or finer",
    }
    for task in spec.tasks:
        budget, layers = task.budget, task.targets or "all linear"
        length = "" if registered(task.task).family == "images" else f" of at most {budget.length} tokens"
        work = f"{budget.steps} steps of {budget.batch_size} examples{length}"
        told[f"Budget of {task.label}"] = f"{work}; layers: {layers}"
    return told


def _facts(ledger: Ledger, row: StudyRow) -> dict[str, str | Mapping[str, str]]:
    results = list(ledger.results(row.name).values())
    facts: dict[str, str | Mapping[str, str]] = {
        "Created": _date(row.created),
        "Finished": _date(row.finished) if row.finished else "not yet",
        "State": row.state,
        "Wall time": _minutes(row.wall_seconds) + ", all launches together",
        "CPU time in training": _minutes(sum(result.cpu_seconds for result in results)),
        "Mirrored to": row.place or "nowhere",
    }
    if results:
        facts["Machines"] = "; ".join(sorted({result.provenance["machine"] for result in results}))
        facts["Versions"] = {
            name: ", ".join(sorted({str(result.provenance[name]) for result in results})) for name in VERSIONS
        }
        facts["Fingerprints (sha256)"] = _fingerprints(ledger, row.name)
    return facts


def _fingerprints(ledger: Ledger, study: str) -> dict[str, str]:
    found = {}
    for trial in {(trial.task, trial.phase): trial for trial in ledger.trials(study)}.values():
        document = ledger.document(trial.key)
        found[f"{trial.task}, model"] = document["model"]
        found |= {f"{trial.task}, {split}": value for split, value in document["data"].items()}
        if "test" in document:
            found[f"{trial.task}, test"] = document["test"]
    return found


def _failed(ledger: Ledger, study: str) -> dict[tuple[str, str], int]:
    failed = ledger.failed(study)
    return dict(
        Counter((trial.task, trial.variant) for trial in ledger.trials(study) if (trial.key, trial.seed) in failed)
    )


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
