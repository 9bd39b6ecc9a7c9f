"""Work that is left out changes no number: padding, unread tokens, what trials share, what was computed before."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from study.errors import BadInput
from study.frozen import Allowed, Frozen
from study.pack import Batch, Pack
from study.part import Member
from study.streams import generator
from study.tasks.attention import NAME
from study.variants import VARIANTS, variant
from tests import small

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "num_labels": 3}
TEXT = {"vocab_size": 50, "pad_token_id": 0, **SHAPE}
QKV = "query|value|q_proj|v_proj|intermediate.dense|down_proj"
HEADS = {"bert": ["classifier"], "roberta": ["classifier.dense", "classifier.out_proj"], "llama": ["score"]}
MODELS: dict[str, tuple[type[PreTrainedModel], PreTrainedConfig]] = {
    "bert": (BertForSequenceClassification, BertConfig(**TEXT)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**TEXT)),
    "llama": (LlamaForSequenceClassification, LlamaConfig(num_key_value_heads=2, **TEXT)),
}
OFF = {"unpad": False, "skip_unread": False, "cache_prefix": False}
SWITCHES = ["unpad", "skip_unread", "cache_prefix", "share"]


def _built(name: str, dtype: torch.dtype = torch.float64, attention: str = NAME) -> nn.Module:
    build, config = MODELS[name]
    torch.manual_seed(0)
    return build._from_config(config, attn_implementation=attention).to(dtype).eval().requires_grad_(False)


def _frozen(name: str, dtype: torch.dtype = torch.float64, targets: str = QKV, **switches: bool) -> Frozen:
    return Frozen(_built(name, dtype), targets, HEADS[name], **switches)


def _texts(seed: int, step: int, examples: int = 4) -> Batch:
    """Examples of 4 to 10 tokens, padded on the right; the label is the sum of the words."""
    draw = generator(seed, "text", step)
    words = torch.randint(1, 50, (examples, 10), generator=draw)
    lengths = torch.randint(4, 11, (examples,), generator=draw)
    mask = (torch.arange(10) < lengths[:, None]).long()
    return {"input_ids": words * mask, "attention_mask": mask}, (words * mask).sum(1) % 3


def _joined(batches: Sequence[Batch]) -> Batch:
    names = batches[0][0]
    return {name: torch.cat([inputs[name] for inputs, _ in batches]) for name in names}, torch.cat(
        [targets for _, targets in batches]
    )


def _trained(frozen: Frozen, trials: Sequence[Member], shared: bool, method: str = "lora", steps: int = 5) -> Pack:
    """A pack after some steps, all trials on the batches of seed 0."""
    pack = small.start(VARIANTS[method], trials, frozen)
    for t in range(steps):
        batch = _texts(0, t)
        pack.step(batch if shared else _joined([batch] * pack.K), shared=shared)
    return pack


def _far(first: Pack, second: Pack) -> float:
    return max(small.distance(small.leaves(first, k), small.leaves(second, k)) for k in range(first.K))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 2e-5)], ids=["fp64", "fp32"]
)  # weights move about 1e-2 here
@pytest.mark.parametrize("switch", SWITCHES)
def test_no_switch_changes_what_is_learned(name: str, dtype: torch.dtype, bound: float, switch: str) -> None:
    trials = small.members(VARIANTS["lora"])
    plain = _trained(_frozen(name, dtype, **OFF), trials, False)
    kinds = {**OFF, switch: True} if switch in OFF else OFF
    if switch == "skip_unread":
        kinds = kinds | {"unpad": True}  # whose layout it needs
    assert _far(_trained(_frozen(name, dtype, **kinds), trials, switch == "share"), plain) < bound


@pytest.mark.parametrize("name", MODELS)
def test_everything_at_once_changes_nothing_either(name: str) -> None:
    trials = small.members(VARIANTS["dora"])
    upper = rf"(.*\.2\..*({QKV}))"
    plain = _trained(_frozen(name, targets=upper, **OFF), trials, False, "dora")
    assert _far(_trained(_frozen(name, targets=upper), trials, True, "dora"), plain) < 1e-11


def test_what_a_model_allows_is_found_out_by_trying() -> None:
    inputs, _ = _texts(0, 0)
    assert _frozen("bert").allows(inputs) == Allowed(True, True, "first")
    assert _frozen("roberta").allows(inputs) == Allowed(True, True, "first")
    llama = _frozen("llama").allows(inputs)  # it looks for the last token in the batch it was given, not in K copies
    assert llama == Allowed(False, True, "last")


def test_a_batch_without_padding_is_shared_too_and_says_nothing_of_padding() -> None:
    frozen, (inputs, _) = _frozen("bert"), _texts(0, 0)
    whole = {"input_ids": inputs["input_ids"].clamp(min=1), "attention_mask": torch.ones(4, 10, dtype=torch.long)}
    assert frozen.allows(whole).share
    assert len(frozen._allowed) == 1
    frozen.allows(inputs)
    assert len(frozen._allowed) == 2


def test_a_model_whose_attention_is_its_own_keeps_its_padding_and_its_numbers() -> None:
    """Eager attention knows nothing of a layout without padding; disentangled attention nothing of any other."""
    inputs, _ = _texts(0, 0)
    assert not Frozen(_built("bert", attention="eager"), QKV, ["classifier"]).allows(inputs).unpad
    config = DebertaV2Config(relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4, **TEXT)
    torch.manual_seed(0)
    deberta = DebertaV2ForSequenceClassification._from_config(config, attn_implementation=NAME)
    expected = deberta.double().eval().requires_grad_(False)(**inputs).logits
    frozen = Frozen(deberta, "query_proj", [])
    assert not frozen.allows(inputs).unpad
    alone = small.start(VARIANTS["lora"], small.members(VARIANTS["lora"])[:1], frozen)
    assert torch.equal(alone.outputs(inputs), expected)


def test_a_head_that_reads_every_token_is_given_every_token() -> None:
    model = BertForTokenClassification._from_config(BertConfig(**TEXT), attn_implementation=NAME)
    frozen = Frozen(model.double().eval().requires_grad_(False), QKV, ["classifier"])
    assert frozen.allows(_texts(0, 0)[0]).read is None


def test_soft_caps_are_refused_rather_than_forgotten() -> None:
    config = Gemma2Config(num_key_value_heads=2, head_dim=8, attn_logit_softcapping=20.0, **TEXT)
    gemma = Gemma2ForSequenceClassification._from_config(config, attn_implementation=NAME).eval()
    with pytest.raises(BadInput, match="soft cap"):
        gemma(**_texts(0, 0)[0])


def test_nothing_is_computed_on_padding_nor_on_tokens_that_nobody_reads() -> None:
    frozen, seen = _frozen("bert"), {}
    for i, block in enumerate(frozen.model.bert.encoder.layer):
        block.intermediate.register_forward_hook(lambda m, a, out, i=i: seen.setdefault(i, []).append(out.shape[:2]))
    inputs, _ = _texts(0, 0)
    pack = small.start(VARIANTS["lora"], small.members(VARIANTS["lora"]), frozen)
    pack.outputs(inputs, shared=True)
    real = 4 * int(inputs["attention_mask"].sum())
    assert [shapes[-1] for _, shapes in sorted(seen.items())] == [(1, real), (1, real), (1, 4 * 4)]


def test_what_all_trials_share_is_computed_once() -> None:
    """Adapters sit in the last of three blocks: the first two see 4 examples, the last 4 of each of 4 trials."""
    frozen, seen = _frozen("bert", targets=rf"(.*\.2\..*({QKV}))", **OFF), []
    for block in frozen.model.bert.encoder.layer:
        block.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    small.start(VARIANTS["lora"], small.members(VARIANTS["lora"]), frozen).outputs(_texts(0, 0)[0], shared=True)
    assert seen[-3:] == [4, 4, 16]


def test_the_frozen_prefix_is_computed_once_an_example() -> None:
    frozen, ran = _frozen("bert", targets=rf"(.*\.2\..*({QKV}))"), []
    frozen.model.bert.encoder.layer[0].register_forward_hook(lambda m, args, out: ran.append(len(out)))
    pack = small.start(VARIANTS["lora"], small.members(VARIANTS["lora"]), frozen)
    inputs, _ = _texts(0, 0)
    first = pack.outputs(inputs, shared=True)
    before = len(ran)
    again = pack.outputs(inputs, shared=True)
    assert len(ran) == before
    assert torch.equal(first, again)
    longer = {name: nn.functional.pad(value, (0, 3)) for name, value in inputs.items()}
    assert torch.allclose(pack.outputs(longer, shared=True), first, rtol=0, atol=1e-12)
    assert len(ran) == before  # the same examples, padded more
    pack.outputs(_texts(1, 0)[0], shared=True)
    assert len(ran) == before + 1


def test_a_full_memory_of_prefixes_computes_anew() -> None:
    frozen = _frozen("bert", targets=rf"(.*\.2\..*({QKV}))")
    frozen._prefixes.most = 1
    pack = small.start(VARIANTS["lora"], small.members(VARIANTS["lora"]), frozen)
    inputs, _ = _texts(0, 0)
    assert torch.equal(pack.outputs(inputs, shared=True), pack.outputs(inputs, shared=True))
    assert frozen._prefixes.held == 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["lora", "dora", "layer_norm", "full"])
def test_trials_with_batches_of_their_own_sizes_learn_as_if_alone(name: str, method: str) -> None:
    sizes, frozen, trials = (2, 5, 4, 3), _frozen(name), small.members(VARIANTS[method])
    together = small.start(VARIANTS[method], trials, frozen)
    for t in range(3):
        together.step(_joined([_texts(m.seed, t, n) for m, n in zip(trials, sizes, strict=True)]), sizes=sizes)
    for k, (trial, size) in enumerate(zip(trials, sizes, strict=True)):
        alone = small.start(VARIANTS[method], [trial], frozen)
        for t in range(3):
            alone.step(_texts(trial.seed, t, size))
        assert small.distance(small.leaves(together, k), small.leaves(alone, 0)) < 1e-10


def test_a_broken_trial_changes_its_neighbours_by_nothing_where_rows_are_ragged() -> None:
    sizes, trials = (2, 5, 4, 3), small.members(VARIANTS["lora"])
    clean, broken = (small.start(VARIANTS["lora"], trials, _frozen("bert")) for _ in range(2))
    broken.parts[0].W.data[1] = torch.nan
    for t in range(3):
        batch = _joined([_texts(m.seed, t, n) for m, n in zip(trials, sizes, strict=True)])
        clean.step(batch, sizes=sizes)
        assert broken.step(batch, sizes=sizes)[1].tolist() == [True, False, True, True]
    assert all(small.distance(small.leaves(clean, k), small.leaves(broken, k)) == 0 for k in (0, 2, 3))


def test_images_share_a_batch_and_have_no_padding() -> None:
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, **SHAPE)
    torch.manual_seed(0)
    vit = ViTForImageClassification._from_config(config, attn_implementation=NAME).double().eval()
    frozen = Frozen(vit.requires_grad_(False), None, ["classifier"])
    pixels = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=generator(0, "pixels"))
    pack = small.start(VARIANTS["lora"], small.members(VARIANTS["lora"]), frozen)
    assert frozen.allows({"pixel_values": pixels}) == Allowed(share=True)
    apart = pack.outputs({"pixel_values": pixels.repeat(4, 1, 1, 1)})
    assert torch.allclose(pack.outputs({"pixel_values": pixels}, shared=True), apart, rtol=0, atol=1e-12)


def test_in_bf16_the_switches_keep_the_order_of_trials() -> None:
    """Learning rates two decades apart: what is best stays best, what is worst stays worst."""
    rates = (1e-4, 1e-3, 1e-2, 1e-1)
    trials = [Member(0, small.values(VARIANTS["lora"], {"learning_rate": rate, "warmup": 0.0})) for rate in rates]

    def losses(frozen: Frozen, shared: bool) -> Tensor:
        pack = _trained(frozen, trials, shared, steps=20)
        held_out = [_texts(7, t) for t in range(4)]
        return pack.evaluate(held_out, lambda outputs: outputs.argmax(1))[0]

    every = losses(_frozen("bert", torch.bfloat16), True)
    none = losses(_frozen("bert", torch.bfloat16, **OFF), False)
    assert every.argsort().tolist() == none.argsort().tolist()


def test_a_penalty_sees_every_token() -> None:
    """Skipping unread tokens would change what a router's balance is counted over."""
    seen: list[int] = []

    def penalty(x: Tensor, site: object, p: object, h: dict[str, Tensor]) -> Tensor:
        seen.append(x.shape[0])
        return x.sum() * 0

    method = VARIANTS["lora"]._replace(penalty=penalty)
    inputs, targets = _texts(0, 0)
    small.start(method, small.members(method), _frozen("bert")).step((inputs, targets), shared=True)
    assert set(seen) == {int(inputs["attention_mask"].sum())}


def test_combined_methods_take_the_same_short_cuts() -> None:
    method = variant("lora_plus", ("dora", "rslora", "pissa"))
    trials = small.members(method)
    packs: list[Pack] = []
    for switches, shared in ((OFF, False), ({}, True)):
        pack = small.start(method, trials, _frozen("bert", **switches))
        for t in range(4):
            batch = _texts(0, t)
            pack.step(batch if shared else _joined([batch] * 4), shared=shared)
        packs.append(pack)
    assert _far(*packs) < 1e-11
