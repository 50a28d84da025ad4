"""Calls of mmedge_segattn_enqueue on 16-bit and 8-bit data, wherever its memory is.

`Memory` is where tensors are put: NumPy arrays for the emulated library, torch tensors on a GPU.
Arrays keep their strides and offsets there, because kernels must take views as they are.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mmedge.native.capi import BF16, F16, F32, I8, SegAttn
from mmedge.testing import Inputs, reference

DTYPES = {"float16": F16, "bfloat16": BF16}
MODES = {"joint": 0, "independent": 1}


class Memory(Protocol):
    def put(self, array: np.ndarray) -> int:
        """Address of a copy of a contiguous array, kept until this object goes."""

    def empty(self, shape: tuple[int, ...], dtype: type) -> tuple[int, Any]:
        """Address and handle of memory whose bits are all ones: NaN in any float."""

    def get(self, handle: Any) -> np.ndarray:
        """What is there now."""


class HostMemory:
    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []

    def _bytes(self, count: int) -> np.ndarray:
        # The tensor is the whole allocation, so that AddressSanitizer sees what is past its end.
        made = np.empty(count, np.uint8)
        assert made.ctypes.data % 16 == 0
        self.kept.append(made)
        return made

    def put(self, array: np.ndarray) -> int:
        made = self._bytes(array.nbytes)
        made[:] = np.frombuffer(array.tobytes(), np.uint8)
        return made.ctypes.data

    def empty(self, shape: tuple[int, ...], dtype: type) -> tuple[int, np.ndarray]:
        made = self._bytes(math.prod(shape) * np.dtype(dtype).itemsize)
        made[...] = 0xFF
        return made.ctypes.data, made.view(dtype).reshape(shape)

    def get(self, handle: np.ndarray) -> np.ndarray:
        return handle


def to_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values rounded to 16 bits, as uint16."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


def from_bits(bits: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """What is left of float32 values in 16 bits, with the same strides."""
    whole = _root(values)
    return _same_view(values, from_bits(to_bits(whole, dtype), dtype))


def _root(view: np.ndarray) -> np.ndarray:
    while isinstance(view.base, np.ndarray):
        view = view.base
    return view


def _same_view(view: np.ndarray, root: np.ndarray) -> np.ndarray:
    """A view of `root` as `view` is one of its own root; itemsizes may differ."""
    old = _root(view)
    ratio = root.itemsize, old.itemsize
    offset = (view.ctypes.data - old.ctypes.data) * ratio[0] // ratio[1]
    strides = tuple(s * ratio[0] // ratio[1] for s in view.strides)
    flat = np.ascontiguousarray(root).reshape(-1).view(np.uint8)
    return np.ndarray(view.shape, root.dtype, flat, offset, strides)


def quantised(values: np.ndarray) -> tuple[np.ndarray, float]:
    """int8 with one scale, with the same strides."""
    whole = _root(values)
    scale = float(np.nanmax(np.abs(np.where(np.isfinite(whole), whole, 0)), initial=0)) / 127 or 1.0
    with np.errstate(invalid="ignore"):
        ints = np.clip(np.round(whole / np.float32(scale)), -127, 127).astype(np.int8)
    return _same_view(values, ints), scale


@dataclass
class Call:
    """A filled structure, and what its pointers point to."""

    memory: Memory
    desc: SegAttn
    dtype: str
    out: Any = None
    lse: Any = None
    heads_first: bool = False
    seen: Inputs | None = None  # what the kernel is given, in float32
    lens: dict[int, int] = field(default_factory=dict)

    def output(self) -> np.ndarray:
        found = from_bits(np.ascontiguousarray(self.memory.get(self.out)), self.dtype)
        return found.transpose(0, 2, 1, 3) if self.heads_first else found

    def log_sum_exp(self) -> np.ndarray:
        return self.memory.get(self.lse)

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        return reference(self.seen.q, self.seen.k, self.seen.v, **self.seen.options)


def _strides(array: np.ndarray, axes: tuple[int, ...]) -> Any:
    steps = [0 if array.shape[a] == 1 else array.strides[a] // array.itemsize for a in axes]
    return (ctypes.c_int64 * len(steps))(*steps)


def prepare(
    inputs: Inputs,
    memory: Memory,
    dtype: str = "float16",
    *,
    int8: tuple[int, ...] = (),
    bias_dtype: str = "float32",
    num_splits: int = 0,
    return_lse: bool | None = None,
    empty_is_nan: bool = False,
    heads_first: bool = False,
) -> Call:
    """A call with queries in `dtype`, segments `int8` with 8-bit keys and values.

    `heads_first`: outputs lie as [B, H, Lq, D].
    """

    def place(array: np.ndarray) -> int:
        root = _root(array)
        return memory.put(root) + array.ctypes.data - root.ctypes.data

    options = dict(inputs.options)
    mode = options.get("mode", "joint")
    q = rounded(inputs.q, dtype)
    batch, rows, heads, dim = q.shape
    kv_heads = inputs.k[0].shape[2]
    scale = options.get("scale")
    desc = SegAttn(
        struct_size=ctypes.sizeof(SegAttn),
        mode=MODES[mode],
        dtype=DTYPES[dtype],
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        rows=rows,
        dim=dim,
        dim_v=inputs.v[0].shape[3],
        segments=len(inputs.k),
        num_splits=num_splits,
        empty_is_nan=empty_is_nan,
        scale=1.0 / math.sqrt(dim) if scale is None else scale,
    )
    desc.q = place(_same_view(inputs.q, to_bits(_root(inputs.q), dtype)))
    desc.q_stride = _strides(q, (0, 1, 2))
    call = Call(memory, desc, dtype, heads_first=heads_first)
    shape = (batch, heads, rows, dim) if heads_first else (batch, rows, heads, dim)
    desc.out, call.out = memory.empty(shape, np.uint16)
    steps = (dim, rows * dim) if heads_first else (heads * dim, dim)
    desc.out_stride = (ctypes.c_int64 * 3)(rows * heads * dim, *steps)
    if return_lse or (return_lse is None and mode == "joint"):
        desc.lse, call.lse = memory.empty((batch, heads, rows), np.float32)
    for name in ("seg_bias", "gamma"):
        if (weights := options.get(name)) is not None:
            wide = weights.reshape(
                *{1: (1, 1), 2: (weights.shape[0], 1), 3: weights.shape[:2]}[weights.ndim], -1
            )
            setattr(desc, name, memory.put(np.ascontiguousarray(wide)))
            setattr(desc, f"{name}_stride", _strides(np.ascontiguousarray(wide), (0, 1)))
    keys, values, biases = [], [], []
    for s, (k, v) in enumerate(zip(inputs.k, inputs.v, strict=True)):
        segment = desc.segment[s]
        segment.length = k.shape[1]
        segment.k_scale = segment.v_scale = 1.0
        if s in int8:
            segment.dtype = I8
            (kq, segment.k_scale), (vq, segment.v_scale) = quantised(k), quantised(v)
            segment.k, segment.v = place(kq), place(vq)
            keys.append(kq.astype(np.float32) * segment.k_scale)
            values.append(vq.astype(np.float32) * segment.v_scale)
        else:
            segment.dtype = DTYPES[dtype]
            segment.k = place(_same_view(k, to_bits(_root(k), dtype)))
            segment.v = place(_same_view(v, to_bits(_root(v), dtype)))
            keys.append(rounded(k, dtype))
            values.append(rounded(v, dtype))
        segment.k_stride = _strides(k, (0, 1, 2))
        segment.v_stride = _strides(v, (0, 1, 2))
        if (count := (options.get("lens") or {s: None})[s]) is not None:
            segment.lens = call.lens[s] = memory.put(count)
        if (valid := (options.get("key_valid") or {s: None})[s]) is not None:
            valid = np.ascontiguousarray(valid, np.uint8)
            segment.key_valid = memory.put(valid)
            segment.key_valid_stride = _strides(valid, (0,))[0]
        if (bias := (options.get("bias") or {s: None})[s]) is not None:
            segment.bias_dtype = F32
            placed = bias
            if bias_dtype != "float32":
                segment.bias_dtype = DTYPES[dtype]
                placed, bias = to_bits(bias, dtype), rounded(bias, dtype)
            segment.bias = memory.put(np.ascontiguousarray(placed))
            segment.bias_stride = _strides(np.ascontiguousarray(placed), (0, 1, 2))
        biases.append(bias)
    if "bias" in options:
        options["bias"] = biases
    call.seen = Inputs(q, tuple(keys), tuple(values), options)
    return call


class Enqueuer:
    """The two functions of the C API, of an emulated or a real library."""

    def __init__(self, c: ctypes.CDLL) -> None:
        self.c = c
        pointer = ctypes.POINTER(SegAttn)
        c.mmedge_last_error.restype = ctypes.c_char_p
        c.mmedge_cuda_architectures.restype = ctypes.c_char_p
        c.mmedge_segattn_workspace.argtypes = (pointer, ctypes.POINTER(ctypes.c_size_t))
        c.mmedge_segattn_enqueue.argtypes = (pointer, ctypes.c_void_p, ctypes.c_void_p)

    def error(self) -> str:
        return self.c.mmedge_last_error().decode()

    def workspace_bytes(self, desc: SegAttn) -> int:
        size = ctypes.c_size_t()
        status = self.c.mmedge_segattn_workspace(desc, size)
        assert status == 0, self.error()
        return size.value

    def enqueue(self, call: Call, workspace: int | None = None, stream: int | None = None) -> None:
        status = self.c.mmedge_segattn_enqueue(call.desc, workspace, stream)
        assert status == 0, self.error()
