"""Running an ONNX graph in ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx
import onnx_ir as ir

from mmedge.errors import BackendError, ExportError
from mmedge_export.onnx_graph.memory_graph import MemoryGraph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array

__all__ = ["Runner"]


class Runner:
    """A graph in ONNX Runtime on the CPU.

    Args:
        graph: its file, or the graph itself, whose weights are then taken from memory.
        outputs: names of the tensors wanted, inner ones too; None: the graph's outputs. All outputs
            of the graph stay, so that it is optimised as it is without the inner ones.
        options: ONNX Runtime's ``SessionOptions``; None: such as get on with torch's own threads.
        optimise: ``all``: as a bundle runs; ``basic``: nothing is fused that rounds between its
            operators; ``none``: every inner tensor exists.

    Raises:
        BackendError: ONNX Runtime cannot be imported.
        ExportError: ONNX Runtime does not load the graph.
    """

    def __init__(
        self,
        graph: Path | MemoryGraph,
        outputs: Sequence[str] | None = None,
        options: Any = None,  # noqa: ANN401
        *,
        optimise: Literal["all", "basic", "none"] = "all",
    ) -> None:
        name = graph.name if isinstance(graph, Path) else "the graph"
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendError(
                f"ONNX Runtime, which runs {name}, is not installed: pip install 'mmedge[cpu]'"
            ) from error
        if options is None:
            options = ort.SessionOptions()
            # Sessions are short-lived here and share the machine with torch's own threads.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        levels = ort.GraphOptimizationLevel
        if optimise != "all":
            options.graph_optimization_level = (
                levels.ORT_ENABLE_BASIC if optimise == "basic" else levels.ORT_DISABLE_ALL
            )
        options.log_severity_level = 4  # fatal: errors are raised, and one voice is enough
        try:
            source = _source(graph, outputs)
            if isinstance(graph, MemoryGraph):
                # It runs a few times; laid out anew, weights would take their memory twice.
                options.add_session_config_entry("session.disable_prepacking", "1")
                #: A session reads these arrays, and does not keep them alive.
                self._weights = [
                    ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, graph.dtypes[key])
                    for key, array in graph.weights.items()
                ]
                options.add_external_initializers([*graph.weights], self._weights)
            elif isinstance(source, bytes):
                options.add_session_config_entry(
                    "session.model_external_initializers_file_folder_path", str(graph.parent)
                )
            self._session = ort.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's and protobuf's errors have no common base
            raise ExportError(
                f"ONNX Runtime {ort.__version__} does not load {name}: {error}"
            ) from error
        self._outputs = (
            [value.name for value in self._session.get_outputs()] if outputs is None else outputs
        )

    @property
    def shapes(self) -> dict[str, list[object]]:
        """Shape of each output as ONNX Runtime infers it: sizes, names, None for what is open."""
        return {value.name: list(value.shape) for value in self._session.get_outputs()}

    @property
    def dtypes(self) -> dict[str, ir.DataType]:
        """Dtype of each output that is a tensor of numbers."""
        return {
            value.name: ir.DataType[value.type.removeprefix("tensor(").removesuffix(")").upper()]
            for value in self._session.get_outputs()
            if value.type.startswith("tensor(") and value.type != "tensor(string)"
        }

    def __call__(
        self, values: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Outputs by name: those named, or all that are wanted.

        Raises:
            ExportError: the run failed.
        """
        outputs = outputs or self._outputs
        inputs = {value.name: values[value.name] for value in self._session.get_inputs()}
        try:
            results = self._session.run(outputs, inputs)
        except Exception as error:  # ONNX Runtime's errors have no common base
            shapes = ", ".join(f"{n}: {v.dtype} {list(v.shape)}" for n, v in inputs.items())
            reason = " ".join(str(error).split())
            raise ExportError(f"the graph fails on {shapes}: {reason}") from error
        return dict(zip(outputs, results, strict=True))


def _source(graph: Path | MemoryGraph, names: Sequence[str] | None) -> Path | bytes:
    """What a session is made from: the graph with ``names`` among its outputs, or its file."""
    if isinstance(graph, Path):
        if names is None:
            return graph
        proto = onnx.load(graph, load_external_data=False)
    else:
        proto = onnx.ModelProto()
        proto.CopyFrom(graph.proto)
    outputs = {value.name for value in proto.graph.output}
    inner_names = [name for name in dict.fromkeys(names or ()) if name not in outputs]
    if isinstance(graph, Path) and not inner_names:
        return graph
    # ONNX Runtime infers the types.
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner_names)
    serialized: bytes = proto.SerializeToString()
    return serialized
