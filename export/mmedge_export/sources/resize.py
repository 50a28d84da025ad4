"""Inputs of a network at other sizes of its dynamic dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array
    from mmedge_export.model import Model

__all__ = ["contiguous", "resize"]


def resize(model: Model, feeds: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
    """``feeds`` with each dynamic dimension cut, or repeated from its start, to ``sizes``."""
    resized = {}
    for name, value in feeds.items():
        for axis, symbol in model.inputs[name].dynamic.items():
            if symbol in sizes and value.shape[axis]:
                value = np.take(value, np.arange(sizes[symbol]) % value.shape[axis], axis)  # noqa: PLW2901
            elif symbol in sizes:  # of nothing there is nothing to repeat
                shape = [*value.shape[:axis], sizes[symbol], *value.shape[axis + 1 :]]
                value = np.zeros(shape, value.dtype)  # noqa: PLW2901
        resized[name] = contiguous(value)
    return resized


def contiguous(value: Array) -> Array:
    """``value`` as it is, or copied so that it is C-contiguous."""
    # Not ascontiguousarray, which turns a scalar into a vector.
    return np.asarray(value, order="C")
