"""How many operations a run of a network takes at other sizes, by which large runs are bounded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmedge_export.model import Model

__all__ = ["LARGE", "LARGEST", "RunSize"]

#: Operations of a run that is large: about a fifth of a second of one core. A large run is made
#: once at its sizes, and not for every kind of inputs.
LARGE = 10_000_000_000

#: Operations of the largest run that is made only because a size is allowed: seconds of a core.
LARGEST = 100_000_000_000


@dataclass(frozen=True)
class RunSize:
    """Operations of runs: those of a modality grow with its input that grows most.

    What a network computed itself does not count: a state is read, and tokens are the work.

    Attributes:
        model: its inputs.
        flops: operations of one run by modality, and under None those that follow from several;
            empty: not counted, and no run is large.
        counted_at: sizes of that run that are not the example's.
    """

    model: Model
    flops: Mapping[str | None, int]
    counted_at: Mapping[str, int]

    def operations(self, sizes: Mapping[str, int]) -> int:
        """About how many a run at ``sizes`` takes."""
        base = {name: limits.opt for name, limits in self.model.dimensions().items()}
        base |= self.counted_at
        groups = self.model.modalities()

        def growth(modality: str | None) -> float:
            names = list(self.model.inputs) if modality is None else groups[modality]
            inputs = [name for name in names if name not in self.model.computed] or names
            dynamic = (self.model.inputs[name].dynamic.values() for name in inputs)
            return max(
                (prod(sizes[name] / max(base[name], 1) for name in each) for each in dynamic),
                default=1.0,
            )

        return round(sum(flops * growth(modality) for modality, flops in self.flops.items()))

    def largest(self, sizes: Iterable[Mapping[str, int]]) -> int:
        """Operations of the largest run that may be made where ``sizes`` are tried in any case."""
        return max(LARGEST, *(self.operations(each) for each in sizes))

    def is_large(self, sizes: Mapping[str, int]) -> bool:
        """Whether a run at ``sizes`` is one of those that are bounded."""
        return self.operations(sizes) > LARGE
