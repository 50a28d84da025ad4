"""What to do about a network that torch's exporter refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.capture import locate
from mmedge_export.capture.suggestions import suggested_fixes
from mmedge_export.install import remedy

if TYPE_CHECKING:
    import torch

__all__ = ["explain"]

#: (pattern in the exception's text or type, in the code at the place) -> what to do. First match.
_ADVICE: tuple[tuple[str, str, str], ...] = (
    (
        r"pack_padded|_VF|PackedSequence|failed to unpack the object at pos 2",
        r"",
        (
            "packed sequences have sizes that depend on values: run the recurrent layer over the "
            "padded batch and pick or mask its outputs by length"
        ),
    ),
    (
        r"specialized it to be a constant|Suggested fixes:\s+\w+ = \d+\s",
        r"",
        (
            "the code fixes the dimension to its size in the example: take the axis out of "
            "Input.dynamic, or compute with x.shape[...] in place of a Python number. nn.GRU, "
            "nn.LSTM and nn.RNN unroll over time: keep their time axis at a fixed size (pad), or "
            "emit the ONNX operator with torch.onnx.ops.symbolic_multi_out"
        ),
    ),
    (
        r"Constraints violated",
        r"",
        (
            "not every size in the dimension's range works: narrow the range with "
            "Model.dims = {name: (smallest, largest)} or {name: (smallest, largest, multiple)}, or "
            "make the axis static"
        ),
    ),
    (
        r"inconsistent min=|symbolically traced variables|Not supported.*symbolic",
        r"",
        (
            "the code branches on a size in a way that torch cannot follow: compare whole numbers "
            "(n > 12, not n / 2 > 6), give an example that needs no padding and say what sizes are "
            "multiples of in Model.dims = {name: (smallest, largest, multiple)}, or make the axis "
            "static"
        ),
    ),
    (
        r"GuardOnDataDependentSymNode|data-dependent|Cannot convert a symbolic|nonzero",
        r"\b(if|while|assert)\b|\b_assert\b",
        (
            "Python control flow reads a tensor's value: compute both branches and choose with "
            "torch.where, or use torch.cond"
        ),
    ),
    (
        r"GuardOnDataDependentSymNode|data-dependent",
        r"",
        (
            "a size or an index depends on a tensor's value: mask in place of cutting, or use a "
            "size known from the inputs' shapes"
        ),
    ),
    (
        r"No ONNX function found|No decompositions|DispatchError",
        r"",
        (
            "write this operation with ones that ONNX has, compute it outside the network, or ask "
            "for a later opset"
        ),
    ),
    (
        r"compatible OpOverload|dtype|promot",
        r"",
        (
            "the operation does not exist for these types: convert its operands to one type first, "
            "such as x.float() for a whole number beside a limit of 0.5"
        ),
    ),
    (
        r"\.numpy\(\)|NumPy|numpy",
        r"",
        "NumPy cannot be traced: do the same with torch operations, or before the network",
    ),
)


def explain(
    network: torch.nn.Module,
    error: Exception,
    what: str,
    *,
    place: locate.Place | None = None,
    node: torch.fx.Node | None = None,
) -> ExportError:
    """An ExportError that says where in ``network`` ``error`` comes from and what to do.

    Args:
        network: the user's module.
        error: from the exporter; the caller raises the result from it.
        what: what could not be done.
        place: where, when it is known; otherwise it is read off ``node`` or ``error``.
        node: the node of the traced program that was being converted.
    """
    if place is None and node is not None:
        place = locate.of_node(network, node)
    place = place or locate.of_exception(network, error)
    place = place or locate.Place("", type(network).__name__)
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = f"{type(root).__name__}: {root}"
    fixes, suggestion = suggested_fixes(str(root))
    advice = remedy(root) if isinstance(root, ImportError) else fixes or _advice(text, place.code)
    cause = next((line.strip() for line in str(root).splitlines() if line.strip()), "")
    operation = f" at {node.target}" if node is not None else ""
    return ExportError(
        f"{what}{operation} in {place}\n  {type(root).__name__}: {cause[:400]}\n"
        + (f"  torch suggests: {suggestion}\n" if suggestion else "")
        + f"  What to do: {advice}"
    )


def _advice(text: str, code: str) -> str:
    for pattern, line, advice in _ADVICE:
        if re.search(pattern, text) and re.search(line, code):
            return advice
    return (
        "rewrite this line with plain torch operations on tensors; the exception that this one "
        "was raised from has the details"
    )
