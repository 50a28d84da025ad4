"""Which ONNX files are refused, each by a rule that docs/onnx.md states."""

from __future__ import annotations

from mmedge.errors import ExportError

__all__ = ["RULES", "refusal"]

#: Name of each rule -> what it says. docs/onnx.md has one section of each name.
RULES = {
    "dtype": "inputs and outputs are tensors of the dtypes that a bundle holds",
    "container": "inputs and outputs are tensors, no sequences, maps, optionals or sparse tensors",
    "no-inputs": "the network has at least one input",
    "no-outputs": "the network has at least one output",
    "rank": "the rank of every input and output is known and at most 8",
    "domain": "operators are those of ONNX and of ONNX Runtime, or functions that the file holds",
    "operator": "operators are those that a bundle may call (docs/bundle.md, Graphs)",
    "random": "the same inputs give the same outputs",
    "example": "the network runs on the example, which made-up values may not allow",
    "not-a-number": "outputs have no NaN on the example",
    "training": "batch normalization is not in training mode",
    "size": "a tensor has at most 2**31 elements",
    "runs": "ONNX Runtime loads the file",
}


def refusal(what: str, rule: str) -> ExportError:
    """An ExportError that says what is wrong and which rule of docs/onnx.md it breaks.

    Args:
        what: where, expected, got and fix, without a full stop.
        rule: a key of :data:`RULES`.
    """
    return ExportError(f"{what} (docs/onnx.md, rule {rule!r}: {RULES[rule]})")
