"""TensorRT and TensorRT for RTX: engines built for one kind of NVIDIA GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.device import Gpu
    from mmedge.spec import Array

__all__ = ["LIBRARIES", "LIMITS_RUNS", "SOURCES", "Library", "copied", "missing"]


class Library(NamedTuple):
    """Where a backend's library comes from: its module, its distribution and mmedge's extra."""

    module: str
    distribution: str
    extra: str


#: Backend name in a variant -> its library.
SOURCES: Mapping[str, Library] = {
    "tensorrt": Library("tensorrt", "tensorrt", "tensorrt"),
    "tensorrt_rtx": Library("tensorrt_rtx", "tensorrt-rtx", "rtx"),
}

LIBRARIES = tuple(source.distribution for source in SOURCES.values())
LIMITS_RUNS = False


def missing(backend: str, libraries: Mapping[str, str], gpus: Sequence[Gpu]) -> dict[str, str]:
    """Why it cannot run here; see :class:`mmedge.backends.registry.Backend`.

    Args:
        backend: which of the two.
        libraries: installed distributions and their versions.
        gpus: of this machine.
    """
    library = SOURCES[backend].distribution
    if library not in libraries:
        extra = SOURCES[backend].extra
        return {backend: f"{library} is not installed: pip install 'mmedge[{extra}]'"}
    what = f"{library} {libraries[library]}"
    if not gpus:
        reason = (
            f"{what} is installed and can build engines, but running one needs an NVIDIA GPU and "
            "the driver offers none here"
        )
    elif backend == "tensorrt_rtx" and not any(_rtx_runs(gpu.sm) for gpu in gpus):
        reason = (
            f"{what} can build engines here, but runs on no "
            f"{' and no '.join(sorted({gpu.sm for gpu in gpus}))}: only on sm_75, sm_80, sm_86, "
            "sm_89, and sm_120 and later; use tensorrt, or ort with CUDA"
        )
    else:
        return {}
    return {backend: reason}


def copied(arrays: Sequence[Array]) -> tuple[int, str]:
    """Bytes of ``arrays`` that go to the device: all."""
    return sum(value.nbytes for value in arrays), "host to device"


def _rtx_runs(arch: str) -> bool:
    """Whether TensorRT for RTX runs on a GPU.

    From what tensorrt-rtx 1.7.1 says when an engine is loaded on sm_90, and what it builds for.
    """
    number = int(arch.removeprefix("sm_"))
    return number in (75, 80, 86, 89) or number >= 120
