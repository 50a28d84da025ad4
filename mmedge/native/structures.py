"""The structures of ``cpp_ext/include/mmedge/mmedge.h``, by ctypes."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array

__all__ = [
    "DTYPES",
    "MAX_RANK",
    "Choice",
    "LoadOptions",
    "LoopOptions",
    "LoopStepStruct",
    "NativeRelease",
    "OpenOptions",
    "ReleaseStruct",
    "Tensor",
    "TensorSpecStruct",
    "VerifiedOutput",
    "VerifiedOutputStruct",
    "array_of",
    "contiguous",
    "tensors_of",
]

#: Most axes of a tensor.
MAX_RANK = 8

#: NumPy's dtypes in the order of ``mmedge_dtype``; bfloat16 is in no bundle.
DTYPES = (
    "float32", "float16", None, "int8", "bool", "float64", "int16", "int32", "int64", "uint8",
    "uint16", "uint32", "uint64",
)  # fmt: skip
NUMBERS = {np.dtype(name): number for number, name in enumerate(DTYPES) if name is not None}


class LoadOptions(ctypes.Structure):
    """``mmedge_load_options``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("variant", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("plan", ctypes.c_char_p),
        ("onnxruntime", ctypes.c_char_p),
        ("threads", ctypes.c_int32),
        ("kernels", ctypes.c_int32),
        ("spin", ctypes.c_int32),
        ("cache", ctypes.c_int32),
        ("allow_unverified", ctypes.c_int32),
        ("allow_non_finite", ctypes.c_int32),
        ("openvino", ctypes.c_char_p),
        ("backends", ctypes.c_void_p),
        ("backend_count", ctypes.c_int32),
    )


class OpenOptions(ctypes.Structure):
    """``mmedge_open_options``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("trusted_keys", ctypes.POINTER(ctypes.c_char_p)),
        ("trusted_key_count", ctypes.c_int32),
        ("lowest_version", ctypes.c_int64),
        ("now", ctypes.c_int64),
        ("signature_library", ctypes.c_char_p),
    )


class ReleaseStruct(ctypes.Structure):
    """``mmedge_release``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("verified", ctypes.c_int32),
        ("version", ctypes.c_int64),
        ("signed_at", ctypes.c_int64),
        ("expires", ctypes.c_int64),
        ("signatures", ctypes.c_int32),
    )


class Choice(ctypes.Structure):
    """``mmedge_choice``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("variant", ctypes.c_char_p),
        ("plan", ctypes.c_char_p),
        ("why_plan", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("threads", ctypes.c_int32),
        ("decisions", ctypes.c_int32),
    )


class TensorSpecStruct(ctypes.Structure):
    """``mmedge_tensor_spec``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        ("modality", ctypes.c_char_p),
        ("required", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
        ("dimension", ctypes.c_char_p * MAX_RANK),
    )


class Tensor(ctypes.Structure):
    """``mmedge_tensor``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
    )


class VerifiedOutputStruct(ctypes.Structure):
    """``mmedge_verified_output``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("stage", ctypes.c_char_p),
        ("output", ctypes.c_char_p),
        ("max_abs", ctypes.c_double),
        ("limit_used", ctypes.c_double),
        ("max_rel", ctypes.c_double),
        ("scale", ctypes.c_double),
        ("where", ctypes.c_char_p),
    )


class LoopOptions(ctypes.Structure):
    """``mmedge_loop_options``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("limit", ctypes.c_int64),
        ("stop", ctypes.POINTER(ctypes.c_int64)),
        ("stop_count", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("temperature", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("top_p", ctypes.c_double),
        ("deadline_ms", ctypes.c_double),
        ("forced", ctypes.c_void_p),
        ("forced_rows", ctypes.c_int64),
        ("forced_count", ctypes.c_int64),
        ("noise", ctypes.c_void_p),
        ("cached", ctypes.c_int32),
    )


class LoopStepStruct(ctypes.Structure):
    """``mmedge_loop_step_info``."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("taken", ctypes.c_int32),
        ("done", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("index", ctypes.c_int64),
        ("tokens", ctypes.POINTER(ctypes.c_int64)),
        ("active", ctypes.POINTER(ctypes.c_uint8)),
        ("scores", ctypes.c_void_p),
        ("scores_dtype", ctypes.c_int32),
        ("vocabulary", ctypes.c_int64),
        ("scores_stride", ctypes.c_int64),
        ("latent", ctypes.POINTER(ctypes.c_float)),
        ("latent_elements", ctypes.c_int64),
        ("latent_rank", ctypes.c_int32),
        ("latent_shape", ctypes.c_int64 * MAX_RANK),
    )


class VerifiedOutput(NamedTuple):
    """What golden samples said of one output; ``stage`` may be ``(whole network)``."""

    stage: str
    output: str
    max_abs: float
    limit_used: float
    max_rel: float
    scale: float
    where: str

    @property
    def passes(self) -> bool:
        """Whether every sample lies within the tolerance. NaN never does."""
        return self.limit_used <= 1.0


class NativeRelease(NamedTuple):
    """What a bundle was signed as; worth as much as ``verified_by`` says.

    ``signed`` and ``expires`` (None: never) are seconds since 1970 in UTC. ``key_ids`` are those of
    all signatures, ``verified_by`` those of trusted keys: empty where no key was given, and nothing
    was verified.
    """

    version: int
    signed: int
    expires: int | None
    key_ids: tuple[str, ...]
    verified_by: tuple[str, ...]


def contiguous(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """In C order; ascontiguousarray makes a vector of a number."""
    return {
        name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in arrays.items()
    }


def tensors_of(arrays: Mapping[str, Array]) -> Any:  # noqa: ANN401
    """An array of ``mmedge_tensor`` over arrays in C order, which have to outlive it."""
    tensors = (Tensor * len(arrays))()
    for tensor, (name, array) in zip(tensors, arrays.items(), strict=True):
        if array.dtype not in NUMBERS or array.ndim > MAX_RANK:
            raise InputError(f"input {name!r}: no bundle takes {array.dtype} of rank {array.ndim}")
        tensor.name, tensor.data = name.encode(), array.ctypes.data
        tensor.bytes, tensor.dtype, tensor.rank = array.nbytes, NUMBERS[array.dtype], array.ndim
        tensor.shape[: array.ndim] = array.shape
    return tensors


def array_of(tensor: Tensor) -> Array:
    """A copy of what the library gave."""
    dtype = np.dtype(DTYPES[tensor.dtype])
    shape = tuple(tensor.shape[: tensor.rank])
    if not tensor.bytes:
        return np.empty(shape, dtype)
    memory = (ctypes.c_char * tensor.bytes).from_address(tensor.data)
    return np.frombuffer(memory, dtype).reshape(shape).copy()
