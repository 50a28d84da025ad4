"""Streams on a simulated clock: windows of large chunks, turns, stamps that begin again."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import pairwise

import numpy as np
import pytest
from echo import make_echo
from stream_checks import balanced

import mmedge
from mmedge.errors import InputError
from mmedge.stream import Exact, Hold, Interpolate, Latest, SimulatedClock, Window

HALF = np.pi / 2


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A pipeline of modalities (see :mod:`echo`), made once for each set of them."""
    folder, pipes = tmp_path_factory.mktemp("echo"), {}

    def open_pipe(**modalities):
        key = repr(modalities)
        if key not in pipes:
            path = make_echo(folder / f"bundle{len(pipes)}", modalities)
            pipes[key] = mmedge.load(path, threads=1)
        return pipes[key]

    yield open_pipe
    for pipe in pipes.values():
        pipe.close()


@contextmanager
def streaming(pipe, start=1000.0, costs=None, **options):
    clock = SimulatedClock(start=start, costs=costs)
    with pipe.stream(clock=clock, **options) as stream:
        yield stream, clock
        balanced(stream)
    health = balanced(stream)
    assert all(m.pending == m.windows_pending == 0 for m in health.modalities.values())


def fetch(stream):
    results = []
    with suppress(TimeoutError):
        while True:
            results.append(stream.result(0.0))
    return results


def full(number, size=4):
    return np.full((1, size), number, np.float32)


def rows(first, count):
    return np.arange(first, first + count, dtype=np.float32)[None]


# Windows.


@pytest.mark.parametrize(
    ("length", "hop", "chunk"), [(8, 8, 32), (16, 4, 20), (8, 3, 1), (8, 16, 7), (4, 1, 64)]
)
@pytest.mark.parametrize("start", [1000.0, 0.0, -50.0, 1.7e9])
def test_every_hop_runs(opened, length, hop, chunk, start):
    pipe = opened(mic=({"pcm": "rows"}, {}))
    align = {"mic": Window(length, hop)}
    with streaming(pipe, start, trigger="mic", keep=4096, align=align) as (s, clock):
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


def test_windows_that_cannot_be_had_in_time_are_counted(opened):
    pipe = opened(mic=({"pcm": "rows"}, {}))
    costs = {"fuse": 0.04}
    with streaming(pipe, trigger="mic", costs=costs, align={"mic": Window(8, 8)}) as (s, clock):
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


def test_windows_of_several_inputs_and_a_rate(opened):
    pipe = opened(imu=({"gyro": "rows", "accel": "rows"}, {"max_age_ms": 100.0}))
    align = {"imu": Window(8, 4, rate_hz=2000)}
    with streaming(pipe, trigger="imu", align=align) as (s, clock):
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


def test_a_bundle_of_windows_that_would_all_be_too_old_is_refused(opened):
    pipe = opened(mic=({"pcm": "rows"}, {"max_age_ms": 50.0, "sample_rate_hz": 100}))
    for policy, match in (
        (Window(8), r"70 ms older than its newest, but max_age_ms is 50"),
        (Window(4, rate_hz=200), r"rate_hz is 200, the bundle's sample_rate_hz 100"),
    ):
        with pytest.raises(InputError, match=match):
            pipe.stream(trigger="mic", align={"mic": policy}, clock=SimulatedClock())
    with streaming(pipe, trigger="mic", align={"mic": Window(8, max_age_ms=100)}) as (s, clock):
        for k in range(4):
            clock.advance(0.04)
            s.push("mic", rows(4 * k, 4))
        assert all(r.ages["mic"] == pytest.approx(0.07) for r in fetch(s))


# Interpolation.


def test_turns_are_named_by_input(opened):
    pipe = opened(
        camera=({"image": 4}, {}), arm=({"joints": 7, "wrist": 4, "yaw": 1}, {"rate_hz": 20.0})
    )
    for policy, match in (
        (Interpolate(((0, 4),)), "modality 'arm': quaternions: several inputs, joints, wrist, yaw"),
        (Interpolate(angles=((0, 1),)), "angles: several inputs"),
        (Interpolate({"waist": ((0, 4),)}), "unknown input 'waist'"),
        (Interpolate({"yaw": ((0, 4),)}), r"no elements \(0, 4\)"),
    ):
        with pytest.raises(InputError, match=match):
            pipe.stream(trigger="camera", align={"arm": policy}, clock=SimulatedClock())
    policy = Interpolate({"wrist": ((0, 4),)}, angles={"yaw": ((0, 1),)})
    with streaming(pipe, trigger="camera", align={"arm": policy}) as (s, clock):
        clock.advance(1.0)
        quarter = np.array([[0, 0, np.sin(HALF / 2), np.cos(HALF / 2)]], np.float32)
        none = np.array([[0, 0, 0, -1]], np.float32)  # the same as (0, 0, 0, 1)
        for t, joints, wrist, yaw in ((1000.5, 2, none, 3.0), (1000.6, 3, quarter, -3.1)):
            s.push("arm", {"joints": full(joints, 7), "wrist": wrist, "yaw": full(yaw, 1)}, t=t)
        s.push("camera", full(1), t=1000.55)
        r = s.result(0)
        assert r.outputs["joints_used"][0] == pytest.approx([2.5] * 7, abs=1e-5)
        eighth = [0, 0, np.sin(HALF / 4), np.cos(HALF / 4)]
        assert np.abs(r.outputs["wrist_used"][0]) == pytest.approx(eighth, abs=1e-5)
        turned = 2 * np.pi - 6.1  # from 3.0 to -3.1 the shorter way
        assert r.outputs["yaw_used"].item() == pytest.approx(3.0 + turned / 2, abs=1e-5)
        assert r.notes == {}
        s.push("camera", full(1), t=1000.7)
        assert s.result(0).notes == {
            "arm": "held, not interpolated: no usable sample after the trigger"
        }


def test_angles_of_another_unit_make_a_reason(opened):
    pipe = opened(camera=({"image": 4}, {}), compass=({"heading": 1}, {"required": False}))
    align = {"compass": Interpolate(angles=((0, 1),))}
    with streaming(pipe, trigger="camera", align=align) as (s, clock):
        clock.advance(1.0)
        for t, heading in ((1000.5, 350), (1000.6, 10)):
            s.push("compass", full(heading, 1), t=t)
        s.push("camera", full(1), t=1000.55)
        assert "not angles in radians from -pi to pi: 350" in s.result(0).absent["compass"]


@pytest.mark.parametrize("policy", [Interpolate(), Exact(500.0)])
def test_a_history_that_is_too_short_says_so(opened, policy):
    pipe = opened(camera=({"image": 4}, {}), state=({"x": 4}, {"required": False}))
    with streaming(pipe, trigger="camera", depth=4, align={"state": policy}) as (s, clock):
        for k in range(10):
            s.push("state", full(k))
            clock.advance(0.1)
        s.push("camera", full(1), t=1000.45)  # states 6 to 9 are kept
        r = s.result(0)
        assert r.absent["state"].startswith(
            "history_too_short: the trigger's time is 0.15 s before the oldest of 4 samples kept; "
            "raise the stream's depth, 4"
        )
        s.push("camera", full(1), t=1000.66)
        r = s.result(0)
        assert not r.absent
        assert r.outputs["x_used"][0, 0] == pytest.approx(6.6 if policy == Interpolate() else 7)


def test_interpolation_over_a_gap_says_so(opened):
    pipe = opened(camera=({"image": 4}, {}), state=({"x": 4}, {"rate_hz": 100.0}))
    with streaming(pipe, trigger="camera", align={"state": Interpolate()}) as (s, clock):
        for k, t in enumerate((1000.0, 1000.02, 1000.5)):
            clock.advance_to(t)
            s.push("state", full(k))
        for t, note in (
            (1000.01, {}),
            (1000.26, {"state": "interpolated over 0.48 s without a usable sample"}),
        ):
            s.push("camera", full(1), t=t)
            r = s.result(0)
            assert (len(r.samples["state"]), r.notes) == (2, note)


def test_a_first_sample_after_the_trigger_is_no_short_history(opened):
    pipe = opened(camera=({"image": 4}, {}), state=({"x": 4}, {"required": False}))
    with streaming(pipe, trigger="camera", align={"state": Interpolate()}) as (s, clock):
        clock.advance(1.0)
        s.push("state", full(1), t=1000.9)
        s.push("camera", full(1), t=1000.8)
        r = s.result(0)
        assert r.ages["state"] == pytest.approx(-0.1)
        assert "no usable sample before the trigger" in r.notes["state"]


# Stamps.


@pytest.mark.parametrize("policy", [Latest(), Exact(20.0), Interpolate(), Hold(300.0)])
@pytest.mark.parametrize("period", [0.05, 0.0333])
def test_a_bag_played_in_a_loop(opened, policy, period):
    """Stamps begin again after 2 s: but for the samples that show it, each frame has a result."""
    limits = {"rate_hz": 20.0, "max_age_ms": 200.0}
    pipe = opened(camera=({"image": 4}, limits), state=({"x": 4}, limits))
    align = {"state": policy}
    with streaming(pipe, 0.0, trigger="camera", align=align, keep=4096) as (s, clock):
        count = int(2.0 / period)
        for k in range(3 * count):
            t = k % count * period
            s.push("state", full(k), t=t)
            s.push("camera", full(k), t=t)
            clock.advance(period)
        results = fetch(s)
        assert len([r for r in results if r.outputs is not None]) >= 3 * count - 2 * 3
        for r in results:
            if r.outputs is None:
                continue
            # Of the same loop, and not of the one before with the same stamp.
            camera, state = r.outputs["image_used"][0, 0], r.outputs["x_used"][0, 0]
            assert abs(camera - state) <= 1.0
        h = s.health()
        assert [m.clock_jumps for m in h.modalities.values()] == [2, 2]


@pytest.mark.parametrize("step", [-0.95, -0.9, -0.1, -5.0, -3600.0])
def test_a_clock_that_is_set_back_costs_two_samples(opened, step):
    pipe = opened(camera=({"image": 4}, {"rate_hz": 20.0, "max_age_ms": 200.0}))
    with streaming(pipe, 1e5, trigger="camera", keep=4096) as (s, clock):
        for k in range(100):
            s.push("camera", full(k), t=clock() + (step if k >= 50 else 0.0))
            clock.advance(0.05)
        got = [r.outputs["image_used"][0, 0] for r in fetch(s)]
        assert [k for k in range(100) if k not in got] == [50, 51]


def test_late_samples_are_no_clock_set_back(opened):
    """Of a source with two ways, each third sample is late by half a second."""
    pipe = opened(camera=({"image": 4}, {}))
    with streaming(pipe, trigger="camera", keep=4096) as (s, clock):
        for k in range(60):
            s.push("camera", full(k), t=clock() - (0.5 if k % 3 else 0.0))
            clock.advance(0.05)
        camera = s.health().modalities["camera"]
        assert camera.clock_jumps == 0
        assert camera.dropped["out_of_order"] > 30


def test_an_instruction_behind_the_last_is_told(opened):
    pipe = opened(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    with streaming(pipe, trigger="camera") as (s, clock):
        s.push("text", full(1))
        clock.advance(1.0)
        s.push("text", full(2), t=998.5)
        s.push("camera", full(1))
        r = s.result(0)
        assert r.outputs["ids_used"][0, 0] == 1
        assert r.dropped == {"text": {"out_of_order": 1}}
        told = {"text": "its newest sample was dropped: out_of_order"}
        assert r.notes == told
        clock.advance(1.0)
        s.push("camera", full(2))
        assert s.result(0).notes == told
        s.push("text", full(3))
        s.push("camera", full(3), t=clock() + 0.01)
        r = s.result(0)
        assert (r.outputs["ids_used"][0, 0], r.notes) == (3, {})


@pytest.mark.parametrize("policy", [Latest(), Hold(100.0)])
@pytest.mark.parametrize("rate", [10.0, 200.0])  # encoded on arrival, and on demand
def test_what_is_too_new_is_absent(opened, policy, rate):
    limits = {"max_age_ms": 100.0, "rate_hz": rate, "required": False}
    pipe = opened(scan=({"points": 4}, {"rate_hz": 10.0}), state=({"x": 4}, limits))
    with streaming(pipe, trigger="scan", align={"state": policy}) as (s, clock):
        clock.advance(1.0)
        s.push("state", full(1))
        s.push("scan", full(1), t=1000.52)
        r = s.result(0)
        assert r.absent["state"].startswith("too_new: 0.48 s newer than the trigger, limit 0.1 s")
        assert r.outputs["x_used"][0, 0] == 0
        s.push("scan", full(1), t=1000.95)
        assert s.result(0).ages["state"] == pytest.approx(-0.05)


# Waiting.


def stereo(opened, policy, lags, required=True):
    """Left and right at 20 Hz, the right one arriving later by ``lags``; the results."""
    pipe = opened(left=({"l": 4}, {}), right=({"r": 4}, {"required": required}))
    with streaming(pipe, trigger="left", align={"right": policy}) as (s, clock):
        results = []
        for k, lag in enumerate(lags):
            clock.advance_to(1000 + k / 20)
            t = clock()
            s.push("left", full(k))
            clock.advance(lag)
            s.push("right", full(k), t=t + 0.001)
            results += fetch(s)
        clock.advance(1.0)
        return results + fetch(s)


def test_partners_are_waited_for_until_they_come(opened):
    lags = [0.0, 0.01, 0.02, 0.005, 0.03]
    assert [r.outputs is None for r in stereo(opened, Exact(5), lags)] == [True] * 5
    results = stereo(opened, Exact(5, wait_ms=25), lags)
    assert [r.latency for r in results] == pytest.approx([0.0, 0.01, 0.02, 0.005, 0.025])
    for k, r in enumerate(results[:4]):
        assert r.outputs["l_used"][0, 0] == r.outputs["r_used"][0, 0] == k
        assert r.ages["right"] == pytest.approx(-0.001)
    assert results[4].reason.startswith("required modality 'right' is absent: too_old: no sample")


def test_a_wait_ends_where_nothing_can_come_or_the_deadline_is_at_risk(opened):
    results = stereo(opened, Exact(0.5, wait_ms=1000), [0.01] * 3)
    assert [r.latency for r in results] == pytest.approx([0.01] * 3)
    pipe = opened(left=({"l": 4}, {}), right=({"r": 4}, {"required": False}))
    align = {"right": Exact(5, wait_ms=1000)}
    with streaming(pipe, trigger="left", align=align, deadline_ms=40) as (s, _):
        s.push("left", full(1))
        r = s.result(1.0)
        assert (r.met, r.latency) == (True, pytest.approx(0.038))
        assert r.absent["right"] == "no sample yet"


def test_live_interpolation_waits_for_the_sample_after_the_trigger(opened):
    pipe = opened(camera=({"image": 4}, {}), state=({"x": 4}, {"rate_hz": 100.0}))
    for wait, at, ends in ((0, 3, 0.0), (20, 3.4, 0.006), (4, 3, 0.004)):
        align = {"state": Interpolate(wait_ms=wait)}
        with streaming(pipe, 0.0, trigger="camera", align=align) as (s, clock):
            for k in range(6):
                clock.advance_to(k / 100)
                s.push("state", full(k))
                if k == 3:
                    clock.advance(0.004)
                    s.push("camera", full(1))
            r = s.result(0)
            assert r.outputs["x_used"][0, 0] == pytest.approx(at)
            assert r.latency == pytest.approx(ends)
            assert len(r.samples["state"]) == (2 if wait == 20 else 1)
            assert r.notes.keys() == (set() if wait == 20 else {"state"})


@pytest.mark.parametrize("policy", [Latest(wait_ms=200), Hold(1e6, wait_ms=200)])
@pytest.mark.parametrize(("cost", "used", "latency"), [(0.15, 2, 0.15), (0.3, 1, 0.2)])
def test_a_prompt_that_just_changed_is_waited_for(opened, policy, cost, used, latency):
    pipe = opened(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    costs = {"text": cost}
    with streaming(pipe, trigger="camera", costs=costs, align={"text": policy}) as (s, clock):
        s.push("text", full(1))
        clock.advance(1.0)
        s.push("text", full(2))
        s.push("camera", full(1))
        r = s.result(1.0)
        assert r.outputs["ids_used"][0, 0] == used
        assert r.latency == pytest.approx(latency)
        late = {"text": "a newer one was still being encoded after 0.2 s"}
        assert r.notes == ({} if used == 2 else late)
        clock.advance(1.0)
        s.push("camera", full(2))
        r = s.result(1.0)
        assert (r.outputs["ids_used"][0, 0], r.latency, r.notes) == (2, 0.0, {})


def test_only_bounded_waits_can_be_meant():
    for policy in (Latest, Interpolate, lambda **wait: Exact(1, **wait)):
        for wait in (-1, float("nan"), float("inf")):
            with pytest.raises(InputError, match="wait_ms must be"):
                policy(wait_ms=wait)


# Withdrawn instructions, ended episodes.


@pytest.mark.parametrize("costs", [{}, {"text": 0.02}, {"fuse": 0.02}, {"camera": 0.02}])
@pytest.mark.parametrize("pause", [0.0, 0.01, 0.1])
def test_nothing_uses_what_was_forgotten(opened, costs, pause):
    """Whether it is encoded, fused, fetched, or waits: no result from then on has it."""
    pipe = opened(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    with streaming(pipe, trigger="camera", costs=costs) as (s, clock):
        s.push("text", full(1))
        s.push("camera", full(1))
        clock.advance(pause)
        s.push("camera", full(2))
        s.forget("text")
        clock.advance(1.0)
        s.push("camera", full(3))
        clock.advance(1.0)
        results = fetch(s)
        assert results[-1].outputs["image_used"][0, 0] == 3
        for r in results:
            assert r.absent == {"text": "forgotten"}
            assert r.outputs["ids_used"][0, 0] == 0
        s.push("text", full(5), t=5.0)  # before all the others, and used at once
        clock.advance(1.0)
        s.push("camera", full(4))
        r = s.result(1.0)
        assert (r.outputs["ids_used"][0, 0], r.absent) == (5, {})
        text = balanced(s).modalities["text"]
        assert text.used + text.dropped.get("forgotten", 0) == 2


def test_repeated_outputs_do_not_use_what_was_forgotten(opened):
    pipe = opened(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    costs = {"fuse": 0.1}
    with streaming(pipe, trigger="camera", costs=costs, deadline_ms=50) as (s, clock):
        results = []
        for k in range(7):
            if k < 5:
                s.push("text", full(k))
            else:
                s.forget("text")
            s.push("camera", full(k))
            clock.advance(0.2)
            results += fetch(s)
        # The first runs are late; those that follow repeat what they gave, and say of when.
        assert not all(r.fresh for r in results)
        for before, r in pairwise(results):
            assert r.outputs_t == (r.t if r.fresh else before.outputs_t)
        assert results[5].fresh
        assert "text" not in results[5].samples


def test_forgetting_what_triggers_ends_its_triggers(opened):
    pipe = opened(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    with streaming(pipe, trigger="camera", costs={"camera": 0.1}) as (s, clock):
        s.push("camera", full(1))
        s.push("camera", full(2), t=1000.01)
        s.forget("camera")
        clock.advance(1.0)
        assert fetch(s) == []
        h = balanced(s)
        assert h.triggers_closed == 2
        assert h.modalities["camera"].dropped == {"forgotten": 2}
        assert h.modalities["camera"].reason == "forgotten"
    with pytest.raises(InputError, match="unknown modality 'sonar'"):
        s.forget("sonar")
    with pytest.raises(mmedge.errors.BackendError, match="closed"):
        s.forget("camera")


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.03, 0.2])
def test_a_reset_begins_as_a_new_stream(opened, pause):
    limits = {"max_age_ms": 200.0, "required": False, "absent": "last"}
    pipe = opened(
        camera=({"image": 4}, {}),
        text=({"ids": 4}, {"required": False}),
        state=({"x": 4}, limits),
        mic=({"pcm": "rows"}, {"required": False}),
    )
    costs = {"camera": 0.02, "fuse": 0.02, "text": 0.01}
    align = {"state": Interpolate(), "mic": Window(8, 4)}
    with streaming(pipe, trigger="camera", costs=costs, align=align) as (s, clock):
        for k in range(5):
            for name in ("text", "state", "camera"):
                s.push(name, full(k))
            s.push("mic", rows(4 * k, 4))
            clock.advance(0.04)
        clock.advance(pause)
        s.reset()
        before = balanced(s)
        assert all(
            m.reason == "no sample yet" or "filling" in m.reason for m in before.modalities.values()
        )
        clock.advance(1.0)
        assert fetch(s) == []
        s.push("mic", rows(100, 4))
        s.push("camera", full(7), t=3.0)  # the episode has a clock of its own
        r = s.result(1.0)
        assert (r.outputs["image_used"][0, 0], r.fresh, set(r.samples)) == (7, True, {"camera"})
        assert r.outputs["x_used"][0, 0] == 0
        assert r.absent["mic"].startswith("filling (4 of 8 rows); began anew")
        s.reset()
        s.reset()


def test_forgotten_samples_are_not_what_a_frozen_sensor_is_judged_by(opened):
    pipe = opened(camera=({"image": 4}, {}))
    checks = {"camera": mmedge.stream.Sanity(frozen_after=3)}
    with streaming(pipe, trigger="camera", sanity=checks) as (s, clock):
        for _ in range(4):
            for _ in range(2):
                s.push("camera", full(1))
                clock.advance(0.1)
            s.reset()
        assert s.health().modalities["camera"].dropped == {}
