"""A draft of a factory from an ONNX file: everything is in the file but rates and modalities."""

from __future__ import annotations

import os
from pathlib import Path

from mmedge_export.sources.factory_text import Draft, DraftInput
from mmedge_export.sources.onnx import load_file, read_onnx, reference, settle

__all__ = ["draft_onnx"]


def draft_onnx(source: str, place: Path) -> Draft:
    """Read the file, and find values that the network takes.

    Args:
        source: path of the file.
        place: of the factory to be, which names the file from there.

    Raises:
        ExportError: it is no ONNX file that mmedge takes, or no made-up values are.
    """
    path = Path(source)
    file = load_file(path)
    model = read_onnx(path)
    model, remark = settle(model, file, reference(file, model.outputs))
    there = os.path.relpath(path.resolve(), place.resolve().parent)
    inputs = [
        DraftInput(name, value.example, value.dynamic, "CHECK: made up; a real one is better")
        for name, value in model.inputs.items()
    ]
    notes = ["The shapes, dtypes and dynamic dimensions are the file's."]
    if remark:
        notes.append(f"Made-up values: {remark}.")
    return Draft(
        source,
        ["from pathlib import Path"],
        [f'network = Path(__file__).resolve().parent / "{Path(there).as_posix()}"'],
        inputs,
        list(model.outputs),
        notes,
    )
