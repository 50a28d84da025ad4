"""A guarded swap of the bundle of a running stream: what :meth:`Stream.swap` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.errors import InputError
from mmedge.stream.options import read_timeout
from mmedge.stream.swap_load import SwapLoad
from mmedge.stream.swap_report import SwapOptions
from mmedge.stream.swap_run import ENDS, State, SwapRun

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from mmedge.stream.background import Background
    from mmedge.stream.clock import StreamClock
    from mmedge.stream.executors import Driver
    from mmedge.stream.state_machine import StreamStateMachine
    from mmedge.stream.swap_report import SwapReport

__all__ = ["Swap", "start_swap"]


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


def start_swap(
    core: StreamStateMachine,
    driver: Driver,
    gate: threading.RLock,
    clock: StreamClock,
    now: float,
    loop_options: Mapping[str, Any],
    source: object,
    load_options: dict[str, Any],
    **asked: Any,  # noqa: ANN401
) -> Swap:
    """Begin a swap of a stream with these parts, whose lock is held.

    ``source``, ``load_options`` and ``asked`` are the arguments of
    :meth:`mmedge.stream.Stream.swap`.

    Raises:
        InputError: see there.
    """
    if core.change is not None:
        raise InputError(f"swap: {core.change.title}")
    pipe = core.network.pipe
    manifest = pipe.bundle.manifest
    # A loop gives other outputs, which are known once it has run.
    outputs = manifest.returned_outputs() if manifest.loop is None else None
    options = SwapOptions.read(outputs, **asked)
    load = SwapLoad(pipe, source, load_options)
    background = driver.background()
    run = SwapRun(core, background, clock, load, options, loop_options)
    run.start(now)
    driver.wake()
    return Swap(run, background, gate, driver.wake)
