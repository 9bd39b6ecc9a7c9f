"""What HF peft calls our leaves, for every forward that it has too.

A form belongs to a forward, since what leaves mean is what the forward does with them: a method that learns or starts
otherwise than another has its form, and so have methods that are combined. A method whose forward is not in FORMS needs
no form where its update has low rank: plain.py makes a pair of that.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from study.errors import BadInput
from study.interchange.pairs import factors, pair_and_start, whole_pair
from study.variants import adalora, dora, full, gralora, hira, ia3, loha, lokr, lora, miss, randlora, vera
from study.variants.base import Leaves, Plain

Tensors = dict[str, Tensor]  # of one layer, under peft's names
ADALORA_EPSILON = 1e-5  # what peft adds to the rank before it divides by it


class Form(NamedTuple):
    """How one layer of a method is written for peft, and read again."""

    type: str  # peft's name for the method
    config: Callable[[Leaves, Plain], dict[str, Any]]  # what leaves and knobs make of its configuration
    write: Callable[[Leaves, Plain], Tensors]
    read: Callable[[Tensors, Plain], Leaves]
    whole: Mapping[str, str] = {}  # the tensors of the whole model, and which of our shared leaves each one is
    copied: bool = False  # whether peft wants those in every layer too
    grow: Callable[[Tensors, int, int], Tensors] = lambda t, O, I: t  # to what peft has for the most outputs and inputs


def _renamed(
    type: str,
    config: Callable[[Leaves, Plain], dict[str, Any]],
    names: Mapping[str, str],
    whole: Mapping[str, str] = {},
) -> Form:
    """Where peft has our leaves as they are, under other names: ours -> theirs."""
    return Form(
        type,
        config,
        lambda p, h: {theirs: p[ours] for ours, theirs in names.items()},
        lambda t, h: {ours: t[theirs] for ours, theirs in names.items()},
        whole,
    )


def _scaled(rank: int, h: Plain, name: str = "alpha") -> dict[str, Any]:
    """The rank, and the alpha with which alpha / rank is our scale."""
    return {"r": rank, name: float(h["scale"]) * rank}


def _write_lora(p: Leaves, h: Plain) -> Tensors:
    A, B = whole_pair(p)
    return {"lora_A.weight": A, "lora_B.weight": B}


def _lora_config(p: Leaves, h: Plain) -> dict[str, Any]:
    return _scaled(len(whole_pair(p)[0]), h, "lora_alpha")


def _read_lora(t: Tensors, h: Plain) -> Leaves:
    return pair_and_start(t["lora_A.weight"], t["lora_B.weight"], h)


LORA = Form("LORA", _lora_config, _write_lora, _read_lora)
DORA = Form(
    "LORA",
    lambda p, h: _lora_config(p, h) | {"use_dora": True},
    lambda p, h: _write_lora(p, h) | {"lora_magnitude_vector": p["m"]},
    lambda t, h: _read_lora(t, h) | {"m": t["lora_magnitude_vector"]},
)
HIRA = Form(
    "HIRA",
    lambda p, h: {"r": len(whole_pair(p)[0])},
    lambda p, h: dict(zip(("hira_A", "hira_B"), whole_pair(p), strict=True)),
    lambda t, h: pair_and_start(t["hira_A"], t["hira_B"], h),
)


def _adalora_config(p: Leaves, h: Plain) -> dict[str, Any]:
    R = len(p["e"])
    alpha = float(h["scale"]) * (R + ADALORA_EPSILON)
    return {"init_r": R, "target_r": int(h["rank"]), "lora_alpha": alpha, "total_step": int(h["steps"]), "tfinal": 0}


def _read_adalora(t: Tensors, h: Plain) -> Leaves:
    e = t["lora_E"][:, 0]
    return {"P": t["lora_B"], "e": e, "Q": t["lora_A"], "kept": torch.ones_like(e)}


ADALORA = Form(
    "ADALORA",
    _adalora_config,
    lambda p, h: {"lora_A": p["Q"], "lora_B": p["P"], "lora_E": (p["e"] * p["kept"])[:, None]},
    _read_adalora,
)


def _write_lokr(p: Leaves, h: Plain) -> Tensors:
    """The second factor whole where peft has it so: from half its longer side on."""
    A, B = p["A"], p["B"]
    if len(A) < max(A.shape[1], len(B)) / 2:
        return {"lokr_w1": p["C"], "lokr_w2_a": B, "lokr_w2_b": A}
    return {"lokr_w1": p["C"], "lokr_w2": B @ A}


def _read_lokr(t: Tensors, h: Plain) -> Leaves:
    if "lokr_w2" not in t:
        return {"C": t["lokr_w1"], "B": t["lokr_w2_a"], "A": t["lokr_w2_b"]}
    A, B = factors(t["lokr_w2"])
    return {"C": t["lokr_w1"], "B": B.to(t["lokr_w2"]), "A": A.to(t["lokr_w2"])}


def _write_gralora(p: Leaves, h: Plain) -> Tensors:
    A, B = p["A"].permute(0, 3, 1, 2), p["B"].permute(1, 0, 3, 2)  # k I/k k R; k k R O/k, output block first
    return {"gralora_A": A.flatten(2), "gralora_B": B.flatten(1, 2)}


def _read_gralora(t: Tensors, h: Plain) -> Leaves:
    k = len(t["gralora_A"])
    A, B = t["gralora_A"].unflatten(2, (k, -1)), t["gralora_B"].unflatten(1, (k, -1))
    return {"A": A.permute(0, 2, 3, 1), "B": B.permute(1, 0, 3, 2)}


def _write_randlora(p: Leaves, h: Plain) -> Tensors:
    """Theirs counts B's columns by base and A's rows by rank: column q of the one meets row q of the other.

    Raises BadInput where layers differ in their shorter side: then so does which column is whose.
    """
    (R, n, outputs), shorter = p["B"].shape, p["A"].shape[1]
    if p["gamma"].shape != (n, shorter):
        problem = "peft pairs the bases of randlora otherwise where layers differ in their shorter side"
        raise BadInput("--format peft", problem, "--format merged")
    bases = {"randlora_A": p["A"][:, None], "randlora_B": p["B"].flatten(0, 1).T.reshape(outputs, n, R)}
    return {"randlora_lambda": p["lambda"], "randlora_gamma": p["gamma"]} | bases


def _grow_randlora(t: Tensors, O: int, I: int) -> Tensors:
    """Bases as if one layer had the most outputs and the most inputs; no layer reads what is added."""
    A, B = t["randlora_A"], t["randlora_B"]  # R 1 M, D n R
    shorter = min(O, I)
    A = F.pad(A, (0, shorter - A.shape[2]))
    B = F.pad(B, (0, 0, 0, ceil(shorter / len(A)) - B.shape[1]))
    return t | {"randlora_A": A, "randlora_B": B}


def _read_randlora(t: Tensors, h: Plain) -> Leaves:
    n, shorter = t["randlora_gamma"].shape
    B = t["randlora_B"][:, :n]  # D n R
    bases = {"A": t["randlora_A"][:, 0, :shorter], "B": B.flatten(1).T.unflatten(0, (B.shape[2], n))}
    return {"lambda": t["randlora_lambda"], "gamma": t["randlora_gamma"]} | bases


FORMS: Mapping[Callable[..., Tensor], Form] = {
    lora.forward: LORA,
    dora.forward: DORA,
    hira.forward: HIRA,
    adalora.forward: ADALORA,
    loha.forward: _renamed(
        "LOHA",
        lambda p, h: _scaled(len(p["A1"]), h),
        {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"},
    ),
    lokr.forward: Form(
        "LOKR",
        lambda p, h: _scaled(len(p["A"]), h) | {"decompose_factor": len(p["C"])},
        _write_lokr,
        _read_lokr,
    ),
    vera.forward: _renamed(
        "VERA",
        lambda p, h: {"r": len(p["d"]), "save_projection": True},
        {"d": "vera_lambda_d", "b": "vera_lambda_b", "A": "vera_A", "B": "vera_B"},
        whole={"vera_A": "A", "vera_B": "B"},
    ),
    randlora.forward: Form(
        "RANDLORA",
        lambda p, h: _scaled(len(p["lambda"]), h, "randlora_alpha") | {"save_projection": True},
        _write_randlora,
        _read_randlora,
        whole={"randlora_A": "A", "randlora_B": "B"},
        copied=True,
        grow=_grow_randlora,
    ),
    gralora.forward: Form(
        "GRALORA",
        lambda p, h: _scaled(len(p["A"]) * p["A"].shape[2], h) | {"gralora_k": len(p["A"])},
        _write_gralora,
        _read_gralora,
    ),
    ia3.forward: Form(
        "IA3",
        lambda p, h: {"feedforward_modules": []},
        lambda p, h: {"ia3_l": p["l"][:, None]},
        lambda t, h: {"l": t["ia3_l"][:, 0]},
    ),
    miss.forward: _renamed("MISS", lambda p, h: {"r": len(p["D"])}, {"D": "miss_block"}),
    full.forward: Form(  # of norms alone: folder.py writes no method of all layers
        "LN_TUNING",
        lambda p, h: {},
        lambda p, h: {f"ln_tuning_layers.{name}": leaf for name, leaf in p.items()},
        lambda t, h: {name.removeprefix("ln_tuning_layers."): tensor for name, tensor in t.items()},
    ),
}
