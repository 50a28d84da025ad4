"""Jumps ahead of a stream's time that are no part of an age or of a latency."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

__all__ = ["NO_JUMPS", "Jumps"]


@dataclass(frozen=True, slots=True)
class Jumps:
    """The jumps that time made ahead since a trigger came: a time within each, and its seconds."""

    jumps: tuple[tuple[float, float], ...] = ()

    def add(self, within: float, ahead: float) -> Jumps:
        """These, and one more."""
        return Jumps((*self.jumps, (within, ahead)))

    def since(self, arrival: float = -inf) -> float:
        """Seconds of those made since the trigger and something else came, at ``arrival``."""
        if not self.jumps:
            return 0.0
        return sum(ahead for within, ahead in self.jumps if arrival < within)


NO_JUMPS = Jumps()
