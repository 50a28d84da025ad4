"""Segmented attention in NumPy, and the cases and tolerances that tests and benchmarks share.

:func:`reference` is the meaning of the operator, in float64 and written for reading. :data:`CASES`
names the problems that every kernel is held against it on; :func:`make_inputs` makes their inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "CASES",
    "FROBENIUS",
    "AttentionCase",
    "Inputs",
    "allowed_error",
    "frobenius",
    "make_inputs",
    "reference",
]

#: Largest relative Frobenius error of an output by the dtype that keys and values have.
FROBENIUS = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 4e-3, "int8": 2e-2}


@dataclass(frozen=True)
class AttentionCase:
    """One attention problem.

    Attributes:
        name: unique.
        lengths: keys of each segment; 0: absent.
        rows: queries.
        heads: query heads.
        kv_heads: heads of keys and values; None: ``heads``.
        dim: elements of a head.
        dim_v: of values; None: ``dim``.
        batch: batches.
        valid: by segment, the share of keys that ``key_valid`` leaves, drawn at random; None or
            missing: no mask.
        counted: by segment, the share of keys that ``lens`` counts, the same in each batch but one
            key fewer in every second; None or missing: no lengths.
        bias: which axes of the bias are more than 1, of ``b``, ``h``, ``q``; None: no bias. One
            key in eight is hidden by minus infinity.
        gates: shape of ``seg_bias`` as axes before the segments: ``""``, ``b``, ``bh``; None: none.
        gamma: the same of ``gamma``.
        shared: segments that all batches share.
        mode: of the attention.
        layout: ``bshd`` (rows, then heads), ``bhsd``, or ``packed`` (views into one buffer of
            queries, keys and values).
        scale: of scores; None: 1 / sqrt(dim).
    """

    name: str
    lengths: tuple[int, ...]
    rows: int = 16
    heads: int = 8
    kv_heads: int | None = None
    dim: int = 64
    dim_v: int | None = None
    batch: int = 1
    valid: tuple[float | None, ...] = ()
    counted: tuple[float | None, ...] = ()
    bias: str | None = None
    gates: str | None = None
    gamma: str | None = None
    shared: tuple[int, ...] = ()
    mode: Literal["joint", "independent"] = "joint"
    layout: Literal["bshd", "bhsd", "packed"] = "bshd"
    scale: float | None = None

    @property
    def keys(self) -> int:
        """Keys of all segments."""
        return sum(self.lengths)


@dataclass(frozen=True)
class Inputs:
    """Arguments of :func:`mmedge.native.segmented_attention` and of :func:`reference`."""

    q: NDArray[np.float32]
    k: tuple[NDArray[np.float32], ...]
    v: tuple[NDArray[np.float32], ...]
    options: dict[str, Any] = field(default_factory=dict)


def _laid(
    rng: np.random.Generator, shape: tuple[int, int, int, int], layout: str
) -> NDArray[np.float32]:
    """Standard normal values ``[B, L, H, D]`` in memory as ``layout`` says."""
    b, rows, heads, dim = shape
    if layout == "bhsd":
        return rng.standard_normal((b, heads, rows, dim), np.float32).transpose(0, 2, 1, 3)
    if layout == "packed":
        return rng.standard_normal((b, rows, 3, heads, dim), np.float32)[:, :, 1]
    return rng.standard_normal(shape, np.float32)


def make_inputs(case: AttentionCase, seed: int = 0) -> Inputs:
    """Inputs of a case, the same for the same seed."""
    rng = np.random.default_rng(seed)
    b, h, kv = case.batch, case.heads, case.kv_heads or case.heads
    q = _laid(rng, (b, case.rows, h, case.dim), case.layout)
    k, v, lens, valid, bias = [], [], [], [], []
    for s, length in enumerate(case.lengths):
        kv_batch = 1 if s in case.shared else b
        k.append(_laid(rng, (kv_batch, length, kv, case.dim), case.layout))
        v.append(_laid(rng, (kv_batch, length, kv, case.dim_v or case.dim), case.layout))
        share = case.counted[s] if s < len(case.counted) else None
        lens.append(
            None
            if share is None
            else np.array([max(round(share * length) - i % 2, 0) for i in range(b)], np.int32)
        )
        share = case.valid[s] if s < len(case.valid) else None
        valid.append(None if share is None else rng.random((b, length)) < share)
        if case.bias is not None:
            shape = tuple(
                size if axis in case.bias else 1
                for axis, size in zip("bhq", (b, h, case.rows), strict=True)
            )
            segment_bias = rng.standard_normal((*shape, length), np.float32)
            segment_bias[rng.random(segment_bias.shape) < 0.125] = -np.inf
            bias.append(segment_bias)
    options: dict[str, Any] = {"mode": case.mode, "scale": case.scale}
    if any(option is not None for option in lens):
        options["lens"] = lens
    if any(option is not None for option in valid):
        options["key_valid"] = valid
    if bias:
        options["bias"] = bias
    for name, axes in (("seg_bias", case.gates), ("gamma", case.gamma)):
        if axes is not None:
            shape = tuple({"b": b, "h": h}[axis] for axis in axes)
            options[name] = rng.standard_normal((*shape, len(case.lengths)), np.float32)
    return Inputs(q, tuple(k), tuple(v), options)


def reference(
    q: NDArray[Any],
    k: Sequence[NDArray[Any]],
    v: Sequence[NDArray[Any]],
    *,
    lens: Sequence[NDArray[Any] | None] | None = None,
    key_valid: Sequence[NDArray[Any] | None] | None = None,
    bias: Sequence[NDArray[Any] | None] | None = None,
    seg_bias: NDArray[Any] | None = None,
    gamma: NDArray[Any] | None = None,
    mode: Literal["joint", "independent"] = "joint",
    scale: float | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Segmented attention in float64; arguments as of :func:`mmedge.native.segmented_attention`.

    Returns:
        outputs ``[B, Lq, H, Dv]`` and, of joint segments, the log-sum-exp ``[B, H, Lq]``.
    """
    batch, rows, heads, dim = q.shape
    scale = 1.0 / math.sqrt(dim) if scale is None else scale
    queries = q.astype(np.float64).transpose(0, 2, 1, 3)
    scores, values = [], []
    for s in range(len(k)):
        length, group = k[s].shape[1], heads // k[s].shape[2]
        mask: NDArray[np.bool_] = np.ones((batch, 1, 1, length), np.bool_)
        if lens is not None and (count := lens[s]) is not None:
            mask = mask & (np.arange(length) < count[:, None, None, None])
        if key_valid is not None and (valid := key_valid[s]) is not None:
            mask = mask & valid.astype(np.bool_)[:, None, None]
        shift = np.zeros((1, 1, 1, 1))
        if bias is not None and (segment_bias := bias[s]) is not None:
            shift = shift + segment_bias.astype(np.float64)
        if seg_bias is not None:
            shift = shift + _weight(seg_bias, s)
        mask = np.broadcast_to(mask & (shift > -np.inf), (batch, heads, rows, length))
        # What a hidden key holds must not matter, be it NaN.
        visible_keys = np.any(mask, axis=(1, 2))[:, :, None, None]
        keys, vals = (
            np.repeat(np.where(visible_keys, x.astype(np.float64), 0.0), group, axis=2)
            for x in (k[s], v[s])
        )
        with np.errstate(invalid="ignore"):
            score = scale * (queries @ keys.transpose(0, 2, 3, 1)) + shift
        scores.append(np.where(mask, score, -np.inf))
        values.append(vals.transpose(0, 2, 1, 3))
    if mode == "joint":
        out, lse = _soften(np.concatenate(scores, -1), np.concatenate(values, -2))
        return out.transpose(0, 2, 1, 3), lse
    total = np.zeros((batch, heads, rows, v[0].shape[-1]))
    for s, (score, vals) in enumerate(zip(scores, values, strict=True)):
        weight = 1.0 if gamma is None else _weight(gamma, s)
        total = total + weight * _soften(score, vals)[0]
    return total.transpose(0, 2, 1, 3), np.full((batch, heads, rows), np.nan)


def _weight(weights: NDArray[Any], segment: int) -> NDArray[np.float64]:
    """Of one segment, ``[B or 1, H or 1, 1, 1]``."""
    weight = weights[..., segment].astype(np.float64)
    if weight.ndim == 0:
        return weight.reshape(1, 1, 1, 1)
    return weight[:, None, None, None] if weight.ndim == 1 else weight[:, :, None, None]


def _soften(
    scores: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Softmax times values, 0 for rows without a key; and the log-sum-exp."""
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
    total = weights.sum(-1, keepdims=True)
    empty = total == 0.0
    # 0 * NaN is NaN, but a key of weight 0 has no part: it was hidden from this row alone.
    if np.isfinite(values).all():
        product = weights @ values
    else:
        parts = np.where(weights[..., None] == 0.0, 0.0, weights[..., None] * values[:, :, None])
        product = parts.sum(-2)
    out = np.where(empty, 0.0, product / np.where(empty, 1.0, total))
    with np.errstate(divide="ignore"):
        lse = np.where(empty, -np.inf, top + np.log(total))[..., 0]
    return out, lse


def frobenius(got: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Relative error in the Frobenius norm; 0 where both are 0."""
    size = float(np.linalg.norm(expected))
    off = float(np.linalg.norm(got.astype(np.float64) - expected))
    return off / size if size else off


def allowed_error(peer: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Largest absolute error that is allowed: twice a peer's of the same dtype, and 1e-5.

    The rule of FlashAttention's tests.
    """
    return 2.0 * float(np.abs(peer.astype(np.float64) - expected).max(initial=0.0)) + 1e-5


def _cases() -> tuple[AttentionCase, ...]:
    some = (
        AttentionCase("one segment", (100,)),
        AttentionCase("one key", (1,), rows=1),
        AttentionCase("three segments", (70, 3, 64)),
        AttentionCase("eight segments", (5, 1, 64, 0, 77, 130, 2, 9)),
        AttentionCase("absent in the middle", (64, 0, 33)),
        AttentionCase("absent at both ends", (0, 40, 0), rows=5),
        AttentionCase("all absent", (0, 0)),
        AttentionCase("one query", (300, 20), rows=1),
        AttentionCase("a few queries", (65, 20), rows=3),
        AttentionCase("as many queries as a few lanes", (65, 20), rows=6),
        AttentionCase("many queries", (130, 61), rows=75),
        AttentionCase("batches", (40, 25), batch=3, rows=9),
        AttentionCase("shared by all batches", (40, 25), batch=3, shared=(1,)),
        AttentionCase("heads in groups", (50, 31), kv_heads=2),
        AttentionCase("one head for all", (50, 31), kv_heads=1, rows=1),
        AttentionCase("heads first", (50, 31), layout="bhsd"),
        AttentionCase("packed", (50, 31), layout="packed", batch=2),
        AttentionCase("narrow", (50, 31), dim=32),
        AttentionCase("wide", (50, 31), dim=128),
        AttentionCase("96 elements", (50, 31), dim=96),
        AttentionCase("72 elements", (50, 31), dim=72),
        AttentionCase("80 elements", (50, 31), dim=80, rows=1),
        AttentionCase("an odd width", (50, 31), dim=13, dim_v=21),
        AttentionCase("values narrower than keys", (50, 31), dim=64, dim_v=40),
        AttentionCase("half valid", (100, 61), valid=(0.5, 0.5), batch=2),
        AttentionCase("a sensor without a valid key", (100, 61), valid=(0.0, None)),
        AttentionCase("no valid key", (100, 61), valid=(0.0, 0.0), rows=2),
        AttentionCase("counted", (100, 61), counted=(0.7, None), batch=2),
        AttentionCase("counted to nothing", (100, 61), counted=(0.0, 0.5), rows=1),
        AttentionCase(
            "counted and valid", (100, 61), counted=(0.7, 0.9), valid=(0.5, None), batch=3
        ),
        AttentionCase("bias by key", (60, 40), bias="", rows=20),
        AttentionCase("bias by batch", (60, 40), bias="b", batch=2),
        AttentionCase("bias by head", (60, 40), bias="h", kv_heads=2),
        AttentionCase("bias by row", (60, 40), bias="q", rows=20),
        AttentionCase("bias by row, in groups", (60, 40), bias="q", kv_heads=4, rows=3),
        AttentionCase("bias by all", (60, 40), bias="bhq", batch=2, rows=5),
        AttentionCase("gated", (60, 40, 5), gates=""),
        AttentionCase("gated by batch", (60, 40, 5), gates="b", batch=2, kv_heads=2),
        AttentionCase("gated by head", (60, 40, 5), gates="bh", batch=2, kv_heads=2),
        AttentionCase("independent", (60, 40), mode="independent", gamma="", rows=20),
        AttentionCase(
            "independent by head", (60, 0, 9), mode="independent", gamma="bh", kv_heads=2
        ),
        AttentionCase(
            "independent, some hidden", (60, 40), mode="independent", valid=(0.0, 0.5), rows=2
        ),
        AttentionCase("a large scale", (200, 31), scale=1.0),
        AttentionCase("long", (1500, 700), rows=4, heads=2),
        AttentionCase("long, half valid", (1500, 700), rows=20, heads=2, valid=(0.5, 0.5)),
        # Shapes of the benchmark of GPU kernels, and a quarter of them for what runs on a CPU.
        AttentionCase("A action", (1024, 64, 77), rows=16, heads=16),
        AttentionCase("B detection", (4224, 4096), rows=900, heads=8, dim=32),
        AttentionCase("C pool", (4096, 2048, 1500, 529), rows=1, heads=16, dim=128),
        AttentionCase(
            "D joint", (577, 1500, 77), rows=512, heads=12, batch=4, counted=(None, 0.5, 0.25)
        ),
    )
    # Every feature at once, with the widths that kernels are specialised for.
    full = AttentionCase(
        "everything",
        (70, 0, 45, 130),
        batch=2,
        kv_heads=4,
        valid=(0.6, None, 0.8),
        counted=(None, None, None, 0.5),
        bias="bq",
        gates="b",
        shared=(2,),
    )
    return (
        *some,
        *(
            replace(full, name=f"everything, {dim} elements, {rows} rows", dim=dim, rows=rows)
            for dim in (32, 64, 96, 128)
            for rows in (1, 6, 16, 70)
        ),
    )


#: Every problem that kernels are tested on.
CASES = _cases()
