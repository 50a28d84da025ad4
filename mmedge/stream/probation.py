"""Watches a network that has just taken over: what it does wrong, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.stream.shadow import find_non_finite

if TYPE_CHECKING:
    from collections.abc import Collection

    from mmedge.stream.choose import Active
    from mmedge.stream.compute import Encoded, Fused
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Network
    from mmedge.stream.result import Result

__all__ = ["Probation"]

#: Deadline misses beyond the share before the switch: the first results meet cold caches.
MORE_MISSES = 2


class Probation:
    """The results after a switch, so many of them.

    Args:
        network: the one that is watched.
        most: results that it takes.
        share: of the results before the switch that missed the deadline.
        non_finite: outputs that may have NaN and infinity, since they had before.

    Attributes:
        results: so far, of every kind.
        misses: those that were late, or repeated others in place of that.
        fault: why the misses are too many; empty: they are not.
    """

    def __init__(
        self, network: Network, most: int, share: float, non_finite: Collection[str]
    ) -> None:
        self._network, self._most = network, most
        self._share, self._non_finite = share, non_finite
        self.results = self.misses = 0
        self.fault = ""

    @property
    def is_over(self) -> bool:
        """Whether it has made all its results."""
        return self.results >= self._most

    @property
    def misses_allowed(self) -> float:
        """Most misses of so many results, by the share before."""
        return self._share * self.results + MORE_MISSES

    def add(self, result: Result) -> None:
        """Count a result."""
        self.results += 1
        self.misses += result.met is False and result.outputs is not None
        if self.misses > self.misses_allowed:
            self.fault = (
                f"{self.misses} of {self.results} results missed the deadline, "
                f"{self.misses_allowed:.3g} at most by the share before"
            )

    def check_encoded(self, track: ModalityState, outcome: Encoded) -> str:
        """What is wrong with an encoding; empty: nothing, or another network did it."""
        if outcome.compute is not self._network.compute or outcome.features is not None:
            return ""
        return f"its encoder of {track.name!r} failed: {outcome.message}"

    def check_fused(self, active: Active, outcome: Fused) -> str:
        """What is wrong with a fusion; empty: nothing, or another network did it."""
        if active.network is not self._network:
            return ""
        if outcome.message:
            return f"its fusion failed: {outcome.message}"
        outputs = outcome.outputs or {}
        return find_non_finite({k: v for k, v in outputs.items() if k not in self._non_finite})
