"""OpenVINO on the CPU: what it can quantise, in the schemes of ONNX Runtime's target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.targets.onnxruntime import BLOCK4, BLOCK8, ENTERING, ROWS8

if TYPE_CHECKING:
    from mmedge_export.targets.quantizable import Scheme

__all__ = ["SCHEMES", "WHY_NONE"]

SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "int8": (ENTERING, BLOCK8, ROWS8),
    "int4": (BLOCK4, ROWS8),
}

WHY_NONE = ""
