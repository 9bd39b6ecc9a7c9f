"""Packed equals alone at the width of a real encoder, 6 layers of 384, in the precision of real training: fp32."""

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from study.frozen import Frozen
from study.optim import Leaf
from study.pack import Batch
from study.streams import generator
from study.tasks.attention import NAME
from study.variants import VARIANTS
from tests import small

MECHANISMS = {
    "lora": "a pair",
    "dora": "lengths of the moved weight",
    "pissa": "a start taken off",
    "vera": "leaves common to all trials",
    "rasa": "leaves shared among layers",
    "adalora": "a penalty, and events that rank over layers",
    "relora": "a dense leaf moved by events",
    "lora_pro": "an optimizer that decomposes",
    "loramoe": "routing",
    "layer_norm": "layers that are not linear",
    "eva": "statistics of the model's inputs",
}
METHODS = [pytest.param(n, id=n, marks=[] if n in MECHANISMS else pytest.mark.slow) for n in VARIANTS]
STEPS = 3


@cache
def _frozen() -> Frozen:
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = BertConfig(vocab_size=small.WORDS, num_labels=small.CLASSES, **shape)
    torch.manual_seed(0)
    model = BertForSequenceClassification._from_config(config, attn_implementation=NAME)
    return Frozen(model.eval().requires_grad_(False), "query|value", ["classifier"])


def _texts(seed: int, step: int) -> Batch:
    """Two texts of 6 to 12 tokens."""
    draw = generator(seed, "text", step)
    words, lengths = (
        torch.randint(low, high, size, generator=draw) for low, high, size in ((1, 50, (2, 12)), (6, 13, (2,)))
    )
    mask = (torch.arange(12) < lengths[:, None]).long()
    return {"input_ids": words * mask, "attention_mask": mask}, words.sum(1) % small.CLASSES


def _distance(first: Mapping[Leaf, Tensor], second: Mapping[Leaf, Tensor]) -> float:
    """The length of the difference of all leaves: a single entry whose gradient is near zero may go either way."""
    return float(torch.stack([(first[leaf] - second[leaf]).norm() for leaf in first]).norm())


@pytest.mark.parametrize("name", METHODS)
def test_packed_equals_alone_at_the_width_of_a_real_encoder(name: str) -> None:
    method = VARIANTS[name]
    trials = small.members(method)[1:3]  # ranks 4 and 8 where they differ
    together = small.start(method, trials, _frozen())
    before = [small.leaves(together, k) for k in range(2)]
    for t in range(STEPS):
        batches = [_texts(trial.seed, t) for trial in trials]
        inputs = {key: torch.cat([batch[0][key] for batch in batches]) for key in ("input_ids", "attention_mask")}
        together.step((inputs, torch.cat([targets for _, targets in batches])))
    for k, trial in enumerate(trials):
        alone = small.start(method, [trial], _frozen())
        for t in range(STEPS):
            alone.step(_texts(trial.seed, t))
        moved = _distance(small.leaves(alone, 0), before[k])
        assert _distance(small.leaves(together, k), small.leaves(alone, 0)) <= 1e-3 * moved
