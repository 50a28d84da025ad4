"""Values for the inputs of a loop's stage, of any number of rows, new tokens and past ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from mmedge.loop_spec import GenerateLoop
    from mmedge.spec import Array, Manifest, TensorSpec

__all__ = ["RunSizes", "StageFeeds"]


@dataclass(frozen=True, slots=True)
class RunSizes:
    """Of one run: rows, new tokens of each, and what its states hold before.

    ``position`` is what the loop says of the first token: ``past`` less what the states began with.
    """

    batch: int
    new: int
    past: int
    position: int


class StageFeeds:
    """Makes them.

    Args:
        manifest: has a loop ``generate``.
    """

    def __init__(self, manifest: Manifest) -> None:
        loop = manifest.loop
        if loop is None or loop.kind != "generate":
            raise ValueError("no loop generates tokens")
        self.loop: GenerateLoop = loop
        (self.stage,) = manifest.loop_stages()
        self._manifest = manifest
        self._specs = {spec.name: spec for spec in self.stage.inputs}
        self.token = self._specs[loop.token]
        self.states = [state for state in manifest.states if state.stage == self.stage.name]
        self.growing = [state for state in self.states if state.axis is not None]

    def spec(self, name: str) -> TensorSpec:
        """Of an input of the stage."""
        return self._specs[name]

    def past_limit(self) -> int | None:
        """Most places of a state that grows before a run; None: no limit is stated."""
        limits = [
            self._manifest.dimensions[str(self._specs[state.input].shape[2])].max
            for state in self.growing
        ]
        return min((limit for limit in limits if limit is not None), default=None)

    def new_limit(self) -> int | None:
        """Most new tokens of a run."""
        if len(self.token.shape) == 1:
            return 1
        size = self.token.shape[1]
        return size if isinstance(size, int) else self._manifest.dimensions[size].max

    def batch_limit(self) -> int | None:
        """Most rows of a run."""
        size = self.token.shape[0]
        return size if isinstance(size, int) else self._manifest.dimensions[size].max

    def make(self, sizes: RunSizes) -> dict[str, Array]:
        """Zeros in everything but the positions."""
        names: dict[str, int] = {}
        if isinstance(self.token.shape[0], str):
            names[self.token.shape[0]] = sizes.batch
        if len(self.token.shape) == 2 and isinstance(self.token.shape[1], str):
            names[self.token.shape[1]] = sizes.new
        for state in self.growing:
            names[str(self._specs[state.input].shape[2])] = sizes.past
        feeds = {
            name: np.zeros(
                [
                    size if isinstance(size, int) else names.get(size, self._opt(size))
                    for size in spec.shape
                ],
                DTYPES[spec.dtype],
            )
            for name, spec in self._specs.items()
        }
        if self.loop.position is not None:
            array = feeds[self.loop.position]
            places = np.arange(sizes.position, sizes.position + sizes.new, dtype=array.dtype)
            array[...] = places if array.ndim else places[0]
        return feeds

    def _opt(self, dimension: str) -> int:
        return self._manifest.dimensions[dimension].opt
