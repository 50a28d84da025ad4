"""The list of operators that torch's exporter has in ONNX, which it makes anew for each export."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

# A private door: torch.onnx.export takes operators beside those of its list, and no list.
from torch.onnx._internal.exporter._registration import ONNXRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["forget_registry", "registry_made_once"]


@contextmanager
def registry_made_once() -> Iterator[None]:
    """Have the exporter read its list of operators once in a process for each opset.

    It only looks operators up in it, and none are added here. Those of torchvision are on it once
    that is imported: then it is read again.
    """
    make: Any = ONNXRegistry.__dict__["from_torchlib"]

    def from_torchlib(_: type, *arguments: Any, **options: Any) -> ONNXRegistry:  # noqa: ANN401
        has_torchvision = "torchvision" in sys.modules
        return _registry(make.__func__, has_torchvision, *arguments, **options)

    ONNXRegistry.from_torchlib = classmethod(from_torchlib)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = make  # type: ignore[method-assign]


def forget_registry() -> None:
    """Have the next export read the list again, as in a new process."""
    _registry.cache_clear()


@cache
def _registry(
    make: Callable[..., ONNXRegistry],
    has_torchvision: bool,  # noqa: ARG001, FBT001 - part of the key
    *arguments: Any,  # noqa: ANN401
    **options: Any,  # noqa: ANN401
) -> ONNXRegistry:
    return make(ONNXRegistry, *arguments, **options)
