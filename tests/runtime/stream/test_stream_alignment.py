"""Streams on a simulated clock: interpolation, stamps that begin again, what is too new."""

from __future__ import annotations

import numpy as np
import pytest
from stream_checks import echo_stream, fetch, full

from mmedge.errors import InputError
from mmedge.stream import Exact, Hold, Interpolate, Latest, SimulatedClock

HALF = np.pi / 2

# Interpolation.


def test_turns_are_named_by_input(open_echo):
    pipe = open_echo(
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
    with pytest.raises(InputError, match=r"modality 'arm': expected a policy, .* got 300"):
        pipe.stream(trigger="camera", align={"arm": 300}, clock=SimulatedClock())
    policy = Interpolate({"wrist": ((0, 4),)}, angles={"yaw": ((0, 1),)})
    with echo_stream(pipe, trigger="camera", align={"arm": policy}) as (s, clock):
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


def test_angles_of_another_unit_make_a_reason(open_echo):
    pipe = open_echo(camera=({"image": 4}, {}), compass=({"heading": 1}, {"required": False}))
    align = {"compass": Interpolate(angles=((0, 1),))}
    with echo_stream(pipe, trigger="camera", align=align) as (s, clock):
        clock.advance(1.0)
        for t, heading in ((1000.5, 350), (1000.6, 10)):
            s.push("compass", full(heading, 1), t=t)
        s.push("camera", full(1), t=1000.55)
        assert "not angles in radians from -pi to pi: 350" in s.result(0).absent["compass"]


@pytest.mark.parametrize("policy", [Interpolate(), Exact(500.0)])
def test_a_history_that_is_too_short_says_so(open_echo, policy):
    pipe = open_echo(camera=({"image": 4}, {}), state=({"x": 4}, {"required": False}))
    with echo_stream(pipe, trigger="camera", depth=4, align={"state": policy}) as (s, clock):
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


def test_interpolation_over_a_gap_says_so(open_echo):
    pipe = open_echo(camera=({"image": 4}, {}), state=({"x": 4}, {"rate_hz": 100.0}))
    with echo_stream(pipe, trigger="camera", align={"state": Interpolate()}) as (s, clock):
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


def test_a_first_sample_after_the_trigger_is_no_short_history(open_echo):
    pipe = open_echo(camera=({"image": 4}, {}), state=({"x": 4}, {"required": False}))
    with echo_stream(pipe, trigger="camera", align={"state": Interpolate()}) as (s, clock):
        clock.advance(1.0)
        s.push("state", full(1), t=1000.9)
        s.push("camera", full(1), t=1000.8)
        r = s.result(0)
        assert r.ages["state"] == pytest.approx(-0.1)
        assert "no usable sample before the trigger" in r.notes["state"]


# Stamps.


@pytest.mark.parametrize("policy", [Latest(), Exact(20.0), Interpolate(), Hold(300.0)])
@pytest.mark.parametrize("period", [0.05, 0.0333])
def test_a_bag_played_in_a_loop(open_echo, policy, period):
    """Stamps begin again after 2 s: but for the samples that show it, each frame has a result."""
    limits = {"rate_hz": 20.0, "max_age_ms": 200.0}
    pipe = open_echo(camera=({"image": 4}, limits), state=({"x": 4}, limits))
    align = {"state": policy}
    with echo_stream(pipe, 0.0, trigger="camera", align=align, keep=4096) as (s, clock):
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
def test_a_clock_that_is_set_back_costs_two_samples(open_echo, step):
    pipe = open_echo(camera=({"image": 4}, {"rate_hz": 20.0, "max_age_ms": 200.0}))
    with echo_stream(pipe, 1e5, trigger="camera", keep=4096) as (s, clock):
        for k in range(100):
            s.push("camera", full(k), t=clock() + (step if k >= 50 else 0.0))
            clock.advance(0.05)
        got = [r.outputs["image_used"][0, 0] for r in fetch(s)]
        assert [k for k in range(100) if k not in got] == [50, 51]


def test_a_loop_on_a_clock_that_stands_still(open_echo):
    """A clock that waits until stamps have caught up tells of no pace."""
    pipe = open_echo(camera=({"image": 4}, {"rate_hz": 20.0, "max_age_ms": 200.0}))
    with echo_stream(pipe, 0.0, trigger="camera", keep=4096) as (s, clock):
        for k in range(120):
            t = k % 40 / 20
            clock.advance_to(max(clock(), t))
            s.push("camera", full(k), t=t)
        got = [r.outputs["image_used"][0, 0] for r in fetch(s)]
        # Until a second before the end of the loop, and from the third on.
        assert len(got) >= 120 - 2 * 2
        assert s.health().modalities["camera"].clock_jumps == 2


def test_late_samples_are_no_clock_set_back(open_echo):
    """Of a source with two ways, each third sample is late by half a second."""
    pipe = open_echo(camera=({"image": 4}, {}))
    with echo_stream(pipe, trigger="camera", keep=4096) as (s, clock):
        for k in range(60):
            s.push("camera", full(k), t=clock() - (0.5 if k % 3 else 0.0))
            clock.advance(0.05)
        camera = s.health().modalities["camera"]
        assert camera.clock_jumps == 0
        assert camera.dropped["out_of_order"] > 30


def test_an_instruction_behind_the_last_is_told(open_echo):
    pipe = open_echo(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    with echo_stream(pipe, trigger="camera") as (s, clock):
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
def test_what_is_too_new_is_absent(open_echo, policy, rate):
    limits = {"max_age_ms": 100.0, "rate_hz": rate, "required": False}
    pipe = open_echo(scan=({"points": 4}, {"rate_hz": 10.0}), state=({"x": 4}, limits))
    with echo_stream(pipe, trigger="scan", align={"state": policy}) as (s, clock):
        clock.advance(1.0)
        s.push("state", full(1))
        s.push("scan", full(1), t=1000.52)
        r = s.result(0)
        assert r.absent["state"].startswith("too_new: 0.48 s newer than the trigger, limit 0.1 s")
        assert r.outputs["x_used"][0, 0] == 0
        s.push("scan", full(1), t=1000.95)
        assert s.result(0).ages["state"] == pytest.approx(-0.05)
