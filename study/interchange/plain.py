"""Any method of low-rank updates as the plain LoRA that computes the same."""

from torch import Tensor

from study.adapters import Adapter
from study.errors import BadInput
from study.frozen import Frozen
from study.interchange.layers import merged_layer
from study.interchange.pairs import factors
from study.optim import Leaf
from study.space import named
from study.variants import VARIANTS
from study.variants.base import Site

UNMOVED = 1e-12  # what rounding may do to a float64 bias


def as_lora(one: Adapter, frozen: Frozen) -> Adapter:
    """The plain LoRA that computes what any method of low-rank updates does; layers keep the ranks that they need.

    Raises BadInput where a layer's update is no smaller as a pair, or changes with the input.
    """
    leaves: dict[Leaf, Tensor] = {leaf: tensor for leaf, tensor in one.leaves.items() if leaf[0] in one.heads}
    sites, ranks = frozen.of(one.method.sites), []
    for site in sites:
        W, bias = merged_layer(one, site, "--format peft")
        A, B = factors(W - site.W.double())
        if len(A) * (site.I + site.O) >= site.W.numel() or _moved(bias, site):
            problem = f"peft has no {one.method.name}, and its update of {site.name} is no small pair"
            raise BadInput("--format peft", problem, "--format merged")
        leaves |= {(site.name, "A"): A.float(), (site.name, "B"): B.float()}
        ranks.append(len(A))
    values = {name: one.values.get(name, knob.default) for name, knob in named(VARIANTS["lora"].knobs).items()}
    values |= {"rank": max(ranks), "alpha": float(max(ranks)), "init": "kaiming"}
    return Adapter(**{**vars(one), "variant": "lora", "combine": (), "values": values, "leaves": leaves})


def _moved(bias: Tensor | None, site: Site) -> bool:
    """Whether the bias is another than the frozen layer's; a missing one is zero."""
    before = site.W.new_zeros(site.O) if site.bias is None else site.bias
    return bias is not None and bool((bias - before).abs().max() > UNMOVED)
