"""Replay of streams with state and with loops: each begins anew, and steps are timed."""

from __future__ import annotations

import numpy as np
import pytest
from stream_loops import fold, make_detector, make_policy, make_recurrent

import mmedge
from mmedge.bench.replay import bench_stream, replay
from mmedge.recording import Golden, Recorder, open_recording
from mmedge.stream import SimulatedClock


@pytest.mark.parametrize("remember", [False, True])
def test_the_state_begins_anew_at_each_replay(tmp_path, remember):
    path = make_recurrent(tmp_path / "bundle", remember=remember)
    with mmedge.load(path, threads=1) as pipe:
        with Recorder(tmp_path / "recording", pipe.bundle) as recorder:
            for number in range(1, 30):
                t = number / 50
                recorder.record("audio", np.full((1, 4), number, np.float32), t, t)
        recording = open_recording(tmp_path / "recording")
        heard = []
        run_stage = pipe.run_stage

        def note(stage, feeds):
            if stage == "listen":
                heard.append((int(feeds["heard_before"].item()), int(feeds["pcm"].sum())))
            return run_stage(stage, feeds)

        pipe.run_stage = note
        runs = [
            replay(pipe, recording, trigger="audio", clock=SimulatedClock(5.0)) for _ in range(2)
        ]
    assert runs[0] == runs[1]
    assert runs[0].health.modalities["audio"].state_missed == 0
    assert heard[:29] == heard[29:]
    assert heard[0][0] == 0
    assert heard[28][0] == fold(value for _, value in heard[:28])


@pytest.mark.serial
@pytest.mark.parametrize("make", [make_recurrent, make_detector])
def test_a_stream_with_state_is_measured(tmp_path, make):
    path = make(tmp_path / "bundle")
    report = bench_stream(str(path), trigger="audio", seconds=0.5, threads=1)
    assert report.results["fresh"] == report.results["triggers"] > 4
    assert "listen" in report.stages
    assert {operator["stage"] for operator in report.operators} == set(report.stages)


@pytest.mark.serial
def test_each_step_of_a_loop_is_timed(tmp_path):
    path = make_policy(tmp_path / "bundle", decoder=True)
    with mmedge.load(path, threads=1) as pipe:
        golden = Golden(pipe.bundle, seconds=0.2, last="camera")
        run = replay(pipe, golden, trigger="camera")
    fresh = run.results["fresh"]
    assert fresh > 0
    assert len(run.stages_ms["step"]) == 10 * fresh
    assert len(run.stages_ms["decode"]) == fresh
