"""The oracle: HF peft, same start, same data, 20 steps in float64, and the weights agree."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from study.pack import Pack
from study.part import Member
from study.variants import VARIANTS
from study.variants.base import Leaves, Lifted, Site, low_rank
from tests import small
from tests.oracle import RATE, STEPS, adamw, their_head, trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # peft reads transformers' old name

RANK, ALPHA, RATIO = 4, 16, 8.0
CONFIG = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["query", "value"], "modules_to_save": ["classifier"]}


def _lora_plus(model: nn.Module) -> torch.optim.Optimizer:
    """The paper's two groups; peft's own helper also speeds up every bias, the head's among them."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    fast, slow = [p for name, p in named if "lora_B" in name], [p for name, p in named if "lora_B" not in name]
    return torch.optim.AdamW([{"params": slow}, {"params": fast, "lr": RATE * RATIO}], lr=RATE, weight_decay=0.0)


METHODS: dict[str, tuple[dict[str, object], Callable[[nn.Module], torch.optim.Optimizer]]] = {
    "lora": ({}, adamw),
    "rslora": ({"use_rslora": True}, adamw),
    "lora_plus": ({}, _lora_plus),
    "dora": ({"use_dora": True}, adamw),
    "pissa": ({"init_lora_weights": "pissa"}, adamw),
}


@pytest.mark.parametrize("name", METHODS)
def test_weights_after_twenty_steps_agree_with_peft(name: str) -> None:
    method, (config, optimizer) = VARIANTS[name], METHODS[name]
    h = {
        "learning_rate": RATE,
        "rank": RANK,
        "alpha": ALPHA,
        "schedule": "constant",
        "warmup": 0.0,
        "b_over_a": RATIO,
        "max_grad_norm": 1e9,
    }
    trial = Member(0, small.values(method, h))
    pack = Pack(small.frozen(), method, [trial], STEPS, small.loss)
    theirs = get_peft_model(small.model(torch.float32), LoraConfig(**CONFIG, **config)).double().eval()
    _same_start(theirs, pack, name)
    trained(pack, theirs, optimizer(theirs))
    ours_and_theirs = [
        (leaf, _theirs(theirs, *at).detach()) for at, leaf in small.leaves(pack, 0).items() if at[1] in "ABm"
    ]
    assert max((ours - theirs).abs().max().item() for ours, theirs in ours_and_theirs) < 1e-8


def _same_start(theirs: nn.Module, pack: Pack, name: str) -> None:
    """Give peft our start; its PiSSA keeps the residual weight, ours the start that is taken off."""
    with torch.no_grad():
        for (site, leaf), value in small.leaves(pack, 0).items():
            if leaf in "ABm":
                _theirs(theirs, site, leaf).copy_(value)
            elif leaf in ("weight", "bias"):
                their_head(theirs).get_parameter(leaf).copy_(value)
        if name == "pissa":
            for site in pack.frozen.sites:
                p = {leaf: value for (owner, leaf), value in small.leaves(pack, 0).items() if owner == site.name}
                layer = theirs.base_model.model.get_submodule(site.name)
                layer.base_layer.weight.copy_(site.W - ALPHA / RANK * p["B0"] @ p["A0"])


def _theirs(model: nn.Module, site: str, leaf: str) -> torch.Tensor:
    layer = model.base_model.model.get_submodule(site)
    name = {"A": "lora_A", "B": "lora_B", "m": "lora_magnitude_vector"}[leaf]
    return layer.get_parameter(f"{name}.default.weight")


def test_a_scale_applied_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: LoRA whose update is multiplied by alpha / r on either side."""

    def twice(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
        return y + h["scale"] * low_rank(x, p, h["scale"])

    monkeypatch.setitem(VARIANTS, "lora", VARIANTS["lora"]._replace(forward=twice))
    with pytest.raises(AssertionError):
        test_weights_after_twenty_steps_agree_with_peft("lora")
