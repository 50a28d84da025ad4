"""The structures of ``cpp_ext/include/mmedge/mmedge.h``, by ctypes."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

__all__ = [
    "MAX_RANK",
    "Choice",
    "LoadOptions",
    "LoopOptions",
    "LoopStepStruct",
    "Tensor",
    "TensorSpecStruct",
    "VerifiedOutput",
    "VerifiedOutputStruct",
]

#: Most axes of a tensor.
MAX_RANK = 8


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
    )


class VerifiedOutput(NamedTuple):
    """What golden samples said of one output; ``stage`` may be ``(whole network)``."""

    stage: str
    output: str
    max_abs: float
    limit_used: float

    @property
    def passes(self) -> bool:
        """Whether every sample lies within the tolerance. NaN never does."""
        return self.limit_used <= 1.0
