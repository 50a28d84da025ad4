"""Makes a stream of Python go as one of libmmedge on its caller's thread and clock does."""

from __future__ import annotations

from math import inf
from unittest.mock import patch

import case_streams
import numpy as np
from stream_player import FailingStages, _fetch, _health, policy

from mmedge.errors import BackendError, MMEdgeError
from mmedge.spec import DTYPES
from mmedge.stream import Sanity, Stream

__all__ = ["play_on_own_clock"]


class OwnClock:
    """A clock of the caller's: stages move it on while they run, and it may be set."""

    def __init__(self, time, sets):
        self.time, self.offset, self._sets = time, 0.0, sets
        self.wrong = None  # of the next reading

    def __call__(self):
        wrong, self.wrong = self.wrong, None
        return self.time + self.ahead() + (0.0 if wrong is None else wrong)

    def ahead(self):
        total = self.offset
        for at, by in self._sets:
            if at <= self.time:
                total += by
        return total

    def real(self):
        return self.time


class Steps:
    """A loop whose steps take time of a clock."""

    def __init__(self, loop, clock, costs, runs):
        self._loop, self._clock, self._costs, self._runs = loop, clock, costs, runs

    @property
    def finish(self):
        return self._loop.finish

    def advance(self):
        for _ in range(self._runs):
            self._clock.time += self._costs[0]
        return self._loop.advance()

    def result(self):
        result = self._loop.result()
        self._clock.time += sum(self._costs[1:])
        return result


class TimedStages:
    """A pipeline whose stages take time of a clock, and fail on some values."""

    def __init__(self, stages, clock, costs):
        self.bundle, self.variant = stages.bundle, stages.variant
        self._stages, self._clock, self._costs = stages, clock, costs
        loop = self.bundle.manifest.loop
        self._runs = 2 if getattr(loop, "guidance", None) is not None else 1

    def run_stage(self, stage, feeds):
        self._clock.time += self._costs.get(stage, 0.0)
        return self._stages.run_stage(stage, feeds)

    def start_loop(self, tensors, **options):
        stages = self.bundle.manifest.loop_stages()
        costs = [self._costs.get(stage.name, 0.0) for stage in stages]
        loop = self._stages.start_loop(tensors, **options)
        return Steps(loop, self._clock, costs, self._runs)


class CallerDriver:
    """Work is done inside calls, as docs/reference/streams.md says ("On the caller's thread")."""

    def __init__(self, core, _gate, now, *, real_time, placement):
        assert not real_time
        assert placement is None
        self.core, self.compute, self.now = core, core.network.compute, now
        self.planned, self.count, self.alarm = [], 0, None
        self.ticks = None
        for name in core.tracks:
            self.compute.prepare(name)
        if core.ticker is not None:
            self.ticks = core.ticker.next
            self.plan(self.ticks, self.tick, is_patient=True)

    def plan(self, time, event, *, is_patient=False):
        self.planned.append((time, self.count, event, is_patient))
        self.count += 1

    def read(self):
        """The time; a clock that was set has moved ticks."""
        if self.core.closed:
            return self.now.last
        try:
            now = self.now()
        except BackendError as error:
            self.core.fail(str(error), self.now.last)
            return self.now.last
        self.follow_ticks()
        return now

    def follow_ticks(self):
        ticker = self.core.ticker
        if ticker is not None and ticker.next != self.ticks:
            self.plan_tick()

    def plan_tick(self):
        self.ticks = self.core.ticker.next
        self.planned = [each for each in self.planned if each[2] != self.tick]
        self.plan(self.ticks, self.tick, is_patient=True)

    @property
    def next_time(self):
        # A call that only reads may have met a jump.
        self.follow_ticks()
        self.plan_alarm()
        return min((each[0] for each in self.planned), default=inf) - self.now.offset

    def poll(self):
        time = self.read()
        self.plan_alarm()
        while self.step(max(time, self.now.last), time):
            pass
        if self.core.failure is not None:
            raise BackendError(self.core.failure)

    def wake(self):
        if self.core.closed:
            return
        self.follow_ticks()
        begun = self.now.last
        self.start()
        while self.step(self.now.last, begun):
            pass

    def wait(self, _timeout):
        return bool(self.core.results) and not self.core.closed

    def stop(self):
        pass

    def step(self, limit, patient_limit):
        due = [each for each in self.planned if each[0] <= (patient_limit if each[3] else limit)]
        if not due:
            return False
        first = min(due, key=lambda each: each[:2])
        self.planned.remove(first)
        first[2]()
        return True

    def start(self):
        if self.core.closed:
            return
        for track in self.core.tracks.values():
            item = track.next_job(self.now.last)
            if item is not None:
                outcome = self.compute.encode(track, item)
                self.plan(self.read(), lambda a=(track, item, outcome): self.encoded(*a))
        active = self.core.fusion()
        if active is not None:
            outcome = self.compute.fuse(active.items, active.sizes, active.states)
            has_loop = outcome.loop is not None
            self.plan(self.read(), lambda: self.fused(active, outcome), is_patient=has_loop)
        self.plan_alarm()

    def plan_alarm(self):
        alarm = self.core.alarm
        if alarm is not None and alarm != self.alarm:
            self.alarm = alarm
            self.plan(alarm, self.ring)

    def encoded(self, track, item, outcome):
        self.core.encoded(track, item, outcome, self.now.last)
        self.start()

    def fused(self, active, outcome):
        if outcome.loop is not None:
            self.take_step(active, outcome)
            return
        self.core.fused(active, outcome, self.now.last)
        self.start()

    def take_step(self, active, outcome):
        end = self.core.loop_end(active, self.now.last)
        if end is not None:
            self.end(active, outcome, *end)
            return
        more = self.compute.step(outcome)
        self.plan(self.read(), lambda: self.stepped(active, outcome, more), is_patient=True)

    def stepped(self, active, outcome, more):
        self.core.stepped(active, self.now.last)
        if more:
            self.take_step(active, outcome)
        else:
            self.end(active, outcome)

    def end(self, active, outcome, *why):
        self.compute.end(outcome, *why)
        self.plan(self.read(), lambda: self.fused(active, outcome))

    def ring(self):
        if self.core.alarm is not None and self.core.alarm <= self.now.last:
            self.core.wake(self.now.last)
            self.start()

    def tick(self):
        if self.core.closed:
            return
        due = self.core.ticker.due(self.now.last)
        if due is not None:
            self.core.tick(*due, self.now.last)
            self.start()
        self.plan_tick()


def play_on_own_clock(bundles, schedule):
    """As :func:`stream_player.play`, on a clock of the caller's; counters follow each event."""
    options = dict(schedule["options"])
    align = {name: policy(tree) for name, tree in options.pop("align").items()}
    sanity = {name: Sanity(**tree) for name, tree in options.pop("sanity").items()}
    clock = OwnClock(schedule["start"], schedule["sets"])
    pipe = case_streams.load(bundles, schedule["bundle"])
    failing = FailingStages(pipe, schedule["failing"], schedule["fail_every"])
    stages = TimedStages(failing, clock, schedule["costs"])
    specs = pipe.bundle.manifest.inputs()
    results, healths, errors = [], [], []
    with (
        patch("mmedge.stream.executors.Threads", CallerDriver),
        patch("mmedge.stream.clock.monotonic", clock.real),
    ):
        stream = Stream(stages, clock=clock, align=align, sanity=sanity, **options)
        driver = stream._driver
        for number, event in enumerate(schedule["events"]):
            try:
                while driver.next_time <= event["at"] + clock.ahead() and not driver.core.closed:
                    clock.time = max(clock.time, driver.next_time - clock.ahead())
                    driver.poll()
                    clock.time += 1e-6  # as in the program that is compared
                clock.time = max(clock.time, event["at"])
                clock.offset += _number(event.get("clock", 0.0))
                if "wrong" in event:
                    clock.wrong = _number(event["wrong"])
                driver.poll()
                results += _do(stream, event, specs)
            except MMEdgeError as error:
                errors.append({"event": number, "error": type(error).__name__})
            healths.append(_health(stream.health()))
    return {"results": results, "healths": healths, "errors": errors}


def _number(value):
    return np.nan if value is None else value


def _do(stream, event, specs):
    """Do what an event says; the results that it fetched."""
    what = event["do"]
    if what == "push":
        arrays = {
            name: np.array(
                [np.nan if n is None else n for n in values], DTYPES[specs[name].dtype]
            ).reshape(shape)
            for name, (shape, values) in event["inputs"].items()
        }
        stream.push(event["modality"], arrays, t=event["t"])
    elif what == "forget":
        stream.forget(event["modality"])
    elif what == "reset":
        stream.reset()
    elif what == "close":
        stream.close()
    elif what in ("fetch", "latest"):
        return _fetch(stream, latest=what == "latest")
    return []
