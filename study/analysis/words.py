"""Numbers and intervals as a reader wants them in a sentence."""

from collections.abc import Mapping
from typing import Any

from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.seeds import LEAST_SEEDS

NO_FLOOR = (
    "The untouched model was not measured, so nothing is censored; a diverged run counts as the worst that did not."
)


def number(value: float) -> str:
    """Three significant digits; 7.94e-4 below a thousandth."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits}e{int(exponent)}"


def span(estimate: Estimate) -> str:
    """0.80 [0.78, 0.82]."""
    text = number(estimate.value)
    return (
        text
        if estimate.low is None or estimate.high is None
        else f"{text} [{number(estimate.low)}, {number(estimate.high)}]"
    )


def percent(estimate: Estimate) -> str:
    """61 % [35, 83]."""
    text = f"{100 * estimate.value:.0f} %"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def standing(basis: Mapping[str, Any]) -> str:
    """What a sentence rests on, as its last words."""
    seeds = basis["seeds"]
    kinds = f" of {basis['variants']} variants" if basis["variants"] > 1 else ""
    given = "one seed, so run-to-run noise is unknown" if seeds == 1 else f"conditional on these {seeds} seeds"
    given = "intervals hold over seeds" if seeds >= LEAST_SEEDS else given
    return (
        f"From {basis['settings']} settings{kinds}, {basis['seeds']} seed{'s' * (seeds > 1)}, {basis['runs']} runs "
        f"of which {basis['diverged']} diverged; {given}."
    )


def subject_words(subject: str, task: str) -> str:
    """Whom a sentence is about; it goes on with the next word."""
    return f"Over all variants on {task}" if subject == POOLED else f"For {subject} on {task}"


def unanswered(question: str, task: str, subject: str, reason: str, basis: Mapping[str, Any]) -> Finding:
    """A gate refused, and says why."""
    sentence = f"{subject_words(subject, task)} the question of {question} is not answered: {reason}."
    if basis["runs"]:
        sentence += f" {standing(basis)}"
    return Finding(question, task, subject, False, sentence, basis={**basis, "reason": reason})
