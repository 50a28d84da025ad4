"""Sizes of outputs as runs of an ONNX file show them, to hold the file's own words against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.sources.resize import resize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Array
    from mmedge_export.model import Model

__all__ = ["SizeRun", "observe_sizes"]


@dataclass(frozen=True)
class SizeRun:
    """One run.

    Attributes:
        sizes: of each dynamic dimension of the inputs.
        shapes: of each output.
    """

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]


def observe_sizes(
    model: Model, run: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> list[SizeRun]:
    """Runs on the example as it is, and with each dynamic dimension at another size of its own.

    Args:
        model: of the file.
        run: the file.

    Returns:
        One run alone where the network takes the others not.
    """
    example = {name: value.example for name, value in model.inputs.items()}
    dimensions = model.dimensions()
    base = {
        symbol: example[name].shape[axis]
        for name, value in model.inputs.items()
        for axis, symbol in value.dynamic.items()
    }
    runs = [SizeRun(base, {name: value.shape for name, value in run(example).items()})]

    def try_sizes(target: Mapping[str, int]) -> None:
        sizes = model.domain().near(
            {
                symbol: max(target.get(symbol, size), dimensions[symbol].min, 1)
                for symbol, size in base.items()
            }
        )
        if sizes is None or sizes == base:
            return
        try:
            outputs = run(resize(model, example, sizes))
        except ExportError:
            return
        runs.append(SizeRun(sizes, {name: value.shape for name, value in outputs.items()}))

    # Each changes by another number, so that no two dimensions look alike.
    steps = {
        symbol: (2 + 3 * place) * dimensions[symbol].multiple for place, symbol in enumerate(base)
    }
    for direction in (1, -1):
        try_sizes({symbol: size + direction * steps[symbol] for symbol, size in base.items()})
    if len(runs) == 1:  # not all together
        for symbol, size in base.items():
            try_sizes({symbol: size + steps[symbol]})
    return runs
