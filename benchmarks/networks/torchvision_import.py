"""Lets torchvision be imported where its native library was built for another torch."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

__all__ = ["declare_torchvision"]


@functools.cache
def declare_torchvision() -> None:
    """Declare the operators that its import asks for, where its library does not load.

    None of its native operators is called by networks of here. Without torchvision nothing is done.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    (library,) = Path(spec.origin).parent.glob("_C*.so")
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
