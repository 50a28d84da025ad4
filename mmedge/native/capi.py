"""The kernels of the native library by ctypes: ``cpp_ext/include/mmedge/kernels.h``."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import BackendError, InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BF16",
    "DOMAIN",
    "F16",
    "F32",
    "I8",
    "INDEPENDENT",
    "JOINT",
    "MAX_SEGMENTS",
    "NativeLibrary",
    "SegAttn",
    "Segment",
    "cpu_calls",
    "cpu_isa",
    "cuda_archs",
    "library",
    "ort_kernels",
    "use_isa",
    "why_absent",
]

#: Operator domain of the kernels, and of the functions that they take the place of.
DOMAIN = "mmedge"

#: As in its header, as are the structures below.
ABI_VERSION = 1
MAX_SEGMENTS = 8
OK, INVALID, UNSUPPORTED = range(3)
F32, F16, BF16, I8 = range(4)
JOINT, INDEPENDENT = range(2)

NAME = "libmmedge_kernels.so"


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


class NativeLibrary:
    """The loaded library: its C functions with their types, and pools of threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.c = c = ctypes.CDLL(str(path))
        c.mmedge_abi_version.restype = ctypes.c_int
        version = c.mmedge_abi_version()
        if version != ABI_VERSION:
            raise BackendError(
                f"{path}: expected version {ABI_VERSION} of the C API, found {version}; "
                "install mmedge again, so that library and package are of one version"
            )
        call, size = ctypes.POINTER(SegAttn), ctypes.POINTER(ctypes.c_size_t)
        c.mmedge_last_error.restype = ctypes.c_char_p
        c.mmedge_cpu_isa.restype = ctypes.c_char_p
        c.mmedge_cpu_use_isa.argtypes = (ctypes.c_char_p,)
        c.mmedge_segattn_cpu_calls.restype = ctypes.c_uint64
        c.mmedge_segattn_cpu_workspace.argtypes = (call, size)
        c.mmedge_segattn_cpu.argtypes = (call, *[ctypes.c_void_p] * 3)
        c.mmedge_cuda_architectures.restype = ctypes.c_char_p
        c.mmedge_segattn_workspace.argtypes = (call, size)
        c.mmedge_segattn_enqueue.argtypes = (call, ctypes.c_void_p, ctypes.c_void_p)
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
            error = InputError if status in (INVALID, UNSUPPORTED) else BackendError
            raise error(self.c.mmedge_last_error().decode())

    def run(self, call: SegAttn, threads: int) -> None:
        """Compute ``call`` on the CPU with so many threads.

        Raises:
            InputError: the call breaks the rules of mmedge/kernels.h.
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

    def workspace_bytes(self, call: SegAttn) -> int | None:
        """Bytes of zeroed device memory that :meth:`enqueue` needs on the current GPU.

        None where there is no kernel for the call: sizes, strides or splits are beyond theirs, or
        none was built for this GPU.

        Raises:
            InputError: the call breaks the rules of mmedge/kernels.h.
            BackendError: there is no GPU, or it failed.
        """
        size = ctypes.c_size_t()
        status = self.c.mmedge_segattn_workspace(call, size)
        if status == UNSUPPORTED:
            return None
        self.check(status)
        return size.value

    def enqueue(self, call: SegAttn, workspace: int, stream: int) -> None:
        """Compute on the current GPU; ``workspace`` and ``stream`` are addresses, 0 for none.

        Raises:
            InputError: the call breaks the rules of mmedge/kernels.h, or there is no kernel for it.
            BackendError: the GPU failed, or there is none.
        """
        self.check(self.c.mmedge_segattn_enqueue(call, workspace or None, stream or None))

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
class _Lookup:
    """The library, or why there is none."""

    library: NativeLibrary | None
    why: str


@cache
def _find() -> _Lookup:
    from importlib.resources import as_file, files  # slow to import

    source = files("mmedge") / NAME
    if not source.is_file():
        return _Lookup(
            None,
            "this mmedge was installed without its native library; install it again with a C++17 "
            "compiler at hand",
        )
    with as_file(source) as path:
        try:
            return _Lookup(NativeLibrary(path), "")
        except OSError as error:
            return _Lookup(None, f"{path} cannot be loaded: {error}")
        except BackendError as error:
            return _Lookup(None, str(error))


def why_absent() -> str:
    """Say why there is no native library; empty if there is one."""
    return _find().why


def library() -> NativeLibrary:
    """The native library.

    Raises:
        BackendError: there is none; the message says why.
    """
    lookup = _find()
    if lookup.library is None:
        raise BackendError(lookup.why)
    return lookup.library


def ort_kernels() -> tuple[Path | None, str]:
    """The library where it has operators for ONNX Runtime on the CPU; else None and the reason."""
    lookup = _find()
    if lookup.library is None:
        return None, lookup.why
    if not lookup.library.has_ort:
        return None, "the native library was built without operators for ONNX Runtime"
    return lookup.library.path, ""


def cpu_isa() -> str:
    """Instruction set that the CPU kernel uses: avx512, avx2, neon or portable."""
    isa: bytes = library().c.mmedge_cpu_isa()
    return isa.decode()


def cuda_archs() -> tuple[str, ...]:
    """Compute capabilities that the library has kernels for, such as ``87``; empty without CUDA."""
    native_library = _find().library
    if native_library is None:
        return ()
    architectures: bytes = native_library.c.mmedge_cuda_architectures()
    return tuple(architectures.decode().split(",")) if architectures else ()


def use_isa(name: str | None) -> None:
    """Use another instruction set from now on, for tests and comparisons; None: the best again.

    Raises:
        InputError: the library or the processor does not have it.
    """
    native_library = library()
    native_library.check(
        native_library.c.mmedge_cpu_use_isa(None if name is None else name.encode())
    )


def cpu_calls() -> int:
    """How often the CPU kernel has computed in this process, by whomever it was called."""
    count: int = library().c.mmedge_segattn_cpu_calls()
    return count
