"""Adapters leave for HF peft and for plain models, and come back: the same function wherever they are read."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from study.adapters import Adapter
from study.errors import BadInput
from study.frozen import Frozen
from study.interchange import folder, forms, whole
from study.interchange.forms import FORMS
from study.pack import Pack
from study.part import Member
from study.space import Value
from study.variants import VARIANTS, variant
from study.variants.base import Variant
from tests import small

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*LayerNorm:UserWarning"),  # peft's own norm tuning
]

TARGETS = r"query|intermediate\.dense|\d\.output\.dense"  # 32 to 32, 64 and back
COMBINED = (("dora", "pissa"), ("hira", "olora"), ("lora_plus", "eva"), ("lora_fa", "milora"))
ALL = [*VARIANTS.values(), *(variant(name, [other]) for name, other in COMBINED)]
NO_PEFT = {  # why no adapter of peft computes what these do
    "head_only": "adapts no layer",
    "full": "whole layers",
    "denselora": "gelu stands before",
    "loramoe": "weights of its experts depend on the token",
    "goat": "weights of its experts depend on the token",
}
NOT_MERGED = {"denselora", "loramoe", "goat"}
# What is read is another form of the same: adalora without what it has cut, lokr's second factor from its product.
REFORMED = {"adalora", "lokr"}

every = pytest.mark.parametrize("method", ALL, ids=lambda v: v.name)


@every
def test_peft_computes_what_we_do_or_the_export_says_why_it_cannot(method: Variant, tmp_path: Path) -> None:
    pack = trained(method)
    if method.name in NO_PEFT:
        with pytest.raises(BadInput, match=NO_PEFT[method.name]):
            exported(pack, tmp_path)
        assert not list(tmp_path.iterdir())
        return
    exported(pack, tmp_path)
    theirs = PeftModel.from_pretrained(small.model(torch.float32), tmp_path)
    assert (logits(theirs) - ours(pack)).abs().max() < 1e-5
    assert (logits(theirs) - logits(small.model(torch.float32))).abs().max() > 1e-2


@every
def test_the_merged_model_computes_what_we_do_or_the_export_says_why_it_cannot(method: Variant, tmp_path: Path) -> None:
    pack = trained(method)
    expected, kept = ours(pack), adapter(pack)
    if method.name in NOT_MERGED:
        with pytest.raises(BadInput, match=NO_PEFT[method.name]):
            whole.write(kept, frozen(), tmp_path / "model")
        assert not (tmp_path / "model").exists()
        return
    whole.write(kept, frozen(), tmp_path / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert theirs.dtype == torch.float32
    assert (logits(theirs) - expected).abs().max() < 1e-5


@every
def test_what_is_read_again_is_what_was_written(method: Variant, tmp_path: Path) -> None:
    if method.name in NO_PEFT:
        return
    pack, again = trained(method), tmp_path / "again"
    kept = exported(pack, tmp_path)
    back = folder.read(tmp_path)
    if method.forward in FORMS:
        assert back.record == kept.record
    if method.forward in FORMS and method.name not in REFORMED:
        assert back.leaves.keys() == kept.leaves.keys()
        assert all(torch.equal(back.leaves[leaf], value) for leaf, value in kept.leaves.items())
    folder.write(back, frozen(), "base", "understanding", again)
    theirs = PeftModel.from_pretrained(small.model(torch.float32), again)
    assert (logits(theirs) - ours(pack)).abs().max() < 1e-5


@pytest.mark.parametrize("init", ["nonzero", "pissa", "milora", "olora", "lora_ga", "lora_one", "eva"])
def test_every_start_of_lora_leaves_for_peft(init: str, tmp_path: Path) -> None:
    pack = trained(VARIANTS["lora"], init=init)
    exported(pack, tmp_path)
    theirs = PeftModel.from_pretrained(small.model(torch.float32), tmp_path)
    assert (logits(theirs) - ours(pack)).abs().max() < 1e-5


def test_the_factors_of_a_small_lokr_come_back_as_they_were(tmp_path: Path) -> None:
    kept = exported(trained(VARIANTS["lokr"], rank=2), tmp_path)
    back = folder.read(tmp_path)
    assert all(torch.equal(back.leaves[leaf], value) for leaf, value in kept.leaves.items())


def test_a_start_that_is_left_in_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the pair of a compensated start without the half that takes it off."""
    monkeypatch.setattr(forms, "whole_pair", lambda p: (p["A"], p["B"]))
    with pytest.raises(AssertionError):
        test_peft_computes_what_we_do_or_the_export_says_why_it_cannot(VARIANTS["pissa"], tmp_path)


def test_bases_that_peft_would_pair_otherwise_are_refused() -> None:
    """Planted: a layer of fewer bases than the model's largest."""
    p = {"A": torch.ones(2, 8), "B": torch.ones(2, 4, 8), "lambda": torch.ones(2, 3), "gamma": torch.ones(3, 6)}
    with pytest.raises(BadInput, match="otherwise where layers differ"):
        FORMS[VARIANTS["randlora"].forward].write(p, {"scale": 1.0})


def test_layers_keep_the_ranks_that_eva_gave_them(tmp_path: Path) -> None:
    exported(trained(VARIANTS["eva"], rank=3), tmp_path)
    config = json.loads((tmp_path / folder.CONFIG).read_text())
    assert config["rank_pattern"] and config["rank_pattern"].keys() == config["alpha_pattern"].keys()


def frozen() -> Frozen:
    return small.frozen(torch.float32, TARGETS)


def trained(method: Variant, **given: Value) -> Pack:
    """One trial after five steps in float32."""
    knobs: dict[str, Value] = {"learning_rate": 1e-2, "rank": 4, "alpha": 8, "warmup": 0.0, "restart_every": 0.1}
    trial = Member(3, small.values(method, knobs | {"mini": 2, "factor": 4} | given))
    pack = small.start(method, [trial], frozen())
    small.go(pack, 5)
    return pack


def adapter(pack: Pack) -> Adapter:
    """What a worker keeps of its one trial."""
    method, (member,) = pack.parts[0].variant, pack.members
    if len(pack.parts) == 1:
        method = VARIANTS["head_only"]
    name, *others = method.name.split("+")
    leaves = {leaf: value for part in pack.parts for leaf, value in (part.leaves(0) | part.common).items()}
    heads = tuple(site.name for site in pack.frozen.heads)
    return Adapter("k" * 32, member.seed, name, tuple(others), member.values, pack.steps, {}, "", heads, leaves)


def exported(pack: Pack, to: Path) -> Adapter:
    """A peft folder of the trial."""
    kept = adapter(pack)
    folder.write(kept, frozen(), "base", "understanding", to)
    return kept


def ours(pack: Pack) -> Tensor:
    """Our answer to some examples."""
    return pack.outputs(examples()).detach()


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    """Anybody's answer to the same."""
    return model.eval()(**examples()).logits


def examples() -> dict[str, Tensor]:
    return small.batch([Member(0, {})], 9)[0]
