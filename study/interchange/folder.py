"""An adapter as the folder that HF peft reads, and back.

lorascope.json, beside peft's two files, says which trial it is; with it `read` is the inverse of `write`. Where a
method has no form of its own in peft, what is written, and read again, is the plain LoRA that computes the same.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from study.adapters import Adapter, adapter
from study.errors import BadInput
from study.frozen import Frozen
from study.interchange.forms import FORMS, Form, Tensors
from study.interchange.layers import leaves_at
from study.interchange.plain import as_lora
from study.optim import Leaf
from study.variants.base import Plain

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "lorascope.json"
ROOT, LAYERS = "base_model", "base_model.model"  # where peft has a whole model's tensors and a layer's
TASK_TYPES = {"understanding": "SEQ_CLS"}  # by the family of the task
PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}  # for what may differ from layer to layer


def write(one: Adapter, frozen: Frozen, base: str, family: str, folder: Path) -> None:
    """The adapter and its head as a folder for peft, in the leaves' precision; `frozen`: its pretrained model.

    `base`: where peft finds the model. Raises BadInput where no peft adapter computes what the method does.
    """
    _refuse(one)
    written = one if one.method.forward in FORMS else as_lora(one, frozen)
    shape, h = FORMS[written.method.forward], written.plain()
    sites = frozen.of(written.method.sites)
    by_site = {site.name: leaves_at(written, site) for site in sites}
    kept, tensors = _modules(written, frozen)
    outputs, inputs = (max(sizes) for sizes in zip(*((site.O, site.I) for site in sites), strict=True))
    for site, p in by_site.items():
        tensors |= _placed(site, shape, shape.grow(shape.write(p, h), outputs, inputs))
    configs = {site: shape.config(p, h) for site, p in by_site.items()}
    about = {"peft_type": shape.type, "task_type": TASK_TYPES.get(family), "base_model_name_or_path": base}
    places = {"target_modules": list(by_site), "modules_to_save": kept, "inference_mode": True}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / WEIGHTS)
    _dump(folder / CONFIG, about | places | _one(configs))
    _dump(folder / RECORD, written.record | {"weights": _digest(folder / WEIGHTS)})


def read(folder: Path) -> Adapter:
    """The adapter in a folder that `write` made. Raises BadInput where it is none, or its weights are others."""
    record = {**_json(folder, RECORD)}
    if not (folder / WEIGHTS).is_file() or record.pop("weights", None) != _digest(folder / WEIGHTS):
        raise BadInput(str(folder / WEIGHTS), "is not what was exported", "the folder as `lorascope export` wrote it")
    try:
        tensors, empty = load_file(folder / WEIGHTS), adapter(record, {})
        shape = FORMS[empty.method.forward]
        leaves = _head(empty, tensors)
        for site in _json(folder, CONFIG)["target_modules"]:
            leaves |= _read_site(site, shape, tensors, empty.plain())
        return adapter(record, leaves)
    except (SafetensorError, KeyError, TypeError) as error:
        problem = f"does not describe {WEIGHTS}: {error}"
        raise BadInput(str(folder / RECORD), problem, "the folder as `lorascope export` wrote it") from None


def _read_site(site: str, shape: Form, tensors: Mapping[str, Tensor], h: Plain) -> dict[Leaf, Tensor]:
    """A layer's own leaves, and those that it shares with all."""
    prefix = f"{LAYERS}.{site}."
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    shared = {name: tensors[f"{ROOT}.{name}"] for name in shape.whole}
    common = set(shape.whole.values())
    found = shape.read(own | shared, h)
    return {("shared by all" if name in common else site, name): leaf for name, leaf in found.items()}


def _refuse(one: Adapter) -> None:
    if one.method.sites == "all":
        raise BadInput("--format peft", f"{one.method.name} has whole layers, no adapter", "--format merged")
    if not any(owner not in one.heads for owner, _ in one.leaves):
        raise BadInput("--format peft", f"{one.method.name} adapts no layer, its head alone learns", "--format merged")


def _placed(site: str, shape: Form, tensors: Tensors) -> Tensors:
    """One layer's tensors under the names that they have in the folder."""
    whole = {f"{ROOT}.{name}": tensors[name] for name in shape.whole}
    own = {name: tensor for name, tensor in tensors.items() if shape.copied or name not in shape.whole}
    return whole | {f"{LAYERS}.{site}.{name}": tensor for name, tensor in own.items()}


def _one(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One configuration for all layers: the first one's, and what differs from it by layer."""
    first = dict(next(iter(configs.values())))
    other = {name: {site: c[name] for site, c in configs.items() if c[name] != first[name]} for name in first}
    return first | {PATTERNS[name]: by_site for name, by_site in other.items() if by_site}


def _modules(one: Adapter, frozen: Frozen) -> tuple[list[str], dict[str, Tensor]]:
    """The modules that a head is made of, each as large as may be without an adapted layer, and their tensors."""
    names = sorted({_around(head, [site.name for site in frozen.of(one.method.sites)]) for head in one.heads})
    weights = {f"{n}.{key}": w for n in names for key, w in frozen.model.get_submodule(n).state_dict().items()}
    weights |= {f"{owner}.{name}": leaf for (owner, name), leaf in one.leaves.items() if owner in one.heads}
    return names, {f"{LAYERS}.{key}": tensor for key, tensor in weights.items()}


def _around(head: str, sites: list[str]) -> str:
    parts = head.split(".")
    around = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return next(name for name in around if not any(site.startswith(f"{name}.") for site in sites))


def _head(one: Adapter, tensors: Mapping[str, Tensor]) -> dict[Leaf, Tensor]:
    places = {(head, name): f"{LAYERS}.{head}.{name}" for head in one.heads for name in ("weight", "bias")}
    return {leaf: tensors[key] for leaf, key in places.items() if key in tensors}


def _json(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        whole = (folder / "config.json").is_file()
        allowed = "a whole model is named as `model` in a spec" if whole else "a folder that `lorascope export` wrote"
        raise BadInput(str(folder), f"has no {name}", allowed)
    try:
        return json.loads((folder / name).read_text())
    except ValueError as error:
        raise BadInput(str(folder / name), f"is not JSON: {error}", "the file as it was exported") from None


def _dump(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
