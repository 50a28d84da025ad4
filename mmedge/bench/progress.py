"""Progress of a measurement, as its functions tell it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

#: Called with the name of a phase, the steps that are over and all its steps.
Progress = Callable[[str, int, int], None]


def silent(phase: str, step: int, total: int) -> None:
    """Tell nobody."""
