"""Weights that are rows of other weights, which need not be stored a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from mmedge.spec import Array

__all__ = ["find_rows"]


def find_rows(tensors: Mapping[int, ir.TensorProtocol]) -> dict[int, tuple[int, int]]:
    """Tensors that are rows of another one: its key, and where in its bytes they begin.

    The cut takes constants of a concatenation apart by rows, such as embeddings of positions.
    """
    pieces: dict[int, tuple[int, int]] = {}
    heads: dict[tuple[int, int], Array] = {}

    def row_heads(key: int, axis: int) -> Array:
        if (key, axis) not in heads:
            heads[key, axis] = _row_heads(tensors[key], axis)
        return heads[key, axis]

    # The largest first: what is a piece itself holds no other.
    ordered = sorted(tensors, key=lambda key: -tensors[key].nbytes)
    for place, key in enumerate(ordered):
        tensor = tensors[key]
        for other in ordered[:place]:
            if other in pieces or (axis := _row_axis(tensor, tensors[other])) is None:
                continue
            # Bytes are searched only where some row begins as the first one does.
            if not (row_heads(other, axis) == row_heads(key, axis)[0]).any():
                continue
            offset = tensors[other].tobytes().find(tensor.tobytes())
            if offset >= 0 and offset % tensor.dtype.itemsize == 0:
                pieces[key] = other, offset
                break
    return pieces


def _row_heads(tensor: ir.TensorProtocol, axis: int) -> Array:
    """The first element of each row along an axis, before which all sizes are 1, as bytes."""
    array = tensor.numpy()
    first = np.ascontiguousarray(array.reshape(array.shape[axis], -1)[:, 0])
    return first.view(f"V{array.itemsize}")


def _row_axis(tensor: ir.TensorProtocol, whole: ir.TensorProtocol) -> int | None:
    """The axis along which a tensor may be rows of another one, as their shapes say."""
    if tensor.dtype != whole.dtype or tensor.dtype.itemsize < 1:
        return None
    ours, theirs = tuple(tensor.shape.numpy()), tuple(whole.shape.numpy())
    if len(ours) != len(theirs) or tensor.nbytes >= whole.nbytes:
        return None
    other = [axis for axis, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    return other[0] if len(other) == 1 and all(size == 1 for size in ours[: other[0]]) else None
