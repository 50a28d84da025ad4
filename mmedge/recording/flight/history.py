"""What happened in the time of a dump, in words: events, and spans in which something was wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge.recording.flight.reader import DumpEvent, DumpResult, DumpSample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmedge.recording.flight.reader import FlightDump

__all__ = ["Happening", "happenings"]

#: A reason begins with its kind; figures follow.
KIND = re.compile(r"[^:(]*")


@dataclass
class Happening:
    """An event, or a span.

    Attributes:
        begin: in seconds of the stream's clock.
        end: the same; of an event ``begin``.
        words: what happened.
        count: samples or results of a span; 0: an event.
        is_open: whether it went on when the dump ended.
    """

    begin: float
    end: float
    words: str
    count: int = 0
    is_open: bool = True

    def __str__(self) -> str:
        if not self.count:
            return self.words
        many = "" if self.count == 1 else f" ({self.count} in a row)"
        return f"{self.words}{many}"


def happenings(dump: FlightDump) -> list[Happening]:
    """Events, samples that were dropped at once, absences and results not as asked for, in order.

    What is the same in one sample or result after another is one span.
    """
    spans = _Spans()
    found: list[Happening] = []
    for entry in dump.entries:
        if isinstance(entry, DumpEvent):
            words = f"{entry.kind}: {entry.message}"
            found.append(Happening(entry.t, entry.t, words, is_open=False))
        elif isinstance(entry, DumpSample) and not entry.held:
            faults = {entry.fault: f"{entry.modality}: dropped as {entry.fault}"}
            spans.take(
                ("fault", entry.modality), entry.arrival, faults if entry.fault else {}, found
            )
        elif isinstance(entry, DumpResult):
            spans.take(("result",), entry.fields["made"], dict(_faults(entry)), found)
    return sorted(found, key=lambda happening: happening.begin)


def _faults(result: DumpResult) -> Iterator[tuple[str, str]]:
    """What is not as asked for in a result: a key for the same, and words."""
    fields = result.fields
    if result.outputs is None:
        yield "empty", f"results without outputs: {fields['reason']}"
    elif not fields["fresh"]:
        yield "repeated", f"results that repeat outputs: {fields['reason']}"
    elif fields["met"] is False:
        yield "late", "results later than the deadline"
    for name, why in fields["absent"].items():
        kind = KIND.match(why)
        yield f"absent {name} {kind[0] if kind else why}", f"{name} absent: {why}"


class _Spans:
    """Those that go on, by who they are of and their key."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, ...], dict[str | None, Happening]] = {}

    def take(
        self,
        owner: tuple[str, ...],
        t: float,
        faults: dict[str, str] | dict[str | None, str],
        found: list[Happening],
    ) -> None:
        spans = self._open.setdefault(owner, {})
        for key in [key for key in spans if key not in faults]:
            spans.pop(key).is_open = False
        for key, words in faults.items():
            span = spans.get(key)
            if span is None:
                span = spans[key] = Happening(t, t, words)
                found.append(span)
            span.end = t
            span.count += 1
