"""Which ONNX files are refused, each by a rule that docs/reference/onnx.md states."""

from __future__ import annotations

import onnx_ir as ir

from mmedge.bundle.onnxfile import check_graph
from mmedge.errors import BundleError, ExportError
from mmedge_export.onnx_graph.graph import is_external
from mmedge_export.passes.guard_division import GuardDivisionPass

__all__ = ["RULES", "check_operators", "may_be_random", "refusal"]

_RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
})  # fmt: skip

#: Name of each rule -> what it says. docs/reference/onnx.md has one section of each name.
RULES = {
    "dtype": "inputs and outputs are tensors of the dtypes that a bundle holds",
    "container": "inputs and outputs are tensors, no sequences, maps, optionals or sparse tensors",
    "no-inputs": "the network has at least one input",
    "no-outputs": "the network has at least one output",
    "rank": "the rank of every input and output is known and at most 8",
    "domain": "operators are those of ONNX and of ONNX Runtime, or functions that the file holds",
    "operator": "operators are those that a bundle may call (docs/reference/bundle.md, Graphs)",
    "random": "the same inputs give the same outputs",
    "example": "the network runs on the example, which made-up values may not allow",
    "not-a-number": "weights and the outputs of the example have no NaN (or --allow-nan is given)",
    "sizes": "the network takes the sizes of its dynamic dimensions that are tried together",
    "training": "batch normalization is not in training mode",
    "size": "a tensor has at most 2**31 elements",
    "runs": "ONNX Runtime loads the file",
}


def may_be_random(model: ir.Model) -> bool:
    """Whether a graph has an operator that draws numbers: a random one, or dropout in training."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in _RANDOM:
            return True
        if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
            mode = ir.convenience.get_const_tensor(node.inputs[2])
            if mode is None or mode.numpy().any():
                return True
    return False


def check_operators(model: ir.Model, where: str) -> None:
    """Hold a graph against the operators and attributes that a bundle may have.

    Before it is run: what ONNX Runtime must not be given ends this process, too.

    Args:
        model: unchanged.
        where: what an error names as the place.

    Raises:
        ExportError: an operator, or an attribute or constant of one, is not allowed.
    """
    stub = model.clone()
    GuardDivisionPass()(stub)
    for graph in stub.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and is_external(tensor):
                sizes, name = ir.Shape(tensor.shape.numpy()), str(value.name)
                value.const_value = ir.ExternalTensor(
                    "weights", 0, tensor.nbytes, tensor.dtype, shape=sizes, name=name
                )
    data = memoryview(ir.to_proto(stub).SerializeToString())
    try:
        check_graph(data, "model.onnx", {"weights": 1 << 62}, where)
    except BundleError as error:
        raise refusal(str(error), "operator") from error


def refusal(what: str, rule: str) -> ExportError:
    """An ExportError that says what is wrong and which rule of docs/reference/onnx.md it breaks.

    Args:
        what: where, expected, got and fix, without a full stop.
        rule: a key of :data:`RULES`.
    """
    return ExportError(f"{what} (docs/reference/onnx.md, rule {rule!r}: {RULES[rule]})")
