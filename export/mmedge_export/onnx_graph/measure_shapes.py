"""Shapes and dtypes of a graph's values on given inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge_export.onnx_graph.memory_graph import MemoryGraph
from mmedge_export.onnx_graph.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array

__all__ = ["MeasuredTensor", "measure_shapes"]


@dataclass(frozen=True, slots=True)
class MeasuredTensor:
    """Shape and dtype of one tensor."""

    shape: tuple[int, ...]
    dtype: ir.DataType

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, packed where several share a byte."""
        return -(-self.size * self.dtype.bitwidth // 8)


def measure_shapes(model: ir.Model, inputs: Mapping[str, Array]) -> dict[str, MeasuredTensor]:
    """Run a graph once in ONNX Runtime on the CPU and measure every tensor of its main graph.

    Only shapes are read back, so that activations are freed as in any other run. Values inside
    functions and control flow have no entry, nor have strings, sequences and optionals.

    Args:
        model: unchanged.
        inputs: one array for each input of the graph; names that it does not have are ignored.

    Returns:
        Shape and dtype by value name: inputs, initializers and what every node yields.

    Raises:
        BackendError: ONNX Runtime cannot be imported.
        ExportError: an input is missing, or ONNX Runtime refuses the graph or these inputs.
    """
    tensors = {
        name: MeasuredTensor(tuple(value.const_value.shape.numpy()), value.const_value.dtype)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING
    }
    for value in model.graph.inputs:
        name = str(value.name)
        if name in inputs:
            array = inputs[name]
            tensors[name] = MeasuredTensor(tuple(array.shape), ir.DataType.from_numpy(array.dtype))
        elif name not in tensors:
            raise ExportError(
                f"shapes cannot be measured: input {name!r} is missing; there are "
                f"{', '.join(inputs) or 'none'}"
            )
    values = [value for node in model.graph for value in node.outputs if value.name]
    graph = MemoryGraph.of(model)
    try:
        dtypes = _dtypes(graph, values)
        shapes = _shapes(graph, [name for name in dtypes if name not in tensors], inputs)
    except ExportError as error:
        raise ExportError(f"shapes cannot be measured: {error}") from error
    tensors.update((name, MeasuredTensor(shape, dtypes[name])) for name, shape in shapes.items())
    return tensors


def _dtypes(graph: MemoryGraph, values: Sequence[ir.Value]) -> dict[str, ir.DataType]:
    """Dtypes by name of those that are tensors of numbers."""
    types = {str(value.name): value.type for value in values}
    if all(types.values()):
        return {
            name: type_.dtype
            for name, type_ in types.items()
            if isinstance(type_, ir.TensorType) and type_.dtype != ir.DataType.STRING
        }
    # Optimised, some values would never exist.
    return Runner(graph, list(types), optimise="none").dtypes


def _shapes(
    graph: MemoryGraph, names: Sequence[str], inputs: Mapping[str, Array]
) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors, from a graph that yields nothing else."""
    if not names:
        return {}
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    del proto.graph.output[:]
    used_names = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    used_names |= {value.name for value in (*proto.graph.input, *proto.graph.initializer)}
    prefix = "shape"
    while any(name.startswith(prefix) for name in used_names):
        prefix += "_"
    results = {f"{prefix}{index}": name for index, name in enumerate(names)}
    for result, name in results.items():
        proto.graph.node.append(onnx.helper.make_node("Shape", [name], [result]))
    shapes = Runner(replace(graph, proto=proto), list(results), optimise="none")(inputs)
    return {name: tuple(shapes[result].tolist()) for result, name in results.items()}
