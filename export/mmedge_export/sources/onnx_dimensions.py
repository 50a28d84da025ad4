"""Names of the dynamic dimensions of an ONNX file's inputs."""

from __future__ import annotations

import re

import onnx_ir as ir

from mmedge_export.onnx_graph.graph import dimension_name

__all__ = ["NAMELESS", "name_dimensions", "open_dimension"]

#: Texts in the place of a dimension's name that say that its size is not known, and no more.
NAMELESS = re.compile(r"|\?|-1|0|None|none|null|unk(nown)?(__\d*)?|dynamic")


def name_dimensions(graph: ir.Graph) -> None:
    """Each dynamic dimension of the inputs gets a name of a manifest's form.

    Sizes below 0 and texts that say nothing are open dimensions, ``<input>_<axis>``. What has
    another text in the file has another name.
    """
    names: dict[str, str] = {}

    def name(text: str, proposal: str) -> str:
        if text not in names:
            candidate, count = proposal, 0
            while candidate in names.values():
                count += 1
                candidate = f"{proposal}_{count}"
            names[text] = candidate
        return names[text]

    for value in graph.inputs:
        sizes: list[int | str] = []
        for axis, size in enumerate(value.shape or ()):
            text = "" if isinstance(size, int) else size.value or ""
            label = open_dimension(str(value.name), axis, size)
            if label is None:
                sizes.append(int(size))  # type: ignore[arg-type] # it is open otherwise
            elif NAMELESS.fullmatch(text):
                sizes.append(name(f"\0{value.name}:{axis}", label))
            else:
                sizes.append(name(text, label))
        if value.shape is not None:
            value.shape = ir.Shape(sizes)


def open_dimension(name: str, axis: int, size: int | ir.SymbolicDim) -> str | None:
    """What a dynamic dimension of an input is called, as long as no other one is called so.

    Args:
        name: of the input.
        axis: of the dimension.
        size: what the file has there.

    Returns:
        None of a size that is fixed.
    """
    if isinstance(size, int) and size >= 0:
        return None
    text = "" if isinstance(size, int) else size.value or ""
    return dimension_name(f"{name}_{axis}" if NAMELESS.fullmatch(text) else text)
