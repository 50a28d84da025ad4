"""Streams on a simulated clock: bad samples, clocks set back, failing stages, deadlines, close."""

from __future__ import annotations

import numpy as np
import pytest
from stream_checks import balanced, part
from streaming import COLUMNS, TOKEN, make_streaming, value

import mmedge
from mmedge.errors import BackendError, InputError
from mmedge.spec import Modality, Range
from mmedge.stream import Exact, Hold, Interpolate, Sanity, SimulatedClock, Stream, Window


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def test_lost_modality_comes_back_after_three(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock) as s:

        def step(state):
            clock.advance(0.05)
            if state is not None:
                s.push("state", state)
            s.push("camera", value("camera", 1))
            return s.result(0)

        assert not step(value("state", 1)).absent.keys() & {"state"}
        for _ in range(3):
            r = step(None)
        assert r.absent["state"].startswith("too_old: 0.15 s, limit 0.1 s")
        assert step(value("state", 2)).absent["state"] == "recovering (1 of 3)"
        assert step(value("state", 3)).absent["state"] == "recovering (2 of 3)"
        bad = np.full((1, 3), np.nan, np.float32)
        assert step(bad).absent["state"] == "recovering (0 of 3); newest sample dropped: nan"
        for k in (4, 5):
            r = step(value("state", k))
            assert part(r, "state") == TOKEN[0].tolist()
        r = step(value("state", 6))
        assert "state" not in r.absent
        assert part(r, "state") == [6.0, 6.0, 6.0]
        assert balanced(s).modalities["state"].dropped == {"nan": 1, "superseded": 4}


def test_lying_sensor_without_limit_is_absent(pipe, tmp_path):
    modalities = tuple(
        Modality("odom", ("wheel",), required=False, absent="last") if m.name == "odom" else m
        for m in pipe.bundle.manifest.modalities
    )
    path = make_streaming(tmp_path / "b", modalities=modalities, ranges={"wheel": Range(0, 10)})
    clock = SimulatedClock()
    with mmedge.load(path, threads=1) as pipe, Stream(pipe, trigger="camera", clock=clock) as s:

        def step(odom):
            clock.advance(0.01)
            if odom is not None:
                s.push("odom", np.full((1, 2), odom, np.float32))
            s.push("camera", value("camera", 1))
            return s.result(0)

        assert "odom" not in step(3.0).absent
        # 10 and half the width of the range.
        assert "odom" not in step(15.0).absent
        r = step(15.5)
        assert r.absent["odom"].startswith("out_of_range")
        assert part(r, "odom") == [31.0, 31.0]  # its last good value stands in
        assert step(None).absent["odom"].startswith("out_of_range")
        assert step(np.inf).absent["odom"].startswith("inf")
        assert [step(1.0).absent.get("odom") for _ in range(3)] == [
            "recovering (1 of 3)",
            "recovering (2 of 3)",
            None,
        ]
        h = balanced(s).modalities["odom"]
        assert h.dropped == {"out_of_range": 1, "inf": 1}


def test_frozen_sensor_ages_out_with_its_reason(pipe):
    clock = SimulatedClock()
    checks = {"camera": Sanity(frozen_after=3)}
    with Stream(pipe, trigger=20, clock=clock, sanity=checks) as s:
        reasons = []
        for k in range(8):
            clock.advance_to(k / 20)
            s.push("camera", value("camera", 1))
            reasons.append(s.result(0.06).reason)
        assert reasons[:5] == [""] * 5  # held within its limit of 200 ms
        assert reasons[6].endswith("too_old: 0.3 s, limit 0.2 s; newest sample dropped: frozen")
        assert balanced(s).modalities["camera"].dropped == {"frozen": 6}
        s.push("camera", value("camera", 2))
        assert s.result(0.06).reason == ""


@pytest.mark.parametrize(
    ("stamps", "dropped"),
    [
        ((0.5, 0.5), {"duplicate": 1}),
        ((0.5, 0.45), {"out_of_order": 1}),
        ((11.01,), {"future": 1}),
        ((9.79,), {"too_old": 1}),
    ],
)
def test_stamps(pipe, stamps, dropped):
    clock = SimulatedClock(start=0.5 if stamps[0] < 1 else 10.0)
    with Stream(pipe, trigger=1, clock=clock) as s:
        for k, t in enumerate(stamps):
            s.push("camera", value("camera", k), t=t)
        assert balanced(s).modalities["camera"].dropped == dropped


def test_clock_set_back_restarts_the_history(pipe):
    clock = SimulatedClock(start=100.0)
    with Stream(pipe, trigger="text", clock=clock, align={"camera": Hold(30e3)}) as s:
        s.push("camera", value("camera", 1))
        for k, t in enumerate((100.0, 90.0, 90.1, 80.0, 80.1)):
            clock.advance(0.1)
            s.push("text", value("text", k), t=t)
        h = balanced(s).modalities["text"]
        # Said at once, and not held back: the next may be long in coming.
        assert h.dropped == {"out_of_order": 4}
        assert h.clock_jumps == 0
        clock.advance(0.1)
        s.push("text", value("text", 9), t=80.2)
        h = balanced(s).modalities["text"]
        assert h.clock_jumps == 1
        assert s.result(0).t == 100.0
        r = s.result(0)
        assert (r.t, part(r, "text")) == (80.2, [36.0])
        assert r.dropped == {"text": {"out_of_order": 4}}
        clock.advance(0.1)
        s.push("text", value("text", 5), t=80.3)
        assert part(s.result(0), "text") == [20.0]


def test_old_samples_that_are_delivered_again_are_no_clock_set_back(pipe):
    clock = SimulatedClock(start=100.0)
    with Stream(pipe, trigger="text", clock=clock) as s:
        for k in range(6):
            clock.advance(2.0)
            s.push("text", value("text", k))
        for k in range(5):  # at once, after a connection was lost
            clock.advance(1e-3)
            s.push("text", value("text", k), t=102.0 + 2 * k)
        h = balanced(s).modalities["text"]
        assert (h.clock_jumps, h.dropped["out_of_order"]) == (0, 5)


def test_encoding_from_before_a_clock_jump_is_not_kept(pipe):
    clock = SimulatedClock(start=100.0, costs={"read": 0.3})
    with Stream(pipe, trigger="camera", clock=clock) as s:
        s.push("text", value("text", 1), t=100.0)
        for k, t in enumerate((90.0, 90.1, 90.2)):
            clock.advance(0.08)
            s.push("text", value("text", k + 2), t=t)
        clock.advance(0.1)  # the old one is done, the newest is not
        s.push("camera", value("camera", 1))
        r = s.result(1)
        assert r.samples["text"] == ((3, 90.2),)
        assert balanced(s).modalities["text"].dropped["clock_jump"] == 1


def test_triggering_sample_counts_although_a_bad_one_followed(pipe):
    clock = SimulatedClock(costs={"fuse": 0.1})
    checks = {"text": Sanity(frozen_after=2)}
    with Stream(pipe, trigger="text", clock=clock, sanity=checks) as s:
        s.push("camera", value("camera", 1))
        for k in (1, 2, 2):  # the second waits for the fusion, the third is frozen
            s.push("text", value("text", k))
            clock.advance(0.01)
        assert [part(s.result(1), "text") for _ in range(2)] == [[4.0], [8.0]]
        s.push("camera", value("camera", 2))
        state = balanced(s).modalities["text"]
        assert state.dropped == {"frozen": 1}
        assert state.reason.startswith("frozen: the newest sample is bad")


def test_batches_that_disagree_make_a_reason(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock) as s:
        s.push("lidar", value("lidar", 1, batch=2))
        s.push("camera", value("camera", 1))
        r = s.result(0)
        assert r.outputs is None
        assert r.reason.startswith("dimension 'batch' is 1 in modality 'camera' and 2 in 'lidar'")
        clock.advance(0.01)
        s.push("camera", value("camera", 1, batch=2))
        r = s.result(0)
        assert r.outputs["out"].shape == (2, 11)  # stand-ins take the batch of those present
        assert r.outputs["out"][1, COLUMNS["state"]].tolist() == TOKEN[0].tolist()
        balanced(s)


def test_deadline_repeats_and_tries_again(pipe):
    clock = SimulatedClock(costs={"fuse": 0.05})
    with Stream(pipe, trigger="camera", clock=clock, deadline_ms=30) as s:
        got = []
        for k in range(14):
            s.push("camera", value("camera", k))
            got.append(s.result(1))
            clock.advance(0.1)
        # The first is a warm-up; what is older than the camera's 200 ms is not given again.
        assert [r.fresh for r in got] == [True, *[True, False] * 6, True]
        assert {r.met for r in got} == {False}
        assert part(got[2], "camera") == [1.0]
        assert got[2].ages["camera"] == pytest.approx(0.15)
        assert got[2].reason.startswith("deadline: a result is expected to take 0.05 s")
        h = balanced(s)
        assert (h.stale, h.deadline_misses, h.results) == (6, 8, 14)
        assert h.modalities["camera"].encodes == 8
        assert h.modalities["camera"].dropped == {"deadline": 6}


def test_failing_encoder_and_fusion(pipe, monkeypatch):
    real = pipe.run_stage
    broken = {"scan"}

    def run_stage(stage, feeds):
        if stage in broken:
            raise BackendError(f"{stage} broke")
        return real(stage, feeds)

    monkeypatch.setattr(pipe, "run_stage", run_stage)
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock) as s:

        def step(k):
            clock.advance(0.01)
            s.push("lidar", value("lidar", k))
            s.push("camera", value("camera", k))
            return s.result(0)

        r = step(1)
        assert r.outputs is None  # the stand-in needs the same encoder
        assert r.reason == "fusion failed: BackendError: scan broke"
        broken.clear()
        assert part(step(2), "lidar") == [2.5, 2.5]
        broken.add("scan")
        r = step(3)
        assert part(r, "lidar") == [2.5, 2.5]  # it has an older one within its limit
        clock.advance(0.4)
        r = step(4)
        assert "encoder_error: BackendError: scan broke" in r.absent["lidar"]
        h = balanced(s).modalities["lidar"]
        assert h.dropped == {"encoder_error": 3}
        assert (h.errors, h.last_error) == (3, "BackendError: scan broke")
        broken.clear()
        broken.add("fuse")
        assert step(5).reason == "fusion failed: BackendError: fuse broke"
        broken.add("see")
        clock.advance(1)
        assert "'camera' is absent: encoder_error: BackendError: see broke" in step(6).reason
        broken.clear()
        assert step(7).fresh
        balanced(s)


def test_encoder_that_always_fails_is_not_waited_for_twice(pipe, monkeypatch):
    real = pipe.run_stage

    def run_stage(stage, feeds):
        if stage == "scan" and feeds["points"].any():
            raise BackendError("scan broke")
        return real(stage, feeds)

    monkeypatch.setattr(pipe, "run_stage", run_stage)
    clock = SimulatedClock(costs={"scan": 0.1})
    with Stream(pipe, trigger="camera", clock=clock) as s:
        s.push("lidar", value("lidar", 1))
        s.push("camera", value("camera", 1))
        clock.advance(0.05)
        s.push("lidar", value("lidar", 2))  # in flight when the first fails
        clock.advance(0.06)
        s.push("lidar", value("lidar", 3))
        r = s.result(0.2)
        assert r.absent["lidar"] == "encoder_error: BackendError: scan broke"
        # The encoding that failed; the stand-in's was done when the stream was made.
        assert r.made == pytest.approx(0.1)


def test_failed_triggering_sample_is_dropped_for_its_encoder(pipe, monkeypatch):
    def run_stage(stage, feeds):
        raise BackendError(f"{stage} broke")

    monkeypatch.setattr(pipe, "run_stage", run_stage)
    with Stream(pipe, trigger="camera", clock=SimulatedClock()) as s:
        s.push("camera", value("camera", 1))
        assert s.result(0).outputs is None
        assert balanced(s).modalities["camera"].dropped == {"encoder_error": 1}


def test_push_that_raises_is_not_counted(pipe):
    with Stream(pipe, trigger="any", clock=SimulatedClock()) as s:
        for name, bad, match in (
            ("sonar", 1, "unknown modality 'sonar'"),
            ("camera", np.zeros((1, 4)), "expected dtype float32, got float64"),
            ("camera", np.zeros((1, 5), np.float32), "axis 1 must have size 4"),
            ("camera", "red", "takes no text"),
            ("camera", {"picture": 1}, "expected inputs image, got picture"),
            ("text", np.zeros((1, 4), np.int64), "pass a mapping"),
        ):
            with pytest.raises(InputError, match=match):
                s.push(name, bad)
        with pytest.raises(InputError, match="finite"):
            s.push("camera", value("camera", 1), t=float("nan"))
        assert {m.pushed for m in s.health().modalities.values()} == {0}


def test_close_counts_what_is_pending(pipe):
    clock = SimulatedClock(costs={"see": 0.1})
    s = Stream(pipe, trigger="camera", clock=clock, align={"lidar": Exact(10)})
    for k in range(3):
        s.push("camera", value("camera", k), t=k * 1e-3)
        s.push("lidar", value("lidar", k), t=k * 1e-3)
    s.close()
    s.close()
    h = balanced(s)
    assert h.modalities["camera"].dropped == {"superseded": 1, "closed": 2}
    assert h.modalities["lidar"].dropped == {"closed": 3}
    assert h.triggers_closed == 2
    assert [m.pending for m in h.modalities.values()] == [0] * 6
    clock.advance(1.0)
    assert balanced(s) == h
    with pytest.raises(BackendError, match="closed"):
        s.push("camera", value("camera", 1))
    with pytest.raises(BackendError, match="closed"):
        s.result(1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"trigger": "sonar"}, "expected 'any', a rate"),
        ({"trigger": 0}, "above 0 Hz"),
        ({"trigger": "any", "align": {"sonar": Hold(1)}}, "align: unknown modality"),
        ({"trigger": "any", "sanity": {"sonar": Sanity()}}, "sanity: unknown modality"),
        ({"trigger": "any", "align": {"text": Interpolate()}}, "only float inputs"),
        ({"trigger": "any", "align": {"voice": Window(65)}}, "takes 1 to 64 rows"),
        ({"trigger": "any", "align": {"state": Window(2)}}, "takes 3 to 3 rows"),
        ({"trigger": "any", "align": {"state": Interpolate(((0, 4),))}}, "no elements"),
        ({"trigger": "any", "align": {"state": Interpolate(angles=((3, 4),))}}, "no elements"),
        ({"trigger": "any", "align": {"voice": Window(16, rate_hz=10)}}, "1500 ms older than"),
        ({"trigger": "any", "deadline_ms": 0}, "deadline_ms"),
        ({"trigger": "any", "depth": 1}, "depth must be at least 2"),
    ],
)
def test_options_that_cannot_be(pipe, options, match):
    with pytest.raises(InputError, match=match):
        Stream(pipe, clock=SimulatedClock(), **options)
