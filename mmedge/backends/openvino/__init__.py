"""OpenVINO: another engine for CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.device import Gpu
    from mmedge.spec import Array

__all__ = ["LIBRARIES", "LIMITS_RUNS", "copied", "missing"]

LIBRARIES = ("openvino",)
LIMITS_RUNS = False


def missing(backend: str, libraries: Mapping[str, str], gpus: Sequence[Gpu]) -> dict[str, str]:
    """Why it cannot run here; see :class:`mmedge.backends.registry.Backend`.

    Args:
        backend: its name.
        libraries: installed distributions.
        gpus: of this machine; it needs none.
    """
    del gpus
    if "openvino" in libraries:
        return {}
    return {backend: "OpenVINO is not installed: pip install 'mmedge[openvino]'"}


def copied(arrays: Sequence[Array]) -> tuple[int, str]:
    """Bytes of ``arrays`` that a session copies, and why."""
    size = sum(value.nbytes for value in arrays)
    # A session lays a tensor over an array only where that may be written.
    read_only_bytes = sum(value.nbytes for value in arrays if not value.flags.writeable)
    return read_only_bytes, f"{size} bytes by reference, but what is read-only is copied"
