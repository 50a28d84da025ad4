"""The native library: attention over segments of keys and values, by ctypes over its C API.

``cpp_ext/include/mmedge.h`` is the API and says what is computed. The library is built with the
package; where it was left out (``-C wheel.cmake=false``), :func:`library` says why and everything
else here raises :class:`BackendError`, while bundles run without it.
"""

from __future__ import annotations

import ctypes
import math
import threading
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmedge.errors import BackendError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "DOMAIN",
    "MAX_DIM",
    "MAX_SEGMENTS",
    "Library",
    "Prepared",
    "SegAttn",
    "cpu_calls",
    "cpu_isa",
    "library",
    "ort_kernels",
    "prepare",
    "segmented_attention",
    "use_isa",
    "why_absent",
]

#: Operator domain of the kernels, and of the functions that they take the place of.
DOMAIN = "mmedge"

#: As in mmedge.h, as are the structures below.
ABI_VERSION = 1
MAX_SEGMENTS = 8
#: Widest head of the CPU kernel.
MAX_DIM = 256

OK = 0
F32, F16, BF16, I8 = range(4)
JOINT, INDEPENDENT = range(2)

NAME = "libmmedge.so"


class Segment(ctypes.Structure):
    """``mmedge_segment``."""

    _fields_ = (
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("k_stride", ctypes.c_int64 * 3),
        ("v_stride", ctypes.c_int64 * 3),
        ("length", ctypes.c_int64),
        ("lens", ctypes.c_void_p),
        ("key_valid", ctypes.c_void_p),
        ("key_valid_stride", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("bias_stride", ctypes.c_int64 * 3),
        ("bias_dtype", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("k_scale", ctypes.c_float),
        ("v_scale", ctypes.c_float),
    )


class SegAttn(ctypes.Structure):
    """``mmedge_segattn``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("mode", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("batch", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("dim", ctypes.c_int32),
        ("dim_v", ctypes.c_int32),
        ("segments", ctypes.c_int32),
        ("num_splits", ctypes.c_int32),
        ("empty_is_nan", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("q", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64 * 3),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_int64 * 3),
        ("lse", ctypes.c_void_p),
        ("seg_bias", ctypes.c_void_p),
        ("seg_bias_stride", ctypes.c_int64 * 2),
        ("gamma", ctypes.c_void_p),
        ("gamma_stride", ctypes.c_int64 * 2),
        ("segment", Segment * MAX_SEGMENTS),
    )


class Library:
    """The loaded library: its C functions with their types, and pools of threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.c = c = ctypes.CDLL(str(path))
        c.mmedge_abi_version.restype = ctypes.c_int
        found = c.mmedge_abi_version()
        if found != ABI_VERSION:
            raise BackendError(
                f"{path}: expected version {ABI_VERSION} of the C API, found {found}; "
                "install mmedge again, so that library and package are of one version"
            )
        call, size = ctypes.POINTER(SegAttn), ctypes.POINTER(ctypes.c_size_t)
        c.mmedge_last_error.restype = ctypes.c_char_p
        c.mmedge_cpu_isa.restype = ctypes.c_char_p
        c.mmedge_cpu_use_isa.argtypes = (ctypes.c_char_p,)
        c.mmedge_segattn_cpu_calls.restype = ctypes.c_uint64
        c.mmedge_segattn_cpu_workspace.argtypes = (call, size)
        c.mmedge_segattn_cpu.argtypes = (call, *[ctypes.c_void_p] * 3)
        c.mmedge_pool_create.argtypes = (ctypes.c_int,)
        c.mmedge_pool_create.restype = ctypes.c_void_p
        self.has_ort = hasattr(c, "RegisterCustomOps")
        self._pool_run = ctypes.cast(c.mmedge_pool_run, ctypes.c_void_p)
        self._pools: dict[int, int | None] = {}
        self._lock = threading.Lock()

    def check(self, status: int) -> None:
        """Raise what a status says.

        Raises:
            InputError: the arguments are wrong, or there is no kernel for them.
            BackendError: the device failed.
        """
        if status != OK:
            error = InputError if status in (1, 2) else BackendError
            raise error(self.c.mmedge_last_error().decode())

    def run(self, call: SegAttn, threads: int) -> None:
        """Compute ``call`` on the CPU with so many threads.

        Raises:
            InputError: the call breaks the rules of mmedge.h.
            BackendError: no threads can be had.
        """
        size = ctypes.c_size_t()
        self.check(self.c.mmedge_segattn_cpu_workspace(call, size))
        # Aligned to 64 bytes by hand: NumPy promises 16.
        memory = np.empty(size.value + 64, np.uint8) if size.value else None
        at = None if memory is None else -(-memory.ctypes.data // 64) * 64
        pool = self._pool(threads)
        run = None if pool is None else self._pool_run
        self.check(self.c.mmedge_segattn_cpu(call, at, run, pool))

    def _pool(self, threads: int) -> int | None:
        """A pool for so many threads, made once and kept; None for one thread."""
        if threads <= 1:
            return None
        with self._lock:
            if threads not in self._pools:
                pool = self.c.mmedge_pool_create(threads)
                if pool is None:
                    raise BackendError(f"{threads} threads cannot be started")
                self._pools[threads] = pool
            return self._pools[threads]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Made by :func:`prepare`: :meth:`run` writes ``out`` and ``lse``."""

    _library: Library
    _call: SegAttn
    out: NDArray[np.float32]
    lse: NDArray[np.float32] | None
    _kept: tuple[Any, ...]

    def run(self, threads: int = 1) -> None:
        """Compute.

        Raises:
            InputError: the call breaks the rules of mmedge.h.
            BackendError: no threads can be had.
        """
        if self.out.size:
            self._library.run(self._call, threads)


@dataclass(frozen=True, slots=True)
class _Found:
    """The library, or why there is none."""

    library: Library | None
    why: str


@cache
def _find() -> _Found:
    source = files("mmedge") / NAME
    if not source.is_file():
        return _Found(
            None,
            "this mmedge was installed without its native library; install it again with a C++17 "
            "compiler at hand",
        )
    with as_file(source) as path:
        try:
            return _Found(Library(path), "")
        except OSError as error:
            return _Found(None, f"{path} cannot be loaded: {error}")
        except BackendError as error:
            return _Found(None, str(error))


def why_absent() -> str:
    """Why there is no native library; empty where there is one."""
    return _find().why


def library() -> Library:
    """The native library.

    Raises:
        BackendError: there is none; the message says why.
    """
    found = _find()
    if found.library is None:
        raise BackendError(found.why)
    return found.library


def ort_kernels() -> tuple[Path | None, str]:
    """The library where it has operators for ONNX Runtime on the CPU; else None and the reason."""
    found = _find()
    if found.library is None:
        return None, found.why
    if not found.library.has_ort:
        return None, "the native library was built without operators for ONNX Runtime"
    return found.library.path, ""


def cpu_isa() -> str:
    """Instruction set that the CPU kernel uses: avx512, avx2, neon or portable."""
    found: bytes = library().c.mmedge_cpu_isa()
    return found.decode()


def use_isa(name: str | None) -> None:
    """Use another instruction set from now on, for tests and comparisons; None: the best again.

    Raises:
        InputError: the library or the processor does not have it.
    """
    loaded = library()
    loaded.check(loaded.c.mmedge_cpu_use_isa(None if name is None else name.encode()))


def cpu_calls() -> int:
    """How often the CPU kernel has computed in this process, by whomever it was called."""
    found: int = library().c.mmedge_segattn_cpu_calls()
    return found


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
    mode: Literal["joint", "independent"] = "joint",
    scale: float | None = None,
    num_splits: int = 0,
    return_lse: bool = False,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Attend over segments in one softmax, on the CPU, without putting them together.

    Arrays may have any strides, with a contiguous last axis.

    Args:
        q: queries, float32 ``[B, Lq, H, D]``, D up to 256.
        k: keys of 1 to 8 segments, float32 ``[B or 1, L_s, Hkv, D]``; Hkv divides H.
        v: values, float32 ``[B or 1, L_s, Hkv, Dv]``.
        lens: by segment, int32 ``[B]``: how many of its keys count; None: all.
        key_valid: by segment, bool or uint8 ``[B or 1, L_s]``: 0 hides a key; None: none.
        bias: by segment, float32 ``[B or 1, H or 1, Lq or 1, L_s]``, added to scores; None: none.
        seg_bias: float32 ``[M]``, ``[B, M]`` or ``[B, H, M]``, added to a segment's scores: the
            logarithm of its gate, minus infinity drops it.
        gamma: weights of independent segments, of the same shapes; None: 1.
        mode: ``joint``, or ``independent`` for the sum of ``gamma`` times each segment's attention.
        scale: of the scores; None: 1 / sqrt(D).
        num_splits: parts into which keys are cut; 0: chosen by the shape.
        return_lse: also return the log-sum-exp of the scores, of joint segments.
        threads: how many compute; the result does not depend on it.

    Returns:
        float32 ``[B, Lq, H, Dv]``, and the log-sum-exp ``[B, H, Lq]`` or None. A row with no key to
        attend to is 0, its log-sum-exp minus infinity.

    Raises:
        InputError: dtypes, shapes or strides that do not fit.
        BackendError: there is no native library.
    """
    prepared = prepare(
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
    prepared.run(threads)
    return prepared.out, prepared.lse


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
    mode: Literal["joint", "independent"] = "joint",
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
    q = _tensor("q", q, 4)
    batch, rows, heads, dim = q.shape
    if not 1 <= len(k) <= MAX_SEGMENTS or len(v) != len(k):
        raise InputError(
            f"expected 1 to {MAX_SEGMENTS} segments, each with keys and values; got {len(k)} keys "
            f"and {len(v)} values"
        )
    kv_heads, dim_v = k[0].shape[2], v[0].shape[3]
    if kv_heads < 1 or heads % kv_heads:
        raise InputError(f"k[0]: its {kv_heads} heads do not divide the {heads} of q")
    out = np.empty((batch, rows, heads, dim_v), np.float32)
    lse = np.empty((batch, heads, rows), np.float32) if return_lse else None
    call = SegAttn(
        struct_size=ctypes.sizeof(SegAttn),
        mode={"joint": JOINT, "independent": INDEPENDENT}[mode],
        dtype=F32,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        rows=rows,
        dim=dim,
        dim_v=dim_v,
        segments=len(k),
        num_splits=num_splits,
        scale=1.0 / math.sqrt(dim) if scale is None else scale,
        q=q.ctypes.data,
        q_stride=_strides(q, (0, 1, 2)),
        out=out.ctypes.data,
        out_stride=_strides(out, (0, 1, 2)),
        lse=None if lse is None else lse.ctypes.data,
    )
    kept: list[Any] = [q, out]  # the call has bare pointers into these
    for name, weights in (("seg_bias", seg_bias), ("gamma", gamma)):
        if weights is not None:
            wide = _weights(name, weights, (batch, heads, len(k)))
            kept.append(wide)
            setattr(call, name, wide.ctypes.data)
            setattr(call, f"{name}_stride", _strides(wide, (0, 1)))
    for s in range(len(k)):
        keys, values = _tensor(f"k[{s}]", k[s], 4), _tensor(f"v[{s}]", v[s], 4)
        length = keys.shape[1]
        _fit(f"k[{s}]", keys, (batch, length, kv_heads, dim), (0,))
        _fit(f"v[{s}]", values, (batch, length, kv_heads, dim_v), (0,))
        segment = call.segment[s]
        segment.dtype = F32
        segment.length = length
        segment.k, segment.v = keys.ctypes.data, values.ctypes.data
        segment.k_stride = _strides(keys, (0, 1, 2))
        segment.v_stride = _strides(values, (0, 1, 2))
        kept += keys, values
        if lens is not None and (count := lens[s]) is not None:
            count = _tensor(f"lens[{s}]", count, 1, np.int32)
            _fit(f"lens[{s}]", count, (batch,), ())
            segment.lens = count.ctypes.data
            kept.append(count)
        if key_valid is not None and (valid := key_valid[s]) is not None:
            if valid.dtype == np.bool_:
                valid = valid.view(np.uint8)
            valid = _tensor(f"key_valid[{s}]", valid, 2, np.uint8)
            _fit(f"key_valid[{s}]", valid, (batch, length), (0,))
            segment.key_valid = valid.ctypes.data
            segment.key_valid_stride = _strides(valid, (0,))[0]
            kept.append(valid)
        if bias is not None and (added := bias[s]) is not None:
            added = _tensor(f"bias[{s}]", added, 4)
            _fit(f"bias[{s}]", added, (batch, heads, rows, length), (0, 1, 2))
            segment.bias = added.ctypes.data
            segment.bias_stride = _strides(added, (0, 1, 2))
            kept.append(added)
    return Prepared(library(), call, out, lse, tuple(kept))


def _tensor(
    name: str,
    value: Any,  # noqa: ANN401
    rank: int,
    dtype: type[np.generic] = np.float32,
) -> Any:  # noqa: ANN401
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != rank:
        found = (
            f"{value.dtype} of rank {value.ndim}"
            if isinstance(value, np.ndarray)
            else type(value).__name__
        )
        raise InputError(f"{name}: expected {np.dtype(dtype)} of rank {rank}, got {found}")
    whole = all(step % value.itemsize == 0 for step in value.strides)
    if value.size and value.shape[-1] > 1 and (value.strides[-1] != value.itemsize or not whole):
        raise InputError(
            f"{name}: the last axis must be contiguous, got strides of {value.strides} bytes; "
            "make a copy"
        )
    return value


def _strides(value: NDArray[Any], axes: tuple[int, ...]) -> Any:  # noqa: ANN401
    """Steps along ``axes`` in elements; 0 along an axis of one, which repeats."""
    steps = [
        0 if value.shape[axis] == 1 else value.strides[axis] // value.itemsize for axis in axes
    ]
    return (ctypes.c_int64 * len(steps))(*steps)


def _fit(name: str, value: NDArray[Any], shape: tuple[int, ...], repeated: tuple[int, ...]) -> None:
    for axis, (found, wanted) in enumerate(zip(value.shape, shape, strict=True)):
        if found != wanted and not (found == 1 and axis in repeated):
            or_one = " or 1" if axis in repeated else ""
            raise InputError(
                f"{name}: axis {axis} must have size {wanted}{or_one}, got shape "
                f"{list(value.shape)}"
            )


def _weights(name: str, value: Any, shape: tuple[int, int, int]) -> NDArray[np.float32]:  # noqa: ANN401
    """``[M]``, ``[B, M]`` or ``[B, H, M]`` with three axes."""
    if (
        not isinstance(value, np.ndarray)
        or value.dtype != np.float32
        or value.ndim not in (1, 2, 3)
    ):
        raise InputError(f"{name}: expected float32 [M], [B, M] or [B, H, M]")
    wide = value[None, None] if value.ndim == 1 else value[:, None] if value.ndim == 2 else value
    _fit(name, wide, shape, (0, 1))
    return np.ascontiguousarray(wide)
