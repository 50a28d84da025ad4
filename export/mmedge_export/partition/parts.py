"""Values of a graph that are kept as the parts of a Concat."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.size import Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

__all__ = ["ConcatParts", "Owner"]

Owner = frozenset[str]
"""Names of modalities."""


@dataclass(frozen=True)
class ConcatParts:
    """What a value is the concatenation of.

    Each part is one value, or several that still have to be concatenated: neighbours of one
    modality are worked on together.
    """

    origin: ir.Node
    axis: int
    values: tuple[tuple[ir.Value, ...], ...]
    sizes: tuple[Size, ...]
    owners: tuple[Owner, ...]

    @property
    def ends(self) -> tuple[Size, ...]:
        """Where each part ends along the axis."""
        return tuple(accumulate(self.sizes))

    def worth(self) -> bool:
        """Whether a part is one modality's own and another is not its."""
        return len(set(self.owners) - {frozenset()}) > 1 and any(len(o) == 1 for o in self.owners)

    def merge(self, ends: Sequence[Size]) -> ConcatParts:
        """The same with fewer parts, that end at ``ends``, each of which is an end now."""
        values: list[tuple[ir.Value, ...]] = [()]
        owners: list[Owner] = [frozenset()]
        for value, owner, end in zip(self.values, self.owners, self.ends, strict=True):
            values[-1] += value
            owners[-1] |= owner
            if end in ends[:-1]:
                values.append(())
                owners.append(frozenset())
        starts = (Size(), *ends[:-1])
        sizes = tuple(end - start for start, end in zip(starts, ends, strict=True))
        return ConcatParts(self.origin, self.axis, tuple(values), sizes, tuple(owners))
