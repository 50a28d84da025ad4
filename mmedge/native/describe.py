"""From arrays, wherever they lie, to the C structure of one call of segmented attention."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmedge.errors import InputError
from mmedge.native.capi import BF16, F16, F32, I8, INDEPENDENT, JOINT, MAX_SEGMENTS, SegAttn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ArrayView", "Mode", "describe", "lse_shape", "out_shape", "write_to"]

Mode = Literal["joint", "independent"]

DTYPES = {"float32": F32, "float16": F16, "bfloat16": BF16, "int8": I8}


@dataclass(frozen=True, slots=True)
class ArrayView:
    """An array: its address, its sizes, its steps in elements and its dtype's name."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def describe(
    q: ArrayView,
    k: Sequence[ArrayView],
    v: Sequence[ArrayView],
    *,
    lens: Sequence[ArrayView | None] | None = None,
    key_valid: Sequence[ArrayView | None] | None = None,
    bias: Sequence[ArrayView | None] | None = None,
    seg_bias: ArrayView | None = None,
    gamma: ArrayView | None = None,
    mode: Mode = "joint",
    scale: float | None = None,
    num_splits: int = 0,
) -> SegAttn:
    """The structure, with the addresses of what it was given; the caller keeps that alive.

    Sizes are as :func:`mmedge.native.segmented_attention` has them. Where the results go is said by
    :func:`write_to`.

    Raises:
        InputError: dtypes, shapes or strides that do not fit. What a device supports is not looked
            at.
    """
    _expect("q", q, 4, tuple(DTYPES))
    batch, rows, heads, dim = q.shape
    if not 1 <= len(k) <= MAX_SEGMENTS or len(v) != len(k):
        raise InputError(
            f"expected 1 to {MAX_SEGMENTS} segments, each with keys and values; got {len(k)} keys "
            f"and {len(v)} values"
        )
    _expect("k[0]", k[0], 4, tuple(DTYPES))
    _expect("v[0]", v[0], 4, tuple(DTYPES))
    kv_heads, dim_v = k[0].shape[2], v[0].shape[3]
    if kv_heads < 1 or heads % kv_heads:
        raise InputError(f"k[0]: its {kv_heads} heads do not divide the {heads} of q")
    sizes = {"batch": batch, "heads": heads, "rows": rows, "dim": dim, "dim_v": dim_v}
    for what, size in sizes.items():
        # The library holds them in 32 bits, which ctypes would cut off unseen.
        least = 1 if what == "dim" else 0
        if not least <= size < 1 << 31:
            raise InputError(f"{what}: expected {least} to {(1 << 31) - 1}, got {size}")
    if not 0 <= num_splits < 1 << 31:
        raise InputError(f"num_splits: expected 0 to {(1 << 31) - 1}, got {num_splits}")
    call = SegAttn(
        struct_size=ctypes.sizeof(SegAttn),
        mode={"joint": JOINT, "independent": INDEPENDENT}[mode],
        dtype=DTYPES[q.dtype],
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        rows=rows,
        dim=dim,
        dim_v=dim_v,
        segments=len(k),
        num_splits=num_splits,
        scale=1.0 / math.sqrt(dim) if scale is None else scale,
        q=q.address,
        q_stride=_steps(q, (0, 1, 2)),
    )
    for name, weights in (("seg_bias", seg_bias), ("gamma", gamma)):
        if weights is not None:
            wide = _weights(name, weights, (batch, heads, len(k)))
            setattr(call, name, wide.address)
            setattr(call, f"{name}_stride", _steps(wide, (0, 1)))
    for s in range(len(k)):
        segment = call.segment[s]
        _expect(f"k[{s}]", k[s], 4, tuple(DTYPES))
        _expect(f"v[{s}]", v[s], 4, (k[s].dtype,))
        length = k[s].shape[1]
        _fit(f"k[{s}]", k[s], (batch, length, kv_heads, dim), (0,))
        _fit(f"v[{s}]", v[s], (batch, length, kv_heads, dim_v), (0,))
        segment.dtype = DTYPES[k[s].dtype]
        segment.length = length
        segment.k, segment.v = k[s].address, v[s].address
        segment.k_stride, segment.v_stride = (_steps(view, (0, 1, 2)) for view in (k[s], v[s]))
        segment.k_scale = segment.v_scale = 1.0
        if lens is not None and (count := lens[s]) is not None:
            _expect(f"lens[{s}]", count, 1, ("int32",))
            _fit(f"lens[{s}]", count, (batch,), ())
            segment.lens = count.address
        if key_valid is not None and (valid := key_valid[s]) is not None:
            _expect(f"key_valid[{s}]", valid, 2, ("uint8", "bool"))
            _fit(f"key_valid[{s}]", valid, (batch, length), (0,))
            segment.key_valid = valid.address
            segment.key_valid_stride = _steps(valid, (0,))[0]
        if bias is not None and (segment_bias := bias[s]) is not None:
            _expect(f"bias[{s}]", segment_bias, 4, ("float32", q.dtype))
            _fit(f"bias[{s}]", segment_bias, (batch, heads, rows, length), (0, 1, 2))
            segment.bias = segment_bias.address
            segment.bias_dtype = DTYPES[segment_bias.dtype]
            segment.bias_stride = _steps(segment_bias, (0, 1, 2))
    return call


def out_shape(call: SegAttn) -> tuple[int, int, int, int]:
    """Of the outputs, ``[B, Lq, H, Dv]``."""
    return call.batch, call.rows, call.heads, call.dim_v


def lse_shape(call: SegAttn) -> tuple[int, int, int]:
    """Of the log-sum-exp, ``[B, H, Lq]``."""
    return call.batch, call.heads, call.rows


def write_to(call: SegAttn, out: ArrayView, lse: ArrayView | None) -> None:
    """Have outputs written to ``out``, of q's dtype, and the log-sum-exp to ``lse``, contiguous."""
    call.out = out.address
    call.out_stride = _steps(out, (0, 1, 2))
    call.lse = None if lse is None else lse.address


def _expect(name: str, view: ArrayView, rank: int, dtypes: tuple[str, ...]) -> None:
    if view.dtype not in dtypes or len(view.shape) != rank:
        kinds = " or ".join(dict.fromkeys(dtypes))
        raise InputError(f"{name}: expected {kinds} of rank {rank}, got {view}")
    if math.prod(view.shape) and view.shape[-1] > 1 and view.strides[-1] != 1:
        raise InputError(
            f"{name}: the last axis must be contiguous, got steps of {view.strides} elements; "
            "make a copy"
        )


def _steps(view: ArrayView, axes: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    """Along ``axes``; 0 along an axis of one, which repeats."""
    steps = [0 if view.shape[axis] == 1 else view.strides[axis] for axis in axes]
    return (ctypes.c_int64 * len(steps))(*steps)


def _fit(
    name: str, view: ArrayView, shape: tuple[int, ...], broadcast_axes: tuple[int, ...]
) -> None:
    for axis, (size, expected) in enumerate(zip(view.shape, shape, strict=True)):
        if size != expected and not (size == 1 and axis in broadcast_axes):
            or_one = " or 1" if axis in broadcast_axes else ""
            raise InputError(
                f"{name}: axis {axis} must have size {expected}{or_one}, got shape "
                f"{list(view.shape)}"
            )


def _weights(name: str, view: ArrayView, shape: tuple[int, int, int]) -> ArrayView:
    """``[M]``, ``[B, M]`` or ``[B, H, M]`` with three axes."""
    rank = len(view.shape)
    if view.dtype != "float32" or not 1 <= rank <= 3:
        raise InputError(f"{name}: expected float32 [M], [B, M] or [B, H, M], got {view}")
    _expect(name, view, rank, ("float32",))
    at = {1: (None, None, 0), 2: (0, None, 1), 3: (0, 1, 2)}[rank]
    wide = ArrayView(
        view.address,
        tuple(1 if axis is None else view.shape[axis] for axis in at),
        tuple(0 if axis is None else view.strides[axis] for axis in at),
        view.dtype,
    )
    _fit(name, wide, shape, (0, 1))
    return wide
