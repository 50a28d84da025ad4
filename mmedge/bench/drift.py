"""Plays recordings through a stream on a simulated clock, to learn what is normal, or to score."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mmedge.drift.learn import fit_profile
from mmedge.errors import InputError
from mmedge.recording.playback import check_fits
from mmedge.stream import SimulatedClock
from mmedge.stream.drift import DriftLearner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mmedge.drift import DriftProfile
    from mmedge.pipeline import Pipeline
    from mmedge.recording import Recording
    from mmedge.stream import Observer, Stream
    from mmedge.stream.result import Result

__all__ = ["learn_drift", "play"]


def learn_drift(
    pipe: Pipeline,
    recordings: Iterable[Recording],
    *,
    trigger: str | float | None = None,
    false_alarm_hours: float = 24.0,
    window_seconds: float = 2.5,
) -> DriftProfile:
    """Learn what is normal of recordings of good operation.

    The recordings are played through a stream, as fast as the stages run, so that samples which a
    stream would drop teach nothing, and features are those of this pipeline.

    Args:
        pipe: a loaded pipeline.
        recordings: what sensors brought while all was well: in all light, places and moods that are
            normal. What they do not have is an alarm later.
        trigger: of the stream, as for :class:`mmedge.Stream`; None: the modality of the most
            samples.
        false_alarm_hours: hours of normal operation in which one false alarm is expected, of all
            modalities together. Most of it is extrapolated from the recordings.
        window_seconds: over how long looks are averaged: a shorter window finds a change sooner, a
            longer one a smaller change.

    Raises:
        InputError: a recording does not fit or cannot be read, or there is too little of it.
    """
    learner = DriftLearner(pipe.bundle.manifest)
    for recording in recordings:
        learner.begin()
        for _ in play(pipe, recording, trigger=trigger, observer=learner):
            pass
    return fit_profile(
        pipe.bundle.manifest,
        pipe.bundle.digest,
        learner.logs,
        false_alarm_hours=false_alarm_hours,
        window_seconds=window_seconds,
    )


def play(
    pipe: Pipeline,
    recording: Recording,
    *,
    trigger: str | float | None = None,
    drift: DriftProfile | None = None,
    observer: Observer | None = None,
) -> Iterator[Result]:
    """Push a recording to a new stream on a simulated clock, as fast as stages run; its results.

    Times count from the first arrival.

    Args:
        pipe: a loaded pipeline.
        recording: what to push.
        trigger: as for :func:`learn_drift`.
        drift: as for :class:`mmedge.Stream`.
        observer: is told what happens.

    Raises:
        InputError: the recording does not fit, or cannot be read.
    """
    if trigger is None:
        trigger = _most_frequent(recording)
    check_fits(pipe, recording, trigger)
    clock = SimulatedClock()
    with pipe.stream(trigger=trigger, clock=clock, drift=drift) as stream:
        if observer is not None:
            stream.observe(observer)
        origin: float | None = None
        for sample in recording:
            origin = sample.arrival if origin is None else origin
            due = sample.arrival - origin
            while clock.step(due):
                yield from _fetch(stream)
            clock.advance_to(due)
            # Copied: a stream keeps what a recording reads a part at a time.
            stream.push(sample.modality, sample.value, sample.t - origin)
            yield from _fetch(stream)
        # A timer never ends; what its last tick began is left under way.
        while isinstance(trigger, str) and clock.step(float("inf")):
            yield from _fetch(stream)


def _most_frequent(recording: Recording) -> str:
    """The modality of the most samples: every other is encoded whenever it comes."""
    counts = Counter(sample.modality for sample in recording)
    if not counts:
        raise InputError(f"{recording.name}: no samples; record again")
    return counts.most_common(1)[0][0]


def _fetch(stream: Stream) -> Iterator[Result]:
    while True:
        try:
            yield stream.result(0.0)
        except TimeoutError:
            return
