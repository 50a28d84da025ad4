"""A limit to the time of a run in ONNX Runtime.

ONNX Runtime looks between two operators whether a run is to end, inside loops too; one operator by
itself is not interrupted. One thread for the whole process ends the runs that are late.
"""

from __future__ import annotations

import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Array

__all__ = ["LimitedRun"]


class _Watch:
    """Sets ``terminate`` of the run options whose time is over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ends: dict[int, tuple[float, Any]] = {}
        self._process = 0

    def add(self, options: Any, seconds: float) -> None:  # noqa: ANN401
        """Watch a run that begins now."""
        end = monotonic() + seconds
        with self._changed:
            if self._process != os.getpid():  # the first one; or a child, which has no such thread
                self._process, self._ends = os.getpid(), {}
                threading.Thread(target=self._end_late, name="mmedge-watch", daemon=True).start()
            self._ends[id(options)] = end, options
            self._changed.notify()

    def remove(self, options: Any) -> None:  # noqa: ANN401
        """The run has ended."""
        with self._changed:
            self._ends.pop(id(options), None)

    def _end_late(self) -> None:
        with self._changed:
            while True:
                now = monotonic()
                late = [key for key, (end, _) in self._ends.items() if end <= now]
                for key in late:
                    self._ends.pop(key)[1].terminate = True
                first = min((end for end, _ in self._ends.values()), default=None)
                self._changed.wait(None if first is None else first - now)


_WATCH = _Watch()


class LimitedRun:
    """Calls a session with run options that end it after a time.

    Args:
        call: takes names of outputs, feeds and run options.
        seconds: most time of a run.
        where: names stage and variant in errors.
    """

    def __init__(self, call: Callable[..., list[Array]], seconds: float, where: str) -> None:
        self._call, self._seconds, self._where = call, seconds, where

    def __call__(self, names: list[str], feeds: Mapping[str, Any], _options: None) -> list[Array]:
        """Run once.

        Raises:
            BackendError: it took too long.
        """
        import onnxruntime as ort

        options = ort.RunOptions()
        _WATCH.add(options, self._seconds)
        try:
            return self._call(names, feeds, options)
        except Exception as error:  # the binding raises several unrelated types
            if not options.terminate:
                raise
            raise BackendError(
                f"{self._where}: the run took more than run_timeout_s = {self._seconds:g} and was "
                "ended; allow it more time, or do not trust the bundle"
            ) from error
        finally:
            _WATCH.remove(options)
