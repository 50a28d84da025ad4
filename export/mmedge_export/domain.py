"""The sizes that dynamic dimensions may have together, and where a relation of them breaks."""

from __future__ import annotations

import re
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mmedge.constraints import Relations, allows, parse, round_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge.spec import Constraint, Dimension

__all__ = ["Question", "SizeDomain"]

#: Combinations that are looked at for one relation; all of them, where there are no more.
COMBINATIONS = 4096

#: Sizes in a row from the smallest on, and around the example's, that are always among them.
_RUN, _AROUND = 40, 4

#: Powers of two up to this are tried in a dimension without a largest size.
_FAR = 20


class Question(Protocol):
    """What is known of a relation: the names in it, and whether it holds at given sizes."""

    names: frozenset[str]
    text: str

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it holds at ``sizes``."""


class SizeDomain:
    """Sizes that calls may have.

    Args:
        dimensions: limits of each dimension of the inputs.
        constraints: relations between them that every call keeps.
    """

    def __init__(
        self, dimensions: Mapping[str, Dimension], constraints: Sequence[Constraint] = ()
    ) -> None:
        self.dimensions = dict(dimensions)
        self.constraints = tuple(constraints)
        self.relations = Relations(self.dimensions, self.constraints)
        self._breaks: dict[str, tuple[dict[str, int], ...]] = {}

    def unconstrained(self) -> SizeDomain:
        """This domain without its constraints."""
        return SizeDomain(self.dimensions)

    def allows(self, sizes: Mapping[str, int]) -> bool:
        """Whether a call may have ``sizes``."""
        return all(
            allows(self.dimensions[name], size) for name, size in sizes.items()
        ) and self.relations.holds(sizes)

    def near(self, sizes: Mapping[str, int]) -> dict[str, int] | None:
        """The next allowed sizes from ``sizes`` on, few steps away; None where none are."""
        start = {name: round_up(self.dimensions[name], size) for name, size in sizes.items()}
        if self.allows(start):
            return start
        related_names = {name for c in self.constraints for name in parse(c.expression).names}
        movable_names = [name for name in sizes if name in related_names]
        steps = (0, 1, 2, 3, 4, 8, 16, -1, -2) if len(movable_names) < 4 else (0, 1, 2)
        ways = product(*[steps] * len(movable_names))
        for way in sorted(ways, key=lambda way: sum(map(abs, way)))[:COMBINATIONS]:
            neighbor = start | {
                name: start[name] + step * self.dimensions[name].multiple
                for name, step in zip(movable_names, way, strict=True)
            }
            if self.allows(neighbor):
                return neighbor
        return None

    def breaks(self, relation: Question) -> list[dict[str, int]]:
        """Allowed sizes at which ``relation`` does not hold, of its dimensions alone.

        All combinations are tried where there are at most :data:`COMBINATIONS`, else those of small
        sizes, sizes around the example's, the limits, powers of two, and what lies around the
        numbers in the relation.
        """
        if relation.text not in self._breaks:  # thousands of sizes, and the same few are asked for
            self._breaks[relation.text] = tuple(
                sizes for sizes in self.trials(relation) if not relation.holds(sizes)
            )
        return list(self._breaks[relation.text])

    def trials(self, relation: Question) -> list[dict[str, int]]:
        """The allowed sizes that :meth:`breaks` looks at."""
        names = sorted(relation.names)
        counts = [self._count(name) for name in names]
        if None not in counts and prod(count or 0 for count in counts) <= COMBINATIONS:
            axes = [list(self._all(name)) for name in names]
        else:
            numbers = {int(number) for number in re.findall(r"\d+", relation.text)}
            axes = [self._choose(self.dimensions[name], numbers, len(names)) for name in names]
        combinations = (dict(zip(names, sizes, strict=True)) for sizes in _some(axes))
        if not self.relations.any:
            return list(combinations)
        return [sizes for sizes in combinations if self.relations.holds(sizes)]

    def _count(self, name: str) -> int | None:
        limits = self.dimensions[name]
        return None if limits.max is None else (limits.max - limits.min) // limits.multiple + 1

    def _all(self, name: str) -> Iterator[int]:
        limits = self.dimensions[name]
        yield from range(limits.min, (limits.max or 0) + 1, limits.multiple)

    def _choose(self, limits: Dimension, numbers: set[int], rank: int) -> list[int]:
        step = limits.multiple
        run = COMBINATIONS if rank == 1 else _RUN
        sizes = {limits.min + step * i for i in range(run)}
        sizes |= {limits.opt + step * i for i in range(-_AROUND, _AROUND + 1)}
        around = {number * factor for number in numbers for factor in (1, 2, 3)}
        sizes |= {round_up(limits, size + i) for size in around for i in (-step, 0, 1, step + 1)}
        sizes |= {round_up(limits, 2**i + j) for i in range(_FAR + 1) for j in (0, 1)}
        if limits.max is not None:
            sizes |= {limits.max - step * i for i in range(_AROUND)}
        return sorted(size for size in sizes if allows(limits, size))


def _some(axes: list[list[int]]) -> Iterator[tuple[int, ...]]:
    """All combinations, or as many drawn at random, with those of the first sizes."""
    if prod(map(len, axes)) <= 2 * COMBINATIONS:
        yield from product(*axes)
        return
    first = max(int(COMBINATIONS ** (1 / len(axes)) / 2), 2)
    yield from product(*(axis[:first] for axis in axes))
    rng = np.random.default_rng(0)
    for _ in range(COMBINATIONS):
        yield tuple(axis[rng.integers(len(axis))] for axis in axes)
