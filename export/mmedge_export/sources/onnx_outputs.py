"""Shapes of an ONNX file's outputs: what is proven, and what the file says and runs confirm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.graph import dimension_name
from mmedge_export.onnx_graph.infer_shapes import InferShapesPass
from mmedge_export.sources.onnx_dimensions import NAMELESS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge_export.sources.onnx_output_sizes import SizeRun

__all__ = ["infer_outputs"]

#: An axis of an output: name of the output, and axis.
_Place = tuple[str, int]


def infer_outputs(
    model: ir.Model,
    shapes: Mapping[str, Sequence[int | str]],
    file_shapes: Sequence[ir.Shape | None],
    runs: Sequence[SizeRun],
    state_outputs: Mapping[str, str],
) -> None:
    """Give the inputs of ``model`` their shapes, and the outputs what follows from them.

    A size of an output is fixed, or named as that of an input, only where shape inference proves
    it, or where the file says so and all runs confirm it, at two sizes or more. Else it is open. An
    open size has the file's name where that is no other size's; several sizes have one name where
    the file calls them so and all runs confirm it.

    Args:
        model: normalized; is changed.
        shapes: of each input.
        file_shapes: shape of each output as the file states it.
        runs: of the file.
        state_outputs: the output that is the new value of an input, by that input; it has the same
            sizes where runs confirm it.
    """
    for value in model.graph.inputs:
        value.shape = ir.Shape(shapes[str(value.name)])
    # A copy: the bundle's graph states no inner shapes.
    copy = model.clone()
    InferShapesPass()(copy)
    symbols = {
        size.value
        for value in model.graph.inputs
        for size in value.shape or ()
        if not isinstance(size, int) and size.value
    }
    claims: dict[str, list[_Place]] = {}
    known: dict[_Place, int | str] = {}
    ranks: dict[str, int] = {}
    for inferred, file_shape in zip(copy.graph.outputs, file_shapes, strict=True):
        output = str(inferred.name)
        shape = inferred.shape if inferred.shape is not None else file_shape
        if inferred.shape is None and not _has_rank(output, shape, runs):
            continue
        ranks[output] = len(shape or ())
        names = list(file_shape or ()) if len(file_shape or ()) == ranks[output] else []
        for axis, size in enumerate(inferred.shape or [None] * ranks[output]):
            proven = size if isinstance(size, int) else getattr(size, "value", None)
            if isinstance(proven, int) or proven in symbols:
                known[output, axis] = proven
            elif names:
                claimed = names[axis]
                text = str(claimed if isinstance(claimed, int) else claimed.value or "")
                if text.isdigit() or not NAMELESS.fullmatch(text):
                    claims.setdefault(text, []).append((output, axis))
    for text, places in claims.items():
        name = text if text.isdigit() else dimension_name(text)
        _settle(name, places, symbols, runs, known)
    for state, output in state_outputs.items():
        if ranks.get(output) == len(shapes[state]):
            for axis, state_size in enumerate(shapes[state]):
                if known.get((output, axis)) not in symbols and _confirm(
                    (output, axis), state_size, runs
                ):
                    known[output, axis] = state_size
    for value in model.graph.outputs:
        output = str(value.name)
        if output in ranks:
            value.shape = ir.Shape([known.get((output, axis)) for axis in range(ranks[output])])


def _has_rank(output: str, shape: ir.Shape | None, runs: Sequence[SizeRun]) -> bool:
    return (
        shape is not None
        and len(runs) > 1
        and all(len(run.shapes[output]) == len(shape) for run in runs)
    )


def _settle(
    name: str,
    places: Sequence[_Place],
    symbols: set[str],
    runs: Sequence[SizeRun],
    known: dict[_Place, int | str],
) -> None:
    """Take a name of the file for sizes of outputs, as far as runs confirm it."""
    if name.isdigit() or name in symbols:
        claimed_size = int(name) if name.isdigit() else name
        for place in places:
            if _confirm(place, claimed_size, runs):
                known[place] = claimed_size
        return
    taken = {size for size in known.values() if isinstance(size, str)}
    if name in taken:
        return
    first, *others = places
    known[first] = name
    for other in others:
        sizes = [(run.shapes[first[0]][first[1]], run.shapes[other[0]][other[1]]) for run in runs]
        if len(runs) > 1 and all(size == same for size, same in sizes):
            known[other] = name


def _confirm(place: _Place, size: int | str, runs: Sequence[SizeRun]) -> bool:
    """Whether runs show this size there: of a dimension, at two sizes of it or more."""
    output, axis = place
    sizes = [size if isinstance(size, int) else run.sizes.get(size) for run in runs]
    varies = isinstance(size, int) or len(set(sizes)) > 1
    return (
        len(runs) > 1
        and varies
        and all(
            axis < len(run.shapes[output]) and run.shapes[output][axis] == expected
            for run, expected in zip(runs, sizes, strict=True)
        )
    )
