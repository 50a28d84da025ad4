"""A part of a graph, run by itself on chosen values.

What a part computes is found by running it, and not by recognizing how an exporter wrote it: which
axis holds the heads, how keys are repeated, what a mask hides, by which angle a position turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mmedge.spec import Array

__all__ = ["Probe", "content_of"]

#: Operators that read the shape of a tensor and nothing of what it holds.
SHAPES = frozenset({"Shape", "Size"})


def content_of(value: ir.Value, cuts: Collection[ir.Value]) -> set[ir.Value]:
    """Inputs of the graph, and values of ``cuts``, whose content ``value`` depends on.

    What only a shape is taken of is not among them.
    """
    return {
        leaf
        for leaf in _reach(value, cuts, through_shapes=False)
        if leaf.producer() is None or leaf in cuts
    }


def _reach(
    value: ir.Value, cuts: Collection[ir.Value], *, through_shapes: bool
) -> dict[ir.Value, None]:
    """``value`` and all that it is computed from, as far as ``cuts``; constants are left out."""
    seen: dict[ir.Value, None] = {}
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each in seen or each.is_initializer():
            continue
        seen[each] = None
        node = each.producer()
        if node is None or each in cuts:
            continue
        if any(attribute.type in _BODIES for attribute in node.attributes.values()):
            raise ExportError(f"{node.op_type} has a body, in which nothing is looked for")
        if through_shapes or node.op_type not in SHAPES:
            waiting += [each for each in node.inputs if each is not None]
    return seen


_BODIES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class Probe:
    """What some values of a graph are, where some others are given.

    Args:
        model: has all of them, and is left as it is.
        outputs: to be computed.
        cuts: to be given, with what else of the graph's inputs is needed.
        dtypes: of ``cuts``, by name, where the graph does not say them.
    """

    def __init__(
        self,
        model: ir.Model,
        outputs: Sequence[ir.Value],
        cuts: Collection[ir.Value],
        dtypes: Mapping[str, ir.DataType],
    ) -> None:
        import onnxruntime as ort

        needed: dict[ir.Value, None] = {}
        for value in outputs:
            needed.update(_reach(value, cuts, through_shapes=True))
        leaves = [v for v in needed if v.producer() is None or v in cuts]
        inner = {v for v in needed if v not in leaves}
        nodes = [node for node in model.graph if any(v in inner for v in node.outputs)]
        constants = {
            str(value.name): value
            for node in nodes
            for value in node.inputs
            if value is not None and value.is_initializer()
        }
        self._inputs = [str(value.name) for value in leaves]
        self._outputs = [str(value.name) for value in outputs]
        graph = onnx.helper.make_graph(
            [ir.to_proto(node) for node in nodes],
            "probe",
            [
                onnx.helper.make_tensor_value_info(
                    str(value.name), int(value.dtype or dtypes[str(value.name)]), None
                )
                for value in leaves
            ],
            [onnx.ValueInfoProto(name=name) for name in self._outputs],
            [_tensor(value, name) for name, value in constants.items()],
        )
        domains = {node.domain for node in nodes} | {""}
        opsets = [
            onnx.helper.make_opsetid(domain, version)
            for domain, version in model.opset_imports.items()
            if domain in domains
        ]
        proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # fatal: errors are raised, and one voice is enough
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        try:
            self._session: Any = ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ExportError(f"a part of the graph does not load: {error}") from error

    def __call__(self, values: Mapping[str, Array]) -> list[Array]:
        """The outputs, in their order."""
        try:
            results: list[Array] = self._session.run(
                self._outputs, {name: np.ascontiguousarray(values[name]) for name in self._inputs}
            )
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ExportError(f"a part of the graph does not run: {error}") from error
        return results


def _tensor(value: ir.Value, name: str) -> onnx.TensorProto:
    if value.const_value is None:
        raise ExportError(f"constant {name!r} has no value")
    return onnx.numpy_helper.from_array(value.const_value.numpy(), name)
