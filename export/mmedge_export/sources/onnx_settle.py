"""Made-up values of an ONNX file that its network takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge_export.sources.onnx_example import Candidate, candidates
from mmedge_export.sources.onnx_rules import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Array
    from mmedge_export.model import Model
    from mmedge_export.sources.onnx_file import OnnxFile

__all__ = ["settle"]


def settle(
    model: Model, file: OnnxFile, run: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> tuple[Model, str]:
    """``model`` with made-up values that the network takes and answers without NaN.

    Args:
        model: of ``file``.
        file: the ONNX file.
        run: see :func:`reference`.

    Returns:
        The model, and how its values differ from the usual ones, in words; empty where they do not.

    Raises:
        ExportError: the network takes none of the values that were tried.
    """
    if model.made_up is None:
        return model, ""
    first: Exception | None = None
    fallback: tuple[Candidate, str] | None = None
    # What the model has may be better than what is made up, and is the first of that otherwise.
    own = Candidate({name: value.example for name, value in model.inputs.items()}, "")
    for candidate in (own, *candidates(file, model.made_up)):
        values = candidate.values
        try:
            outputs = run(values)
        except ExportError as error:
            first = first or error
            continue
        nan_outputs = [n for n, v in outputs.items() if v.dtype.kind == "f" and np.isnan(v).any()]
        if nan_outputs:
            fallback = fallback or (candidate, f"output {nan_outputs[0]!r} has NaN")
            continue
        return _with_values(model, candidate), candidate.what
    if fallback is not None:
        return _with_values(model, fallback[0]), f"on made-up values {fallback[1]}"
    integers = [n for n, v in model.inputs.items() if v.example.dtype.kind in "iub"]
    likely = f"; likely {', '.join(integers)}" if integers else ""
    raise refusal(
        f"{file.path}: the network takes none of the made-up examples that were tried{likely}: "
        f"{first}. Give a real one with --example FILE (.npz, .safetensors or a folder of .npy), "
        "or sizes with --dim",
        "example",
    ) from first


def _with_values(model: Model, candidate: Candidate) -> Model:
    inputs = {
        name: replace(value, example=candidate.values[name]) for name, value in model.inputs.items()
    }
    return replace(model, inputs=inputs)
