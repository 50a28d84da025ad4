"""Streams on a simulated clock, step by step: what is used, what is absent, what is dropped."""

from __future__ import annotations

import numpy as np
import pytest
from streaming import COLUMNS, TOKEN, make_streaming, value

import mmedge
from mmedge.errors import BackendError, InputError
from mmedge.spec import Modality, Range
from mmedge.stream import (
    Exact,
    Hold,
    Interpolate,
    Sanity,
    SimulatedClock,
    Stream,
    Window,
)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def part(result, modality):
    return result.outputs["out"][0, COLUMNS[modality]].tolist()


def balanced(stream):
    """The account of every modality and of the triggers adds up; returns the snapshot."""
    health = stream.health()
    for name, state in health.modalities.items():
        assert state.pushed == state.used + sum(state.dropped.values()) + state.pending, name
    assert health.triggers == (
        health.results
        + health.triggers_superseded
        + health.triggers_closed
        + health.triggers_pending
    )
    return health


def test_camera_alone_gives_results_with_stand_ins(pipe):
    with Stream(pipe, trigger="camera", clock=SimulatedClock()) as s:
        s.push("camera", value("camera", 7), t=0.0)
        r = s.result(0)
        assert part(r, "camera") == [7.0]
        assert part(r, "lidar") == [0.5, 0.5]
        assert part(r, "state") == TOKEN[0].tolist()
        assert part(r, "odom") == [1.0, 1.0]
        assert r.outputs["seen"].tolist() == [[7.0]]
        assert set(r.absent) == {"lidar", "text", "state", "odom", "voice"}
        assert r.absent["lidar"] == "no sample yet"
        assert r.ages == {"camera": 0.0, **dict.fromkeys(r.absent)}
        assert r.samples == {"camera": ((0, 0.0),)}
        assert r.fresh
        assert (r.t, r.made, r.latency, r.met, r.reason) == (0.0, 0.0, 0.0, None, "")
        assert balanced(s).modalities["camera"].used == 1


def test_all_modalities_with_text_and_direct_inputs(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock, align={"voice": Window(8, 4)}) as s:
        s.push("text", "red ball")
        s.push("lidar", np.ones((1, 3, 2), np.float32))
        s.push("state", value("state", 5))
        s.push("odom", {"wheel": value("odom", 6)})
        for k in range(3):
            s.push("voice", value("voice", k + 1), t=0.01 * k)
        clock.advance(0.05)
        s.push("camera", value("camera", 9))
        r = s.result(0)
        assert not r.absent
        assert r.outputs["out"].tolist() == [[9, 3.5, 3.5, 5, 5, 5, 5, 13, 13, 2, 3]]
        assert r.ages["voice"] == pytest.approx(0.03)
        assert [u.seq for u in r.samples["voice"]] == [1, 2]
        balanced(s)


def test_slow_encoder_serves_its_newest_ready_features(pipe):
    """Lidar takes 120 ms to encode, the camera comes every 50 ms: its rate is that of results."""
    clock = SimulatedClock(costs={"scan": 0.12})
    with Stream(pipe, trigger="camera", clock=clock) as s:
        s.push("lidar", value("lidar", 0))
        s.push("camera", value("camera", 0))
        # The first has none ready and waits for the one in flight; no later one waits.
        assert s.result(1).latency == pytest.approx(0.12)
        used = []
        for k in range(3, 30):
            clock.advance_to(k / 20)
            s.push("lidar", value("lidar", k))
            s.push("camera", value("camera", k))
            r = s.result(0)
            assert (r.latency, r.absent.keys() & {"lidar"}) == (0.0, set())
            assert 0.12 < r.ages["lidar"] <= 0.3
            used.append(r.samples["lidar"][0].seq)
        assert used == sorted(used)
        h = balanced(s).modalities["lidar"]
        assert h.encodes == h.used == len(set(used)) == 11
        assert h.dropped == {"superseded": 15}


def test_waits_for_triggering_sample_and_supersedes(pipe):
    clock = SimulatedClock(costs={"see": 0.1, "fuse": 0.05})
    with Stream(pipe, trigger="camera", clock=clock) as s:
        for k in range(4):
            s.push("camera", value("camera", k))
            clock.advance(0.01)
        assert s.health().triggers_pending == 2
        first, second = s.result(1), s.result(1)
        assert (part(first, "camera"), part(second, "camera")) == ([0.0], [3.0])
        assert first.made == pytest.approx(0.15)
        # The next encoding ran beside the first fusion.
        assert second.made == pytest.approx(0.25)
        assert second.dropped == {}
        assert first.dropped == {"camera": {"superseded": 2}}
        h = balanced(s)
        assert h.triggers_superseded == 2
        assert h.modalities["camera"].dropped == {"superseded": 2}
        assert h.latency_p95 == pytest.approx(0.22)


def test_timer_triggers_from_the_first_period(pipe):
    clock = SimulatedClock(start=5.0)
    with Stream(pipe, trigger=10, clock=clock, align={"camera": Hold(150)}) as s:
        r = s.result(0.1)
        assert r.t == pytest.approx(5.1)
        assert r.outputs is None
        assert r.reason == "required modality 'camera' is absent: no sample yet"
        assert r.absent == {"camera": "no sample yet"}
        s.push("camera", value("camera", 3))
        assert part(s.result(1), "camera") == [3.0]
        r = s.result(1)
        assert r.outputs is None
        assert r.reason.startswith("required modality 'camera' is absent: too_old: 0.2 s, limit")
        # The camera is faster than the timer, so it is encoded at the tick, and once.
        assert balanced(s).modalities["camera"].encodes == 1
        with pytest.raises(TimeoutError, match=r"no result within 0\.05 s: trigger 10 fired 3"):
            s.result(0.05)


def test_slow_fusion_supersedes_ticks(pipe):
    clock = SimulatedClock(costs={"fuse": 0.35})
    with Stream(pipe, trigger=10, clock=clock, align={"camera": Hold(9000)}) as s:
        s.push("camera", value("camera", 1))
        clock.advance(1.0)
        times = [s.result(0).t for _ in range(2)]
        assert times == pytest.approx([0.1, 0.4])
        assert balanced(s).triggers_superseded == 6


def test_any_triggers_on_each_modality(pipe):
    with Stream(pipe, trigger="any", clock=SimulatedClock()) as s:
        s.push("lidar", value("lidar", 1))
        assert s.result(0).outputs is None
        s.push("camera", value("camera", 2))
        r = s.result(0)
        assert part(r, "camera") == [2.0]
        assert part(r, "lidar") == [1.5, 1.5]
        s.push("text", "red")
        assert part(s.result(0), "text") == [2.0]
        balanced(s)


def test_unchanged_content_is_not_encoded_again(pipe):
    clock = SimulatedClock(costs={"see": 0.02})
    with Stream(pipe, trigger="camera", clock=clock) as s:
        latencies = []
        for k in (4, 4, 4, 5):
            s.push("camera", value("camera", k))
            latencies.append(s.result(1).latency)
            clock.advance(0.03)
        assert latencies == pytest.approx([0.02, 0, 0, 0.02])
        h = balanced(s).modalities["camera"]
        assert (h.encodes, h.encodes_skipped, h.used) == (2, 2, 4)


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


def test_last_stands_in_although_too_old(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock) as s:
        s.push("odom", value("odom", 4))
        for t in (0.1, 0.2):
            clock.advance_to(t)
            s.push("camera", value("camera", 1))
            r = s.result(0)
            assert part(r, "odom") == [9.0, 9.0]
            assert r.samples["odom"] == ((0, 0.0),)
        assert r.absent["odom"].startswith("too_old: 0.2 s, limit 0.15 s")
        assert r.ages["odom"] == pytest.approx(0.2)


def test_required_returns_at_once(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger=10, clock=clock, align={"camera": Hold(90)}) as s:
        seen = []
        for k in range(4):
            clock.advance_to(k / 10 + 0.05)
            if k != 1:
                s.push("camera", value("camera", k))
            seen.append(s.result(0.1).outputs is not None)
        assert seen == [True, False, True, True]


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
    with Stream(pipe, trigger="text", clock=clock) as s:
        s.push("camera", value("camera", 1))
        for k, t in enumerate((100.0, 90.0, 90.1, 80.0, 80.1)):
            s.push("text", value("text", k), t=t)
        h = balanced(s).modalities["text"]
        assert h.dropped == {"out_of_order": 2}
        assert (h.pending, h.clock_jumps) == (2, 0)
        s.push("text", value("text", 9), t=80.2)
        h = balanced(s).modalities["text"]
        assert h.clock_jumps == 1
        assert s.result(0).t == 100.0
        # Three triggers at once: the first is at work, the newest waits.
        seen = [s.result(0) for _ in range(2)]
        assert [r.t for r in seen] == [80.0, 80.2]
        assert part(seen[-1], "text") == [36.0]
        s.push("text", value("text", 5), t=80.3)
        assert part(s.result(0), "text") == [20.0]


def test_exact_takes_the_nearest_within_tolerance(pipe):
    clock = SimulatedClock(start=1.0)
    with Stream(pipe, trigger="camera", clock=clock, align={"lidar": Exact(15)}) as s:
        for k, t in enumerate((0.90, 0.95, 1.0)):
            s.push("lidar", value("lidar", k), t=t)
        s.push("lidar", value("lidar", 7), t=0.92)  # late, but in time
        s.push("camera", value("camera", 1), t=0.925)
        r = s.result(0)
        assert r.samples["lidar"] == ((3, 0.92),)
        assert part(r, "lidar") == [7.5, 7.5]
        s.push("lidar", value("lidar", 8), t=0.905)
        s.push("camera", value("camera", 1), t=0.975)
        r = s.result(0)
        assert r.absent["lidar"].startswith("too_old: no sample within 0.015 s")
        h = balanced(s).modalities["lidar"]
        assert h.dropped == {"late": 1}
        assert h.encodes == 1


def test_interpolation_on_a_state(pipe):
    clock = SimulatedClock(start=1.0)
    align = {"state": Interpolate()}
    with Stream(pipe, trigger="camera", clock=clock, align=align, depth=3) as s:
        for k, t in ((0, 0.9), (10, 0.92), (20, 0.94), (30, 0.96)):
            s.push("state", value("state", k), t=t)
        s.push("camera", value("camera", 1), t=0.945)
        r = s.result(0)
        assert part(r, "state") == pytest.approx([22.5] * 3)
        assert r.samples["state"] == ((2, 0.94), (3, 0.96))
        assert r.ages["state"] == pytest.approx(0.005)
        s.push("camera", value("camera", 1), t=1.0)  # past the newest: held
        assert part(s.result(0), "state") == [30.0] * 3
        assert balanced(s).modalities["state"].dropped == {"queue_full": 1}


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
        assert [r.fresh for r in got] == [True, *[False] * 5, True, *[False] * 5, True, False]
        assert [r.met for r in got[:3]] == [False, True, True]
        assert part(got[5], "camera") == [0.0]
        assert got[5].ages["camera"] == pytest.approx(got[5].t)
        assert got[5].reason.startswith("deadline: a result is expected to take 0.03")
        h = balanced(s)
        assert (h.stale, h.deadline_misses, h.results) == (11, 3, 14)
        assert h.modalities["camera"].encodes == 3
        assert h.modalities["camera"].dropped == {"deadline": 11}


def test_results_nobody_fetches_are_dropped(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock, keep=2) as s:
        for k in range(5):
            s.push("camera", value("camera", k), t=k * 1e-3)
        assert [part(s.result(0), "camera")[0] for _ in range(2)] == [3.0, 4.0]
        assert balanced(s).results_dropped == 3


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


def test_pushed_buffers_may_be_reused(pipe):
    clock = SimulatedClock(costs={"see": 0.1})
    with Stream(pipe, trigger="camera", clock=clock, align={"state": Exact(10)}) as s:
        state, image = value("state", 1), value("camera", 2)
        s.push("state", state)
        s.push("camera", image)
        state[:], image[:] = 8, 8
        r = s.result(1)
        assert (part(r, "camera"), part(r, "state")) == ([2.0], [1.0, 1.0, 1.0])


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
        ({"trigger": "any", "deadline_ms": 0}, "deadline_ms"),
        ({"trigger": "any", "depth": 1}, "depth must be at least 2"),
    ],
)
def test_options_that_cannot_be(pipe, options, match):
    with pytest.raises(InputError, match=match):
        Stream(pipe, clock=SimulatedClock(), **options)


def test_encoding_from_before_a_clock_jump_is_not_kept(pipe):
    clock = SimulatedClock(start=100.0, costs={"read": 0.1})
    with Stream(pipe, trigger="camera", clock=clock) as s:
        s.push("text", value("text", 1), t=100.0)
        for k, t in enumerate((90.0, 90.1, 90.2)):
            s.push("text", value("text", k + 2), t=t)
        clock.advance(0.15)  # the old one is done, the newest is not
        s.push("camera", value("camera", 1))
        r = s.result(1)
        assert r.samples["text"] == ((3, 90.2),)
        assert balanced(s).modalities["text"].dropped["clock_jump"] == 1


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
        # The encoding that failed, and the stand-in's.
        assert r.made == pytest.approx(0.2)


def test_failed_triggering_sample_is_dropped_for_its_encoder(pipe, monkeypatch):
    def run_stage(stage, feeds):
        raise BackendError(f"{stage} broke")

    monkeypatch.setattr(pipe, "run_stage", run_stage)
    with Stream(pipe, trigger="camera", clock=SimulatedClock()) as s:
        s.push("camera", value("camera", 1))
        assert s.result(0).outputs is None
        assert balanced(s).modalities["camera"].dropped == {"encoder_error": 1}


def test_stand_ins_of_several_sizes(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock, align={"state": Interpolate()}) as s:
        s.push("odom", value("odom", 3))
        for batch in (1, 2, 3, 1):
            clock.advance(0.2)  # the odometry, of batch 1, is too old
            s.push("camera", value("camera", 7, batch=batch))
            r = s.result(0)
            assert r.outputs["out"].shape == (batch, 11)
            # Its last value stands in where it fits, and zeros where it does not.
            assert part(r, "odom") == ([7.0, 7.0] if batch == 1 else [1.0, 1.0])
            assert ("odom" in r.samples) == (batch == 1)


def test_neighbours_of_different_sizes_are_not_mixed(pipe):
    clock = SimulatedClock(start=1.0)
    with Stream(pipe, trigger="camera", clock=clock, align={"state": Interpolate()}) as s:
        s.push("state", value("state", 1), t=0.95)
        s.push("state", value("state", 2, batch=2), t=1.0)
        s.push("camera", value("camera", 1), t=0.96)
        assert part(s.result(0), "state") == [1.0, 1.0, 1.0]
        s.push("camera", value("camera", 1, batch=2), t=0.99)
        assert part(s.result(0), "state") == [2.0, 2.0, 2.0]


def test_the_same_choice_is_encoded_and_counted_once(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock, align={"lidar": Exact(50)}) as s:
        s.push("lidar", value("lidar", 1))
        for k in range(3):
            s.push("camera", value("camera", k), t=0.01 * k)
            assert s.result(0).samples["lidar"] == ((0, 0.0),)
        h = balanced(s).modalities["lidar"]
        assert (h.encodes, h.encodes_skipped) == (1, 0)


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
