"""Shapes and dtypes of a graph's values on given inputs."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from mmedge.errors import BackendError, ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    measured = {
        name: MeasuredTensor(tuple(value.const_value.shape.numpy()), value.const_value.dtype)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING
    }
    for value in model.graph.inputs:
        name = str(value.name)
        if name in inputs:
            given = inputs[name]
            measured[name] = MeasuredTensor(tuple(given.shape), ir.DataType.from_numpy(given.dtype))
        elif name not in measured:
            raise ExportError(
                f"shapes cannot be measured: input {name!r} is missing; there are "
                f"{', '.join(inputs) or 'none'}"
            )
    exposed = model.clone()
    already = {v.name for v in exposed.graph.outputs}
    exposed.graph.outputs.extend(
        v for node in exposed.graph for v in node.outputs if v.name and v.name not in already
    )
    with tempfile.TemporaryDirectory(prefix="mmedge-shapes-") as folder:
        path = Path(folder) / "graph.onnx"
        ir.save(exposed, path, external_data="graph.data")
        del exposed
        dtypes = {
            value.name: dtype
            for value in _session(path).get_outputs()
            if (dtype := _dtype(value.type)) is not None and value.name not in measured
        }
        if not dtypes:
            return measured
        # The weights stay where they lie; only the graph is written again.
        proto = onnx.load(path, load_external_data=False)
        del proto.graph.output[:]
        taken = {name for node in proto.graph.node for name in (*node.input, *node.output)}
        prefix = "shape"
        while any(name.startswith(prefix) for name in taken | measured.keys()):
            prefix += "_"
        for index, name in enumerate(dtypes):
            result = f"{prefix}{index}"
            proto.graph.node.append(onnx.helper.make_node("Shape", [name], [result]))
            kind = onnx.helper.make_tensor_value_info(result, onnx.TensorProto.INT64, [None])
            proto.graph.output.append(kind)
        path = path.with_name("shapes.onnx")
        onnx.save(proto, path)
        session = _session(path)
        fed = {value.name: inputs[value.name] for value in session.get_inputs()}
        try:
            shapes = session.run(None, fed)
        except Exception as error:  # ONNX Runtime's errors have no common base
            said = ", ".join(f"{n}: {v.dtype} {list(v.shape)}" for n, v in fed.items())
            raise ExportError(f"shapes cannot be measured on {said}: {error}") from error
    for (name, dtype), shape in zip(dtypes.items(), shapes, strict=True):
        measured[name] = MeasuredTensor(tuple(int(n) for n in shape), dtype)
    return measured


def _session(path: Path) -> Any:  # noqa: ANN401
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError(
            "measuring shapes needs ONNX Runtime: pip install 'mmedge[cpu]'"
        ) from error
    options = ort.SessionOptions()
    # Optimised, some values would never exist.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # fatal: errors are raised, and one voice is enough
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ExportError(
            f"shapes cannot be measured: ONNX Runtime {ort.__version__} does not load the graph: "
            f"{error}"
        ) from error


def _dtype(kind: str) -> ir.DataType | None:
    """Of ONNX Runtime's ``tensor(int64)``; None for a string or what is no tensor."""
    if not kind.startswith("tensor(") or kind == "tensor(string)":
        return None
    return ir.DataType[kind.removeprefix("tensor(").removesuffix(")").upper()]
