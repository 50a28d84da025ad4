"""Values for the inputs of an ONNX file whose user gives none, such as its operators take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.sources.onnx_operands import Uses
from mmedge_export.sources.onnx_rules import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmedge.spec import Array
    from mmedge_export.sources.onnx_file import OnnxFile

__all__ = ["SIZES", "Candidate", "candidates"]

#: Sizes of a dynamic dimension that is not the first axis, in the order in which they are tried.
#: The first axis is the batch in nearly every graph, and has size 1.
SIZES = (16, 1, 4, 32, 64, 224)

#: Ranges of floating-point values, in the order in which they are tried. Logarithms, roots and
#: inverse functions have no answer outside theirs. None: standard normal.
FLOATS: tuple[tuple[float, float] | None, ...] = (None, (0.05, 0.95), (1.05, 2.0))


@dataclass(frozen=True)
class Candidate:
    """Values to try.

    Attributes:
        values: by input.
        what: how they differ from the first ones, in words.
        texts: of each input, the Python expression that gives the same values.
    """

    values: Mapping[str, Array]
    what: str
    texts: Mapping[str, str] = field(default_factory=dict)


def candidates(file: OnnxFile, sizes: Mapping[str, int]) -> Iterator[Candidate]:
    """Values to try one after another, all seeded.

    Args:
        file: whose inputs are made up.
        sizes: of dynamic dimensions that the user states.

    Raises:
        ExportError: the rank of an input is not known.
    """
    graph = file.graph.model.graph
    for value in graph.inputs:
        if value.shape is None:
            raise refusal(
                f"{file.path}: input {value.name!r} has no shape in the file; give an example with "
                "--example FILE",
                "rank",
            )
    open_sizes = any(
        not isinstance(size, int) and size.value not in sizes
        for value in graph.inputs
        for size in value.shape or ()
    )
    for size in SIZES if open_sizes else SIZES[:1]:
        shapes = _shapes(file, sizes, size)
        uses = Uses(file.graph.model, shapes, file.normalized.output_shapes)
        for floats in FLOATS:
            what = [f"dynamic sizes of {size}"] if size != SIZES[0] else []
            what += [f"floats from {floats[0]:g} to {floats[1]:g}"] if floats else []
            made = {
                str(value.name): _values(value, shapes[str(value.name)], uses, floats, seed)
                for seed, value in enumerate(graph.inputs)
            }
            yield Candidate(
                {name: values for name, (values, _) in made.items()},
                ", ".join(what),
                {name: text for name, (_, text) in made.items()},
            )


def _shapes(file: OnnxFile, sizes: Mapping[str, int], size: int) -> dict[str, tuple[int, ...]]:
    size_of = dict(sizes)
    shapes = {}
    for value in file.inputs:
        shape = []
        for axis, dimension in enumerate(value.shape or ()):
            if isinstance(dimension, int):
                shape.append(dimension)
            else:
                shape.append(size_of.setdefault(str(dimension.value), size if axis else 1))
        shapes[str(value.name)] = tuple(shape)
    return shapes


def _values(
    value: ir.Value,
    shape: tuple[int, ...],
    uses: Uses,
    floats: tuple[float, float] | None,
    seed: int,
) -> tuple[Array, str]:
    """Values of one input, and their text."""
    rng, rng_text = np.random.default_rng(seed), f"np.random.default_rng({seed})"
    dtype = np.dtype(ir.DataType(value.dtype or 0).numpy())
    bounds = uses.of(value, shape)
    if isinstance(bounds, np.ndarray):
        values = bounds.astype(dtype).reshape(shape)
        return values, f"np.array({values.tolist()!r}, np.{dtype.name})"
    if dtype == np.bool_:
        return np.ones(shape, np.bool_), f"np.ones({shape}, np.bool_)"
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        low, high = (limits.min, limits.max) if dtype.itemsize == 1 else (0, 1)
        if bounds is not None:
            low, high = max(int(bounds[0]), limits.min), min(int(bounds[1]), limits.max)
        high = max(low, high)
        whole = np.asarray(rng.integers(low, high, shape, np.int64, endpoint=True), dtype)
        call = f"integers({low}, {high}, {shape}, np.int64, endpoint=True)"
        return whole, f"np.asarray({rng_text}.{call}, np.{dtype.name})"
    if bounds is not None or floats is not None:
        least, most = map(float, bounds or floats or (0.0, 1.0))
        values, call = rng.uniform(least, most, shape), f"uniform({least}, {most}, {shape})"
    else:
        values, call = rng.standard_normal(shape), f"standard_normal({shape})"
    return np.asarray(values, dtype), f"np.asarray({rng_text}.{call}, np.{dtype.name})"
