"""A finding: one answered question, in numbers with intervals and in one sentence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

POOLED = "all variants"


class Estimate(NamedTuple):
    """A number and its 95 % interval; low and high are None where the data carry no interval."""

    value: float
    low: float | None
    high: float | None


class Record(NamedTuple):
    """One number of a finding, as `findings.json` lists it."""

    quantity: str  # what is estimated: "best", "window", "cost over the declared range", "share by itself", ...
    estimate: Estimate
    unit: str  # "score", "decades", "share of an SD of 0.08", "" for a pure number
    knob: str = ""  # the knob it is about; empty where it is about none
    given: str = ""  # under which condition: "rank=8", "others at their selected values", "learning_rate retuned"


@dataclass(frozen=True)
class Finding:
    """What a question's answer is, for whom, from how much, and what it does not say."""

    question: str  # response | sensitivity | variance | ... : the analysis that answered
    task: str
    subject: str  # a variant's name, or POOLED
    answered: bool  # False: a gate refused, and `sentence` says why
    sentence: str  # for a reader who sees nothing else
    values: Mapping[str, Any] = field(default_factory=dict)  # JSON-ready; Estimate where a number is estimated
    basis: Mapping[str, Any] = field(default_factory=dict)  # settings, seeds, diverged, method, versions
    caveats: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()

    def document(self) -> dict[str, Any]:
        """The finding as JSON; an Estimate becomes {value, low, high}."""
        return asdict(self) | {"values": _plain(self.values), "basis": _plain(self.basis)}


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value._asdict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
