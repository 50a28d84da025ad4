"""The time of a call, part by part."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmedge.spec import Stage

__all__ = ["Laps"]


class Laps:
    """Splits a call into parts without gaps: each ends now and began where the last one ended.

    In nanoseconds, by part in ``parts``. Of no use where parts run at once.
    """

    __slots__ = ("_last", "parts")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._last = perf_counter_ns()
        self.parts = dict.fromkeys(names, 0)

    def end(self, name: str) -> None:
        """The part ``name`` ends."""
        now = perf_counter_ns()
        self.parts[name] += now - self._last
        self._last = now

    def after(self, stage: Stage, *_tensors: object) -> None:
        """The part of a stage ends."""
        self.end(stage.name)
