"""From anybody's trials to all that their report is made of."""

from collections.abc import Sequence
from importlib.metadata import version

from dashboards.compose import BETTER
from dashboards.page import ReportData, Score
from study.analysis import analyze
from study.foreign.knobs import words
from study.foreign.trials import MADE_UP, Foreign
from study.redact import redact
from study.space import named

VERSIONS = ("lorascope", "scipy", "scikit-learn", "SALib", "optuna", "pandas")


def compose(found: Foreign, place: str, commands: Sequence[str]) -> ReportData:
    """The findings of trials from `place`, and how they were read."""
    plan = found.plan
    return ReportData(
        study=found.task,
        spec=described(found, place),
        findings=analyze(found.table, plan),
        trials=found.table.drop(columns=[*MADE_UP]),
        focus=plan.focus,
        scores={found.task: Score(found.score, BETTER[plan.directions[found.task]])},
        method={
            "Trials": f"from {redact(place)}, trained by others; nothing about how their settings were chosen is known",
            "Ranges": "as the source declares, else the smallest to the largest value of the table; all groups alike",
            "Margin": f"{plan.margin:g}: scores closer than this count as the same",
        }
        | {f"Decided in reading ({i})": note for i, note in enumerate(found.notes, 1)},
        facts={"Versions": {name: version(name) for name in VERSIONS}},
        commands=commands,
    )


def described(found: Foreign, place: str) -> str:
    """What every column was taken for, in the place of a spec."""
    ranges = named([knob for knobs in found.plan.knobs.values() for knob in knobs])
    lines = [
        f"table: {place}",
        f"score: {found.score}",
        f"focus: {found.plan.focus}",
        "knobs:",
        *(f"  {name}: {words(knob)}" for name, knob in ranges.items()),
        "groups:",
        *(f"  - {name}" for name in found.plan.knobs),
    ]
    return "\n".join(lines) + "\n"
