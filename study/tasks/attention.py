"""Attention for packs, under transformers' attention interface: no padding around it, the faster kernel inside it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from study.errors import BadInput
from study.tokens import CURRENT, ONLY_READ, Tokens, copies

NAME = "lorascope"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """softmax(q k' s + mask) v; query, key, value: B heads T D, or 1 heads N D without padding -> B T heads D.

    `attention_mask` B' 1 T T is added; where the batch is several copies of B' examples, to each of them.
    """
    if softcap is not None or s_aux is not None:
        raise BadInput("model", "its attention has a soft cap or sinks", "a model with plain attention")
    tokens = CURRENT.get()
    only_read = tokens is not None and ONLY_READ.get()
    if tokens is not None:
        key, value = _padded(tokens, key), _padded(tokens, value)
        query = _read(tokens, query) if only_read else _padded(tokens, query)
        if only_read and attention_mask is not None:
            examples = torch.arange(len(attention_mask))
            attention_mask = attention_mask[examples, :, tokens.places[: len(examples)]][:, :, None]  # B 1 1 T
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    plain = query.dtype == torch.bfloat16 and query.device.type == "cpu"
    out = (_products if plain else _fused)(query, key, value, attention_mask, scale).transpose(1, 2)  # B T heads D
    if only_read:
        return out.transpose(0, 1), None
    return (out.contiguous() if tokens is None else tokens.drop(out)), None


def _padded(tokens: Tokens, z: Tensor) -> Tensor:
    """1 heads N D -> B heads T D."""
    return tokens.pad(z.transpose(1, 2)).transpose(1, 2)


def _read(tokens: Tokens, z: Tensor) -> Tensor:
    """1 heads N D -> B heads 1 D, the one token of each example that is read."""
    return z[0].index_select(1, tokens.reading).transpose(0, 1)[:, :, None]


def _products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Plain matrix products: the fused kernel's backward is slow in bf16 on processors."""
    scores = (query * scale) @ key.transpose(2, 3)
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask).flatten(0, 1)
    return scores.softmax(-1) @ value


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if mask is not None and len(mask) != len(query):
        mask = copies(mask, len(query) // len(mask))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)
