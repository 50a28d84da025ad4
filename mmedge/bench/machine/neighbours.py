"""How much of the cores other processes took while something was measured."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Self

from mmedge.bench.machine.host import ROOT
from mmedge.bench.machine.monitor import cpu_times

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["BUSY", "Neighbours", "busy_share", "busy_words"]

#: Share of all cores' time in the hands of others from which a time says little of what was timed.
BUSY = 0.10

#: Clock ticks of all cores together that are enough to tell a share: they come in hundredths of a
#: second.
LEAST_TICKS = 10


class Neighbours:
    """Context manager around a measurement; child processes that ended in it count as its own.

    Args:
        root: where ``/proc`` is.

    Attributes:
        share: of all cores' time that other processes and a hypervisor took, 0 to 1; None where it
            cannot be told, or the block was too short.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self.share: float | None = None

    def __enter__(self) -> Self:
        self._before, self._children = cpu_times(self._root), _children_s()
        return self

    def __exit__(self, *_: object) -> None:
        now = cpu_times(self._root)
        if now is None or self._before is None:
            return
        total = now.total - self._before.total
        shares = now.since(self._before)
        if shares is None or total < LEAST_TICKS:
            return
        ticks = (_children_s() - self._children) * os.sysconf("SC_CLK_TCK")
        self.share = max(0.0, shares["others"] - ticks / total) + shares["steal"]


def busy_share(share: Mapping[str, float | None] | None) -> float | None:
    """What others took, of the shares that a report has under ``cpu_share``; None: not known."""
    others, steal = (None, None) if share is None else (share["others"], share["steal"])
    return None if others is None or steal is None else others + steal


def busy_words(share: float | None) -> str | None:
    """What to say beside a time; None where others left the cores alone, or nothing is known."""
    if share is None or share < BUSY:
        return None
    return f"other processes took {100 * share:.0f} % of the cores while this was timed"


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
