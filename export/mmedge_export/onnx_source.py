"""An ONNX file as a :class:`Model`: no torch involved, the graph goes into the bundle as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge.spec import DTYPES, Array
from mmedge_export.graph import Graph, dimension_name
from mmedge_export.source import Input, Model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["load_graph", "match", "read_onnx"]

#: Size of a dynamic dimension in generated examples: 1 along the first axis, which is the batch in
#: nearly every graph, otherwise this.
SIZE = 16

#: Operators that pass indices on unchanged, or change their type or shape only.
_PASSES = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)


def read_onnx(path: Path, *, sizes: Mapping[str, int] | None = None) -> Model:
    """Describe the network in an ONNX file, with generated examples.

    Each input becomes a modality of its own (:meth:`Model.regrouped` joins them). Dynamic
    dimensions keep their names; one without a name gets ``<input>_<axis>``. The examples are
    seeded: floats are standard normal, uint8 and int8 cover their whole range, booleans are true.
    Other integers are bounded by the table where the graph uses them as indices of a ``Gather`` (an
    embedding), and are 0 or 1 where it does not, which suits masks and flags.

    Args:
        path: the ``.onnx`` file; external data is found beside it.
        sizes: size of a dynamic dimension in the example; by default 1 along the first axis and
            :data:`SIZE` along others.

    Raises:
        ExportError: the file is not ONNX, or an input has a type that a bundle cannot hold.
    """
    model = load_graph(path).model
    wanted = dict(sizes or {})
    rng = np.random.default_rng(0)
    inputs = {}
    for value in _network_inputs(model):
        dtype = value.dtype.name.lower() if value.dtype is not None else "no tensor"
        dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
        if dtype not in DTYPES or value.shape is None:
            raise ExportError(
                f"{path}: input {value.name!r} is {dtype} {value.shape}; a bundle holds tensors of "
                f"known rank and of {', '.join(DTYPES)}"
            )
        dynamic: dict[int, str] = {}
        shape: list[int] = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                shape.append(size)
                continue
            symbol = dimension_name(size.value or f"{value.name}_{axis}")
            dynamic[axis] = symbol
            shape.append(wanted.setdefault(symbol, SIZE if axis else 1))
        example = _example(value, np.dtype(dtype), shape, rng)
        inputs[str(value.name)] = Input(example, dynamic=dynamic)
    used = {symbol for value in inputs.values() for symbol in value.dynamic.values()}
    if unknown := set(sizes or {}) - used:
        raise ExportError(
            f"{path}: sizes name {', '.join(sorted(unknown))}, but the dynamic dimensions are "
            f"{', '.join(sorted(used)) or 'none'}"
        )
    return Model(path, inputs, [str(value.name) for value in model.graph.outputs], name=path.stem)


def load_graph(path: Path) -> Graph:
    """Read an ONNX file; its weights stay on disk until they are used.

    Raises:
        ExportError: it is missing or not ONNX, or its external data is missing.
    """
    try:
        model = ir.load(path)
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.numpy()
    except Exception as error:  # protobuf's and onnx-ir's errors have no common base
        raise ExportError(
            f"{path} cannot be read as ONNX: {type(error).__name__}: {error}; give a valid .onnx "
            "file with its external data beside it"
        ) from error
    if not model.graph.outputs or "" not in model.opset_imports:
        raise ExportError(f"{path} is no ONNX network: it has no outputs or imports no operators")
    return Graph(model)


def match(model: Model, graph: Graph, path: Path) -> None:
    """Raise ExportError unless ``model`` names the inputs and outputs of ``graph`` as they are."""
    given = {str(value.name): value for value in _network_inputs(graph.model)}
    made = [str(value.name) for value in graph.model.graph.outputs]
    for what, names, known in (("input", model.inputs, given), ("output", model.outputs, made)):
        if set(names) != set(known):
            raise ExportError(
                f"{path}: the graph's {what}s are {', '.join(known)}, the model names "
                f"{', '.join(names)}; name each of them"
            )
    for name, value in model.inputs.items():
        declared = given[name]
        dtype = None if declared.dtype is None else declared.dtype.numpy()
        shape = [] if declared.shape is None else list(declared.shape)
        fits = len(shape) == value.example.ndim and all(
            size == found
            for size, found in zip(shape, value.shape(), strict=False)
            if isinstance(size, int)
        )
        if dtype != value.example.dtype or not fits:
            raise ExportError(
                f"{path}: input {name!r} is {dtype} {shape} in the graph, the model says "
                f"{value.example.dtype} {value.shape()}"
            )


def _network_inputs(model: ir.Model) -> list[ir.Value]:
    """Inputs that a caller gives: graphs of ONNX IR version 3 list their weights as inputs too."""
    return [v for v in model.graph.inputs if v.name not in model.graph.initializers]


def _example(
    value: ir.Value, dtype: np.dtype[np.generic], shape: list[int], rng: np.random.Generator
) -> Array:
    if dtype == np.bool_:
        return np.ones(shape, np.bool_)
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, _table(value, set()) or 2, shape, dtype)
    return rng.standard_normal(shape).astype(dtype)


def _table(value: ir.Value, seen: set[int]) -> int | None:
    """Rows of the smallest table that ``value`` indexes in a Gather; None if it indexes none."""
    if id(value) in seen:
        return None
    seen.add(id(value))
    rows: list[int] = []
    for node, position in value.uses():
        if node.op_type == "Gather" and position == 1:
            table = node.inputs[0]
            axis = node.attributes.get_int("axis", 0)
            size = table.shape[axis] if table is not None and table.shape is not None else None
            rows += [size] if isinstance(size, int) else []
        elif node.op_type in _PASSES and (position == 0 or node.op_type == "Concat"):
            below = _table(node.outputs[0], seen)
            rows += [] if below is None else [below]
    return min(rows, default=None)
