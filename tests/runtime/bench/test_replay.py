"""A replay repeats arrivals, counts latency from them, and accounts for each sample."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_kit import NAMES, Listed, at
from streaming import make_streaming, value

import mmedge
from mmedge.bench import operators
from mmedge.bench.replay import bench_stream, replay
from mmedge.errors import BackendError, BundleError, InputError
from mmedge.pipeline import Pipeline
from mmedge.recording import Golden, Recorded, Recorder, open_recording
from mmedge.recording.pace import pace
from mmedge.stream import SimulatedClock
from mmedge.stream.policies import Exact, Hold, Interpolate, Window


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")


@pytest.fixture(scope="module")
def pipe(path):
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def accounted(run, recording):
    """Each recorded sample was used, dropped for a reason, or is pending; triggers add up."""
    for name, state in run.health.modalities.items():
        pushed = sum(sample.modality == name for sample in recording)
        assert pushed == state.pushed
        assert pushed == run.used[name] + sum(run.drops[name].values()) + run.pending[name]
    found = run.results
    assert found["results"] == found["fresh"] + found["stale"] + found["empty"]
    assert found["results"] == len(run.answers_ms)
    assert found["fresh"] == len(run.latency_ms) == len(run.start_s)
    pending = run.health.triggers_pending
    assert found["triggers"] == found["results"] + found["superseded"] + pending
    return run


def test_latency_counts_from_the_scheduled_arrival_and_shows_the_queue(pipe):
    # Measured 5 ms before it arrives; the fusion takes 140 ms of each 100 ms.
    recording = Listed([at("camera", 50 + k / 10, k, 49.995 + k / 10) for k in range(4)])
    clock = SimulatedClock(start=7.0, costs={"fuse": 0.14})
    run = accounted(replay(pipe, recording, trigger="camera", clock=clock), recording)
    assert run.latency_ms == pytest.approx([140.0, 180.0, 220.0, 260.0])
    assert run.start_s == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert run.results["superseded"] == 0
    assert run.ages_ms["camera"] == pytest.approx([0.0] * len(run.latency_ms))


def test_what_is_used_keeps_its_age(pipe):
    recording = Listed([at("lidar", 2.0, t=1.95), at("camera", 2.01, t=2.0)])
    run = accounted(
        replay(pipe, recording, trigger="camera", clock=SimulatedClock(100.0)), recording
    )
    assert run.ages_ms == {"camera": (0.0,), "lidar": (pytest.approx(50.0),)}
    # From its arrival, not from its stamp.
    assert run.latency_ms == (pytest.approx(0.0, abs=1e-9),)


def test_drops_superseded_and_empty_are_counted(pipe):
    recording = Listed(
        [
            at("lidar", 0.0),
            at("lidar", 0.01, t=-9.0),
            at("camera", 0.02, 5),
            at("camera", 0.03, 6, t=0.02),
            Recorded("camera", 0.04, 0.04, np.full((1, 4), np.nan, np.float32)),
        ]
    )
    run = accounted(replay(pipe, recording, trigger="camera", clock=SimulatedClock()), recording)
    assert run.drops["lidar"] == {"too_old": 1}
    assert run.drops["camera"] == {"duplicate": 1, "nan": 1}
    assert run.results == {
        "triggers": 1,
        "results": 1,
        "fresh": 1,
        "stale": 0,
        "empty": 0,
        "deadline_misses": 0,
        "superseded": 0,
    }
    alone = Listed([at("lidar", 0.0)])
    run = accounted(replay(pipe, alone, trigger="lidar", clock=SimulatedClock()), alone)
    assert run.results["empty"] == 1
    assert run.answers_ms == (float("inf"),)
    assert run.ages_ms == {}


def test_stale_results_are_misses_and_not_fast_answers(pipe):
    recording = Listed([at("camera", k / 10, k) for k in range(20)])
    clock = SimulatedClock(costs={"fuse": 0.05})
    run = accounted(
        replay(pipe, recording, trigger="camera", deadline_ms=20, clock=clock), recording
    )
    assert run.results["stale"] > 0
    assert min(run.latency_ms) == pytest.approx(50.0)
    assert sum(answer > 20 for answer in run.answers_ms) == len(run.answers_ms)


def test_an_unknown_trigger_is_refused_before_the_work(path):
    phases: list[str] = []
    with pytest.raises(InputError, match="trigger 'nose': expected 'any', a rate in Hz"):
        bench_stream(path, trigger="nose", progress=lambda phase, *_: phases.append(phase))
    assert phases == []


def test_a_trigger_without_a_result_is_a_miss(pipe):
    recording = Listed([at("camera", k / 100, k) for k in range(10)])
    clock = SimulatedClock(costs={"fuse": 0.03})
    run = accounted(replay(pipe, recording, trigger="camera", clock=clock), recording)
    superseded = run.results["superseded"]
    assert superseded >= 4
    assert run.results["results"] + superseded == run.results["triggers"] == 10
    found = run.deadline(1e3)  # all results are in time
    assert found == {
        "ms": 1e3,
        "missed": superseded,
        "rate": superseded / 10,
        "longest_run": 0,
    }
    assert run.deadline(1.0) == {"ms": 1.0, "missed": 10, "rate": 1.0, "longest_run": 10}
    # Those under way at the end come after all results.
    left = replace(run, health=replace(run.health, triggers_pending=2))
    assert left.deadline(1e3) == {
        "ms": 1e3,
        "missed": superseded + 2,
        "rate": (superseded + 2) / 12,
        "longest_run": 2,
    }


def test_ticks_end_with_the_last_sample(pipe):
    recording = Listed([at("camera", k / 20, k) for k in range(21)])
    clock = SimulatedClock(3.0, {"fuse": 0.01, "see": 0.002})
    run = accounted(replay(pipe, recording, trigger=10.0, clock=clock), recording)
    assert 8 <= run.results["results"] <= 10
    assert run.latency_ms[1:] == pytest.approx([10.0] * (len(run.latency_ms) - 1), abs=2.1)


ALIGN = st.sampled_from(
    [
        {},
        {"lidar": Exact(20.0), "camera": Hold(150.0)},
        {"odom": Interpolate(), "voice": Window(8, hop=4)},
    ]
)


@given(
    gaps=st.lists(st.tuples(st.sampled_from(NAMES), st.floats(0, 0.2), st.floats(-0.4, 0.02))),
    trigger=st.sampled_from(["camera", "lidar", "any", 7.0]),
    deadline=st.sampled_from([None, 30.0]),
    align=ALIGN,
    speed=st.sampled_from([0.5, 1.0, 3.0]),
)
@settings(max_examples=60)
def test_a_simulated_replay_is_repeated_bit_for_bit(pipe, gaps, trigger, deadline, align, speed):
    samples, now = [], 10.0
    for number, (name, gap, older) in enumerate(gaps):
        now += gap
        samples.append(at(name, now, number, now + older))
    recording = Listed(samples)
    runs = [
        replay(
            pipe,
            recording,
            trigger=trigger,
            deadline_ms=deadline,
            align=align,
            speed=speed,
            clock=SimulatedClock(5.0, {"see": 0.01, "scan": 0.08, "fuse": 0.02, "read": 0.3}),
        )
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    run = accounted(runs[0], recording)
    assert all(latency >= 0 for latency in run.latency_ms)
    if samples:
        assert run.pace.pushed == len(samples)
        assert run.pace.seconds == pytest.approx((now - samples[0].arrival) / speed, abs=1e-9)


# In real time.


@pytest.mark.serial
def test_a_recording_comes_in_real_time_and_all_is_accounted_for(pipe, tmp_path):
    with Recorder(tmp_path / "r", pipe.bundle) as made:
        for sample in Golden(pipe.bundle, seconds=0.6, last="camera"):
            made.record(sample.modality, sample.value, sample.t, sample.arrival)
    recording = open_recording(tmp_path / "r")
    begun = time.monotonic()
    run = accounted(replay(pipe, recording, trigger="camera"), recording)
    assert time.monotonic() - begun > 0.55
    assert run.pace.seconds == pytest.approx(0.595, abs=0.01)
    assert run.results["triggers"] == 18
    assert run.results["empty"] == 0
    assert all(latency > 0 for latency in run.latency_ms)
    assert run.start_s[0] == 0.0
    assert run.seconds >= run.start_s[-1] + run.latency_ms[-1] / 1e3 - 1e-9
    assert set(run.ages_ms) == set(NAMES)


@pytest.mark.serial
def test_a_slow_stage_makes_real_latency_longer_than_its_time(pipe, monkeypatch):
    run_stage = Pipeline.run_stage

    def slow(self, stage, feeds):
        if stage == "fuse":
            time.sleep(0.03)
        return run_stage(self, stage, feeds)

    monkeypatch.setattr(Pipeline, "run_stage", slow)
    recording = Listed([at("camera", k / 50, k) for k in range(10)])
    run = accounted(replay(pipe, recording, trigger="camera"), recording)
    assert min(run.latency_ms) >= 30.0
    assert max(run.latency_ms) >= 40.0  # 20 ms between samples: later ones wait
    assert run.results["superseded"] > 0


@pytest.mark.serial
def test_speed_shrinks_time(pipe):
    recording = Listed([at("camera", k / 10, k) for k in range(10)])
    begun = time.monotonic()
    run = accounted(replay(pipe, recording, trigger="camera", speed=10.0), recording)
    assert time.monotonic() - begun < 0.9
    assert run.pace.seconds == pytest.approx(0.09)


@pytest.mark.serial
def test_ticks_in_real_time(pipe):
    recording = Listed([at("camera", k / 30, k) for k in range(15)])
    run = replay(pipe, recording, trigger=50.0)
    assert run.results["results"] >= 10
    assert all(latency > 0 for latency in run.latency_ms)


def test_late_pushes_are_counted():
    recording = Listed([at("camera", k / 100, k) for k in range(5)])
    seen = []

    def push(sample, due, stamp):
        seen.append((due, stamp))
        time.sleep(0.03)

    found = pace(recording, push, stop=threading.Event())
    assert found.pushed == len(seen) == 5
    assert found.late == 4
    assert found.latest_ms >= 70
    assert [due - seen[0][0] for due, _ in seen] == pytest.approx([k / 100 for k in range(5)])
    assert all(due == stamp for due, stamp in seen)
    stopped = threading.Event()
    stopped.set()
    assert pace(recording, push, stop=stopped).pushed == 0


def test_what_goes_wrong_in_a_thread_is_raised_to_the_caller(pipe):
    wrong = Recorded("camera", 0.1, 0.1, np.zeros((1, 5), np.float32))
    with pytest.raises(InputError, match="axis 1 must have size 4"):
        replay(pipe, Listed([at("camera", 0.0), wrong, at("camera", 9.0)]), trigger="camera")

    class Broken(Listed):
        def __iter__(self):
            yield at("camera", 0.0)
            raise InputError("chunk 3 is damaged")

    with pytest.raises(InputError, match="chunk 3 is damaged"):
        replay(pipe, Broken([]), trigger="camera")
    assert not [t for t in threading.enumerate() if t.name.startswith("mmedge replay")]


@pytest.mark.parametrize(
    ("recording", "options", "words"),
    [
        (Listed([], modalities=("nose",)), {}, "'nose' is none of bundle 'streaming'"),
        (Listed([], modalities=("lidar",)), {}, "no samples of 'camera', which is to trigger"),
        (Listed([]), {"speed": 0.0}, "speed must be above 0"),
        (Listed([]), {"trigger": "nose"}, "expected 'any'"),
    ],
)
def test_what_cannot_be_replayed_is_refused(pipe, recording, options, words):
    with pytest.raises(InputError, match=words):
        replay(pipe, recording, **{"trigger": "camera", **options})


# The report.


@pytest.mark.serial
def test_a_report_of_golden_samples(path):
    phases = []
    report = bench_stream(
        str(path),
        trigger="camera",
        seconds=0.69,
        deadline_ms=100.0,
        threads=1,
        warmup=3,
        progress=lambda phase, *_: phases.append(phase),
    )
    assert report.report_version == 2
    assert report.load["kind"] == "rate"
    assert report.load["mode"] == "stream"
    assert (report.load["rate_hz"], report.load["seconds"]) == (30.0, 0.69)
    assert "camera 30 Hz" in report.load["inputs"]
    assert "voice 10 Hz (assumed)" in report.load["inputs"]
    assert report.results["triggers"] == 21
    assert report.latency_ms["count"] == report.load["calls"] == report.series["of"]
    assert report.results["fresh"] == report.load["calls"]
    assert report.latency_ms["p99"] is None
    assert report.deadline["ms"] == 100.0
    assert set(report.ages_ms) == set(NAMES)
    assert report.ages_ms["lidar"]["max"] <= 300.0
    assert set(report.drops) == set(NAMES)
    assert 0 < report.throughput_hz < 40
    assert report.warmup["calls"] == 3
    assert report.size_bytes > 100
    assert report.metric is None
    assert report.accuracy["ok"] is True
    assert report.device["before"]
    assert set(report.energy) >= {"joules_per_result", "watts", "source", "missing"}
    # Operators and copies are of one call, in which each stage runs.
    assert {row["stage"] for row in report.operators} == set(report.operators_unexplained["stages"])
    assert set(report.stages) <= set(report.operators_unexplained["stages"])
    assert [row["what"] for row in report.copies if row["what"].startswith("outputs of ")]
    # Each stage ran in the stream, with what its encoder saved left out.
    assert {"see", "scan", "fuse"} <= set(report.stages)
    assert report.stages["fuse"]["count"] == report.results["fresh"]
    schema = json.loads(
        files("mmedge.bench.report").joinpath("report.schema.json").read_text("utf-8")
    )
    jsonschema.validate(json.loads(report.to_json()), schema)
    assert phases[0] == "verify"
    assert {"stream", "cold start"} <= set(phases)


def test_a_report_of_a_recording(path, pipe, tmp_path):
    pytest.importorskip("mcap")
    with Recorder(tmp_path / "run.mcap", pipe.bundle) as made:
        for k in range(6):
            made.record("camera", value("camera", k), k / 30, k / 30)
    report = bench_stream(
        str(path), trigger="camera", recording=tmp_path / "run.mcap", threads=1, warmup=0
    )
    assert (report.load["kind"], report.load["recording"]) == ("replay", "run.mcap")
    assert report.load["seconds"] is None
    assert report.deadline is None
    assert report.results["results"] + report.results["superseded"] == 6
    assert list(report.ages_ms) == ["camera"]


def test_a_stream_goes_without_a_profile_that_is_not_wanted_or_fails(path, monkeypatch):
    short = {"trigger": "camera", "seconds": 0.2, "threads": 1, "warmup": 0}

    def refused(*args, **options):
        raise BackendError("no profiler here")

    monkeypatch.setattr(operators, "profile", refused)
    found = bench_stream(str(path), **short)
    assert (found.operators, found.latency_ms["count"] > 0) == ([], True)
    assert found.operators_unexplained["words"] == "no profile by operator: no profiler here"
    found = bench_stream(str(path), profiled=False, **short)
    assert found.operators_unexplained == {"words": "not asked for", "stages": {}}
    assert found.copies


def test_the_deadline_of_a_report_counts_superseded_triggers(path, pipe, tmp_path, monkeypatch):
    run_stage = Pipeline.run_stage

    def slow(self, stage, feeds):
        if stage == "fuse":
            time.sleep(0.05)
        return run_stage(self, stage, feeds)

    monkeypatch.setattr(Pipeline, "run_stage", slow)
    with Recorder(tmp_path / "r", pipe.bundle) as made:
        for k in range(20):
            made.record("camera", value("camera", k), k / 50, k / 50)
    report = bench_stream(
        str(path), trigger="camera", recording=tmp_path / "r", deadline_ms=3e4, warmup=0
    )
    superseded = report.results["superseded"]
    assert superseded > 0
    assert report.deadline["missed"] == superseded + report.results["stale"]
    assert report.deadline["rate"] == report.deadline["missed"] / report.results["triggers"]


def test_a_run_without_a_fresh_result_is_no_measurement(path, pipe, tmp_path):
    with Recorder(tmp_path / "r", pipe.bundle) as made:
        made.record("lidar", value("lidar", 1))
    with pytest.raises(InputError, match="no trigger came to a fresh result"):
        bench_stream(str(path), trigger="lidar", recording=tmp_path / "r", warmup=0)


def test_a_bundle_without_golden_samples_is_refused(tiny, tmp_path):
    mmedge.Bundle.write(tmp_path / "bare", tiny.manifest, tiny.files).close()
    with pytest.raises(BundleError, match="no golden samples"):
        bench_stream(str(tmp_path / "bare"), trigger="image", seconds=0.1, warmup=0)
