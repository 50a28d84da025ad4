"""What makes a stream go: worker threads, or a simulated clock's events.

It is longer than most, since the two have to do the same in the same order.
"""

from __future__ import annotations

import threading
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from mmedge.stream.background import BackgroundSimulation, BackgroundThreads
from mmedge.stream.clock import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.backends.placement import Placement
    from mmedge.stream.background import Background
    from mmedge.stream.choose import Active
    from mmedge.stream.clock import StreamClock
    from mmedge.stream.compute import Compute, Encoded, Fused
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Network
    from mmedge.stream.sample import Item
    from mmedge.stream.state_machine import StreamStateMachine

__all__ = ["Driver", "Simulation", "Threads", "make_driver"]

#: How long :meth:`Threads.stop` waits for all threads together, in seconds.
JOIN = 0.1
#: Longest wait for a tick in one go, in seconds: a platform's longest is shorter than a float.
LONGEST = 3600.0
#: How often the next tick is looked for on a clock of which nothing is known, in seconds.
POLL = 0.005


class Driver(Protocol):
    """Runs the work that the state machine has for it."""

    def wake(self) -> None:
        """See to new work; called with the lock held, after the state machine changed."""

    def wait(self, timeout: float | None) -> bool:
        """Wait for a result, ``timeout`` seconds at most (None: as long as it takes).

        Says whether there is one; not if the stream was closed.
        """

    def background(self) -> Background:
        """Make what runs work beside the stream."""

    def stop(self) -> None:
        """End, soon, once the state machine is closed; called without the lock."""


def make_driver(
    core: StreamStateMachine,
    gate: threading.RLock,
    now: StreamClock,
    source: Callable[[], float] | None,
    placement: Placement | None,
) -> Driver:
    """What makes a stream go on the clock ``source``; None: monotonic time."""
    if isinstance(source, SimulatedClock):
        return Simulation(core, source)
    return Threads(core, gate, now, real_time=source is None, placement=placement)


def describe_death(what: str, error: BaseException) -> str:
    """Why a stream ends that cannot go on."""
    return f"{what} died: {type(error).__name__}: {error}"


class _Worker:
    """The thread that encodes one modality: what it is to do, and how it is woken."""

    def __init__(self, track: ModalityState, gate: threading.RLock) -> None:
        self.track = track
        self.turn = threading.Condition(gate)
        self.item: Item | None = None


class Threads:
    """A thread for each modality with an encoder, and one for ticks and fusion.

    Each waits for its own turn: waking all of them at every push would cost more than a push.
    ``placement``: where they run; None: as whoever makes the stream.
    """

    def __init__(
        self,
        core: StreamStateMachine,
        gate: threading.RLock,
        now: StreamClock,
        *,
        real_time: bool,
        placement: Placement | None = None,
    ) -> None:
        self._placement = placement
        self._core, self._gate, self._now = core, gate, now
        self._real_time = real_time
        self._workers = [_Worker(track, gate) for track in core.tracks.values() if track.stages]
        self._active: Active | None = None
        self._alarm: float | None = None  # the one that the fusion's thread waits for
        self._fusion_turn = threading.Condition(gate)
        self._result_there = threading.Condition(gate)
        self._background: BackgroundThreads | None = None
        # Daemons: a stream that nobody closed must not keep the process from ending.
        work: dict[str, Callable[[], None]] = {
            f"mmedge {worker.track.name}": partial(self._encode, worker) for worker in self._workers
        }
        work["mmedge fusion"] = self._fuse
        self._threads = [
            threading.Thread(target=self._guard, args=(name, run), name=name, daemon=True)
            for name, run in work.items()
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            with gate:
                core.close(now.last)
                self.wake()
            raise

    def _guard(self, name: str, run: Callable[[], None]) -> None:
        """Run a thread's work; should it die, the stream does so too, and says why."""
        try:
            if self._placement is not None and threading.current_thread() in self._threads:
                self._placement.place()
            run()
        except BaseException as error:  # noqa: BLE001  # told by the stream's next push and result
            with self._gate:
                self._core.fail(describe_death(f"thread {name!r}", error), self._now.last)
                self.wake()

    def wake(self) -> None:
        """Hand out all work that there is now, and wake who has some."""
        is_closed = self._core.closed
        for worker in self._workers:
            if worker.item is None and not is_closed:
                worker.item = worker.track.next_job(self._now.last)
            if worker.item is not None or is_closed:
                worker.turn.notify()
        if self._active is None and not is_closed:
            self._active = self._core.fusion()
        alarm = self._core.alarm
        if self._active is not None or is_closed or alarm not in (None, self._alarm):
            self._fusion_turn.notify()
        if self._core.results or is_closed:
            self._result_there.notify_all()

    def wait(self, timeout: float | None) -> bool:
        """Block for a result; ``timeout`` in seconds of the wall clock."""
        core = self._core
        self._result_there.wait_for(lambda: core.results or core.closed, timeout)
        return bool(core.results) and not core.closed

    def stop(self) -> None:
        """Wait a moment for the threads; one in the midst of a stage ends after it."""
        if self._background is not None:
            self._background.stop()
        until = monotonic() + JOIN
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - monotonic()))

    def background(self) -> Background:
        """Threads for work beside the stream, kept until that ends.

        Others for each piece of work would have heaps of their own, which keep what loading took.
        """
        if self._background is None:
            self._background = BackgroundThreads(self._gate, self._settle, self._guard)
            self._threads += self._background.threads
        return self._background

    def _settle(self, event: Callable[[], None]) -> None:
        with self._gate:
            event()
            self.wake()

    def _encode(self, worker: _Worker) -> None:
        self._core.network.compute.prepare(worker.track.name)
        while True:
            with self._gate:
                while worker.item is None and not self._core.closed:
                    worker.turn.wait()
                item, worker.item = worker.item, None
                if item is None or self._core.closed:
                    return
                compute = self._core.network.compute
            outcome = compute.encode(worker.track, item)
            with self._gate:
                self._core.encoded(worker.track, item, outcome, self._now())
                self.wake()

    def _fuse(self) -> None:
        while True:
            with self._gate:
                active = self._await_fusion()
            if active is None or active.network is None:
                return
            compute = active.network.compute
            outcome = compute.fuse(active.items, active.sizes, active.states)
            if outcome.loop is not None:
                self._take_steps(active, outcome, compute)
            with self._gate:
                self._core.fused(active, outcome, self._now())
                self.wake()

    def _take_steps(self, active: Active, outcome: Fused, compute: Compute) -> None:
        """Run a loop to its end, or until something ends it between two steps."""
        more = True
        while more:
            with self._gate:
                self._look()
                end = self._core.loop_end(active, self._now())
            if end is not None:
                compute.end(outcome, *end)
                return
            more = compute.step(outcome)
            with self._gate:
                self._core.stepped(active, self._now())
        compute.end(outcome)

    def _look(self) -> None:
        """See to ticks and alarms that are due."""
        core = self._core
        ticker = core.ticker
        now = self._now() if ticker is not None or core.alarm is not None else 0.0
        due = None if ticker is None else ticker.due(now)
        if due is not None:
            core.tick(*due, now)
        rings = core.alarm is not None and core.alarm <= now
        if rings:
            core.wake(now)
        if due is not None or rings:
            self.wake()

    def _await_fusion(self) -> Active | None:
        core = self._core
        while not core.closed:
            self._look()
            active, self._active = self._active, None
            if active is not None:
                return active
            self._alarm = core.alarm
            self._fusion_turn.wait(self._until_next())
        return None

    def _until_next(self) -> float | None:
        """Seconds until the next tick or alarm; None: nothing is planned."""
        times = [] if self._core.ticker is None else [self._core.ticker.next]
        if self._alarm is not None:
            times.append(self._alarm)
        if not times:
            return None
        return min(max(0.0, min(times) - self._now()), LONGEST) if self._real_time else POLL


class Simulation:
    """Work is done at once and becomes visible after what it costs on the simulated clock.

    Stand-ins are encoded when the stream is made, which takes no time of the clock.
    """

    def __init__(self, core: StreamStateMachine, clock: SimulatedClock) -> None:
        self._core, self._clock = core, clock
        self._alarm: float | None = None
        for name in core.tracks:
            core.network.compute.prepare(name)
        if core.ticker is not None:
            clock.call_at(core.ticker.next, self._tick)

    def wake(self) -> None:
        """Do all work that there is now, and what takes no time."""
        if self._core.closed:
            return
        self._start()
        now = self._clock()
        while self._clock.step(now):
            pass

    def wait(self, timeout: float | None) -> bool:
        """Advance the clock to the next result, at most by ``timeout`` seconds of it.

        Without a timeout, until nothing is planned any more.
        """
        limit = float("inf") if timeout is None else self._clock() + timeout
        results = self._core.results
        while not results and not self._core.closed and self._clock.step(limit):
            pass
        if results or self._core.closed:
            return not self._core.closed
        if timeout is not None:
            self._clock.advance_to(limit)
        return False

    def stop(self) -> None:
        """Nothing is left to end: a closed state machine ignores what is still planned."""

    def background(self) -> Background:
        """Work that is done at once."""
        return BackgroundSimulation(self._clock, self._start)

    def _start(self) -> None:
        if self._core.closed:
            return
        try:
            self._begin()
        except BaseException as error:
            self._core.fail(describe_death("a stage", error), self._clock())
            raise

    def _begin(self) -> None:
        now = self._clock()
        for track in self._core.tracks.values():
            item = track.next_job(now)
            if item is not None:
                network = self._core.network
                encoded = network.compute.encode(track, item)
                done = partial(self._encoded, track, item, encoded)
                self._later(network, encoded.ran, done)
        active = self._core.fusion()
        if active is not None and active.network is not None:
            network = active.network
            outcome = network.compute.fuse(active.items, active.sizes, active.states)
            self._later(network, outcome.ran, partial(self._step, active, outcome, network))
        alarm = self._core.alarm
        if alarm is not None and alarm != self._alarm:
            self._alarm = alarm
            self._clock.call_at(alarm, self._ring)

    def _later(self, network: Network, ran: list[str], event: Callable[[], None]) -> None:
        cost = self._clock.cost(ran, network.id.variant)
        self._clock.call_at(self._clock() + cost, event)

    def _encoded(self, track: ModalityState, item: Item, outcome: Encoded) -> None:
        self._core.encoded(track, item, outcome, self._clock())
        self._start()

    def _step(self, active: Active, outcome: Fused, network: Network) -> None:
        """Take the next step of a loop, if there is one, or end."""
        if outcome.loop is None:
            self._fused(active, outcome)
            return
        end = self._core.loop_end(active, self._clock())
        compute = network.compute
        step_stages, end_stages = compute.step_stages
        if end is not None:
            compute.end(outcome, *end)
            self._later(network, end_stages, partial(self._fused, active, outcome))
            return
        more = compute.step(outcome)
        stepped = partial(self._stepped, active, outcome, network, more=more)
        self._later(network, step_stages, stepped)

    def _stepped(self, active: Active, outcome: Fused, network: Network, *, more: bool) -> None:
        self._core.stepped(active, self._clock())
        if more:
            self._step(active, outcome, network)
        else:
            network.compute.end(outcome)
            end_stages = network.compute.step_stages[1]
            self._later(network, end_stages, partial(self._fused, active, outcome))

    def _fused(self, active: Active, outcome: Fused) -> None:
        self._core.fused(active, outcome, self._clock())
        self._start()

    def _ring(self) -> None:
        alarm = self._core.alarm
        if alarm is not None and alarm <= self._clock():
            self._core.wake(self._clock())
            self._start()

    def _tick(self) -> None:
        ticker = self._core.ticker
        if self._core.closed or ticker is None:
            return
        due = ticker.due(self._clock())
        if due is not None:
            self._core.tick(*due, self._clock())
            self._start()
        self._clock.call_at(ticker.next, self._tick)
