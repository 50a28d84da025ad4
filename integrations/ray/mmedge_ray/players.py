"""What makes rows: a recording that is played through a stream, and samples that are run singly."""

from __future__ import annotations

from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors

from mmedge import MMEdgeError
from mmedge.recording import Playback, open_recording, plan_replay

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmedge import Pipeline
    from mmedge.recording import Recorded, Recording
    from mmedge_ray.job import CallOptions, StreamOptions
    from mmedge_ray.tables import Rows

__all__ = ["Player", "RecordingPlayer", "SamplePlayer"]

#: Results that may wait in a stream: more than one push makes, so that none is dropped unseen.
KEEP = 65536


class Player(Protocol):
    """Makes rows of one recording, or of one part of a folder of samples.

    Attributes:
        errors: name of a sample that could not be run, and why.
        missing: in words, what the recording lacks.
        read_seconds: spent on reading and decoding samples.
        end: what else is to be known of it once it has been played, in values that JSON has.
    """

    errors: list[tuple[str, str]]
    missing: str
    read_seconds: float
    end: Mapping[str, Any]

    def fill(self, rows: Rows) -> Iterator[None]:
        """Play it: add what comes to ``rows``, and give the caller a turn to take it."""


class RecordingPlayer:
    """See :class:`Player`.

    Args:
        how: how recordings are played.
        pipe: plays it.
        name: of the recording.
        path: of the recording.
    """

    def __init__(self, how: StreamOptions, pipe: Pipeline, name: str, path: Path) -> None:
        self.errors: list[tuple[str, str]] = []
        self.read_seconds = 0.0
        self.end: Mapping[str, Any] = {}
        self._how, self._pipe, self._name = how, pipe, name
        recording = open_recording(path)
        if how.skip_gaps:
            started = perf_counter()
            recording = plan_replay(recording, skip_gaps=True, waits=False)
            self.read_seconds += perf_counter() - started
        self.missing = recording.missing
        self._recording = _Timed(recording)

    def fill(self, rows: Rows) -> Iterator[None]:
        """See :meth:`Player.fill`."""
        how = self._how
        limits = {"keep": KEEP, **how.limits}
        with Playback(
            self._pipe, self._recording, trigger=how.trigger, deadline_ms=how.deadline_ms,
            align=how.align, costs=how.costs, **limits,
        ) as playback:  # fmt: skip
            for result in playback:
                rows.add_result(self._name, result)
                yield
            health = playback.stream.health()
            self.read_seconds += self._recording.seconds
            self.end = {
                "origin": playback.origin,
                "pushed": playback.pushed,
                "health": asdict(health),
            }


class _Timed:
    """A recording that keeps the time which reading its samples takes."""

    def __init__(self, recording: Recording) -> None:
        self.name, self.bundle = recording.name, recording.bundle
        self.modalities, self.missing = recording.modalities, recording.missing
        self.seconds = 0.0
        self._recording = recording

    def __iter__(self) -> Iterator[Recorded]:
        samples = iter(self._recording)
        while True:
            started = perf_counter()
            sample = next(samples, None)
            self.seconds += perf_counter() - started
            if sample is None:
                return
            yield sample


class SamplePlayer:
    """See :class:`Player`.

    Args:
        how: options of each call.
        pipe: runs them.
        paths: a safetensors file for each sample, with a tensor for each input.
    """

    def __init__(self, how: CallOptions, pipe: Pipeline, paths: list[Path]) -> None:
        self.errors: list[tuple[str, str]] = []
        self.missing = ""
        self.read_seconds = 0.0
        self.end: Mapping[str, Any] = {}
        self._how, self._pipe, self._paths = how, pipe, paths

    def fill(self, rows: Rows) -> Iterator[None]:
        """See :meth:`Player.fill`. A sample that cannot be run has a row with its error."""
        for path in self._paths:
            started = perf_counter()
            try:
                inputs = read_tensors(path.read_bytes())
                self.read_seconds += perf_counter() - started
                # Each sample by itself: what others left in a cache changes nothing.
                outputs = self._pipe.run(inputs, cached=False, **self._how.options)
            except (MMEdgeError, OSError, SafetensorError, TimeoutError) as error:
                self.errors.append((path.name, str(error)))
                rows.add_call(path.name, None, str(error))
            else:
                rows.add_call(path.name, outputs)
            yield
