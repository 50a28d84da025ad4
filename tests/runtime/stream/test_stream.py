"""Streams on a simulated clock: when results come, what they use, what stands in for the rest."""

from __future__ import annotations

import numpy as np
import pytest
from stream_checks import balanced, part
from streaming import COLUMNS, TOKEN, make_streaming, value

import mmedge
from mmedge.stream import Exact, Hold, Interpolate, SimulatedClock, Stream, Window


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


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
        assert r.ages["voice"] == pytest.approx(0.04)  # of its oldest chunk
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


def test_neighbours_of_different_sizes_are_not_mixed(pipe):
    clock = SimulatedClock(start=1.0)
    with Stream(pipe, trigger="camera", clock=clock, align={"state": Interpolate()}) as s:
        s.push("state", value("state", 1), t=0.95)
        s.push("state", value("state", 2, batch=2), t=1.0)
        s.push("camera", value("camera", 1), t=0.96)
        assert part(s.result(0), "state") == [1.0, 1.0, 1.0]
        s.push("camera", value("camera", 1, batch=2), t=0.99)
        assert part(s.result(0), "state") == [2.0, 2.0, 2.0]


def test_results_nobody_fetches_are_dropped(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock, keep=2) as s:
        for k in range(5):
            s.push("camera", value("camera", k), t=k * 1e-3)
        assert [part(s.result(0), "camera")[0] for _ in range(2)] == [3.0, 4.0]
        assert balanced(s).results_dropped == 3


def test_pushed_buffers_may_be_reused(pipe):
    clock = SimulatedClock(costs={"see": 0.1})
    with Stream(pipe, trigger="camera", clock=clock, align={"state": Exact(10)}) as s:
        state, image = value("state", 1), value("camera", 2)
        s.push("state", state)
        s.push("camera", image)
        state[:], image[:] = 8, 8
        r = s.result(1)
        assert (part(r, "camera"), part(r, "state")) == ([2.0], [1.0, 1.0, 1.0])


def test_the_same_choice_is_encoded_and_counted_once(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock, align={"lidar": Exact(50)}) as s:
        s.push("lidar", value("lidar", 1))
        for k in range(3):
            s.push("camera", value("camera", k), t=0.01 * k)
            assert s.result(0).samples["lidar"] == ((0, 0.0),)
        h = balanced(s).modalities["lidar"]
        assert (h.encodes, h.encodes_skipped) == (1, 0)


def test_a_result_in_milliseconds():
    from mmedge.stream.result import Result

    result = Result({}, 1.0, 1.25, 0.25, {"a": 0.5, "b": None}, {}, {}, {}, fresh=True, met=None)
    assert result.latency_ms == 250.0
    assert result.ages_ms == {"a": 500.0, "b": None}


def test_a_reader_that_writes_to_outputs_changes_no_later_result(pipe):
    """``seen`` is an output, and what the encoder gave, which later results use again."""
    clock = SimulatedClock()
    with Stream(pipe, trigger="state", clock=clock, align={"camera": Hold(1e6)}) as s:
        s.push("camera", value("camera", 7))
        for k in range(3):
            clock.advance(0.01)
            s.push("state", value("state", k))
            outputs = s.result(0.0).outputs
            assert outputs["seen"].item() == 7
            assert outputs["out"][0, COLUMNS["camera"]].item() == 7
            for array in outputs.values():
                array[...] = -1
