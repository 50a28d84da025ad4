"""Segmented attention on NumPy arrays, by the CPU kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.native.capi import NativeLibrary, SegAttn, library
from mmedge.native.describe import ArrayView, Mode, describe, lse_shape, out_shape, write_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Prepared", "prepare", "segmented_attention"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Made by :func:`prepare`: :meth:`run` writes ``out`` and ``lse``."""

    _library: NativeLibrary
    _call: SegAttn
    out: NDArray[np.float32]
    lse: NDArray[np.float32] | None
    _arrays: tuple[Any, ...]

    def run(self, threads: int = 1) -> None:
        """Compute.

        Raises:
            InputError: the call breaks the rules of mmedge/kernels.h.
            BackendError: no threads can be had.
        """
        if self.out.size:
            self._library.run(self._call, threads)


def segmented_attention(
    q: NDArray[np.float32],
    k: Sequence[NDArray[np.float32]],
    v: Sequence[NDArray[np.float32]],
    *,
    lens: Sequence[NDArray[np.int32] | None] | None = None,
    key_valid: Sequence[NDArray[np.bool_] | NDArray[np.uint8] | None] | None = None,
    bias: Sequence[NDArray[np.float32] | None] | None = None,
    seg_bias: NDArray[np.float32] | None = None,
    gamma: NDArray[np.float32] | None = None,
    mode: Mode = "joint",
    scale: float | None = None,
    num_splits: int = 0,
    return_lse: bool = False,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Attend over segments in one softmax, on the CPU, without concatenating them.

    Arrays may have any strides, with a contiguous last axis.

    Args:
        q: queries, float32 ``[B, Lq, H, D]``, D up to 256.
        k: keys of 1 to 8 segments, float32 ``[B or 1, L_s, Hkv, D]``; Hkv divides H.
        v: values, float32 ``[B or 1, L_s, Hkv, Dv]``.
        lens: by segment, int32 ``[B]``: how many of its keys count; None: all.
        key_valid: by segment, bool or uint8 ``[B or 1, L_s]``: 0 hides a key; None: none.
        bias: by segment, float32 ``[B or 1, H or 1, Lq or 1, L_s]``, added to scores; None: none.
        seg_bias: float32 ``[M]``, ``[B, M]`` or ``[B, H, M]``, added to a segment's scores. It is
            the logarithm of the segment's gate; minus infinity drops the segment.
        gamma: weights of independent segments, of the same shapes; None: 1.
        mode: ``joint``, or ``independent`` for the sum of ``gamma`` times each segment's attention.
        scale: factor of the scores; None: 1 / sqrt(D).
        num_splits: parts into which keys are cut; 0: chosen by the shape.
        return_lse: also return the log-sum-exp of the scores, for joint segments.
        threads: number of threads; the result does not depend on it.

    Returns:
        float32 ``[B, Lq, H, Dv]``, and the log-sum-exp ``[B, H, Lq]`` or None. A row without a key
        to attend to is 0, and its log-sum-exp is minus infinity.

    Raises:
        InputError: dtypes, shapes or strides that do not fit.
        BackendError: there is no native library.
    """
    call = prepare(
        q,
        k,
        v,
        lens=lens,
        key_valid=key_valid,
        bias=bias,
        seg_bias=seg_bias,
        gamma=gamma,
        mode=mode,
        scale=scale,
        num_splits=num_splits,
        return_lse=return_lse,
    )
    call.run(threads)
    return call.out, call.lse


def prepare(
    q: NDArray[np.float32],
    k: Sequence[NDArray[np.float32]],
    v: Sequence[NDArray[np.float32]],
    *,
    lens: Sequence[NDArray[np.int32] | None] | None = None,
    key_valid: Sequence[NDArray[np.bool_] | NDArray[np.uint8] | None] | None = None,
    bias: Sequence[NDArray[np.float32] | None] | None = None,
    seg_bias: NDArray[np.float32] | None = None,
    gamma: NDArray[np.float32] | None = None,
    mode: Mode = "joint",
    scale: float | None = None,
    num_splits: int = 0,
    return_lse: bool = False,
) -> Prepared:
    """A call of :func:`segmented_attention` that is ready to run, again and again.

    It keeps the arrays that it was given and computes on what they hold at the time.

    Raises:
        InputError: dtypes, shapes or strides that do not fit.
        BackendError: there is no native library.
    """
    call = describe(
        _view("q", q),
        [_view(f"k[{s}]", keys) for s, keys in enumerate(k)],
        [_view(f"v[{s}]", values) for s, values in enumerate(v)],
        lens=_views("lens", lens),
        key_valid=_views("key_valid", key_valid),
        bias=_views("bias", bias),
        seg_bias=None if seg_bias is None else _view("seg_bias", seg_bias),
        gamma=None if gamma is None else _view("gamma", gamma),
        mode=mode,
        scale=scale,
        num_splits=num_splits,
    )
    out = np.empty(out_shape(call), np.float32)
    lse = np.empty(lse_shape(call), np.float32) if return_lse else None
    write_to(call, _view("out", out), None if lse is None else _view("lse", lse))
    arrays = (q, k, v, lens, key_valid, bias, seg_bias, gamma)
    return Prepared(library(), call, out, lse, arrays)


def _views(name: str, values: Sequence[Any] | None) -> list[ArrayView | None] | None:
    if values is None:
        return None
    return [None if x is None else _view(f"{name}[{s}]", x) for s, x in enumerate(values)]


def _view(name: str, value: Any) -> ArrayView:  # noqa: ANN401
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    if any(step % value.itemsize for step in value.strides) and value.size:
        raise InputError(f"{name}: strides of {value.strides} bytes are no whole elements; copy it")
    steps = tuple(step // value.itemsize for step in value.strides)
    return ArrayView(value.ctypes.data, value.shape, steps, value.dtype.name)
