"""Products of unsigned activations and signed weights that processors without VNNI cut off.

x86 processors with AVX2 alone multiply pairs of uint8 and int8 with an instruction (VPMADDUBSW)
that holds the sum of two products in 16 bits: beyond 32767 it saturates. A graph that is made on a
processor with VNNI, which has 32 bits for them, would compute something else there. Weights of 7
bits cannot saturate: 2 * 255 * 64 < 32768. Which nodes need them is decided here from samples, by
the same sums, on any processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.targets.onnxruntime.schemes import RANGED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge.spec import Array
    from mmedge_export.targets.quantizable import QuantizableNode

__all__ = ["patches", "saturated", "saturating_nodes"]

#: Rows of activations that are looked at, and columns of weights at a time.
ROWS, COLUMNS = 64, 256


def saturating_nodes(
    graph: Path,
    sites: Sequence[QuantizableNode],
    samples: Sequence[Mapping[str, Array]],
    ranges: Mapping[str, tuple[float, float]],
) -> frozenset[str]:
    """Nodes of which some product exceeds 16 bits on the samples.

    Convolutions in groups are left out: ONNX Runtime multiplies those with other instructions.

    Args:
        graph: prepared.
        sites: its nodes.
        samples: the sites' activations, by tensor.
        ranges: of the activations.
    """
    rng = np.random.default_rng(0)
    nodes = {str(node.name): node for node in ir.load(graph).graph}
    saturating = set()
    for site in sites:
        if not set(site.forms).intersection(RANGED):
            continue
        node = nodes[site.node]
        tensor = node.inputs[1].const_value if node.inputs[1] is not None else None
        if tensor is None or node.attributes.get_int("group", 1) != 1:
            continue
        weights = tensor.numpy()
        low, high = ranges[site.activation]
        low, high = min(low, 0.0), max(high, 0.0)
        if site.op == "Conv":
            kernel = weights.shape[2:]
            strides = tuple(node.attributes.get_ints("strides", [1] * len(kernel)))
            matrix = np.moveaxis(weights, 1, -1).reshape(len(weights), -1).T
        else:
            matrix = weights
        for values in samples:
            x = values[site.activation].astype(np.float32)
            if site.op != "Conv":
                rows = x.reshape(-1, x.shape[-1])
            elif x.shape[0] and all(n >= k for n, k in zip(x.shape[2:], kernel, strict=True)):
                rows = patches(x, kernel, strides, rng)
            else:
                continue
            if len(rows) and saturated(rows, matrix, low, high) > 0:
                saturating.add(site.node)
                break
    return frozenset(saturating)


def saturated(
    activations: NDArray[np.float32], weights: NDArray[np.float32], low: float, high: float
) -> float:
    """Share of pairs of products that exceed 16 bits.

    Args:
        activations: ``[rows, k]``; the first :data:`ROWS` are used.
        weights: ``[k, columns]``, quantised to int8 by column.
        low: of the activations' range, at most 0, which uint8 stands for.
        high: the same, at least 0.
    """
    step = (high - low) / 255 or 1.0
    zero = np.rint(-low / step)
    x = np.clip(np.rint(activations[:ROWS] / step) + zero, 0, 255)
    scale = np.abs(weights).max(axis=0) / 127
    w = np.rint(weights / np.where(scale > 0, scale, 1))
    if len(w) % 2:
        x, w = np.pad(x, ((0, 0), (0, 1))), np.pad(w, ((0, 1), (0, 0)))
    x, w = x.astype(np.int32), w.astype(np.int32)
    # Only a pair of weights of more than 128 together can exceed the bound at all.
    dangerous = np.abs(w[0::2]) + np.abs(w[1::2]) > 32767 // 255
    count = 0
    for start in range(0, w.shape[1], COLUMNS):
        part = slice(start, start + COLUMNS)
        if dangerous[:, part].any():
            sums = x[:, 0::2, None] * w[None, 0::2, part] + x[:, 1::2, None] * w[None, 1::2, part]
            count += int(np.count_nonzero((sums > 32767) | (sums < -32768)))
    return count / (len(x) * w[0::2].size)


def patches(
    images: Array, kernel: tuple[int, ...], strides: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Rows that a convolution multiplies: ``[ROWS, positions of the kernel * channels]``.

    Args:
        images: ``[batch, channels, *size]``; padding is left out of account.
        kernel: its size along each spatial axis.
        strides: the same.
        rng: draws the places.
    """
    axes = tuple(range(2, images.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel, axis=axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    # To [batch, *places, *kernel, channels]: channels vary fastest, as ONNX Runtime lays them out.
    windows = np.moveaxis(windows, 1, -1)
    places = windows.shape[: 1 + len(axes)]
    positions = [np.unravel_index(i, places) for i in rng.integers(0, np.prod(places), ROWS)]
    return np.stack([windows[place].ravel() for place in positions]).astype(np.float32)
