"""Records what an application pushes while it runs, in a thread of its own.

The recorder and the stream that it wraps stand in one module: they share a lock and a clock.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.closable import Closable
from mmedge.errors import BackendError, InputError
from mmedge.forks import ADVICE, watch
from mmedge.recording.directory import DirectoryWriter
from mmedge.recording.sample import Recorded, Value, check_times, size_of, to_value
from mmedge.spec import Manifest
from mmedge.stream.clock import StreamClock, read_seconds

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from mmedge.bundle import Bundle
    from mmedge.recording.sample import Writer
    from mmedge.stream import Health, Result, Stream

__all__ = ["SUFFIX", "Recorder", "RecordingStream", "need_mcap", "open_writer"]

#: Suffix of a recording that is one MCAP file.
SUFFIX = ".mcap"
#: Bytes of values that may wait to be written, besides the newest.
QUEUE_BYTES = 256 << 20
#: Seconds by which two readings of one clock may differ.
SAME_CLOCK = 1.0
#: Seconds between two looks whether what was written may be left in memory any longer.
SETTLE = 0.5
#: Samples that may wait, for values of few bytes.
QUEUE_SAMPLES = 65536


def need_mcap() -> None:
    """Make sure that the mcap library is there.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import mcap  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"an {SUFFIX} recording needs the mcap library: pip install 'mmedge[mcap]'"
        ) from error


def open_writer(path: Path, manifest: Manifest, *, origin: float) -> Writer:
    """Begin a recording of the form that the path's suffix says; the clock stands at ``origin``.

    Raises:
        InputError: the path exists or cannot be written.
        BackendError: an ``.mcap`` path without the mcap library.
    """
    modalities = tuple(modality.name for modality in manifest.modalities)
    try:
        if path.suffix == SUFFIX:
            need_mcap()
            from mmedge.recording.mcap import McapWriter

            return McapWriter(path, manifest.name, modalities, origin=origin)
        return DirectoryWriter(path, manifest.name, modalities)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


class Recorder(Closable):
    """Writes a recording; see docs/reference/recording.md.

    A value is copied when it is recorded, and a thread writes it. If the thread falls behind, the
    application goes on: while ``queue_bytes`` wait, the newest sample is left out and counted in
    ``lost``. A disk error stops nothing either: all later samples are lost, and :meth:`close`
    raises.

    You may call it from several threads.

    Args:
        path: where to write; nothing may be there. With the suffix ``.mcap`` one MCAP file,
            otherwise a folder.
        source: the bundle, or its manifest, whose modalities are recorded.
        clock: the clock of stamps and arrivals, in seconds; pass the stream's own if it has one.
            None: ``time.monotonic``, as in a stream. If it is set back (a bag that plays in a
            loop), arrivals go on, and so do the stamps that are read from it (see
            :class:`mmedge.stream.clock.StreamClock`).
        queue_bytes: bytes of values that may wait to be written, above 0.

    Attributes:
        count: samples accepted so far, not all of them written yet.
        lost: samples not recorded so far, by reason: ``queue_full``, ``unfit`` (a value that no
            recording holds, such as an array on a GPU), ``bad_time`` (a stamp or an arrival that
            is no time of the recorder's clock) or ``write_error``.

    Raises:
        InputError: ``path`` exists or cannot be written, or ``queue_bytes`` < 1.
        BackendError: an ``.mcap`` path without the mcap library.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        source: Bundle | Manifest,
        *,
        clock: Callable[[], float] | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        if queue_bytes < 1:
            raise InputError(f"queue_bytes must be at least 1, got {queue_bytes}")
        manifest = source if isinstance(source, Manifest) else source.manifest
        self.count = 0
        self.lost: Counter[str] = Counter()
        self._path = Path(path)
        self._inputs = {m.name: frozenset(m.inputs) for m in manifest.modalities}
        self._texts = {m.name for m in manifest.modalities if m.tokenizer is not None}
        self._clock = StreamClock(time.monotonic if clock is None else clock)
        self._limit = queue_bytes
        self._waiting: deque[Recorded] = deque()
        self._bytes = 0
        self._last = -math.inf
        self._closed = self._disowned = False
        self._error: Exception | None = None
        self._turn = threading.Condition()
        self._writer = open_writer(self._path, manifest, origin=self._clock())
        self._thread = threading.Thread(target=self._write, name="mmedge recorder", daemon=True)
        self._thread.start()
        watch(self)

    def record(
        self,
        modality: str,
        value: Any,  # noqa: ANN401
        t: float | None = None,
        arrival: float | None = None,
        *,
        copy: bool = True,
        wait: bool = False,
    ) -> bool:
        """Record one sample. Returns whether it will be written (False: it is in ``lost``).

        Args:
            modality: its name.
            value: as for :meth:`mmedge.Stream.push`: an array, a mapping from each input to an
                array, or text. Shapes are not checked.
            t: when it was measured; None: at its arrival.
            arrival: when it came, not before the arrival of the sample before; None: now.
            copy: False saves the copy, for an array that nobody writes to any more.
            wait: True waits for the writer while the queue is full, so that nothing is left out for
                that: to convert another log. False never waits, as sensors ask for.

        Raises:
            InputError: an unknown modality, other inputs than it has, a value that no recording
                holds, a time that is no finite number, or an arrival before the last. Also times of
                the very first sample that are no seconds of the recorder's clock (a later sample
                with such a time is left out, and counted in ``lost``).
            BackendError: the recorder is closed.
        """
        self._check_owned()
        content = self._fit(modality, value, copy=copy)
        where = f"modality {modality!r}"
        t = None if t is None else read_seconds(t, f"{where}: a stamp")
        arrival = None if arrival is None else read_seconds(arrival, f"{where}: an arrival")
        with self._turn:
            while wait and self._is_full() and self._error is None and not self._closed:
                self._turn.wait(SETTLE)
            now = self._clock() if arrival is None else arrival
            if arrival is None:
                if math.isfinite(self._last):
                    now = max(now, self._last)
                t = None if t is None else t + self._clock.offset
            sample = Recorded(modality, now if t is None else t, now, content)
            check_times(sample, self._last, where)
            if not self.count and (fault := self._writer.fault(sample)):
                raise InputError(f"{where}: {fault}")
            return self._put(sample)

    def attach(self, stream: Stream) -> RecordingStream:
        """Return the stream as one that also records each sample that is pushed to it.

        A push that raises is not recorded. Closing it closes the stream and not the recorder.

        Raises:
            InputError: the stream's clock is not the recorder's, so stamps and arrivals would be of
                two clocks.
        """
        arrival, offset = self._time()
        here, there = arrival - offset, stream.now()
        if abs(here - there) > SAME_CLOCK:
            raise InputError(
                f"{self._path}: the stream's clock stands at {there:g} s and the recorder's at "
                f"{here:g} s; make both with the same clock: Recorder(..., clock=clock) and "
                "pipe.stream(..., clock=clock)"
            )
        return RecordingStream(stream, self._time, self._pushed)

    def close(self) -> None:
        """Write the samples that wait, and end. You may call it twice.

        Raises:
            InputError: a disk error; whole chunks can be read.
        """
        if self._disowned:
            return
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._turn.notify_all()
        self._thread.join()
        if self._error is not None:
            raise InputError(
                f"{self._path}: cannot be written: {self._error}; what came before it in whole "
                "chunks can be read, the rest is lost"
            ) from self._error

    def disown(self) -> None:
        """See :class:`mmedge.forks.Inherited`: its thread and its file are the parent's."""
        self._disowned = True

    def _check_owned(self) -> None:
        """Before the lock is taken, which a thread of the parent may have held."""
        if self._disowned:
            raise BackendError(f"{self._path}: {ADVICE}")

    def _time(self) -> tuple[float, float]:
        """The time, and what it is ahead of the clock's seconds since that was set back."""
        self._check_owned()
        with self._turn:
            return self._clock(), self._clock.offset

    def _pushed(
        self,
        modality: str,
        value: Any,  # noqa: ANN401
        t: float | None,
        arrival: float,
        offset: float,
        *,
        copy: bool,
    ) -> None:
        """Take in what a stream took: nothing here may disturb the application."""
        try:
            content = self._fit(modality, value, copy=copy)
        except InputError:
            with self._turn:
                self.lost["unfit"] += 1
            return
        with self._turn:
            if self._closed:
                return
            # Two threads may come in another order than their pushes began.
            arrival = max(arrival, self._last)
            stamp = arrival if t is None else float(t) + offset
            self._put(Recorded(modality, stamp, arrival, content))

    def _fit(self, modality: str, value: Any, *, copy: bool) -> Value:  # noqa: ANN401
        inputs = self._inputs.get(modality)
        if inputs is None:
            raise InputError(
                f"unknown modality {modality!r}; this bundle has {', '.join(self._inputs)}"
            )
        try:
            content = to_value(value, copy=copy)
        except InputError as error:
            raise InputError(f"modality {modality!r}: {error}") from error
        if isinstance(content, str):
            fits = modality in self._texts
        elif isinstance(content, Mapping):
            fits = content.keys() == inputs
        else:
            fits = len(inputs) == 1
        if not fits:
            got = "text" if isinstance(content, str) else "an array"
            got = f"inputs {', '.join(content)}" if isinstance(content, Mapping) else got
            raise InputError(
                f"modality {modality!r}: expected a value for inputs {', '.join(sorted(inputs))}, "
                f"got {got}"
            )
        return content

    def _put(self, sample: Recorded) -> bool:
        """Queue a sample; called with the lock held."""
        if self._closed:
            raise BackendError(f"{self._path}: the recorder is closed; make a new one")
        if self._writer.fault(sample):
            self.lost["bad_time"] += 1
            return False
        if self._is_full() or self._error is not None:
            self.lost["write_error" if self._error is not None else "queue_full"] += 1
            return False
        self._last = sample.arrival
        self._bytes += size_of(sample.value)
        self._waiting.append(sample)
        self.count += 1
        self._turn.notify_all()
        return True

    def _is_full(self) -> bool:
        """Called with the lock held."""
        return self._bytes >= self._limit or len(self._waiting) >= QUEUE_SAMPLES

    def _write(self) -> None:
        while True:
            with self._turn:
                if not self._waiting and not self._closed:
                    self._turn.wait(SETTLE)
                batch = list(self._waiting)
                self._waiting.clear()
                counts, end = dict(self.lost), self._closed and not batch
            try:
                if self._error is None:
                    for sample in batch:
                        self._writer.write(sample)
                    if end:
                        self._writer.close(counts)
                    else:
                        self._writer.settle()
                elif end:
                    self._writer.abandon()
            except Exception as error:  # noqa: BLE001  # raised again by close
                self._fail(error, len(batch))
            if end:
                return
            with self._turn:
                self._bytes -= sum(size_of(sample.value) for sample in batch)
                self._turn.notify_all()

    def _fail(self, error: Exception, samples: int) -> None:
        with self._turn:
            self._error = error
            self.lost["write_error"] += samples
            self.count -= samples


class RecordingStream(Closable):
    """A stream whose pushes are recorded; made by :meth:`Recorder.attach`."""

    def __init__(
        self,
        stream: Stream,
        clock: Callable[[], tuple[float, float]],
        pushed: Callable[..., None],
    ) -> None:
        self._stream, self._time, self._pushed = stream, clock, pushed

    def push(
        self,
        modality: str,
        value: Any,  # noqa: ANN401
        t: float | None = None,
        *,
        copy: bool = True,
    ) -> int:
        """See :meth:`mmedge.Stream.push`."""
        arrival, offset = self._time()
        seq = self._stream.push(modality, value, t, copy=copy)
        self._pushed(modality, value, t, arrival, offset, copy=copy)
        return seq

    def result(self, timeout: float | None = None, *, latest: bool = False) -> Result:
        """See :meth:`mmedge.Stream.result`."""
        return self._stream.result(timeout, latest=latest)

    def forget(self, modality: str) -> None:
        """See :meth:`mmedge.Stream.forget`; a recording does not hold it."""
        self._stream.forget(modality)

    def reset(self) -> None:
        """See :meth:`mmedge.Stream.reset`; a recording does not hold it."""
        self._stream.reset()

    def health(self) -> Health:
        """See :meth:`mmedge.Stream.health`."""
        return self._stream.health()

    def close(self) -> None:
        """See :meth:`mmedge.Stream.close`."""
        self._stream.close()
