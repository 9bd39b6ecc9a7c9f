"""Claims about packs that are not about one variant; and mistakes planted to see the laws catch them."""

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from study import optim, pack, part, streams
from study.errors import BadInput
from study.frozen import Frozen, Layer, Layout, NotPackable
from study.pack import Pack, _lift
from study.part import Member
from study.streams import order
from study.variants import VARIANTS
from tests import small

LORA = VARIANTS["lora"]


def test_an_unwired_knob_is_caught() -> None:
    """Planted: LoRA whose alpha is declared and never used."""
    unwired = LORA._replace(scaling=lambda h: 1.0)
    with pytest.raises(AssertionError):
        _law("test_no_knob_is_dead")(unwired, "alpha")


def test_clipping_over_the_whole_pack_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: one gradient norm for all trials."""

    def together(parts: list[Tensor], largest: Tensor) -> tuple[list[Tensor], Tensor]:
        norm = optim.row_norms(parts).square().sum().sqrt().expand(len(largest))
        return [part * (largest / norm).clamp(max=1.0)[:, None] for part in parts], norm

    monkeypatch.setattr(optim, "clip_by_norm", together)
    with pytest.raises(AssertionError):
        _law("test_packed_equals_alone")(LORA, torch.float64, 0.0)


def test_a_leaf_shared_by_mistake_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every trial starts from the same random stream."""
    monkeypatch.setattr(part, "generator", lambda seed, *purpose: torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError):
        _law("test_same_seed_same_number_and_other_seed_other_number")(LORA)


def test_a_start_that_is_not_taken_off_is_caught() -> None:
    """Planted: PiSSA's pair without the copies that compensate it."""

    def forgetful(site, h, generator):
        return {name: leaf for name, leaf in VARIANTS["pissa"].init(site, h, generator).items() if name in "AB"}

    with pytest.raises(AssertionError):
        _law("test_starts_at_the_base_model_or_declares_that_it_does_not")(
            VARIANTS["pissa"]._replace(init=forgetful), None
        )


def test_a_layer_in_which_trials_cannot_be_told_apart_is_refused() -> None:
    """A (1, M, I) tensor through an adapted layer, as DeBERTa's position tables are."""
    trials = small.members(LORA)
    started = small.start(LORA, trials)
    layer = _layer(started, 16)
    for shape in ((1, 8, 32), (8, 4, 32), (24, 4, 32)):
        with pytest.raises(NotPackable):
            layer(torch.zeros(shape, dtype=torch.float64))
    assert layer(torch.zeros(32, 4, 32, dtype=torch.float64)).shape == (32, 4, 32)  # two windows an example


def test_one_trial_alone_takes_any_shape() -> None:
    trials = small.members(LORA)[:1]
    started = small.start(LORA, trials)
    layer = _layer(started, 4)
    assert layer(torch.zeros(1, 8, 32, dtype=torch.float64)).shape == (1, 8, 32)


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "num_labels": 3}
ARCHITECTURES = {
    "roberta": (
        RobertaForSequenceClassification,
        RobertaConfig(vocab_size=50, pad_token_id=0, **SHAPE),
        "query|value",
        ["classifier.dense", "classifier.out_proj"],
    ),
    "llama": (
        LlamaForSequenceClassification,
        LlamaConfig(vocab_size=50, pad_token_id=0, num_key_value_heads=2, **SHAPE),
        "q_proj|v_proj",
        ["score"],
    ),
    "vit": (
        ViTForImageClassification,
        ViTConfig(image_size=8, patch_size=4, num_channels=1, **SHAPE),
        None,
        ["classifier"],
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_equals_alone_on_other_architectures(name: str) -> None:
    """No table of architectures: targets are names, heads are what the checkpoint lacks; padding tokens included."""
    build, config, targets, heads = ARCHITECTURES[name]
    torch.manual_seed(0)
    frozen = Frozen(build(config).double().eval().requires_grad_(False), targets, heads)
    trials = small.members(VARIANTS["dora"])
    together = Pack(frozen, VARIANTS["dora"], trials, 10, small.loss)
    for t in range(5):
        together.step(_batch(name, trials, t))
    for k, trial in enumerate(trials):
        alone = Pack(frozen, VARIANTS["dora"], [trial], 10, small.loss)
        for t in range(5):
            alone.step(_batch(name, [trial], t))
        assert small.distance(small.leaves(together, k), small.leaves(alone, 0)) <= 1e-9


def _batch(name: str, trials: list[Member], step: int) -> pack.Batch:
    if name == "vit":
        pixels = [
            torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=streams.generator(m.seed, "data", step))
            for m in trials
        ]
        return {"pixel_values": torch.cat(pixels)}, torch.cat([(p.sum((1, 2, 3)) > 0).long() for p in pixels])
    inputs, targets = small.batch(trials, step)
    words = inputs["input_ids"].clamp_min(1)
    words[::2, 7:] = 0
    return {"input_ids": words, "attention_mask": (words > 0).long()}, targets


def test_default_targets_are_all_linear_layers_of_the_blocks() -> None:
    frozen = Frozen(small.model(), None, ["classifier"])
    kinds = {site.kind for site in frozen.sites}
    assert {kind.rsplit(".", 1)[-1] for kind in kinds} == {"query", "key", "value", "dense"}
    assert len(frozen.sites) == 12
    assert not any("pooler" in kind or "classifier" in kind for kind in kinds)


def test_targets_that_match_nothing_are_refused_with_what_there_is() -> None:
    with pytest.raises(BadInput, match=r"q_proj.*matches no linear layer.*query"):
        Frozen(small.model(), "q_proj", ["classifier"])


def test_a_tied_weight_is_refused_by_name() -> None:
    model = small.model()
    layers = model.bert.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    with pytest.raises(BadInput, match=r"query\.weight and .*query\.weight are one weight"):
        Frozen(model, "query", ["classifier"])


def test_batches_are_a_function_of_seed_and_step_and_cover_the_data() -> None:
    seen = [i for step in range(5) for i in order(3, step, 4, 20)]
    assert sorted(seen) == list(range(20))
    assert order(3, 7, 4, 20) == order(3, 7, 4, 20) != order(4, 7, 4, 20)
    assert len(order(0, 2, 8, 20)) == 8  # a batch that begins in one pass and ends in the next
    assert len(order(0, 0, 50, 20)) == 50


def test_evaluation_is_the_mean_over_the_split_whatever_the_batches() -> None:
    started = small.start(LORA, small.members(LORA))
    small.go(started, 3)
    inputs, targets = small.batch(small.members(LORA), 9)
    whole = started.evaluate([(inputs, targets)], lambda outputs: outputs.argmax(1))
    pieces = [({"input_ids": inputs["input_ids"][i : i + 5]}, targets[i : i + 5]) for i in range(0, 16, 5)]
    cut = started.evaluate(pieces, lambda outputs: outputs.argmax(1))
    assert torch.allclose(whole[0], cut[0], rtol=0, atol=1e-12)
    assert torch.equal(whole[1], cut[1])
    assert torch.equal(whole[2], targets)


def test_refilling_with_a_larger_rank_is_refused_and_changes_nothing() -> None:
    started = small.start(LORA, small.members(LORA)[:2])  # ranks 2 and 4
    before = [part.W.detach().clone() for part in started.parts]
    with pytest.raises(ValueError, match="does not fit"):
        started.refill(0, small.members(LORA)[3])
    assert all(torch.equal(part.W, was) for part, was in zip(started.parts, before, strict=True))


def _law(name: str):
    from tests import test_variants

    return getattr(test_variants, name)


def _layer(started: Pack, examples: int) -> Layer:
    """The first adapted layer of a pack in a forward of so many examples."""
    method, layout = started.parts[0], Layout([examples // started.K] * started.K, torch.float64, None, None)
    site = method.sites[0]
    return _lift(method, site, method.views()[site.name], {}, layout, None)
