"""ONNX Runtime on the CPU: what it can quantise, in the schemes that `schemes.py` explains."""

from __future__ import annotations

from mmedge_export.targets.quantizable import Scheme

__all__ = ["ALL_SCHEMES", "BLOCK4", "BLOCK8", "ENTERING", "ROWS8", "SCHEMES", "WHY_NONE"]

_STATIC = Scheme("static", ("MatMul", "Conv"))
_DYNAMIC = Scheme("dynamic", ("MatMul",))
_DYNAMIC_TENSOR = Scheme("dynamic_tensor", ("MatMul",))
BLOCK8 = Scheme("block8", ("MatMul",))
BLOCK4 = Scheme("block4", ("MatMul",))
ROWS8 = Scheme("rows8", ("Gather",))

#: OpenVINO alone has fast kernels for it.
ENTERING = Scheme("entering", ("MatMul", "Conv"))

#: All that `schemes.py` writes.
ALL_SCHEMES = (_STATIC, ENTERING, _DYNAMIC, _DYNAMIC_TENSOR, BLOCK8, BLOCK4, ROWS8)

SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "int8": (_STATIC, _DYNAMIC, _DYNAMIC_TENSOR, BLOCK8, ROWS8),
    "int4": (BLOCK4, ROWS8),
}

WHY_NONE = ""
