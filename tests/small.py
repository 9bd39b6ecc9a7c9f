"""A small transformer in training, for the laws: every claim about a variant or a pack is tried on it."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from study.frozen import Frozen
from study.grouping import grouped
from study.optim import Leaf
from study.pack import Batch, Pack
from study.part import Member, Statistics
from study.space import Value, named
from study.statistics import measure
from study.streams import generator
from study.variants.base import Site, Variant, count

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
    trials = [
        Member(seed, values(variant, {"learning_rate": rate, "warmup": 0.0} | dict(setting)))
        for seed, (rate, setting) in enumerate(zip(RATES, given, strict=True))
    ]
    if len({variant.pack_key(dict(trial.values) | dict(variant.fixed)) for trial in trials}) > 1:
        rank = trials[1].values["rank"]  # the only setting that changes a pack's shapes for some methods
        return [Member(trial.seed, dict(trial.values) | {"rank": rank}) for trial in trials]
    return trials


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
    model = on or frozen()
    return Pack(model, variant, trials, steps, loss, statistics(model, variant, trials))


def statistics(model: Frozen, variant: Variant, trials: Sequence[Member]) -> Statistics:
    """What the method needs to know of the model, by seed, from two batches."""
    asked = {t.seed: dict(t.values) | dict(variant.fixed) for t in trials}
    needs = {seed: variant.needs(h) for seed, h in ({0: asked[trials[0].seed]} | asked).items()}  # 0: a refill's
    return {
        seed: measure(model, names, seed, [batch([Member(seed, {})], t) for t in range(2)], loss)
        for seed, names in needs.items()
        if names
    }


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


def rows(site: Site) -> Tensor:
    """Something for one layer to read: N I, or the ids of an embedding."""
    draw = generator(0, "probe")
    if isinstance(site.layer, nn.Embedding):
        return torch.randint(0, len(site.W), (7,), generator=draw)
    return torch.randn(7, site.I, dtype=torch.float64, generator=draw)


def due(pack: Pack, k: int) -> bool:
    """Whether an event moved trial k after its last step."""
    part = pack.parts[0]
    return any(event.due(part.plain(pack.members[k]), pack.t[k]) for event in part.variant.events)


def trainable(variant: Variant, sites: Sequence[Site], trial: Member) -> int:
    """What the method's own formulas say it trains, head left out."""
    h = dict(trial.values) | dict(variant.fixed)
    groups = grouped(sites, variant.group)
    return sum(count(variant.trainable, [site], h) for site in sites) + sum(
        count(variant.trainable_shared, group, h) for group in groups.values()
    )
