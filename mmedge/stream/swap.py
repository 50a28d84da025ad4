"""A guarded swap of the bundle of a running stream: what :meth:`Stream.swap` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.stream.options import read_timeout
from mmedge.stream.swap_run import ENDS, State, SwapRun

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from mmedge.stream.background import Background
    from mmedge.stream.swap_report import SwapReport

__all__ = ["Swap"]


class Swap:
    """A swap under way, or what it came to. :meth:`mmedge.stream.Stream.swap` makes it.

    You may call it from any thread.
    """

    def __init__(
        self,
        run: SwapRun,
        background: Background,
        gate: threading.RLock,
        wake: Callable[[], None],
    ) -> None:
        self._run, self._background, self._gate, self._wake = run, background, gate, wake

    @property
    def state(self) -> State:
        """See :attr:`SwapReport.state`."""
        with self._gate:
            return self._run.state

    @property
    def report(self) -> SwapReport:
        """What has been found so far."""
        with self._gate:
            return self._run.make_report()

    def wait(self, timeout: float | None = None) -> State:
        """Wait until the swap has ended, and say how.

        Args:
            timeout: most seconds to wait; None: as long as it takes. On a simulated clock, most
                seconds that it is advanced; None: until nothing is planned any more.

        Raises:
            TimeoutError: it has not ended; the message says how far it is.
        """
        seconds = read_timeout(timeout)
        with self._gate:
            self._background.wait(lambda: self._run.state in ENDS, seconds)
            if self._run.state in ENDS:
                return self._run.state
            raise TimeoutError(
                f"the swap has not ended; {self._run.progress}; push what triggers, or wait longer"
            )

    def cancel(self) -> None:
        """Give up: the old network goes on, or runs again if the new one is in probation."""
        with self._gate:
            self._run.cancel()
            self._wake()
