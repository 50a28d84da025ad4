"""Segmented attention in torch's standard operators: what it is traced to, and its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["decompose"]

Optional = Tensor | None


def decompose(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    lens: Sequence[Optional],
    key_valid: Sequence[Optional],
    bias: Sequence[Tensor],
    biased: Sequence[int],
    seg_bias: Optional,
    gamma: Optional,
    independent: bool,  # noqa: FBT001 - the operator's schema
    scale: float,
    num_splits: int,
    return_lse: bool,  # noqa: FBT001
    *,
    exact: bool = False,
) -> tuple[Tensor, Tensor]:
    """Outputs and log-sum-exp, the latter empty unless asked for.

    Arguments are :func:`mmedge_export.capture.attention.segmented_attention`'s, in the order of the
    operator's schema, with an entry for each segment; ``num_splits`` means nothing here.

    Args:
        q: ``[B, Lq, H, D]``.
        k: ``[B or 1, L_s, Hkv, D]``.
        v: ``[B or 1, L_s, Hkv, Dv]``.
        lens: ``[B]``.
        key_valid: ``[B or 1, L_s]``.
        bias: ``[B or 1, H or 1, Lq or 1, L_s]``, of the segments ``biased``.
        biased: segments that have a bias.
        seg_bias: ``[..., M]``.
        gamma: ``[..., M]``.
        independent: whether each segment has a softmax of its own.
        scale: of the scores.
        num_splits: not used.
        return_lse: whether the log-sum-exp is wanted.
        exact: NaN in hidden keys has no effect, and NaN in others shows, which costs a pass over
            values. Otherwise as ONNX's Attention has it: what cannot be normalised is 0.
    """
    del num_splits
    batch, _, heads, _ = q.shape
    keys: list[Tensor] = []
    values: list[Tensor] = []
    masks: list[Optional] = []
    by_segment = dict(zip(biased, bias, strict=True))
    addends: list[Optional] = []
    for s in range(len(k)):
        group = heads // k[s].shape[2]
        valid = _valid(batch, k[s], lens[s], key_valid[s])
        value = v[s]
        if valid is not None and exact:
            value = value.masked_fill(~valid[:, :, None, None], 0.0)
        for tensor, heads_first in ((k[s], keys), (value, values)):
            full_batch = tensor.expand(batch, -1, -1, -1)
            heads_first.append(full_batch.repeat_interleave(group, 2).transpose(1, 2))
        masks.append(valid)
        addends.append(_addend(q, k[s].shape[1], by_segment.get(s), seg_bias, s))
    queries = q.transpose(1, 2)
    if not independent:
        mask, extra = _join(masks, addends, q, keys)
        out, lse = _attend(
            queries,
            torch.cat(keys, 2),
            torch.cat(values, 2),
            mask,
            extra,
            scale=scale,
            exact=exact,
            with_lse=return_lse,
        )
        return out.transpose(1, 2), lse
    total = queries.new_zeros(1)
    for s in range(len(k)):
        mask, extra = _join(masks[s : s + 1], addends[s : s + 1], q, keys[s : s + 1])
        part, _ = _attend(
            queries, keys[s], values[s], mask, extra, scale=scale, exact=exact, with_lse=False
        )
        total = total + (part if gamma is None else part * _of_segment(gamma, s).to(part.dtype))
    return total.transpose(1, 2), q.new_empty(0, dtype=torch.float32)


def _valid(batch: int, key: Tensor, count: Optional, valid: Optional) -> Optional:
    """Which keys take part, bool ``[B or 1, L]``; None: all."""
    if valid is not None:
        valid = valid.to(torch.bool)
    if count is None:
        return valid
    within_length = torch.arange(key.shape[1], device=key.device) < count.reshape(batch, 1)
    return within_length if valid is None else within_length & valid


def _addend(q: Tensor, length: int, bias: Optional, seg_bias: Optional, s: int) -> Optional:
    """What is added to a segment's scores, four axes; None: nothing."""
    addend = None if bias is None else bias.to(q.dtype)
    if seg_bias is None:
        return addend
    gate = _of_segment(seg_bias, s).to(q.dtype).expand(-1, -1, 1, length)
    return gate if addend is None else addend + gate


def _of_segment(weights: Tensor, s: int) -> Tensor:
    """``[B or 1, H or 1, 1, 1]``."""
    one = weights[..., s]
    return one.reshape(*one.shape, *[1] * (4 - one.ndim)) if one.ndim else one.reshape(1, 1, 1, 1)


def _join(
    masks: Sequence[Optional], addends: Sequence[Optional], q: Tensor, keys: Sequence[Tensor]
) -> tuple[Optional, Optional]:
    """Over the keys of all segments a mask (bool), or an addend that hides too; else None."""
    batch = q.shape[0]
    broadcast_masks = [None if mask is None else mask[:, None, None] for mask in masks]
    if all(addend is None for addend in addends):
        if all(mask is None for mask in broadcast_masks):
            return None, None
        parts = [
            q.new_ones(batch, 1, 1, key.shape[2], dtype=torch.bool)
            if mask is None
            else mask.expand(batch, 1, 1, key.shape[2])
            for mask, key in zip(broadcast_masks, keys, strict=True)
        ]
        return torch.cat(parts, -1), None
    parts = []
    for mask, addend, key in zip(broadcast_masks, addends, keys, strict=True):
        part = q.new_zeros(1, 1, 1, key.shape[2]) if addend is None else addend
        if mask is not None:
            part = torch.where(mask, part, -torch.inf)
        parts.append(part)
    sizes = [max(part.shape[axis] for part in parts) for axis in range(3)]
    return None, torch.cat([part.expand(*sizes, part.shape[3]) for part in parts], -1)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Optional,
    extra: Optional,
    *,
    scale: float,
    exact: bool,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Attention of heads-first tensors, and the log-sum-exp (empty unless wanted)."""
    if extra is None and not with_lse and not exact:
        out = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
        return out, q.new_empty(0, dtype=torch.float32)
    scores = (q * scale) @ k.transpose(-1, -2)
    if extra is not None:
        scores = scores + extra
        if exact:
            scores = scores.masked_fill(extra == -torch.inf, -torch.inf)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    lse = torch.logsumexp(scores.float(), -1) if with_lse else q.new_empty(0, dtype=torch.float32)
    if exact:
        weights = torch.softmax(scores.float(), -1).to(q.dtype)
        empty_rows = (scores == -torch.inf).all(-1, keepdim=True)
        weights = weights.masked_fill(empty_rows, 0.0)
    else:
        weights = torch.softmax(scores, -1)
        weights = torch.where(torch.isnan(weights), 0.0, weights)
    return weights @ v, lse
