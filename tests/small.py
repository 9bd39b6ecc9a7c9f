"""A small transformer in training, for the laws: every claim about a variant or a pack is tried on it."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from study.optim import Leaf
from study.pack import Batch, Frozen, Member, Pack, generator
from study.space import Value, named
from study.variants.base import Variant

WORDS, LENGTH, CLASSES, EXAMPLES = 50, 10, 3, 4
SETTINGS = ({"rank": 2, "alpha": 8}, {"rank": 4, "alpha": 16}, {"rank": 8, "alpha": 4}, {"rank": 8, "alpha": 32})
RATES = (1e-3, 3e-3, 1e-2, 3e-4)


def model(dtype: torch.dtype = torch.float64) -> nn.Module:
    """BERT, 2 layers of 32, every weight and bias random, eager attention: exact in float64."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=WORDS, num_labels=CLASSES, attn_implementation="eager", **shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bert = BertForSequenceClassification(config)
        for parameter in bert.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return bert.to(dtype).eval().requires_grad_(False)


def frozen(dtype: torch.dtype = torch.float64, targets: str = "query|value") -> Frozen:
    """The model with stand-ins, its classifier a head."""
    return Frozen(model(dtype), targets, ["classifier"])


def values(variant: Variant, given: Mapping[str, Value] | None = None) -> dict[str, Value]:
    """Every knob's default, and what is given of those the variant has."""
    knobs = named(variant.knobs)
    return {name: knob.default for name, knob in knobs.items()} | {k: v for k, v in (given or {}).items() if k in knobs}


def members(variant: Variant, given: Sequence[Mapping[str, Value]] = SETTINGS) -> list[Member]:
    """Four trials that differ in seed, learning rate, rank and alpha."""
    return [
        Member(seed, values(variant, {"learning_rate": rate, "warmup": 0.0} | dict(setting)))
        for seed, (rate, setting) in enumerate(zip(RATES, given, strict=True))
    ]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, one an example."""
    return F.cross_entropy(outputs, targets, reduction="none")


def batch(trials: Sequence[Member], step: int) -> Batch:
    """Each trial's own examples of that step, trials outermost; the label is the sum of the words."""
    words = torch.cat(
        [torch.randint(0, WORDS, (EXAMPLES, LENGTH), generator=generator(m.seed, "data", step)) for m in trials]
    )
    return {"input_ids": words}, words.sum(1) % CLASSES


def start(variant: Variant, trials: Sequence[Member], on: Frozen | None = None, steps: int = 20) -> Pack:
    """A pack before its first step."""
    return Pack(on or frozen(), variant, trials, steps, loss)


def go(pack: Pack, steps: int, since: int = 0) -> list[Tensor]:
    """Train; the K losses of every step."""
    return [pack.step(batch(pack.members, t))[0] for t in range(since, since + steps)]


def leaves(pack: Pack, k: int) -> dict[Leaf, Tensor]:
    """A copy of trial k's leaves over all parts, unpadded."""
    return {leaf: view.clone() for part in pack.parts for leaf, view in part.leaves(k).items()}


def distance(first: Mapping[Leaf, Tensor], second: Mapping[Leaf, Tensor]) -> float:
    """The largest difference of an entry."""
    assert first.keys() == second.keys()
    return max(float((first[leaf] - second[leaf]).abs().max()) for leaf in first)
