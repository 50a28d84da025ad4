"""Streams whose encoders die or are slow: nothing old or late passes for new."""

from __future__ import annotations

import numpy as np
import pytest
from stream_checks import balanced, part
from streaming import make_streaming, value

import mmedge
from mmedge.spec import Modality
from mmedge.stream import Exact, Hold, Interpolate, Latest, SimulatedClock, Stream


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


class Failing:
    """A pipeline whose encoder ``stage`` raises while ``broken``, but for stand-ins (zeros)."""

    def __init__(self, pipe, stage):
        self.bundle, self.variant, self._pipe = pipe.bundle, pipe.variant, pipe
        self._stage, self.broken = stage, False

    def run_stage(self, stage, feeds):
        if stage == self._stage and self.broken and any(np.any(v) for v in feeds.values()):
            raise RuntimeError("device lost")
        return self._pipe.run_stage(stage, feeds)


def unlimited(tmp_path, name, **changes):
    """A loaded bundle in which ``name`` has no maximum age."""
    inputs = {"camera": "image", "lidar": "points"}
    modalities = tuple(
        Modality(name, (inputs[name],), **changes) if m.name == name else m
        for m in mmedge.Bundle.open(make_streaming(tmp_path / "a")).manifest.modalities
    )
    return mmedge.load(make_streaming(tmp_path / "b", modalities=modalities), threads=1)


@pytest.mark.parametrize("limited", [True, False])
def test_required_modality_whose_encoder_dies_gives_no_outputs(tmp_path, pipe, limited):
    with unlimited(tmp_path, "camera", rate_hz=30.0) as other:
        failing, clock = Failing(pipe if limited else other, "see"), SimulatedClock()
        with Stream(failing, trigger="camera", clock=clock, deadline_ms=50) as s:
            for k in range(1, 60):
                clock.advance(0.03)
                failing.broken = 10 <= k < 50
                s.push("state", value("state", k))
                s.push("camera", value("camera", k))
                r = s.result(0)
                health = s.health().modalities["camera"]
                if failing.broken:
                    assert r.outputs is None
                    assert (r.fresh, r.met) == (False, False)
                    assert r.absent["camera"] == "encoder_error: RuntimeError: device lost"
                    assert "'camera' is absent: encoder_error" in r.reason
                    assert (health.present, health.reason) == (False, r.absent["camera"])
                else:
                    assert (part(r, "camera"), r.fresh, r.met) == ([k], True, True)
                    assert health.present
            assert balanced(s).modalities["camera"].dropped == {"encoder_error": 40}


@pytest.mark.parametrize("policy", [Latest(), Hold(300.0), Exact(60.0)])
def test_optional_modality_whose_encoder_dies_is_named_until_a_good_encoding(pipe, policy):
    failing, clock = Failing(pipe, "scan"), SimulatedClock(start=5.0)
    with Stream(failing, trigger="camera", clock=clock, align={"lidar": policy}) as s:
        for k in range(1, 40):
            clock.advance(0.05)
            failing.broken = 10 <= k < 30
            # Between its samples, too, the failure must not be forgotten.
            if not failing.broken or k % 3 == 0 or isinstance(policy, Exact):
                s.push("lidar", value("lidar", k))
            s.push("camera", value("camera", k))
            r = s.result(0)
            named = r.absent.get("lidar", "").startswith("encoder_error: RuntimeError: device lost")
            if k < 10:
                assert "lidar" not in r.absent
            elif 12 <= k < 30:
                assert named, (k, r.absent)
                assert s.health().modalities["lidar"].present is False
                if "lidar" in r.samples:  # its last good value, within the limit
                    assert r.samples["lidar"][0].seq <= 9
                    assert r.ages["lidar"] <= 0.3 + 1e-6
                    assert "its last good value stands in, age" in r.absent["lidar"]
                else:
                    assert part(r, "lidar") == [0.5, 0.5]
            elif k >= 33:
                assert part(r, "lidar") == [k + 0.5, k + 0.5]
                assert "lidar" not in r.absent
        balanced(s)


def test_optional_modality_without_a_limit_is_not_held(tmp_path):
    with unlimited(tmp_path, "lidar", required=False) as pipe:
        failing, clock = Failing(pipe, "scan"), SimulatedClock()
        with Stream(failing, trigger=20, clock=clock) as s:
            s.push("lidar", value("lidar", 1))
            s.push("camera", value("camera", 1))
            assert part(s.result(1), "lidar") == [1.5, 1.5]
            failing.broken = True
            s.push("lidar", value("lidar", 2))
            r = s.result(1)
            assert part(r, "lidar") == [0.5, 0.5]
            assert r.absent["lidar"] == "encoder_error: RuntimeError: device lost"
            assert "lidar" in s.result(1).absent


def test_own_sample_that_fails_is_named_though_a_newer_one_was_encoded(pipe):
    """The trigger waits for the text while the next lidar sample is encoded."""
    failing, clock = Failing(pipe, "scan"), SimulatedClock(costs={"read": 0.1})
    with Stream(failing, trigger="lidar", clock=clock) as s:
        s.push("camera", value("camera", 1))
        s.push("text", value("text", 1))
        failing.broken = True
        s.push("lidar", value("lidar", 1))
        failing.broken = False
        clock.advance(0.05)
        s.push("lidar", value("lidar", 2))
        r = s.result(1)
        assert r.t == 0.0
        assert r.absent["lidar"].startswith("encoder_error: RuntimeError: device lost")
        assert "lidar" not in s.result(1).absent


def test_repeated_outputs_honor_ages(pipe):
    """A slow fusion, and a camera and a lidar that die."""
    clock, repeats, absent = SimulatedClock(costs={"fuse": 0.15}), 0, 0
    with Stream(pipe, trigger=20, clock=clock, keep=500, deadline_ms=50) as s:
        for k in range(240):
            clock.advance_to(k / 60)
            if k < 60:
                s.push("camera", value("camera", k))
            if k < 30:
                s.push("lidar", value("lidar", k))
        clock.advance(1.0)
        for _ in range(s.health().results):
            r = s.result(0)
            assert not (r.met and not r.fresh)
            repeats += r.outputs is not None and not r.fresh
            if r.outputs is not None:
                assert r.ages["camera"] <= 0.2 + 1e-6
                assert "camera" not in r.absent
                if r.ages["lidar"] is not None and r.ages["lidar"] > 0.3 + 1e-6:
                    assert r.absent["lidar"].startswith("too_old")
            if r.t > 1.3:
                assert r.outputs is None
                assert "too_old" in r.absent["camera"]
                absent += 1
        assert repeats > 5
        assert absent > 30
        balanced(s)


@pytest.mark.parametrize("deadline", [None, 50.0])
@pytest.mark.parametrize("policy", [Latest(), Exact(100.0), Interpolate()])
def test_slow_optional_encoder_does_not_set_the_rate_of_results(pipe, deadline, policy):
    if isinstance(policy, Exact | Interpolate) and deadline is None:
        return  # encoded on demand, and nothing bounds the wait
    clock = SimulatedClock(costs={"see": 0.005, "scan": 0.25})
    align = {"lidar": policy}
    with Stream(
        pipe, trigger="camera", clock=clock, deadline_ms=deadline, align=align, keep=1000
    ) as s:
        for k in range(300):
            clock.advance_to(k / 30)
            if k % 3 == 0:
                s.push("lidar", value("lidar", k))
            s.push("camera", value("camera", k))
        clock.advance(1)
        results = [s.result(0) for _ in range(s.health().results)]
        balanced(s)
    fresh = [r for r in results if r.fresh]
    assert len(fresh) >= 285
    late = [r for r in fresh if r.met is False]
    assert len(late) <= 3
    for r in fresh:
        if "lidar" in r.absent:
            assert part(r, "lidar") == [0.5, 0.5]
        else:
            assert r.ages["lidar"] <= 0.3 + 1e-6


def test_slow_optional_encoder_on_demand_does_not_set_the_rate_of_results(pipe):
    """The state's rate is above the trigger's, so that it is encoded for a trigger."""
    clock = SimulatedClock(costs={"double": 0.1})
    with Stream(pipe, trigger=15, clock=clock, keep=1000) as s:
        for k in range(300):
            clock.advance_to(k / 30)
            s.push("odom", value("odom", k))
            s.push("camera", value("camera", k))
        results = [s.result(0) for _ in range(s.health().results)]
        balanced(s)
    assert sum(r.fresh for r in results) >= 145
    assert all(r.ages["odom"] <= 0.15 + 1e-6 for r in results if "odom" not in r.absent)
    assert any("odom" not in r.absent for r in results)


def test_optional_encoder_that_is_fast_enough_is_waited_for(pipe):
    """Its age limit is its period, so that for a moment only the one in flight would do."""
    clock = SimulatedClock(costs={"scan": 0.02, "fuse": 0.001})
    with Stream(pipe, trigger="camera", clock=clock, align={"lidar": Hold(100.0)}) as s:
        for k in range(60):
            clock.advance_to(k / 30 + 0.001)
            if k % 3 == 0:
                s.push("lidar", value("lidar", k))
            s.push("camera", value("camera", k))
            r = s.result(0.1)
            assert "lidar" not in r.absent, r.t


def test_losing_an_optional_sensor_costs_no_run_of_its_encoder(pipe):
    clock = SimulatedClock(costs={"scan": 0.25, "see": 0.001})
    with Stream(pipe, trigger="camera", clock=clock, deadline_ms=50) as s:
        for k in range(90):
            clock.advance(1 / 30)
            if k < 30:
                s.push("lidar", value("lidar", 1))  # the same, which is encoded once
            s.push("camera", value("camera", k))
            r = s.result(0.2)
            if k:
                assert r.latency < 0.05, r.t
        assert r.absent["lidar"].startswith("too_old")


def test_stamps_ahead_count_from_their_arrival(pipe):
    clock = SimulatedClock(start=10.0, costs={"fuse": 0.15})
    with Stream(pipe, trigger="camera", clock=clock, deadline_ms=50) as s:
        s.push("camera", value("camera", 1), t=10.14)
        r = s.result(1)
        assert (r.t, r.latency, r.met) == (10.14, pytest.approx(0.15), False)


def test_the_first_call_is_no_evidence_of_later_ones(pipe):
    clock = SimulatedClock(costs={"see": 5.0})
    with Stream(pipe, trigger="camera", clock=clock, deadline_ms=50) as s:
        s.push("camera", value("camera", 1))
        assert s.result(10).met is False
        clock.costs["see"] = 0.01
        for k in range(2, 30):
            clock.advance(0.03)
            s.push("camera", value("camera", k))
            r = s.result(1)
            assert (r.fresh, r.met, part(r, "camera")) == (True, True, [k])


def test_a_source_that_was_set_back_does_not_count_as_late(tmp_path):
    with unlimited(tmp_path, "camera") as pipe:
        clock = SimulatedClock(start=5000.0)
        with Stream(pipe, trigger="camera", clock=clock, deadline_ms=50, keep=500) as s:
            for k in range(300):
                clock.advance(0.03)
                s.push("camera", value("camera", k), t=clock() - (4000.0 if k > 50 else 0.0))
            results = [s.result(0) for _ in range(s.health().results)]
        assert sum(r.fresh and r.met for r in results) > 290
        assert max(r.latency for r in results) < 0.05
        assert balanced(s).modalities["camera"].clock_jumps == 1


@pytest.mark.parametrize("policy", [Latest(), Hold(300.0), Exact(20.0), Interpolate()])
@pytest.mark.parametrize("ahead", [0.06, 0.5, 0.95, 5.0])
def test_one_stamp_ahead_costs_one_sample(pipe, policy, ahead):
    clock = SimulatedClock(start=10.0)
    with Stream(pipe, trigger="camera", clock=clock, align={"lidar": policy}, keep=500) as s:
        for k in range(60):
            clock.advance(0.03)
            late = ahead if k in (20, 40) else 0.0
            s.push("lidar", value("lidar", k), t=clock() + (late if k == 40 else 0.0))
            s.push("camera", value("camera", k), t=clock() + (late if k == 20 else 0.0))
        results = [s.result(0) for _ in range(s.health().results)]
        h = balanced(s)
        assert h.modalities["camera"].dropped == {"future": 1}
        assert h.modalities["lidar"].dropped["future"] == 1
        assert "out_of_order" not in h.modalities["lidar"].dropped
        assert {m.clock_jumps for m in h.modalities.values()} == {0}
    assert sum(r.fresh for r in results) == 59
    absent = [r.t for r in results if "lidar" in r.absent]
    assert len(absent) <= (4 if isinstance(policy, Exact) else 0), absent


def test_a_source_that_is_ahead_is_taken_as_it_is(pipe):
    """Its clock is 0.4 s ahead, its transport jitters; later it is set ahead by 0.3 s more."""
    clock = SimulatedClock(start=10.0)
    with Stream(pipe, trigger="camera", clock=clock, keep=500) as s:
        for k in range(200):
            clock.advance(0.03)
            stamp = clock() + (0.4 if k < 100 else 0.7)
            clock.advance((0.0, 0.02, 0.008)[k % 3])
            s.push("camera", value("camera", k), t=stamp)
        h = balanced(s).modalities["camera"]
        assert (h.used, h.dropped) == (198, {"future": 2})


@pytest.mark.parametrize("back", [0.3, 0.95, 30.0])
def test_latency_of_a_source_that_was_set_back_counts_from_its_own_clock(tmp_path, back):
    with unlimited(tmp_path, "camera", rate_hz=30.0) as pipe:
        clock = SimulatedClock(start=100.0, costs={"fuse": 0.01})
        with Stream(pipe, trigger="camera", clock=clock, deadline_ms=50, keep=500) as s:
            for k in range(100):
                clock.advance(0.033)
                s.push("camera", value("camera", k), t=clock() - (back if k >= 50 else 0.0))
            clock.advance(1.0)
            results = [s.result(0) for _ in range(s.health().results)]
        assert len([r for r in results if r.met]) >= 97
        assert {round(r.latency, 6) for r in results} == {0.01}


@pytest.mark.parametrize("policy", [Latest(), Exact(50.0)])
@pytest.mark.parametrize("deadline", [None, 100.0])
def test_an_optional_encoder_that_hangs_does_not_end_the_results(pipe, policy, deadline):
    clock = SimulatedClock(costs={"scan": 1e6})
    align = {"lidar": policy}
    with Stream(pipe, trigger=10, clock=clock, deadline_ms=deadline, align=align, keep=500) as s:
        for _ in range(100):
            clock.advance(0.05)
            s.push("lidar", value("lidar", 1))
            s.push("camera", value("camera", 1))
        results = [s.result(0) for _ in range(s.health().results)]
        assert sum(r.fresh for r in results) >= (49 if deadline else 39)
        assert all(r.absent["lidar"] for r in results)
        lidar = s.health().modalities["lidar"]
        assert not lidar.present
        assert lidar.reason.startswith("its encoder has run for 4.")


def test_a_trigger_of_any_modality_does_not_wait_for_a_slow_optional_one(pipe):
    clock = SimulatedClock(costs={"scan": 0.25, "see": 0.005})
    with Stream(pipe, trigger="any", clock=clock, deadline_ms=50, keep=1000) as s:
        for k in range(300):
            clock.advance_to(k / 30)
            if k % 3 == 0:
                s.push("lidar", value("lidar", k))
                clock.advance(0.001)
            s.push("camera", value("camera", k))
        results = [s.result(0) for _ in range(s.health().results)]
        balanced(s)
    frames = {u.seq for r in results if r.fresh and r.met for u in r.samples["camera"]}
    assert len(frames) > 280


def test_outputs_are_not_repeated_for_a_required_sensor_that_gives_nan(tmp_path):
    with unlimited(tmp_path, "camera", rate_hz=30.0) as pipe:
        clock = SimulatedClock(costs={"fuse": 0.06})
        with Stream(pipe, trigger=20, clock=clock, deadline_ms=50, keep=500) as s:
            for k in range(120):
                clock.advance(1 / 30)
                frame = value("camera", k)
                if k >= 60:
                    frame[:] = np.nan
                s.push("camera", frame)
            results = [s.result(0) for _ in range(s.health().results)]
        assert any(r.outputs is not None and not r.fresh for r in results if r.t < 2)
        assert {r.outputs is None for r in results if r.t > 2.2} == {True}
        assert all("nan" in r.absent["camera"] for r in results if r.t > 2.2)


def test_a_value_that_stands_in_is_withdrawn_with_its_modality(pipe):
    failing, clock = Failing(pipe, "scan"), SimulatedClock(start=5.0, costs={"see": 0.05})
    with Stream(failing, trigger="camera", clock=clock, align={"lidar": Exact(100.0)}) as s:
        for k in (1, 2):
            failing.broken = k == 2
            clock.advance(0.01)
            s.push("lidar", value("lidar", k))
            s.push("camera", value("camera", k))
            assert "lidar" in s.result(1).samples
        clock.advance(0.01)
        s.push("camera", value("camera", 3))  # its frame is being encoded
        s.forget("lidar")
        r = s.result(1)
        assert "lidar" not in r.samples
        assert part(r, "lidar") == [0.5, 0.5]
