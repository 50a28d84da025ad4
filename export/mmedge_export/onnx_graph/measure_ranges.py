"""What values each tensor of a graph takes on real inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.memory_graph import MemoryGraph
from mmedge_export.onnx_graph.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmedge.spec import Array

__all__ = ["Magnitudes", "magnitudes_of", "measure_ranges"]

#: Tensors read back in one run: all activations of a large graph at once would not fit in memory.
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """Largest and smallest nonzero finite magnitude seen; both 0 where every value is 0."""

    largest: float = 0.0
    smallest: float = 0.0

    def __or__(self, other: Magnitudes) -> Magnitudes:
        minima = [value for value in (self.smallest, other.smallest) if value > 0.0]
        return Magnitudes(max(self.largest, other.largest), min(minima, default=0.0))


def magnitudes_of(values: Array) -> Magnitudes:
    """Magnitudes of one array. Inf and NaN are left out: float16 has them too."""
    magnitude = np.abs(values[np.isfinite(values)])
    magnitude = magnitude[magnitude > 0]
    if magnitude.size == 0:
        return Magnitudes()
    return Magnitudes(float(magnitude.max()), float(magnitude.min()))


def measure_ranges(model: ir.Model, feeds: Iterable[Mapping[str, Array]]) -> dict[str, Magnitudes]:
    """Run a graph in ONNX Runtime and measure every float32 tensor of its main graph.

    Args:
        model: values carry dtypes (see ``onnx_ir.passes.common.ShapeInferencePass``). Unchanged.
        feeds: one mapping of input name to array for each sample.

    Returns:
        Magnitudes by value name: inputs, initializers and what every node yields.

    Raises:
        BackendError: ONNX Runtime cannot be imported.
        ExportError: ONNX Runtime refuses the graph or a sample.
    """
    samples = [dict(feed) for feed in feeds]
    ranges = {
        name: magnitudes_of(value.const_value.numpy())
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.dtype == ir.DataType.FLOAT
    }
    for sample in samples:
        for name, array in sample.items():
            if np.issubdtype(array.dtype, np.floating):
                ranges[name] = ranges.get(name, Magnitudes()) | magnitudes_of(array)

    inner_names = [
        value.name
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT and value.name
    ]
    # Fusions would keep some tensors from ever existing.
    runner = Runner(MemoryGraph.of(model), inner_names, optimise="none")
    for sample in samples:
        for start in range(0, len(inner_names), CHUNK):
            for name, array in runner(sample, inner_names[start : start + CHUNK]).items():
                ranges[name] = ranges.get(name, Magnitudes()) | magnitudes_of(array)
    return ranges
