"""One timed call of a pipeline, and the times of many."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CallTimes", "StepTimes", "TimedCall"]


class TimedCall(NamedTuple):
    """Nanoseconds of one call.

    Attributes:
        parts: by part, in order and without gaps.
        before: from the call's begin to the loop's first run.
        first: from the call's begin to the end of the first step.
        steps: of each step that counts as one: a loop that generates makes its first token by
            taking all first tokens, so steps begin with the second.
    """

    parts: Mapping[str, int]
    before: int = 0
    first: int = 0
    steps: Sequence[int] = ()


@dataclass(slots=True)
class StepTimes:
    """Of a loop, nanoseconds of all calls of one session, each array in the order of calls."""

    before: array[int] = field(default_factory=lambda: array("q"))
    first: array[int] = field(default_factory=lambda: array("q"))
    steps: array[int] = field(default_factory=lambda: array("q"))

    def add(self, call: TimedCall) -> None:
        """Count a call."""
        self.before.append(call.before)
        self.first.append(call.first)
        self.steps.extend(call.steps)


class CallTimes:
    """Nanoseconds of all calls of one session.

    Args:
        has_loop: whether calls have steps.

    Attributes:
        columns: by part and call.
        steps: None without a loop.
    """

    def __init__(self, *, has_loop: bool) -> None:
        self.columns: dict[str, array[int]] = {}
        self.steps = StepTimes() if has_loop else None

    def add(self, call: TimedCall) -> None:
        """Count a call."""
        if not self.columns:
            self.columns.update((name, array("q")) for name in call.parts)
        for name, value in call.parts.items():
            self.columns[name].append(value)
        if self.steps is not None:
            self.steps.add(call)
