"""ONNX Runtime on the CPU: what it can quantise, in the schemes that `schemes.py` explains."""

from __future__ import annotations

from mmedge_export.targets.quantizable import Scheme

__all__ = ["SCHEMES", "WHY_NONE"]

_ROWS8 = Scheme("rows8", ("Gather",))

SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "int8": (
        Scheme("static", ("MatMul", "Conv")),
        Scheme("dynamic", ("MatMul",)),
        Scheme("dynamic_tensor", ("MatMul",)),
        Scheme("block8", ("MatMul",)),
        _ROWS8,
    ),
    "int4": (Scheme("block4", ("MatMul",)), _ROWS8),
}

WHY_NONE = ""
