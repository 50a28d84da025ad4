"""Windows of a stream on a simulated clock: large chunks, gaps, ages, what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from stream_checks import balanced, echo_stream, fetch, part, rows
from streaming import value

import mmedge
from mmedge.errors import InputError
from mmedge.stream import Hold, SimulatedClock, Stream, Window


@pytest.fixture(scope="module")
def pipe(streaming):
    with mmedge.load(streaming, threads=1) as pipe:
        yield pipe


@pytest.mark.parametrize(
    ("length", "hop", "chunk"), [(8, 8, 32), (16, 4, 20), (8, 3, 1), (8, 16, 7), (4, 1, 64)]
)
@pytest.mark.parametrize("start", [1000.0, 0.0, -50.0, 1.7e9])
def test_every_hop_runs(open_echo, length, hop, chunk, start):
    pipe = open_echo(mic=({"pcm": "rows"}, {}))
    align = {"mic": Window(length, hop)}
    with echo_stream(pipe, start, trigger="mic", keep=4096, align=align) as (s, clock):
        for k in range(10):
            s.push("mic", rows(k * chunk, chunk))
            clock.advance(0.1)
        results = fetch(s)
        least = -(-length // hop) * hop
        ends = range(least, 10 * chunk + 1, hop)
        expected = [list(range(end - length, end)) for end in ends]
        assert [r.outputs["pcm_used"][0].tolist() for r in results] == expected
        h = s.health()
        mic = h.modalities["mic"]
        assert mic.windows == mic.windows_used == h.results == len(expected)
        assert h.triggers_superseded == 0


def test_windows_that_cannot_be_had_in_time_are_counted(open_echo):
    pipe = open_echo(mic=({"pcm": "rows"}, {}))
    costs = {"fuse": 0.04}
    with echo_stream(pipe, trigger="mic", costs=costs, align={"mic": Window(8, 8)}) as (s, clock):
        for k in range(5):
            s.push("mic", rows(32 * k, 32))
            clock.advance(0.1)
        clock.advance(1.0)
        h = balanced(s)
        mic = h.modalities["mic"]
        assert (mic.used, mic.windows) == (5, 20)
        # Those of a chunk that are left when the next one comes give way to it.
        assert mic.windows_used == h.results < 20
        assert mic.windows_dropped == {"superseded": h.triggers_superseded}
        assert h.triggers_superseded == 20 - h.results


def test_windows_of_several_inputs_and_a_rate(open_echo):
    pipe = open_echo(imu=({"gyro": "rows", "accel": "rows"}, {"max_age_ms": 100.0}))
    align = {"imu": Window(8, 4, rate_hz=2000)}
    with echo_stream(pipe, trigger="imu", align=align) as (s, clock):
        for k in range(4):
            clock.advance(0.006)
            s.push("imu", {"gyro": rows(12 * k, 12), "accel": -rows(12 * k, 12)})
        results = fetch(s)
        assert len(results) == 11
        for k, r in enumerate(results):
            assert r.outputs["gyro_used"][0].tolist() == list(range(4 * k, 4 * k + 8))
            assert (r.outputs["accel_used"] == -r.outputs["gyro_used"]).all()
            # Row n is of 1000 s + (n + 1) / 2 ms.
            assert r.t == pytest.approx(1000 + (4 * k + 8) / 2000, abs=1e-9)
            assert r.ages["imu"] == pytest.approx(7 / 2000, abs=1e-9)


def test_a_bundle_of_windows_that_would_all_be_too_old_is_refused(open_echo):
    pipe = open_echo(mic=({"pcm": "rows"}, {"max_age_ms": 50.0, "sample_rate_hz": 100}))
    for policy, match in (
        (Window(8), r"70 ms older than its newest, but max_age_ms is 50"),
        (Window(4, rate_hz=200), r"rate_hz is 200, the bundle's sample_rate_hz 100"),
    ):
        with pytest.raises(InputError, match=match):
            pipe.stream(trigger="mic", align={"mic": policy}, clock=SimulatedClock())
    with echo_stream(pipe, trigger="mic", align={"mic": Window(8, max_age_ms=100)}) as (s, clock):
        for k in range(4):
            clock.advance(0.04)
            s.push("mic", rows(4 * k, 4))
        assert all(r.ages["mic"] == pytest.approx(0.07) for r in fetch(s))


def test_window_restarts_after_a_bad_chunk(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="voice", clock=clock, align={"voice": Window(8, 4)}) as s:
        s.push("camera", value("camera", 1))
        for k in range(6):
            clock.advance(0.01)
            chunk = value("voice", k)
            if k == 3:
                chunk[0, 2] = np.nan
            s.push("voice", chunk)
        clock.advance(0.01)
        s.push("voice", value("voice", 6)[:, :3])  # no new window
        got = [s.result(0) for _ in range(3)]
        assert [part(r, "voice") for r in got] == [[0, 1], [1, 2], [4, 5]]
        with pytest.raises(TimeoutError, match="3 times"):
            s.result(0)
        h = balanced(s).modalities["voice"]
        assert h.dropped == {"nan": 1}
        assert (h.used, h.pending) == (5, 1)


def test_no_window_spans_an_outage(pipe):
    """Chunks, nothing for 1,000 s, chunks: with a maximum age and without, stated rate or not."""
    for options in ({}, {"rate_hz": 400}, {"max_age_ms": 1e9}, {"rate_hz": 400, "max_age_ms": 1e9}):
        clock = SimulatedClock(start=1.0)
        align = {"voice": Window(8, 4, **options), "camera": Hold(1e9)}
        with Stream(pipe, trigger="voice", clock=clock, align=align) as s:
            s.push("camera", value("camera", 1))
            for k in range(6):
                clock.advance(1000.0 if k == 3 else 0.01)
                s.push("voice", value("voice", k))
            got = []
            while s.health().results > len(got):
                got.append(s.result(0))
            assert [part(r, "voice") for r in got] == [[0, 1], [1, 2], [3, 4], [4, 5]], options
            assert all(0.0099 < r.ages["voice"] < 0.0201 for r in got)
            h = balanced(s).modalities["voice"]
            assert (h.windows, h.windows_used, h.dropped) == (4, 4, {})


def test_outage_between_the_first_chunks_of_a_window(pipe):
    clock = SimulatedClock()
    align = {"voice": Window(8, 8, max_age_ms=1e9)}
    with Stream(pipe, trigger="camera", clock=clock, align=align) as s:
        s.push("voice", value("voice", 1))
        clock.advance(1000.0)
        s.push("voice", value("voice", 2))
        s.push("camera", value("camera", 2))
        r = s.result(0)
        assert r.absent["voice"].startswith("filling (4 of 8 rows); began anew: 1000 s lie between")
        assert r.dropped == {"voice": {"gap": 1}}
        clock.advance(0.01)
        s.push("voice", value("voice", 3))
        s.push("camera", value("camera", 3))
        r = s.result(0)
        assert part(r, "voice") == [2, 3]
        assert [u.seq for u in r.samples["voice"]] == [1, 2]
        assert r.notes == {}
        clock.advance(1000.0)
        s.push("voice", value("voice", 4))
        s.push("camera", value("camera", 4))
        r = s.result(0)
        assert r.ages["voice"] == pytest.approx(1000.01)
        assert r.notes["voice"].startswith("an older window; the next is filling (4 of 8 rows)")


@pytest.mark.parametrize(
    ("t", "dropped"),
    [(0.015, "out_of_order"), (5.0, "future"), (-1.0, "too_old"), (0.02, "duplicate")],
)
def test_no_window_spans_a_chunk_that_was_dropped(pipe, t, dropped):
    clock = SimulatedClock()
    with Stream(pipe, trigger="voice", clock=clock, align={"voice": Window(8, 4)}) as s:
        s.push("camera", value("camera", 1))
        for k in range(3):
            s.push("voice", value("voice", k), t=0.01 * k)
        s.push("voice", value("voice", 3), t=t)
        for k in range(4, 6):
            s.push("voice", value("voice", k), t=0.01 * k)
        assert [part(s.result(0), "voice") for _ in range(3)] == [[0, 1], [1, 2], [4, 5]]
        assert balanced(s).modalities["voice"].dropped == {dropped: 1}


def test_a_chunk_that_comes_twice_is_no_gap(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="voice", clock=clock, align={"voice": Window(8, 4)}) as s:
        s.push("camera", value("camera", 1))
        for k in (0, 0, 1, 1, 2):
            s.push("voice", value("voice", k), t=0.01 * k)
        assert [part(s.result(0), "voice") for _ in range(2)] == [[0, 1], [1, 2]]
        assert balanced(s).modalities["voice"].dropped == {"duplicate": 2}


def test_a_window_is_as_old_as_its_oldest_row(pipe):
    clock = SimulatedClock()
    align = {"voice": Window(8, 4, max_age_ms=25)}
    with Stream(pipe, trigger="camera", clock=clock, align=align) as s:
        for k in range(2):
            s.push("voice", value("voice", k), t=0.01 * k)
        for t, age in ((0.02, 0.02), (0.026, None)):
            clock.advance_to(t)
            s.push("camera", value("camera", 1))
            r = s.result(0)
            assert r.ages["voice"] == (None if age is None else pytest.approx(age))
        assert r.absent["voice"].startswith(
            "too_old: 0.026 s, limit 0.025 s for the oldest row of the window"
        )
