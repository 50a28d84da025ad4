"""What this machine is and can run.

The probe asks the operating system, the driver library and the installed packages' metadata; it
constructs no engine runtime, since some of those abort the process on a machine without a GPU.
"""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mmedge.errors import BackendError
from mmedge.spec import Device

__all__ = ["Gpu", "cpu_model", "find_gpus", "probe", "usable_cores", "wait_for_stream"]

#: Distributions whose versions a report must name, when they are installed.
LIBRARIES = (
    "mmedge", "numpy", "safetensors", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt-rtx", "cuda-bindings", "cuda-core", "pycuda", "torch", "onnx",
)  # fmt: skip

#: cuDeviceGetAttribute's keys for the compute capability, from the CUDA driver API's cuda.h.
CU_COMPUTE_CAPABILITY_MAJOR, CU_COMPUTE_CAPABILITY_MINOR = 75, 76

ORT_CONFLICT = (
    "both onnxruntime and onnxruntime-gpu are installed; they overwrite each other's files. "
    "Fix: pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'mmedge[cpu]' or "
    "'mmedge[cuda]'"
)


@dataclass(frozen=True, slots=True)
class Gpu:
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


@lru_cache(maxsize=1)
def _libraries() -> dict[str, str]:
    from importlib import metadata  # as slow to import as all of mmedge's own modules

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _rtx_runs(arch: str) -> bool:
    """Whether TensorRT for RTX runs on a GPU.

    From what tensorrt-rtx 1.7.1 says when an engine is loaded on sm_90, and what it builds for.
    """
    number = int(arch.removeprefix("sm_"))
    return number in (75, 80, 86, 89) or number >= 120


def probe() -> Device:
    """Look at this machine. Cheap enough to call at every load (cached where it cannot change)."""
    libraries = _libraries()
    gpus = find_gpus()
    backends: list[str] = []
    missing: dict[str, str] = {}

    if "onnxruntime" in libraries and "onnxruntime-gpu" in libraries:
        missing["ort"] = ORT_CONFLICT
    elif "onnxruntime" in libraries or "onnxruntime-gpu" in libraries:
        backends.append("ort")
    else:
        missing["ort"] = "ONNX Runtime is not installed: pip install 'mmedge[cpu]'"

    if "openvino" in libraries:
        backends.append("openvino")
    else:
        missing["openvino"] = "OpenVINO is not installed: pip install 'mmedge[openvino]'"

    for backend, library, extra in (
        ("tensorrt", "tensorrt", "tensorrt"),
        ("tensorrt_rtx", "tensorrt-rtx", "rtx"),
    ):
        if library not in libraries:
            missing[backend] = f"{library} is not installed: pip install 'mmedge[{extra}]'"
        elif not gpus:
            missing[backend] = (
                f"{library} {libraries[library]} is installed and can build engines, but running "
                "one needs an NVIDIA GPU and the driver offers none here"
            )
        elif backend == "tensorrt_rtx" and not any(_rtx_runs(gpu.sm) for gpu in gpus):
            missing[backend] = (
                f"{library} {libraries[library]} can build engines here, but runs on no "
                f"{' and no '.join(sorted({gpu.sm for gpu in gpus}))}: only on sm_75, sm_80, "
                "sm_86, sm_89, and sm_120 and later; use tensorrt, or ort with CUDA"
            )
        else:
            backends.append(backend)

    targets = ["cpu"]
    if gpus and "onnxruntime-gpu" in libraries:
        targets.append("cuda")
    elif gpus:
        missing["cuda"] = "ONNX Runtime here has no CUDA provider: pip install 'mmedge[cuda]'"
    else:
        missing["cuda"] = "no NVIDIA GPU: the driver library offers none to this process"
    targets += dict.fromkeys(gpu.sm for gpu in gpus)

    return Device(
        name=gpus[0].name if gpus else cpu_model(),
        backends=tuple(backends),
        targets=tuple(targets),
        missing=missing,
        libraries=libraries,
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        gpus=tuple(f"{gpu.name} ({gpu.sm})" for gpu in gpus),
    )


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


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
