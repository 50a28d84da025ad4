"""What values each tensor of a graph takes on real inputs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge.errors import BackendError

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
        small = [value for value in (self.smallest, other.smallest) if value > 0.0]
        return Magnitudes(max(self.largest, other.largest), min(small, default=0.0))


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
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError(
            "measuring ranges needs ONNX Runtime: pip install 'mmedge[cpu]'"
        ) from error
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

    inner = [
        value.name
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT and value.name
    ]
    exposed = model.clone()
    produced = {value.name: value for node in exposed.graph for value in node.outputs}
    already = {value.name for value in exposed.graph.outputs}
    exposed.graph.outputs.extend(produced[name] for name in inner if name not in already)
    options = ort.SessionOptions()
    # Fusions would keep some tensors from ever existing.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # fatal: errors are raised, and one voice is enough
    with tempfile.TemporaryDirectory(prefix="mmedge-ranges-") as folder:
        path = Path(folder) / "graph.onnx"
        ir.save(exposed, path, external_data="graph.data")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for sample in samples:
            for start in range(0, len(inner), CHUNK):
                names = inner[start : start + CHUNK]
                for name, array in zip(names, session.run(names, sample), strict=True):
                    ranges[name] = ranges.get(name, Magnitudes()) | magnitudes_of(array)
    return ranges
