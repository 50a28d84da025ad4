"""Arrivals, warm-up and a second load: in simulated time, and with real processes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.bench import arrivals, sessions
from mmedge.bench.arrivals import Load, in_turn, run
from mmedge.bench.machine.background_load import Interference
from mmedge.bench.sessions import TimedSession
from mmedge.bench.warmup import beside, is_steady, warm_up
from mmedge.errors import InputError

MS = 1_000_000


class Machine:
    """A clock that calls and sleeps move on; a sleep ends ``late_ns`` after its time."""

    def __init__(self, *service_ms, late_ns=0, step=10):
        self.now, self.late_ns, self.slept, self.step = 7 * MS, late_ns, 0.0, step
        self.service_ms = service_ms or (1.0,)
        self.calls = []

    def clock(self):
        self.now += self.step  # reading it takes time too, so that spinning ends
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.slept += seconds
        self.now += round(seconds * 1e9) + self.late_ns

    def call(self, index):
        self.calls.append(index)
        self.now += round(self.service_ms[index % len(self.service_ms)] * MS)
        return index

    def run(self, load, **others):
        return run(self.call, load, clock=self.clock, sleep=self.sleep, **others)


def test_a_closed_loop_makes_one_call_after_another():
    machine = Machine(2.0)
    found = machine.run(Load(calls=50))
    assert machine.calls == list(range(50))
    assert machine.slept == 0
    assert np.allclose(np.diff(found.start_ns), 2 * MS, atol=100)
    assert np.allclose(found.latency_ns, 2 * MS, atol=100)
    assert set(found.wait_ns) == {0}
    assert found.elapsed_ns == pytest.approx(100 * MS, abs=5000)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 4)), min_size=1, max_size=30),
)
def test_calls_on_a_schedule_wait_behind_those_before_them(gaps_and_service):
    gaps, service = zip(*gaps_and_service, strict=True)
    schedule = [round(at * MS) for at in np.cumsum(gaps)]
    machine = Machine(*service)
    found = machine.run(Load("rate", calls=len(schedule), rate_hz=100.0), schedule=schedule)
    # Lindley's recursion: a call begins when it has arrived and the one before it has ended.
    ended, expected = 0, []
    for arrival, ms in zip(schedule, service, strict=True):
        ended = max(arrival, ended) + round(ms * MS)
        expected.append(ended - arrival)
    # Reading the clock takes time here, too: at most two readings a call, and the last of a wait.
    assert np.allclose(found.latency_ns, expected, atol=60 * len(schedule))
    assert list(found.start_ns) == schedule
    assert found.unserved == 0


def test_arrivals_of_a_schedule_that_are_not_answered_are_counted():
    # The first call takes longer than may wait at 100 Hz: 101 s of arrivals.
    machine = Machine(101_100.0, 1.0)
    schedule = [index * 10 * MS for index in range(20_000)]
    load = Load("rate", calls=len(schedule), rate_hz=100.0)
    found = machine.run(load, schedule=schedule)
    assert len(found.latency_ns) == 1
    assert found.unserved == 10_110


@pytest.mark.parametrize(
    ("load", "count"),
    [
        (Load(calls=3), 3),
        (Load("rate", calls=3, rate_hz=1.0), 2),
        (Load("rate", seconds=3, rate_hz=1.0), 3),
    ],
)
def test_a_schedule_has_as_many_arrivals_as_the_load_has_calls(load, count):
    with pytest.raises(ValueError, match="a schedule is of calls at a rate"):
        Machine().run(load, schedule=[0] * count)


def test_calls_in_turn_follow_each_others_and_each_has_its_own_time():
    machine, order = Machine(step=0), []

    def of(name, ms):
        def call(index):
            order.append(f"{name}{index}")
            machine.now += round(ms * MS)
            return name

        return call

    kept = []
    a, b = in_turn(
        (of("a", 2.0), of("b", 3.0)), 3,
        keep=lambda which, result: kept.append((which, result)),
        clock=machine.clock,
    )  # fmt: skip
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert kept == [(0, "a"), (1, "b")] * 3
    for series, ms in ((a, 2), (b, 3)):
        assert list(series.latency_ns) == [ms * MS] * 3
        # The other's calls are no part of it.
        assert list(series.start_ns) == [0, ms * MS, 2 * ms * MS]
        assert series.elapsed_ns == 3 * ms * MS
        assert list(series.wait_ns) == [0, 0, 0]
        assert (len(series.late_ns), series.unserved) == (0, 0)


@pytest.mark.parametrize(
    ("ms_a", "ms_b", "settled"),
    [
        # Both fall alike: their ratio has settled.
        ([9.0] * 10 + [3.0] * 10, [6.0] * 10 + [2.0] * 10, True),
        # One falls by itself.
        ([9.0] * 10 + [3.0] * 10, [6.0] * 20, False),
        ([1.0], [1.0], False),
        ([], [], False),
    ],
)
def test_what_two_in_turn_are_settled_by(ms_a, ms_b, settled):
    a, b = (
        arrivals.Series(latency_ns=array("q", (round(v * MS) for v in own))) for own in (ms_a, ms_b)
    )
    found = beside(a, b)
    assert (found.calls, found.settled) == (len(ms_a), settled)
    assert "in turn" in found.rule


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_rests_during_calls_in_turn_and_is_as_it_was(on):
    (gc.enable if on else gc.disable)()
    seen = []
    try:
        in_turn((lambda index: seen.append(gc.isenabled()),) * 2, 2)
        with pytest.raises(ZeroDivisionError):
            in_turn((lambda index: 1 // index,) * 2, 2)
        assert gc.isenabled() is on
    finally:
        gc.enable()
    assert seen == [False] * 4


def test_queueing_shows_at_a_rate_above_capacity_and_not_in_a_closed_loop():
    closed = Machine(2.0).run(Load(calls=500)).latency_ns
    found = Machine(2.0).run(Load("rate", calls=500, rate_hz=1000.0))
    assert max(closed) < 2.1 * MS
    # Each arrival waits 1 ms longer than the one before it.
    assert np.allclose(np.diff(found.latency_ns), 1 * MS, atol=1000)
    assert found.latency_ns[-1] == pytest.approx(501 * MS, rel=0.01)
    assert np.array_equal(np.diff(found.start_ns), np.full(499, MS))
    assert found.unserved == 0
    assert len(found.late_ns) == 0 or len(found.late_ns) == 1


def test_a_slow_call_delays_those_behind_it():
    # One call of 10 ms in 20; all others take 0.5 ms, arrivals every 2 ms.
    machine = Machine(10.0, *([0.5] * 19))
    found = machine.run(Load("rate", calls=20, rate_hz=500.0))
    expected = [10.0, 8.5, 7.0, 5.5, 4.0, 2.5, 1.0, 0.5, 0.5]
    assert np.allclose(np.asarray(found.latency_ns[:9]) / MS, expected, atol=0.01)
    closed = Machine(10.0, *([0.5] * 19)).run(Load(calls=20))
    assert sum(v > MS for v in closed.latency_ns) == 1  # what coordinated omission hides


def test_a_late_wake_up_counts_and_is_told():
    found = Machine(1.0, late_ns=500_000).run(Load("rate", calls=20, rate_hz=100.0))
    # The sleep aims 0.2 ms before the arrival.
    assert np.allclose(found.late_ns, 300_000, atol=100)
    assert np.allclose(found.latency_ns[1:], 1_300_000, atol=200)
    assert np.allclose(Machine(1.0).run(Load("gap", calls=9, gap_ms=5.0)).late_ns, 0, atol=50)


def test_a_gap_follows_the_end_of_each_call():
    machine = Machine(1.0, 3.0)
    found = machine.run(Load("gap", calls=10, gap_ms=5.0))
    assert np.allclose(np.diff(found.start_ns) / MS, [6.0, 8.0] * 4 + [6.0], atol=0.01)
    assert np.allclose(np.asarray(found.latency_ns) / MS, [1.0, 3.0] * 5, atol=0.01)
    assert machine.slept == pytest.approx(9 * 4.8e-3, rel=0.01)


@pytest.mark.parametrize("kind", [{}, {"kind": "rate", "rate_hz": 200.0}])
def test_seconds_end_a_run(kind):
    machine = Machine(2.0)
    ticks = []
    found = machine.run(
        Load(seconds=1.0, **kind), tell=lambda done, total: ticks.append((done, total))
    )
    assert len(machine.calls) == (200 if kind else 500)
    assert found.unserved == 0
    assert found.start_ns[-1] < 1e9
    # Drawing would be in the latency of calls that arrive every 5 ms.
    assert ticks == ([] if kind else [(index * 100 // 1000, 1) for index in range(1, 11)])


def test_progress_is_told_where_there_is_room_for_it():
    ticks = []
    for load in (
        Load("rate", calls=100, rate_hz=40.0),
        Load("gap", calls=100, gap_ms=25.0),
        Load("gap", calls=100, gap_ms=5.0),
        Load(calls=100),
    ):
        Machine(2.0).run(load, tell=lambda *done: ticks.append(done))
    assert ticks == [(50, 100), (100, 100)] * 3


def test_an_overloaded_run_ends_and_says_what_was_left(monkeypatch):
    found = Machine(10.0).run(Load("rate", seconds=1.0, rate_hz=1000.0))
    assert len(found.latency_ns) == 100
    assert found.unserved == 900
    monkeypatch.setattr(arrivals, "BACKLOG", 30)
    found = Machine(10.0).run(Load("rate", calls=10_000, rate_hz=1000.0))
    assert len(found.latency_ns) < 6
    assert found.unserved == pytest.approx(30, abs=10)


@pytest.mark.parametrize(
    ("service_ms", "words"),
    [
        ((5.0,), "; OVERLOADED: 399 arrivals still waited when the last fell due"),
        ((1.05,), "; OVERLOADED: 23 arrivals still waited when the last fell due"),
        ((0.9,), ""),
        # One slow call near the end holds up what falls due meanwhile: no sign of an overload.
        ((*[0.5] * 480, 30.0, *[0.5] * 19), ""),
    ],
)
def test_a_run_of_a_number_of_calls_says_that_they_came_too_fast(service_ms, words):
    series = Machine(*service_ms).run(Load("rate", calls=500, rate_hz=1000.0))
    assert series.unserved == 0
    session = TimedSession(series, {}, None, None)
    assert sessions.overload([session]) == words
    assert (
        sessions.overload([TimedSession(Machine(5.0).run(Load(calls=500)), {}, None, None)]) == ""
    )


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.1, 50), min_size=1, max_size=8),
    st.floats(5, 500),
    st.integers(1, 40),
)
def test_an_open_loop_is_a_queue_with_one_server(service_ms, rate, calls):
    found = Machine(*service_ms, step=2000).run(Load("rate", calls=calls, rate_hz=rate))
    # Lindley: what an arrival waits is what is left of the work before it.
    wait, period = 0.0, 1e3 / rate
    for index in range(calls):
        service = service_ms[index % len(service_ms)]
        assert found.latency_ns[index] / MS == pytest.approx(wait + service, abs=0.3)
        assert found.wait_ns[index] / MS == pytest.approx(wait, abs=0.3)
        wait = max(0.0, wait + service - period)


def test_what_calls_return_is_kept_outside_their_time():
    machine, kept = Machine(1.0), []

    def keep(index):
        machine.now += 50 * MS
        kept.append(index)

    found = machine.run(Load(calls=5), keep=keep)
    assert kept == [0, 1, 2, 3, 4]
    assert max(found.latency_ns) < 1.1 * MS


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_meanwhile_and_then_as_it_was(enabled):
    seen = []

    def fail(index):
        seen.append(gc.isenabled())
        if index:
            raise RuntimeError("broken")

    try:
        if not enabled:
            gc.disable()
        with pytest.raises(RuntimeError, match="broken"):
            run(fail, Load(calls=3))
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert seen == [False, False]


def test_real_time():
    found = run(lambda _: time.sleep(0.001), Load("rate", calls=20, rate_hz=100.0))
    assert np.array_equal(found.start_ns, np.arange(20) * 10 * MS)
    assert min(found.latency_ns) >= MS
    assert min(found.late_ns) >= 0
    assert found.elapsed_ns > 190 * MS


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kind": "burst", "calls": 1}, "kind must be one of"),
        ({}, "either calls or seconds"),
        ({"calls": 1, "seconds": 1.0}, "either calls or seconds"),
        ({"calls": 0}, "calls must be >= 1"),
        ({"seconds": 0.0}, "seconds must be > 0"),
        ({"seconds": float("inf")}, "seconds must be > 0"),
        ({"kind": "rate", "calls": 1}, "needs rate_hz"),
        ({"kind": "gap", "calls": 1}, "needs gap_ms"),
        ({"kind": "gap", "calls": 1, "rate_hz": 1.0}, "rate_hz must be > 0 and belongs to"),
        ({"calls": 1, "gap_ms": 1.0}, "gap_ms must be > 0 and belongs to"),
        ({"kind": "rate", "calls": 1, "rate_hz": float("nan")}, "rate_hz must be > 0"),
    ],
)
def test_a_load_that_cannot_be(arguments, match):
    with pytest.raises(ValueError, match=match):
        Load(**arguments)


def warmed(latency_ms, calls=None):
    """Warm-up on a machine whose calls take ``latency_ms(index)``."""
    now = 0

    def call(index):
        nonlocal now
        now += round(latency_ms(index) * MS)

    return warm_up(call, calls, clock=lambda: now)


def test_warm_up_ends_once_latency_is_steady():
    noise = np.random.default_rng(0).uniform(0.98, 1.02, 5000)
    steady = warmed(lambda i: noise[i])
    assert steady.settled
    assert 80 <= steady.calls <= 200
    assert "medians" in steady.rule
    decaying = warmed(lambda i: (1 + 4 * np.exp(-i / 200)) * noise[i])
    assert decaying.settled
    assert decaying.calls > 600  # where 4 exp(-i / 200) is below the 5 % of the rule


def test_a_latency_that_never_settles_is_said():
    found = warmed(lambda i: 1.0 + (i // 20) % 2)
    assert not found.settled
    assert found.calls == 2000
    slow = warmed(lambda i: 1000.0)
    assert not slow.settled
    assert slow.calls == 21  # 20 s


def test_a_slow_fall_is_no_steady_state():
    assert is_steady([1.0] * 80)
    assert not is_steady([1.0] * 79)
    assert not is_steady([1.03] * 20 + [1.02] * 20 + [1.01] * 20 + [1.0] * 20)
    assert is_steady([1.03] * 20 + [1.02] * 20 + [1.01] * 20 + [1.02] * 20)
    assert is_steady([9.0] * 20 + [1.0] * 80)


def test_as_many_calls_as_asked_for():
    assert warmed(lambda i: 1.0, calls=0).calls == 0
    assert not warmed(lambda i: 1.0, calls=20).settled
    found = warmed(lambda i: 1.0, calls=100)
    assert (found.calls, found.settled) == (100, True)
    with pytest.raises(ValueError, match="warmup must be >= 0"):
        warmed(lambda i: 1.0, calls=-1)


def commands(mark):
    """Processes whose command line holds ``mark``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words, status = path.read_bytes(), (path.parent / "status").read_text()
        except OSError:
            continue
        if mark.encode() in words and "State:\tZ" not in status:
            found.append(int(path.parent.name))
    return found


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.02)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def sleeper(tmp_path, name):
    mark = f"mark-{name}-{os.getpid()}"
    return mark, f"{sys.executable} -c 'import time; time.sleep(100)' {mark}"


@linux
def test_a_command_runs_meanwhile_and_not_after_even_when_the_measurement_fails(tmp_path):
    mark, command = sleeper(tmp_path, "fails")
    with pytest.raises(RuntimeError, match="broken"), Interference(command) as load:
        assert len(commands(mark)) >= 1
        raise RuntimeError("broken")
    assert commands(mark) == []
    assert load.words == f"command: {command}"


@linux
def test_no_orphan_is_left_by_a_killed_measurement(tmp_path):
    mark, command = sleeper(tmp_path, "killed")
    program = (
        "import sys, time\nfrom mmedge.bench.machine.background_load import Interference\n"
        f"with Interference({command!r}):\n    print('on', flush=True)\n    time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout.readline() == "on\n"
        assert len(commands(mark)) >= 1
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: commands(mark) == [])


@linux
def test_what_does_not_heed_sigterm_is_killed(tmp_path):
    mark = f"mark-deaf-{os.getpid()}"
    ready = tmp_path / "ready"
    program = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(100)"
    )
    with Interference(f"{sys.executable} -c '{program}' {ready} {mark}"):
        wait_until(ready.exists)
    assert commands(mark) == []


@linux
@pytest.mark.parametrize(
    ("what", "words"), [("cpu:2", "cpu: 2 busy processes"), ("memory", "memory: 1 process copying")]
)
def test_busy_processes_take_processor_time(what, words):
    def spent():
        return sum(os.times()[2:4])  # of children that were waited for

    with Interference(what) as load:
        found = [p for process in load._running for p in children(process.pid)]
        assert len(found) == (2 if what == "cpu:2" else 1)
        wait_until(lambda: all(ticks(p) >= 5 for p in found))
    assert load.words.startswith(words)
    wait_until(lambda: not any(Path(f"/proc/{p}").exists() for p in found))


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ticks(pid):
    """User and system time of a process, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_load_that_ended_before_the_measurement_is_said():
    with Interference(f"{sys.executable} -c 'raise SystemExit(3)'") as load:
        time.sleep(0.5)
    assert load.words.endswith("(ended before the measurement did, with exit code 3)")


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("", "got nothing"),
        ("cpu:0", "expected cpu:N with N >= 1, got '0'"),
        ("memory:x", "expected memory:N"),
        ("'unclosed", "not a command"),
    ],
)
def test_words_that_are_no_load(what, match):
    with pytest.raises(InputError, match=match):
        Interference(what)


def test_a_command_that_cannot_be_started():
    with pytest.raises(InputError, match="(?s)cannot be started: .*no-such-program"):
        Interference("/no-such-program --now").__enter__()
