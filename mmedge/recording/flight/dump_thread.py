"""The thread of a flight recorder that writes dumps, and the signal that asks for one."""

from __future__ import annotations

import os
import queue
import secrets
import signal as signals
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from mmedge.errors import BackendError, InputError
from mmedge.recording.flight.dump import write_dump

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mmedge.recording.flight.cut import MemoryCut
    from mmedge.recording.flight.triggers import DumpLimits, DumpReason

__all__ = ["DumpThread"]

#: Seconds of real time after which the time after a trigger is over though no sample came.
MARGIN = 0.5
#: Triggers while a dump is written that are named in it, beside the last one.
MOST_MERGED = 1000
#: Beginning of the names of dumps, and what a file has behind its name until it is whole.
PREFIX, PART = "flight-", ".part"


class DumpThread:
    """Writes what it is handed, one dump after another.

    Args:
        folder: where to.
        limits: how much.
        cut: called with a signal's number when it came, with None when the time after a trigger is
            over.
        tell: called with the kind, message and details of an event.
        signal: number of the signal; None: none.

    Attributes:
        dumps: paths of the files written.
        failures: why others were not.

    Raises:
        InputError: a signal that cannot be caught, or outside of the main thread.
    """

    def __init__(
        self,
        folder: Path,
        limits: DumpLimits,
        cut: Callable[[int | None], None],
        tell: Callable[..., None],
        signal: int | None,
    ) -> None:
        self.dumps: list[Path] = []
        self.failures: list[str] = []
        self._folder, self._limits, self._cut, self._tell = folder, limits, cut, tell
        #: Its ``put`` may be called by a signal's handler in the midst of another call.
        self._queue: queue.SimpleQueue[MemoryCut | int | float | None] = queue.SimpleQueue()
        self._merged: list[DumpReason] = []
        #: How many that were not the last one are not named.
        self._unnamed = 0
        self._mark = secrets.token_hex(4)
        self._cuts = 0
        self._outcomes: list[Path | str] = []
        self._done = threading.Condition()
        self._signal = signal
        self._before: Any = None
        if signal is not None:
            self._before = self._catch(signal)
        self._thread = threading.Thread(target=self._run, name="mmedge-flight", daemon=True)
        self._thread.start()

    def _catch(self, number: int) -> Any:  # noqa: ANN401
        try:
            return signals.signal(number, self._signalled)
        except (ValueError, TypeError, OSError) as error:
            raise InputError(
                f"signal {number!r}: {error}; make the recorder in the main thread, with a signal "
                "that a program may catch, such as signal.SIGUSR1"
            ) from error

    def _signalled(self, number: int, frame: Any) -> None:  # noqa: ANN401
        self._queue.put(number)
        if callable(self._before):
            self._before(number, frame)

    # The recorder calls these with its lock held.

    def put(self, cut: MemoryCut) -> None:
        """Have a dump written."""
        self._cuts += 1
        self._queue.put(cut)

    def cut_after(self, seconds: float) -> None:
        """Ask for the cut, at the latest, when so many seconds of real time have passed."""
        self._queue.put(monotonic() + seconds + MARGIN)

    def merge(self, trigger: DumpReason) -> None:
        """Name a trigger in the dump that is being written, if one is."""
        if not self.backlog:
            return
        self._merged.append(trigger)
        if len(self._merged) > MOST_MERGED + 1:
            # A disk may hang for hours, and a sensor fail a thousand times a second.
            del self._merged[-2]
            self._unnamed += 1

    @property
    def backlog(self) -> int:
        """Dumps that are not written yet, each of which keeps its records in memory."""
        return self._cuts - len(self._outcomes)

    def ticket(self) -> int:
        """For :meth:`wait`: the number of the next dump."""
        return self._cuts

    def wait(self, ticket: int) -> Path:
        """Wait for a dump; its path.

        Raises:
            BackendError: it was not written.
        """
        with self._done:
            self._done.wait_for(lambda: len(self._outcomes) > ticket)
            outcome = self._outcomes[ticket]
        if isinstance(outcome, str):
            raise BackendError(outcome)
        return outcome

    def close(self) -> None:
        """Write what was handed in, and end."""
        if self._signal is not None:
            with suppress(ValueError):  # outside of the main thread it stays, and asks nobody
                if signals.getsignal(self._signal) == self._signalled:
                    signals.signal(self._signal, self._before)
            self._signal = None
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        due: float | None = None
        while True:
            message: MemoryCut | int | float | None
            try:
                timeout = None if due is None else max(0.0, due - monotonic())
                message = self._queue.get(timeout=timeout)
            except queue.Empty:
                due = None
                self._cut(None)
                continue
            if message is None:
                return
            if isinstance(message, int):
                self._cut(message)
            elif isinstance(message, float):
                due = message
            else:
                self._write(message)

    def _write(self, cut: MemoryCut) -> None:
        reasons = ", ".join(trigger.kind for trigger in cut.triggers)
        outcome: Path | str
        try:
            outcome = self._dump(cut)
        except Exception as error:  # noqa: BLE001  # an event; the stream goes on
            what = error if isinstance(error, BackendError) else f"{type(error).__name__}: {error}"
            outcome = f"the flight recorder's dump ({reasons}) was not written: {what}"
        if isinstance(outcome, str):
            self.failures.append(outcome)
            self._tell("flight_dump_failed", outcome, triggers=reasons)
        else:
            self.dumps.append(outcome)
            message = f"the flight recorder wrote {outcome} ({reasons})"
            self._tell("flight_dump", message, path=str(outcome), triggers=reasons)
        with self._done:
            self._outcomes.append(outcome)
            self._done.notify_all()

    def _dump(self, cut: MemoryCut) -> Path:
        if len(self.dumps) >= self._limits.most_dumps:
            raise BackendError(
                f"{len(self.dumps)} dumps were written, most_dumps allows no more; make a new "
                "recorder, or raise DumpLimits(most_dumps=)"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        there = _dumped_bytes(self._folder)
        if there + cut.nbytes > self._limits.disk_bytes:
            raise BackendError(
                f"{self._folder} has {there} bytes of dumps, and this one may have {cut.nbytes}; "
                f"disk_bytes allows {self._limits.disk_bytes} in all: move dumps away, or raise "
                "DumpLimits(disk_bytes=)"
            )
        date = datetime.fromtimestamp(cut.unix_ns / 1e9, UTC)
        # Several recorders may write into one folder.
        name = f"{PREFIX}{date:%Y%m%dT%H%M%S}Z-{self._mark}-{len(self._outcomes):03}.mcap"
        path, part = self._folder / name, self._folder / f".{name}{PART}"
        try:
            write_dump(part, cut, self._take_merged)
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
        _sync(self._folder)
        return path

    def _take_merged(self) -> tuple[DumpReason, ...]:
        merged, self._merged = self._merged, []
        more, self._unnamed = self._unnamed, 0
        if more:
            merged[-1] = replace(merged[-1], message=f"{merged[-1].message}, and {more} before it")
        return tuple(merged)


def _dumped_bytes(folder: Path) -> int:
    """Bytes of the dumps in a folder; another recorder may be writing one there."""
    size = 0
    for path in folder.iterdir():
        if path.name.lstrip(".").startswith(PREFIX) and path.is_file():
            with suppress(FileNotFoundError):  # whole by now, and under another name
                size += path.stat().st_size
    return size


def _sync(folder: Path) -> None:
    """See to it that the name of a new file is on the disk."""
    with suppress(OSError):  # some file systems have no such call for folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
