"""A recording played through a stream on a simulated clock: the same results each time.

``mmedge replay --simulated`` prints them, and logs at scale are run so (integrations/ray).
"""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any

from mmedge.closable import Closable
from mmedge.errors import InputError
from mmedge.recording.timeline import is_apart, two_clocks
from mmedge.stream import SimulatedClock, Stream
from mmedge.stream.options import read_trigger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmedge.pipeline import Pipeline
    from mmedge.recording.sample import Recording
    from mmedge.stream import Policy, Result

__all__ = ["Playback", "check_fits"]


def check_fits(pipe: Pipeline, recording: Recording, trigger: str | float) -> None:
    """Make sure that a recording can be replayed.

    Raises:
        InputError: it has other modalities than the bundle, or lacks what triggers.
    """
    read_trigger(trigger, pipe.bundle.manifest)
    names = [modality.name for modality in pipe.bundle.manifest.modalities]
    for name in recording.modalities:
        if name not in names:
            raise InputError(
                f"{recording.name}: modality {name!r} is none of bundle "
                f"{pipe.bundle.manifest.name!r}, which has {', '.join(names)}; the recording was "
                f"made for {recording.bundle!r}"
            )
    if isinstance(trigger, str) and trigger in names and trigger not in recording.modalities:
        raise InputError(
            f"{recording.name}: no samples of {trigger!r}, which is to trigger; the recording has "
            f"{', '.join(recording.modalities)}"
        )


class Playback(Closable):
    """Plays a recording through a new stream on a simulated clock, and gives its results.

    The clock stands at 0 at the first arrival. Each sample is pushed at its arrival, and a run of a
    stage takes ``costs[stage]`` seconds of this clock. No thread is used and no time is waited for,
    so the same recording gives the same results bit for bit, on the same kind of processor with the
    same engine and number of threads. Samples are read as they are pushed, a few at a time.

    Iterate over it once. Closing it closes the stream, not the pipeline.

    Args:
        pipe: a loaded pipeline with the recording's modalities; it loads the plan of streams.
        recording: from :func:`mmedge.recording.open_recording`, or golden samples.
        trigger: as for :class:`mmedge.Stream`, like ``deadline_ms`` and ``align``. With a number,
            what the last tick began is left under way.
        deadline_ms: see above.
        align: see above.
        costs: seconds that a run of each stage takes, by the stage's name; 0 for those not named.
        limits: further options of :class:`mmedge.Stream`, such as ``sanity`` and ``loop_options``.

    Attributes:
        stream: what the samples are pushed to; its health says what came of them.
        origin: arrival of the first sample, in the recorder's seconds; None: there is no sample.
        pushed: samples pushed so far, by modality.

    Raises:
        InputError: the recording does not fit the bundle, lacks what triggers, or cannot be read;
            or an option that is not allowed.
    """

    def __init__(
        self,
        pipe: Pipeline,
        recording: Recording,
        *,
        trigger: str | float,
        deadline_ms: float | None = None,
        align: Mapping[str, Policy] | None = None,
        costs: Mapping[str, float] | None = None,
        **limits: Any,  # noqa: ANN401
    ) -> None:
        check_fits(pipe, recording, trigger)
        manifest = pipe.bundle.manifest
        pipe.use_plan(manifest.stream_plan(pipe.variant))
        stages = [stage.name for stage in manifest.stages]
        for stage in costs or {}:
            if stage not in stages:
                raise InputError(f"costs: no stage {stage!r}; this bundle has {', '.join(stages)}")
        self._clock = SimulatedClock(costs=costs)
        self._ticks = not isinstance(trigger, str)
        self._name = recording.name
        samples = iter(recording)
        first = next(samples, None)
        self._samples = iter(()) if first is None else chain((first,), samples)
        self.origin = None if first is None else first.arrival
        self.pushed = {modality.name: 0 for modality in manifest.modalities}
        self.stream = Stream(
            pipe, trigger=trigger, deadline_ms=deadline_ms, align=align, clock=self._clock, **limits
        )

    def __iter__(self) -> Iterator[Result]:
        """Push the samples, and give each result as it is made.

        Raises:
            InputError: a sample cannot be read, or does not fit its modality; or, at the end, every
                stamp was of another clock than its arrival.
            BackendError: an engine failed.
        """
        clock, stream = self._clock, self.stream
        origin = self.origin or 0.0
        apart = 0
        for sample in self._samples:
            due = sample.arrival - origin
            while clock.next_time <= due:
                yield from self._step()
            clock.advance_to(due)
            # Copied: how an engine adds up depends on whether memory is aligned, which views of a
            # file are not.
            stream.push(sample.modality, sample.value, sample.t - origin)
            self.pushed[sample.modality] += 1
            apart += is_apart(sample)
            yield from self._fetch()
        if apart and apart == sum(self.pushed.values()):
            raise two_clocks(self._name, sample)
        # A timer never ends; what its last tick began is left under way.
        while not self._ticks and clock.next_time < math.inf:
            yield from self._step()

    def _step(self) -> Iterator[Result]:
        """Let all happen that is due at the next time of an event."""
        time = max(self._clock.next_time, self._clock())
        while self._clock.step(time):
            pass
        yield from self._fetch()

    def _fetch(self) -> Iterator[Result]:
        """All results that there are."""
        while True:
            try:
                result = self.stream.result(0.0)
            except TimeoutError:
                return
            yield result

    def close(self) -> None:
        """Close the stream. You may call it twice."""
        self.stream.close()
