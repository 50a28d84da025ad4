"""TensorRT and TensorRT for RTX: what they can quantise, and what shapes their engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge_export.targets.quantizable import Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CURRENT", "SCHEMES", "WHY_NONE", "EngineOptions"]

#: Target that stands for this machine's GPU.
CURRENT = "current"

#: Activations by one scale for a tensor, weights by output channel, all symmetric. Convolutions
#: have no fp8: TensorRT documents it for matrix products only.
SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "int8": (Scheme("qdq_int8", ("MatMul", "Gemm", "Conv")),),
    "fp8": (Scheme("qdq_fp8", ("MatMul", "Gemm")),),
}

WHY_NONE = ""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What engines are built for, beside their precision.

    Attributes:
        targets: architectures such as ``sm_89``, or ``current`` for this machine's GPU.
        profile: smallest, best and largest size of dynamic dimensions of the inputs, by name;
            others as :func:`mmedge_export.targets.tensorrt.profiles.resolve_profiles` says.
        workspace: bytes of GPU memory that a layer may use as scratch; None: the library's default.
    """

    targets: tuple[str, ...] = (CURRENT,)
    profile: Mapping[str, tuple[int, int, int]] | None = None
    workspace: int | None = None
