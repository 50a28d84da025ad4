"""What this machine is: processor, memory, GPUs, and which distributions are installed.

It is asked of the operating system, the driver library and the packages' metadata; no engine
runtime is constructed, since some of those abort the process on a machine without a GPU.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Gpu", "cpu_model", "find_gpus", "installed_versions", "memory_bytes", "usable_cores",
    "wait_for_stream",
]  # fmt: skip

#: cuDeviceGetAttribute's keys for the compute capability, from the CUDA driver API's cuda.h.
CU_COMPUTE_CAPABILITY_MAJOR, CU_COMPUTE_CAPABILITY_MINOR = 75, 76


class Gpu(NamedTuple):
    """One NVIDIA GPU as the driver names it; ``sm`` is its architecture, such as ``sm_87``."""

    name: str
    sm: str


@lru_cache(maxsize=1)
def find_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver offers to this process; empty without driver or GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    gpus = []
    for index in range(count.value):
        handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        cuda.cuDeviceGet(ctypes.byref(handle), index)
        cuda.cuDeviceGetName(name, len(name), handle)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), CU_COMPUTE_CAPABILITY_MAJOR, handle)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), CU_COMPUTE_CAPABILITY_MINOR, handle)
        gpus.append(Gpu(name.value.decode(), f"sm_{major.value}{minor.value}"))
    return tuple(gpus)


def wait_for_stream(stream: int | None) -> None:
    """Return when the work queued on a CUDA stream is done.

    ``stream`` is the entry of that name in version 3 of ``__cuda_array_interface__``: the array is
    ready when this stream has come to it; None needs no waiting.
    """
    if stream is None:
        return
    status = ctypes.CDLL("libcuda.so.1").cuStreamSynchronize(ctypes.c_void_p(stream))
    if status != 0:
        raise BackendError(
            f"the CUDA stream of an input cannot be waited for: cuStreamSynchronize gave {status}; "
            "pass an array whose stream is alive"
        )


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed.

    Read from the names of their metadata folders (packaging.python.org, "Recording installed
    projects"): importlib.metadata, which says the same, takes as long to import as all of mmedge.
    """
    normal = {re.sub(r"[-_.]+", "_", name).lower(): name for name in names}
    versions: dict[str, str] = {}
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                folders = [entry.name for entry in entries if entry.name.endswith("-info")]
        except OSError:  # a zip, or not there
            continue
        for entry in folders:
            stem = entry.removesuffix(".dist-info").removesuffix(".egg-info")
            distribution, _, rest = stem.partition("-")
            name = normal.get(re.sub(r"[-_.]+", "_", distribution).lower())
            if name is not None and rest and stem != entry:
                # Of an egg the version of Python follows; the first folder of the path counts.
                versions.setdefault(name, rest.partition("-")[0])
    return versions


def cpu_model() -> str:
    """The processor's marketing name, or the machine's architecture where none is told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for key in ("model name", "Model", "Hardware"):
        for line in lines:
            if line.startswith(key) and ":" in line:
                return line.split(":", 1)[1].strip()
    return platform.machine()


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # what this process may use, not what the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of this machine; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
