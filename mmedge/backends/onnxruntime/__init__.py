"""ONNX Runtime: on CPUs, and on NVIDIA GPUs with its CUDA provider (target ``cuda``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.device import Gpu
    from mmedge.spec import Array

__all__ = ["LIBRARIES", "LIMITS_RUNS", "copied", "missing"]

LIBRARIES = ("onnxruntime", "onnxruntime-gpu")
LIMITS_RUNS = True


def missing(backend: str, libraries: Mapping[str, str], gpus: Sequence[Gpu]) -> dict[str, str]:
    """Why it or its target ``cuda`` cannot run here; see :class:`mmedge.backends.registry.Backend`.

    Args:
        backend: its name.
        libraries: installed distributions.
        gpus: of this machine.
    """
    reasons = {}
    if all(name in libraries for name in LIBRARIES):
        reasons[backend] = (
            "both onnxruntime and onnxruntime-gpu are installed; they overwrite each other's "
            "files. Fix: pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "
            "'mmedge[cpu]' or 'mmedge[cuda]'"
        )
    elif not any(name in libraries for name in LIBRARIES):
        reasons[backend] = "ONNX Runtime is not installed: pip install 'mmedge[cpu]'"
    if not gpus:
        reasons["cuda"] = "no NVIDIA GPU: the driver library offers none to this process"
    elif "onnxruntime-gpu" not in libraries:
        reasons["cuda"] = "ONNX Runtime here has no CUDA provider: pip install 'mmedge[cuda]'"
    return reasons


def copied(arrays: Sequence[Array]) -> tuple[int, str]:
    """Bytes of ``arrays`` that a session on the CPU copies, and why."""
    size = sum(value.nbytes for value in arrays)
    return 0, f"{size} bytes by reference: ONNX Runtime reads them where they lie"
