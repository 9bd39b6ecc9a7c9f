"""How sharply the training loss bends at the start: the Hessian's ends for one adapted layer (arXiv:2602.04998).

The Hessian is that of the mean loss over a fixed set of training examples, with respect to what one layer trains, at
its initial values; the head and all other layers stay at theirs, and a method's penalty is left out. What a method
holds constant to the gradient (DoRA's norm) is constant to the Hessian too.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache as once
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from study.errors import BadInput
from study.files import put
from study.frozen import Frozen
from study.hardware import fast_device
from study.lanczos import Product, ends
from study.pack import Batch, Pack, PerExample
from study.part import Member, Part
from study.spec import StudySpec, TaskSpec, VariantSpec, space
from study.statistics import Measured
from study.statistics import measure as measured
from study.streams import generator, order
from study.tasks import attention
from study.tasks.base import Prepared
from study.trial import TRAINING_VERSION, digest
from study.variants import head_only, variant
from study.variants.base import Leaves, Plain, Site, Variant, plain
from study.worker import COMPUTE_DTYPES, batch, first_batches, prepare

EXAMPLES, AT_ONCE = 64, 64  # of the training split, the first of the seed's order; how many make one batch
TOLERANCE = 5e-3  # of the larger end


class SiteCurvature(NamedTuple):
    """The largest and the smallest eigenvalue at one layer, and the Hessian-vector products they took."""

    site: str
    top: float
    bottom: float
    steps: int


class Row(NamedTuple):
    """One layer of one cell."""

    task: str
    variant: str
    site: str
    top: float
    bottom: float
    steps: int


def measurable(method: Variant) -> bool:
    """Whether a method trains anything in the target layers."""
    return method.sites != "norms" and method.trainable != "0"


def curvature(
    prepared: Prepared,
    frozen: Frozen,
    method: Variant,
    values: Plain,
    seed: int,
    sites: Sequence[str] | None = None,
    examples: int = EXAMPLES,
    tol: float = TOLERANCE,
    batch_size: int = 8,
) -> list[SiteCurvature]:
    """The Hessian's ends at each of these layers; None: the targets of the first one's kind, as every query.

    `batch_size`: of the batches that data-driven starts read. Raises BadInput where the method trains none of them.
    """
    if not measurable(method):
        raise BadInput("curvature", f"{method.name} trains nothing in the target layers", "a method that adapts them")
    member, data = Member(seed, values), prepared.splits["train"]
    first = order(seed, 0, min(examples, len(data)), len(data))
    pieces = [first[i : i + AT_ONCE] for i in range(0, len(first), AT_ONCE)]
    batches = [batch(prepared, "train", piece, frozen.device) for piece in pieces]
    stats = _statistics(prepared, frozen, method, member, batch_size)
    found = []
    for site in _chosen(frozen, method, sites):
        pack = alone(frozen, method, member, site, prepared.loss, stats)
        product, size = hessian(pack, batches), pack.parts[0].trained.size
        start = torch.randn(size, generator=generator(seed, site.name, "curvature"), dtype=torch.float64)
        found.append(SiteCurvature(site.name, *ends(product, start.to(pack.parts[0].W), tol)))
    return found


def _chosen(frozen: Frozen, method: Variant, names: Sequence[str] | None) -> list[Site]:
    adapted = {site.name: site for site in frozen.of(method.sites)}
    if names is None:
        return [adapted[site.name] for site in frozen.sites if site.kind == frozen.sites[0].kind]
    for name in names:
        if name not in adapted:
            raise BadInput("sites", f"{method.name} adapts no {name}", f"one of {', '.join(adapted)}")
    return [adapted[name] for name in names]


def _statistics(
    prepared: Prepared, frozen: Frozen, method: Variant, member: Member, batch_size: int
) -> Mapping[int, Measured]:
    """What the method `needs`, from the same batches as a trial's."""
    needs = method.needs({**member.values, **method.fixed})
    if not needs:
        return {}
    batches = first_batches(prepared, member.seed, batch_size, frozen.device)
    return {member.seed: measured(frozen, needs, member.seed, batches, prepared.loss)}


def alone(
    frozen: Frozen, method: Variant, member: Member, site: Site, loss: PerExample, statistics: Mapping[int, Measured]
) -> Pack:
    """One trial at its start, whose first part is one layer of the method.

    The other layers are left out, unless the method does not begin at the base model: then they are a part behind it.
    """
    head = Member(member.seed, {knob.name: knob.default for knob in head_only.HEAD.knobs})
    pack = Pack(frozen, head_only.VARIANT, [head], 1, loss)
    sites = frozen.of(method.sites)
    off = method.starts_off(plain(method, member.values, 1)) != 0
    groups = [[site], [other for other in sites if other is not site] if off else []]
    drawn = _sharing(method, sites)
    store = torch.empty(0, dtype=torch.promote_types(frozen.dtype, torch.float32), device=frozen.device)
    pack.parts = [*(Part(drawn, group, [member], store, 1, statistics) for group in groups if group), *pack.parts]
    return pack


def _sharing(method: Variant, sites: Sequence[Site]) -> Variant:
    """The method at some of its layers, which draw what they share as they do among all of them."""
    shared = method.shared
    if shared is None:
        return method

    def among_all(some: Sequence[Site], h: Plain, generator: torch.Generator) -> Leaves:
        return shared([site for site in sites if method.group(site) == method.group(some[0])], h, generator)

    return method._replace(shared=among_all)


def hessian(pack: Pack, batches: Sequence[Batch]) -> Product:
    """v: P -> H v: P for the first part of a pack of one trial, by double backward through one graph that is kept.

    A batch counts as it has examples.
    """
    W, N = pack.parts[0].W, sum(len(targets) for _, targets in batches)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        means = [pack.losses(pack.outputs(inputs), targets)[0] * len(targets) / N for inputs, targets in batches]
        (gradient,) = torch.autograd.grad(torch.stack(means).sum(), W, create_graph=True)
    return lambda v: torch.autograd.grad(gradient, W, v[None], retain_graph=True)[0][0]


def measure(spec: StudySpec, cache: Path, seed: int = 0) -> list[Row]:
    """Every cell's curvature, varied knobs at their default; remembered in the cache. Raises BadInput.

    Methods that train nothing in the target layers have no row.
    """
    return [row for task in spec.tasks for row in _of_task(spec, task, cache, seed)]


def _of_task(spec: StudySpec, task: TaskSpec, cache: Path, seed: int) -> list[Row]:
    prepared, dtype = prepare(task, cache), "fp64" if spec.compute.dtype == "fp64" else "fp32"
    device = fast_device() if spec.compute.device == "auto" else spec.compute.device

    @once
    def frozen() -> Frozen:
        model, heads = prepared.load(COMPUTE_DTYPES[dtype], attention.NAME)
        return Frozen(model.to(device), task.targets, heads)

    def found(chosen: VariantSpec) -> list[SiteCurvature]:
        method, ranges = variant(chosen.name, chosen.combine), space(spec, chosen)
        values = ranges.setting({knob.name: knob.default for knob in ranges.varied})
        document = {
            "task": [task.task, prepared.fingerprints["model"], prepared.fingerprints["train"]],
            "training": [task.targets, task.budget.length, task.budget.batch_size],
            "variant": chosen.name,
            "combine": list(chosen.combine),
            "values": values,
            "measured": [seed, dtype, EXAMPLES, TOLERANCE, TRAINING_VERSION],
        }
        return _kept(
            cache / "curvature" / f"{digest(document)}.json",
            lambda: curvature(prepared, frozen(), method, values, seed, batch_size=task.budget.batch_size),
        )

    cells = [chosen for chosen in spec.variants if measurable(variant(chosen.name, chosen.combine))]
    return [Row(task.label, chosen.label, *each) for chosen in cells for each in found(chosen)]


def _kept(path: Path, found: Callable[[], list[SiteCurvature]]) -> list[SiteCurvature]:
    """What the file holds; where there is none, what is found, and it appears whole under its name."""
    if not path.exists():
        text = json.dumps([each._asdict() for each in found()], allow_nan=False)
        put(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
    return [SiteCurvature(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
