"""How a tensor of all heads lies in a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.spec import Array
    from mmedge_export.passes.in_place_cache.stage_feeds import RunSizes

__all__ = ["Placement", "place", "placement_of", "take"]

#: [batch, tokens, all heads], [batch, heads, tokens, size] or [batch, tokens, heads, size].
Placement = Literal["flat", "heads", "tokens"]


def placement_of(shape: Sequence[int], sizes: RunSizes, heads: int, size: int) -> Placement | None:
    """How a tensor of this shape lies in a run; None in no way that is known."""
    batch, new = sizes.batch, sizes.new
    forms: dict[tuple[int, ...], Placement] = {
        (batch, new, heads, size): "tokens",
        (batch, heads, new, size): "heads",
        (batch, new, heads * size): "flat",
    }
    return forms.get(tuple(shape))


def place(array: Array, placement: Placement | None) -> Array:
    """[batch, heads, tokens, size] so."""
    if placement == "heads":
        return array
    array = array.transpose(0, 2, 1, 3)
    return array.reshape(*array.shape[:2], -1) if placement == "flat" else array


def take(array: Array, placement: Placement | None, heads: int) -> Array:
    """[batch, heads, tokens, size] of what lies so."""
    if placement == "heads":
        return array
    array = array.reshape(*array.shape[:2], heads, -1)
    return array.transpose(0, 2, 1, 3)
