"""Other names for inputs, outputs and dimensions of an ONNX file, as the user says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge.schema.names import TENSOR_NAME
from mmedge_export.onnx_graph.graph import dimension_name
from mmedge_export.sources.onnx_copy import CopyCall, save_copy
from mmedge_export.sources.onnx_dimensions import open_dimension

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["rename"]


def rename(paths: Sequence[Path], names: Mapping[str, str]) -> list[Path]:
    """Copies of files with other names, or the files themselves where nothing is renamed.

    Args:
        paths: of the files; a name may be in several.
        names: old name -> new one, of inputs, outputs and dynamic dimensions of inputs.

    Raises:
        ExportError: no file has an old name, or the new one is no name or has another use.
    """
    if not names:
        return list(paths)
    for new in names.values():
        if not TENSOR_NAME.fullmatch(new):
            raise ExportError(f"--rename: {new!r} is no name of the form {TENSOR_NAME.pattern}")
    models = [ir.load(path) for path in paths]
    there = {name for model in models for name in _names(model)}
    # A dimension may be named as the file has it, or as mmedge calls it.
    names = {old if old in there else dimension_name(old): new for old, new in names.items()}
    for old in names:
        if old not in there:
            raise ExportError(
                f"--rename {old}={names[old]}: no input, output or dimension of that name; there "
                f"are {', '.join(sorted(there))}"
            )
    return [_renamed(path, model, names) for path, model in zip(paths, models, strict=True)]


def _renamed(path: Path, model: ir.Model, names: Mapping[str, str]) -> Path:
    graph = model.graph
    uses = _names(model)
    changes = {old: new for old, new in names.items() if old in uses}
    for old, new in changes.items():
        if new in uses and new not in changes:
            raise ExportError(f"--rename {old}={new}: {path} has {uses[new]} {new!r} already")
    if not changes:
        return path
    tensors = {old: new for old, new in changes.items() if uses[old] != "dimension"}
    faces = [*graph.inputs, *graph.outputs]
    for value in faces:
        if value.shape is not None:
            labels = [
                open_dimension(str(value.name), axis, size) for axis, size in enumerate(value.shape)
            ]
            value.shape = ir.Shape(
                [
                    changes[label] if label in changes and label not in tensors else size
                    for label, size in zip(labels, value.shape, strict=True)
                ]
            )
    # Inner values make way: one may have a name that an input or output gets.
    inner = [*graph.initializers.values()]
    inner += [value for node in graph.all_nodes() for value in node.outputs]
    for value in inner:
        if value.name in tensors.values() and value not in faces:
            value.name = f"{value.name}.inner"
    renamed = [(value, tensors[str(value.name)]) for value in faces if str(value.name) in tensors]
    for value, new in renamed:
        value.name = new
    said = [f"{uses[old]} {old!r} of the file is called {new!r}" for old, new in changes.items()]
    call = CopyCall(__name__, "rename", (path,), (changes,), lists_files=True)
    return save_copy(model, path, said, call)


def _names(model: ir.Model) -> dict[str, str]:
    """What a user may rename, and what each is."""
    graph = model.graph
    names: dict[str, str] = {}
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    for value in inputs:
        for axis, size in enumerate(value.shape or ()):
            if label := open_dimension(str(value.name), axis, size):
                names[label] = "dimension"
    names |= {str(value.name): "output" for value in graph.outputs}
    return names | {str(value.name): "input" for value in inputs}
