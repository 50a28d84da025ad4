"""Clocks that jump, stick or raise, threads that die, times of foreign types, slow readers."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
from stream_checks import Source, balanced, part
from streaming import make_streaming, value

import mmedge
from mmedge.errors import BackendError, InputError
from mmedge.stream import SimulatedClock, Stream
from mmedge.stream.clock import PATIENCE, StreamClock, read_seconds

WAIT = 60.0


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


@pytest.mark.parametrize("odd", [3600.0, -3600.0, -10.0, inf, -inf, nan, None, "12:00"])
def test_one_wrong_reading_is_not_used(odd):
    source = Source()
    now = StreamClock(source)
    before = now()
    source.odd = [odd]
    assert before <= now() <= before + 1.0
    assert before <= now() <= before + 1.0
    assert (now.glitches, now.jumps, now.offset) == (1, 0, 0.0)


@pytest.mark.serial
@pytest.mark.parametrize("back", [0.2, 0.95, 10.0, 4000.0])
def test_a_clock_that_was_set_back_is_followed(back):
    source = Source()
    calls = []
    now = StreamClock(source, lambda *told: calls.append(told))
    before = now()
    source.offset = -back
    time.sleep(0.01)
    after = now()
    assert before + 0.005 <= after <= before + 1.0
    assert now() - source() == pytest.approx(back, abs=0.01)
    assert (now.glitches, now.jumps) == (0, 1)
    assert calls == [(after, 0.0, now.offset)]


@pytest.mark.serial
def test_a_clock_that_was_set_ahead_is_followed():
    source = Source()
    calls = []
    now = StreamClock(source, lambda *told: calls.append(told))
    before = now()
    source.offset = 3600.0
    after = now()
    assert 3600.0 <= after - before <= 3601.0
    assert (now.glitches, now.jumps, now.offset) == (0, 1, 0.0)
    assert calls == [(after, pytest.approx(3600.0, abs=0.1), 0.0)]


def test_small_steps_back_hold_still():
    readings = iter([5.0, 4.95, 4.97, 5.1])
    now = StreamClock(lambda: next(readings))
    assert [now(), now(), now()] == [5.0, 5.0, 5.1]
    assert (now.glitches, now.jumps) == (0, 0)


def test_a_clock_of_no_use_and_one_that_raises():
    source = Source()
    now = StreamClock(source)
    source.odd = [nan] * 10_000_000
    before, start = now(), time.monotonic()
    with pytest.raises(BackendError, match="nothing of use for 1 s"):
        while time.monotonic() < start + 5 * PATIENCE:
            assert now() == before
            time.sleep(0.01)
    source.odd = [OSError("no /clock")]
    with pytest.raises(BackendError, match="the stream's clock raised OSError: no /clock"):
        now()
    for first in (nan, inf, None, "now"):
        with pytest.raises(InputError, match="the clock's first reading"):
            StreamClock(lambda first=first: first)


def run(s, source, numbers):
    """Push frames with their own stamps; the results."""
    results = []
    for k in numbers:
        s.push("state", value("state", k), t=source())
        s.push("camera", value("camera", k), t=source())
        results.append(s.result(WAIT))
        assert part(results[-1], "camera") == [k]
    return results


@pytest.mark.parametrize(
    ("offset", "odd"), [(-10.0, None), (3600.0, None), (-0.5, None), (0.0, 3600.0), (0.0, nan)]
)
@pytest.mark.parametrize("trigger", ["camera", 100])
def test_a_stream_goes_on_after_its_clock_was_set(pipe, offset, odd, trigger):
    source = Source()
    with Stream(pipe, trigger=trigger, clock=source, deadline_ms=5000) as s:
        s.push("text", "red ball")
        s.push("camera", value("camera", 1), t=source())
        while s.result(WAIT).outputs is None:
            pass  # a tick before the frame
        source.offset = offset
        if odd is not None:
            with s._lock:  # its own reading, and not that of a stamp
                source.odd = [odd]
                s._time()
        fresh = 0
        for k in range(2, 40):
            stamp = source()
            s.push("state", value("state", k), t=stamp)
            s.push("camera", value("camera", k), t=stamp)
            r = s.result(WAIT)
            fresh += r.fresh and part(r, "text") == [5.0]
            assert abs(r.latency) < 2.0
            assert abs(r.t - stamp) < 1.0
            assert abs(r.made - stamp) < 1.0
            for age in r.ages.values():
                assert age is None or -1.0 < age < 1.0 + max(offset, 0.0)
        assert fresh >= 30
        h = balanced(s)
        assert (h.clock_jumps, h.clock_glitches) == ((0, 1) if odd is not None else (1, 0))
        assert h.triggers < 2000
        state = h.modalities["state"]
        assert state.dropped.get("too_old", 0) + state.dropped.get("future", 0) <= 1


def test_a_clock_that_raises_fails_the_stream(pipe):
    source = Source()
    with Stream(pipe, trigger="camera", clock=source) as s:
        run(s, source, range(1, 3))
        source.odd = [OSError("no /clock")]
        with pytest.raises(BackendError, match="failed: the stream's clock raised OSError"):
            s.push("camera", value("camera", 5), t=1.0)
        for call in (lambda: s.push("camera", value("camera", 6)), lambda: s.result(1)):
            with pytest.raises(BackendError, match=r"clock raised OSError: no /clock; make a new"):
                call()
        assert balanced(s).failure == "the stream's clock raised OSError: no /clock"


def test_a_timer_whose_clock_raises_wakes_who_waits(pipe):
    source = Source()
    with Stream(pipe, trigger=100, clock=source) as s:
        caught = []

        def waits():
            try:
                while True:
                    s.result()
            except BackendError as error:
                caught.append(str(error))

        waiter = threading.Thread(target=waits)
        waiter.start()
        source.odd = [OSError("no /clock")]
        waiter.join(WAIT)
        assert len(caught) == 1
        assert "clock raised OSError" in caught[0]


@pytest.mark.parametrize("stage", ["see", "fuse", "scan"])
@pytest.mark.parametrize("error", [SystemExit("stop"), KeyboardInterrupt()])
def test_a_thread_that_dies_fails_the_stream(pipe, stage, error):
    class Dying:
        bundle, variant, armed = pipe.bundle, pipe.variant, False

        def run_stage(self, name, feeds):
            if self.armed and name == stage:
                raise error
            return pipe.run_stage(name, feeds)

    dying = Dying()
    with Stream(dying, trigger="camera") as s:
        s.push("camera", value("camera", 1))
        s.result(WAIT)
        dying.armed = True
        s.push("lidar", value("lidar", 1))
        with pytest.raises(BackendError, match=f"died: {type(error).__name__}"):
            for k in range(2, 10_000):
                s.push("camera", value("camera", k))
                s.result(WAIT)
        with pytest.raises(BackendError, match=r"the stream failed: thread 'mmedge "):
            s.push("camera", value("camera", 1))
        assert "died" in balanced(s).failure


def test_a_stage_that_ends_a_simulation_fails_the_stream(pipe, monkeypatch):
    def run(feeds):
        raise SystemExit("stop")

    with Stream(pipe, trigger="camera", clock=SimulatedClock()) as s:
        runs = {stage.name: run for stage in pipe.bundle.manifest.stages}
        monkeypatch.setattr(s._core.network.compute._plan, "_runs", runs)
        with pytest.raises(SystemExit):
            s.push("camera", value("camera", 1))
        with pytest.raises(BackendError, match="the stream failed: a stage died: SystemExit: stop"):
            s.push("camera", value("camera", 1))
        assert balanced(s).failure


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        (1, 1.0),
        (1.5, 1.5),
        (Fraction(3, 2), 1.5),
        (Decimal("1.5"), 1.5),
        (np.float64(1.5), 1.5),
        (np.longdouble(1.5), 1.5),
        (np.int32(2), 2.0),
        (np.uint64(2), 2.0),
    ],
)
def test_numbers_are_seconds(stamp, seconds):
    read = read_seconds(stamp, "a stamp")
    assert (type(read), read) == (float, seconds)


FOREIGN = (
    ("1.5", "got str '1.5'"),
    (b"1", "got bytes"),
    (True, "got bool"),
    (np.bool_(True), "got bool"),
    (1j, "got complex"),
    (np.complex64(1), "got complex64"),
    (np.float32(1.5), "keep stamps in float64"),
    (np.float16(1.5), "keep stamps in float64"),
    (np.array(1.5), r"pass t\.item\(\)"),
    (np.array([1.5]), r"pass t\.item\(\)"),
    (np.datetime64("2026-11-28"), "timedelta64"),
    (np.timedelta64(5, "ms"), "timedelta64"),
    (datetime(2026, 11, 28, tzinfo=UTC), r"pass t\.timestamp\(\)"),
    (timedelta(seconds=1), r"pass t\.total_seconds\(\)"),
    (SimpleNamespace(sec=1, nanosec=5), r"pass t\.sec \+ t\.nanosec / 1e9"),
    (SimpleNamespace(nanoseconds=5), r"pass t\.nanoseconds / 1e9"),
    (SimpleNamespace(to_sec=lambda: 1.0), r"pass t\.to_sec\(\)"),
    (object(), "got object"),
    ([1.0], "got list"),
    (10**400, "no float"),
    (Decimal("sNaN"), "no float"),
    (Decimal("NaN"), "finite"),
    (nan, "finite"),
    (inf, "finite"),
    (-np.inf, "finite"),
)


@pytest.mark.parametrize(("stamp", "match"), FOREIGN)
def test_stamps_of_foreign_types_are_told(pipe, stamp, match):
    with Stream(pipe, trigger="camera", clock=SimulatedClock()) as s:
        with pytest.raises(InputError, match=match):
            s.push("camera", value("camera", 1), t=stamp)
        assert balanced(s).modalities["camera"].pushed == 0


@pytest.mark.parametrize("simulated", [True, False])
def test_timeouts(pipe, simulated):
    clock = SimulatedClock() if simulated else None
    with Stream(pipe, trigger="camera", clock=clock) as s:
        for bad in (nan, -1, -0.5, -inf, "1", True, [1], timedelta(seconds=1), 10**400):
            with pytest.raises(InputError, match="timeout"):
                s.result(bad)
        for endless in (inf, 1e300, None, np.float64(np.inf)):
            s.push("camera", value("camera", 1))
            if clock is not None:
                clock.advance(0.01)
            assert s.result(endless).outputs is not None
        with pytest.raises(TimeoutError):
            s.result(0)
        assert s.push("camera", value("camera", 2)) == 4


@pytest.mark.parametrize(
    "options",
    [
        *({"trigger": t} for t in (1e300, 1e-300, nan, inf, -1, 0, True, None, [1], 10**400)),
        *({"deadline_ms": d} for d in (nan, inf, -1, "50", timedelta(seconds=1), 10**400)),
        *({"depth": d} for d in ("3", 2.5, None, True)),
        *({"keep": d} for d in ("3", 2.5, 0)),
        *({"future": f} for f in ("3", nan, -1, None)),
        {"clock": lambda: nan},
        {"clock": lambda: "now"},
    ],
)
def test_options_that_cannot_be_meant(pipe, options):
    with pytest.raises(InputError):
        Stream(pipe, **{"trigger": 10, "clock": SimulatedClock(), **options})


@pytest.mark.parametrize("time", [nan, inf, "1", 1e308 * 10])
def test_a_simulated_clock_takes_finite_times(time):
    for call in (SimulatedClock, SimulatedClock().advance_to):
        with pytest.raises(InputError):
            call(time)


def test_a_slow_reader_sees_how_late_it_is_and_can_catch_up(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock, deadline_ms=50, keep=16) as s:
        for k in range(20):
            s.push("camera", value("camera", k))
            s.push("camera", value("camera", k), t=clock())  # a duplicate
            clock.advance(0.03)
        # 4 were dropped unseen, and what they told of drops was not.
        r = s.result(0)
        assert (part(r, "camera"), r.met) == ([4.0], True)
        assert r.lateness == pytest.approx(16 * 0.03)
        assert r.dropped == {"camera": {"duplicate": 4}}
        r = s.result(0, latest=True)
        assert (part(r, "camera"), r.lateness) == ([19.0], pytest.approx(0.03))
        assert r.dropped == {"camera": {"duplicate": 15}}
        with pytest.raises(TimeoutError):
            s.result(0, latest=True)
        h = balanced(s)
        assert (h.results, h.results_dropped) == (20, 18)
        s.push("camera", value("camera", 50))
        assert s.result(latest=True).lateness == 0.0
