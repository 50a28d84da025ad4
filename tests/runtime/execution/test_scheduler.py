"""What decides between serial and concurrent encoders, on a clock that the tests turn."""

from __future__ import annotations

import threading

import pytest

from mmedge.errors import BackendError
from mmedge.execution import scheduler as module
from mmedge.execution.scheduler import TRIALS, WARMUP, Schedule, Scheduler

CALLS = WARMUP + 2 * TRIALS


class Clock:
    """Nanoseconds that pass only where a task takes them."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def task(self, cost):
        def run():
            self.now += cost
            return cost

        return run


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "perf_counter_ns", made)
    return made


def run_at(clock, monkeypatch, percent):
    """Make concurrent runs take ``percent`` of the time of serial ones."""
    at_once = Scheduler._at_once

    def run(self, tasks):
        start = clock.now
        results = at_once(self, tasks)
        clock.now = start + (clock.now - start) * percent // 100
        return results

    monkeypatch.setattr(Scheduler, "_at_once", run)


@pytest.fixture
def scheduler():
    made = Scheduler(most=3, concurrent=None)
    yield made
    made.close()


@pytest.mark.parametrize(("percent", "faster"), [(50, True), (95, True), (96, False), (180, False)])
def test_five_percent_decide(clock, monkeypatch, scheduler, percent, faster):
    run_at(clock, monkeypatch, percent)
    for _ in range(CALLS):
        assert scheduler.schedule == Schedule(None)
        assert scheduler.run({"a": clock.task(100), "b": clock.task(300)}) == {"a": 100, "b": 300}
    assert scheduler.schedule == Schedule(faster, percent / 100, 2 * TRIALS)
    before = clock.now
    scheduler.run({"a": clock.task(100), "b": clock.task(300)})
    assert clock.now - before == (4 * percent if faster else 400)
    assert scheduler.schedule.calls == 2 * TRIALS  # decided once


def test_callers_who_alternate_two_kinds_of_call_do_not_tilt_it(clock, scheduler):
    for call in range(CALLS):
        scheduler.run({"a": clock.task(1000 if call % 2 else 100), "b": clock.task(10)})
    assert scheduler.schedule == Schedule(False, 1.0, 2 * TRIALS)


def test_the_first_runs_do_not_count(clock, monkeypatch, scheduler):
    run_at(clock, monkeypatch, 50)
    for call in range(CALLS):
        cost = 10**9 if call < WARMUP else 100
        scheduler.run({"a": clock.task(cost), "b": clock.task(cost)})
    assert scheduler.schedule.ratio == 0.5


def test_only_calls_with_the_same_tasks_are_compared(clock, scheduler):
    """The dear set comes where runs are at once, the cheap one where they are serial."""
    for call in range(2 * CALLS):
        if call % 4 in (1, 2):
            scheduler.run({"a": clock.task(100), "c": clock.task(900)})
        else:
            scheduler.run({"a": clock.task(100), "b": clock.task(10)})
    assert scheduler.schedule.ratio == 1.0


def test_single_tasks_and_none_decide_nothing(clock, scheduler):
    for _ in range(CALLS):
        assert scheduler.run({"a": clock.task(1)}) == {"a": 1}
        assert scheduler.run({}) == {}
    assert scheduler.schedule == Schedule(None)


@pytest.mark.parametrize("concurrent", [True, False])
def test_what_is_asked_for_is_not_measured(concurrent):
    scheduler = Scheduler(most=2, concurrent=concurrent)
    for _ in range(CALLS):
        assert scheduler.run({"a": int, "b": float}) == {"a": 0, "b": 0.0}
    assert scheduler.schedule == Schedule(concurrent)
    scheduler.close()


def test_of_several_errors_the_first_in_order_is_raised():
    def fail(error):
        raise error

    scheduler = Scheduler(most=3, concurrent=True)
    for first, second in ((KeyError("a"), OSError("b")), (OSError("a"), KeyError("b"))):
        tasks = {"x": int, "a": lambda e=first: fail(e), "b": lambda e=second: fail(e)}
        with pytest.raises(type(first)) as caught:
            scheduler.run(tasks)
        assert caught.value is first
    scheduler.close()


def test_a_busy_pool_does_not_hold_a_caller_up():
    """One worker is held; another caller does the work itself and is not kept waiting."""
    scheduler = Scheduler(most=2, concurrent=True)
    held, release = threading.Event(), threading.Event()

    def hold():
        held.set()
        assert release.wait(60)

    busy = threading.Thread(target=scheduler.run, args=({"a": held.wait, "b": hold},))
    busy.start()
    assert held.wait(60)
    assert (
        scheduler.run({"a": int, "b": threading.current_thread})["b"] is threading.current_thread()
    )
    release.set()
    busy.join()
    scheduler.close()


def test_closed_it_says_so():
    scheduler = Scheduler(most=2, concurrent=True)
    scheduler.close()
    scheduler.close()
    with pytest.raises(BackendError, match="is closed; load the bundle again"):
        scheduler.run({"a": int, "b": int})
