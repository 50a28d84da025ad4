"""Dynamic dimensions of an ONNX file that are none.

Tools write a name over a fixed size of an input and leave the sizes inside the graph as they were.
Such a file runs at one size only, which is found out by running it at others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export import feeds

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mmedge_export.golden import Run
    from mmedge_export.source import Model

__all__ = ["fix_sizes"]


def fix_sizes(model: Model, run: Run) -> tuple[Model, tuple[str, ...]]:
    """``model`` with each dimension fixed at its example's size where the network refuses others.

    A dimension is tried at one more than the example's size and at twice as much, alone, and then
    together with the others that were refused. Dimensions whose limits the model states stay as
    they are, and so does a model with samples, which tell of themselves which sizes there are.

    Args:
        model: of an ONNX file.
        run: outputs for inputs.

    Returns:
        The model, and remarks on what was found.
    """
    if model.samples is not None:
        return model, ()
    example = feeds.sizes(model, feeds.example(model))
    remarks: list[str] = []
    refused: dict[str, str] = {}
    for symbol, size in example.items():
        if symbol in model.dims or not size:
            continue
        taken, said = _try(model, run, {symbol: (size + 1, 2 * size)})
        if not taken:
            refused[symbol] = said
        elif len(taken) == 1 and size > 1:
            remarks.append(
                f"dimension {symbol!r}: the network takes {taken[0]} and {size}, but not "
                f"{size + 1}: {said}. Sizes that it refuses fail when the bundle runs"
            )
    if len(refused) > 1:
        together, _ = _try(model, run, {s: (example[s] + 1, 2 * example[s]) for s in refused})
        if together:
            remarks.append(
                f"dimensions {', '.join(refused)}: the network refuses another size of one of them "
                "alone; their sizes must fit each other"
            )
            refused = {}
    for symbol, said in refused.items():
        remarks.append(
            f"dimension {symbol!r} is fixed at {example[symbol]}: the network refuses "
            f"{example[symbol] + 1} and {2 * example[symbol]} ({said})"
        )
    return _fixed(model, refused), tuple(remarks)


def _try(model: Model, run: Run, sizes: Mapping[str, tuple[int, int]]) -> tuple[list[int], str]:
    """Which of the sizes the network takes, and what it said of the first that it refused.

    Dimensions of several symbols take their first sizes at once, then their second.
    """
    taken: list[int] = []
    said = ""
    for at in (0, 1):
        wanted = {symbol: pair[at] for symbol, pair in sizes.items()}
        try:
            run(feeds.resize(model, feeds.example(model), wanted))
        except ExportError as error:
            said = said or str(error).rpartition("Status Message: ")[2][:200]
        else:
            taken.append(next(iter(wanted.values())))
    return taken, said


def _fixed(model: Model, symbols: Collection[str]) -> Model:
    if not symbols:
        return model
    inputs = {
        name: replace(
            value, dynamic={axis: s for axis, s in value.dynamic.items() if s not in symbols}
        )
        for name, value in model.inputs.items()
    }
    return replace(model, inputs=inputs)
