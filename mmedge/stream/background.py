"""Work beside a stream: a network is loaded, tried and warmed up while another makes the results.

On threads, work of low priority has a thread that the system runs after others. What starts
threads of its own (a backend that loads) does not belong there: they would stay slow for ever.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.stream.clock import SimulatedClock
    from mmedge.stream.network import Network

__all__ = ["Background", "BackgroundSimulation", "BackgroundThreads"]

#: What is added to the nice value of the thread of low priority. More would have the thread keep
#: Python's interpreter lock for long where the cores are busy.
NICE = 5


class Background(Protocol):
    """Runs work that was submitted, in order, and tells of its end with the stream's lock held."""

    def submit(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        *,
        low: bool = True,
        network: Network | None = None,
    ) -> None:
        """Run ``work`` without the lock, then ``done`` with what it returned or raised.

        ``done`` is called in any case, also once the stream is closed. ``low``: at low priority.
        ``network`` is the one that the work runs stages of, where its outcome has ``ran``.
        """

    def seconds(self, network: Network, ran: list[str], elapsed: float) -> float:
        """How long stages took that ran within ``elapsed`` seconds."""

    def wait(self, is_over: Callable[[], bool], timeout: float | None) -> bool:
        """Wait with the lock held until ``is_over``; say whether it is, ``timeout`` at most."""

    def notify(self) -> None:
        """Have those look who wait."""


class BackgroundThreads:
    """One thread of low priority, and one of the priority of whoever makes this.

    Args:
        gate: the stream's lock.
        settle: calls what it is given with the lock held, and wakes the stream.
        guard: runs a thread's work by its name, and fails the stream if it dies.
    """

    def __init__(
        self,
        gate: threading.RLock,
        settle: Callable[[Callable[[], None]], None],
        guard: Callable[[str, Callable[[], None]], None],
    ) -> None:
        self._settle = settle
        self._there = threading.Condition(gate)
        self._queues: dict[bool, SimpleQueue[tuple[Any, Any] | None]] = {}
        self.threads: list[threading.Thread] = []
        for low, name in ((True, "mmedge background"), (False, "mmedge load")):
            queue: SimpleQueue[tuple[Any, Any] | None] = SimpleQueue()
            self._queues[low] = queue
            run = partial(self._run, queue, low=low)
            thread = threading.Thread(target=guard, args=(name, run), name=name, daemon=True)
            self.threads.append(thread)
            thread.start()

    def submit(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        *,
        low: bool = True,
        network: Network | None = None,  # noqa: ARG002 - it takes the time that it takes
    ) -> None:
        """See :class:`Background`."""
        self._queues[low].put((work, done))

    def seconds(self, network: Network, ran: list[str], elapsed: float) -> float:  # noqa: ARG002
        """What was measured."""
        return elapsed

    def wait(self, is_over: Callable[[], bool], timeout: float | None) -> bool:
        """See :class:`Background`; ``timeout`` in seconds of the wall clock."""
        return self._there.wait_for(is_over, timeout)

    def notify(self) -> None:
        """See :class:`Background`."""
        self._there.notify_all()

    def stop(self) -> None:
        """End, after what was submitted; may be called twice."""
        for queue in self._queues.values():
            queue.put(None)

    def _run(self, queue: SimpleQueue[tuple[Any, Any] | None], *, low: bool) -> None:
        if low:
            lower_priority()
        while (job := queue.get()) is not None:
            work, done = job
            try:
                outcome = work()
            except Exception as error:  # noqa: BLE001 - told by whoever submitted it
                outcome = error
            self._settle(partial(done, outcome))
            # Nothing of it is held while the next is waited for.
            del job, work, done, outcome


def lower_priority() -> None:
    """Have the system run this thread after others, where it has priorities of threads (Linux)."""
    with suppress(AttributeError, OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)


def give_memory_back() -> None:
    """Have the C library give free memory to the system, if it can (malloc_trim of glibc).

    What loading and closing a network took from it would stay with the process.
    """
    import ctypes  # of use after a swap alone

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class BackgroundSimulation:
    """Work is done at once; its outcome is known after what its stages cost on the clock.

    Loading, and all else that runs no stage of a stream, takes no time of the clock.

    Args:
        clock: the stream's.
        proceed: has the stream go on after an event.
    """

    def __init__(self, clock: SimulatedClock, proceed: Callable[[], None]) -> None:
        self._clock, self._proceed = clock, proceed

    def submit(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        *,
        low: bool = True,  # noqa: ARG002 - there are no priorities
        network: Network | None = None,
    ) -> None:
        """See :class:`Background`."""
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001 - told by whoever submitted it
            outcome = error
        ran = getattr(outcome, "ran", ())
        cost = 0.0 if network is None else self._clock.cost(ran, network.id.variant)

        def end() -> None:
            done(outcome)
            self._proceed()

        self._clock.call_at(self._clock() + cost, end)

    def seconds(self, network: Network, ran: list[str], elapsed: float) -> float:  # noqa: ARG002
        """What the stages cost on the clock."""
        return self._clock.cost(ran, network.id.variant)

    def wait(self, is_over: Callable[[], bool], timeout: float | None) -> bool:
        """Advance the clock, by ``timeout`` seconds of it at most."""
        limit = float("inf") if timeout is None else self._clock() + timeout
        while not is_over() and self._clock.step(limit):
            pass
        if not is_over() and timeout is not None:
            self._clock.advance_to(limit)
        return is_over()

    def notify(self) -> None:
        """Nobody waits in another thread."""
