"""Values of a graph that are kept as the parts of a Concat, and work on them part by part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.size import ONE, Size, product, total

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from mmedge_export.onnx_graph.infer_sizes import Shape

__all__ = ["ConcatParts", "Owner", "RepeatedRows", "RowwisePlan"]

Owner = frozenset[str]
"""Names of modalities."""


@dataclass(frozen=True)
class ConcatParts:
    """What a value is the concatenation of.

    Each part is one value, or several that still have to be concatenated: neighbours of one
    modality are worked on together.

    Attributes:
        origin: the Concat.
        axis: along which they lie.
        values: of each part, in order.
        sizes: of each part along the axis; with ``rounds``, in one of them.
        owners: of each part.
        rounds: how often the parts take turns along the axis. An axis of cameras that was merged
            with a batch before it holds a row of each camera, then the next row of each. A part
            has its rows of all rounds, one after another.
    """

    origin: ir.Node
    axis: int
    values: tuple[tuple[ir.Value, ...], ...]
    sizes: tuple[Size, ...]
    owners: tuple[Owner, ...]
    rounds: Size = ONE

    @property
    def ends(self) -> tuple[Size, ...]:
        """Where each part ends along the axis, in one round."""
        return tuple(accumulate(self.sizes))

    def length(self, at: int) -> Size:
        """Size of a part along the axis."""
        return self.rounds * self.sizes[at]

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
        return replace(self, values=tuple(values), sizes=sizes, owners=tuple(owners))

    def reshaped(self, before: Shape, after: Shape) -> ConcatParts | None:
        """Where the parts are after a Reshape, without values; None where it mixes them.

        Elements are counted: as many lie before the first round, in each round and in each part
        as did before. The axis may be merged with others, or come out of a merged one.
        """
        rounds = product(before[: self.axis]) * self.rounds
        behind = product(before[self.axis + 1 :])
        for axis, size in enumerate(after):
            rounds_here = rounds.over(product(after[:axis]))
            rest = product(after[axis + 1 :])
            sizes = [(own * behind).over(rest) for own in self.sizes]
            whole = [own for own in sizes if own is not None and own.number != 0]
            if rounds_here is None or len(whole) < len(sizes):
                continue
            if rounds_here * total(whole) == size:
                return replace(self, axis=axis, sizes=tuple(whole), rounds=rounds_here)
        return None


@dataclass(frozen=True)
class RepeatedRows:
    """One row that a node repeats for every row of a whole: each part repeats it for its own.

    Attributes:
        node: an Expand or ConstantOfShape.
        axis: of its output, along which the rows are.
        shape: where the output's shape is among its inputs.
    """

    node: ir.Node
    axis: int
    shape: int


@dataclass(frozen=True)
class RowwisePlan:
    """How to compute a node part by part.

    Attributes:
        parts: what the parts have in common with those of the inputs: origin, sizes, owners.
        axis: of the outputs, along which they are parts.
        inputs: for each input what all parts share, or what it is cut into, or None if left out.
        targets: where one input is a shape, the sizes for that of each part; None is what is left.
        target_at: which input that is.
        regroups: the node merges the axis of the parts with others, or takes it out of them.
    """

    parts: ConcatParts
    axis: int
    inputs: tuple[ir.Value | ConcatParts | RepeatedRows | None, ...]
    targets: tuple[tuple[Size | None, ...], ...] | None = None
    target_at: int = 1
    regroups: bool = False
