"""Which sizes the dynamic dimensions of an ONNX file may have, found out by running it.

A file names its dimensions and says nothing of their limits, and tools write a name over a fixed
size of an input while the sizes inside the graph stay as they were.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.capture import probe_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge_export.capture.golden import Run
    from mmedge_export.model import Model

__all__ = ["find_sizes"]


def find_sizes(model: Model, run: Run) -> tuple[Model, tuple[str, ...]]:
    """``model`` with what its dynamic dimensions take.

    Each is tried alone, at one more than the example's size, else at a few steps more, and at its
    smallest. Where the network refuses all larger sizes, the dimension is one with another that is
    refused and has the same size, if the network takes both larger; else it is fixed. Dimensions
    whose limits the model states stay as they are. Samples tell of themselves which sizes there
    are: with them only the smallest size and the step are looked for.

    Args:
        model: of an ONNX file.
        run: outputs for inputs.

    Returns:
        The model, and remarks on what was found.
    """
    search = _Search(model, run)
    search.find()
    return search.model, tuple(search.remarks)


class _Search:
    """The model as far as its dimensions are known."""

    def __init__(self, model: Model, run: Run) -> None:
        self.model, self._run = model, run
        self.remarks: list[str] = []
        self._refusal = ""

    def find(self) -> None:
        """Every dimension in turn."""
        sizes = probe_inputs.sizes(self.model, probe_inputs.example(self.model))
        refused_sizes = {
            symbol: size
            for symbol, size in sizes.items()
            if symbol not in self.model.dims and not self._limit(symbol, size)
        }
        while refused_sizes and self.model.samples is None:
            symbol, size = refused_sizes.popitem()
            twin = next(
                (s for s, n in refused_sizes.items() if n == size and self._fit(s, symbol)), None
            )
            if twin is None:
                self._fix(symbol, size)
                continue
            self.remarks.append(
                f"dimensions {twin!r} and {symbol!r} are one, {twin!r}: the network takes no other "
                f"size of one of them alone ({self._refusal})"
            )
            self._rename(symbol, twin)
            if self._limit(twin, size):
                del refused_sizes[twin]

    def _limit(self, symbol: str, size: int) -> bool:
        """Find the limits of a dimension; whether it takes a larger size at all."""
        steps = [step for step in range(1, size + 1) if size % step == 0] or [1]
        step = next((s for s in steps if self._takes({symbol: size + s})), None)
        if step is None:
            return False
        least = self._least(symbol, size, step)
        if (least, step) != (1, 1):
            limits: tuple[int, None] | tuple[int, None, int] = (least, None, step)
            self.model = replace(self.model, dims={**self.model.dims, symbol: limits})
            spans = f"{least} and more" + (f", in steps of {step}" if step > 1 else "")
            self.remarks.append(
                f"dimension {symbol!r} may be {spans}, as far as was tried: the network refuses "
                f"others ({self._refusal})"
            )
        return True

    def _least(self, symbol: str, size: int, step: int) -> int:
        """The smallest size that the network takes, if it takes all above it."""
        low, high = 1, size // step  # in steps; the network takes ``high``
        if high <= low or self._takes({symbol: low * step}):
            return min(low * step, size)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._takes({symbol: middle * step}) else (middle, high)
        return high * step

    def _fit(self, one: str, other: str) -> bool:
        """Whether the network takes the same larger size of both."""
        size = probe_inputs.sizes(self.model, probe_inputs.example(self.model))[one]
        return self._takes({one: size + 1, other: size + 1}) or self._takes(
            {one: 2 * size, other: 2 * size}
        )

    def _takes(self, sizes: Mapping[str, int]) -> bool:
        try:
            self._run(probe_inputs.resize(self.model, probe_inputs.example(self.model), sizes))
        except ExportError as error:
            self._refusal = str(error).rpartition("Status Message: ")[2][:200]
            return False
        return True

    def _rename(self, symbol: str, name: str | None) -> None:
        """Call a dimension otherwise; None fixes it."""
        names: dict[str, str | None] = {**{s: s for s in self.model.dimensions()}, symbol: name}
        inputs = {}
        for key, value in self.model.inputs.items():
            labels = {axis: names[label] for axis, label in value.dynamic.items()}
            dynamic = {axis: label for axis, label in labels.items() if label is not None}
            inputs[key] = replace(value, dynamic=dynamic)
        self.model = replace(self.model, inputs=inputs)

    def _fix(self, symbol: str, size: int) -> None:
        self._takes({symbol: size + 1})  # for what it says
        self.remarks.append(
            f"dimension {symbol!r} is fixed at {size}: the network refuses larger sizes "
            f"({self._refusal})"
        )
        self._rename(symbol, None)
