"""The whole run of a dump again, on a simulated clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.recording.flight.comparison import ComparedResult, compare_outputs
from mmedge.recording.flight.options import plain, read_stream_options
from mmedge.recording.flight.reader import FIELDS, DumpEvent, DumpSample
from mmedge.recording.flight.values import aligned_value
from mmedge.stream import Observer, SimulatedClock, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.pipeline import Pipeline
    from mmedge.recording.flight.reader import DumpResult, FlightDump
    from mmedge.stream import Result

__all__ = ["compare_whole_run"]


class _Watcher(Observer):
    """Counts what the stream tells, as the recorder did, and keeps its results."""

    def __init__(self) -> None:
        self.told = 0
        self.results: list[Result] = []

    def on_push(self, *_told: object) -> None:
        self.told += 1

    def on_encoded(self, *_told: object) -> None:
        self.told += 1

    def on_result(self, result: Result) -> None:
        self.told += 1
        self.results.append(result)


def compare_whole_run(pipe: Pipeline, dump: FlightDump) -> list[ComparedResult]:
    """Push what was pushed when it was, and compare each result.

    Raises:
        InputError: the stream's options are not of this version.
    """
    header = dump.header
    options = read_stream_options(header["options"])
    clock = SimulatedClock(header["clock"]["start"], header["clock"]["costs"])
    watcher = _Watcher()
    withdrawn: list[int] = []
    with Stream(pipe, clock=clock, **options) as stream:
        stream.observe(watcher)
        for entry in dump.entries:
            if isinstance(entry, DumpSample):
                _advance(clock, watcher, entry.told, entry.arrival)
                stream.push(entry.modality, aligned_value(entry), entry.t, copy=False)
            elif isinstance(entry, DumpEvent) and entry.kind in ("forget", "reset"):
                _advance(clock, watcher, entry.told, entry.t)
                withdrawn.append(len(watcher.results))
                if entry.kind == "reset":
                    stream.reset()
                else:
                    stream.forget(entry.details["modality"])
            while _fetch(stream):
                pass
        _advance(clock, watcher, header["told"], header["t"])
    return _compare(dump.results, watcher.results, withdrawn)


def _fetch(stream: Stream) -> bool:
    try:
        stream.result(0.0)
    except TimeoutError:
        return False
    return True


def _advance(clock: SimulatedClock, watcher: _Watcher, told: int, time: float) -> None:
    """Let happen what happened before a time, and of that time as much as had been told."""
    while clock.next_time < time or (clock.next_time <= time and watcher.told < told):
        clock.step(time)
    if clock() < time and clock.next_time > time:
        clock.advance_to(time)


def _compare(
    recorded: list[DumpResult], replayed: list[Result], withdrawn: list[int]
) -> list[ComparedResult]:
    compared = []
    for index, result in enumerate(recorded):
        words: list[str] = []
        if index < len(replayed):
            other = replayed[index]
            for name in FIELDS:
                if name == "dropped" and index in withdrawn:
                    continue
                value = plain(getattr(other, name))
                if value != result.fields[name]:
                    words.append(
                        f"{name}: recorded {result.fields[name]!r:.120}, replayed {value!r:.120}"
                    )
            words += compare_outputs(result.outputs, plain_outputs(other.outputs))
        else:
            words.append("the replay has no such result")
        outcome = "different" if words else "equal"
        compared.append(
            ComparedResult(result.number, result.fields["t"], outcome, tuple(words))  # type: ignore[arg-type]
        )
    return compared


def plain_outputs(outputs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Outputs as a dump has them: arrays, and all else as JSON has it."""
    if outputs is None:
        return None
    return {
        name: value if hasattr(value, "tobytes") else plain(value)
        for name, value in outputs.items()
    }
