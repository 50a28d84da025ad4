"""Replay of streams with state and with loops: each begins anew, and steps are timed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from loop_samples import write_captions
from stream_loops import fold, make_detector, make_policy, make_recurrent

import mmedge
from mmedge.bench.loop_section import stream_loop_section
from mmedge.bench.replay import bench_stream, replay
from mmedge.bench.report.page import render
from mmedge.bench.report.report import Report
from mmedge.bench.stream_run import LoopTimes
from mmedge.cli.bench_tables import show
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
    assert len(run.loops) == fresh
    assert {len(loop.between_ms) for loop in run.loops} == {9}
    assert {loop.finish for loop in run.loops} == {"schedule"}


@pytest.mark.serial
@pytest.mark.parametrize("kind", ["generate", "denoise"])
def test_a_report_has_the_loops_of_a_stream(tmp_path, kind, capsys):
    path = tmp_path / "bundle"
    path, trigger, steps = (
        (make_policy(path, decoder=True), "camera", 10)
        if kind == "denoise"
        else (write_captions(path, stop=(), limit=6), "image", 6)
    )
    report = bench_stream(str(path), trigger=trigger, seconds=0.5, threads=1)
    loop = report.stream_loop
    fresh = report.results["fresh"]
    assert fresh > 0
    assert (loop["kind"], loop["stage"], loop["runs"]) == (kind, "step", fresh)
    assert (loop["fewest_steps"], loop["most_steps"]) == (steps, steps)
    assert loop["steps"] == steps * fresh
    assert loop["finish"] == {"schedule" if kind == "denoise" else "limit": fresh}
    assert loop["first_ms"]["count"] == fresh
    assert loop["between_ms"]["count"] == (steps - 1) * fresh
    assert loop["steps_per_s"] == pytest.approx(1e3 / loop["between_ms"]["mean"])
    # A run of the stage is within the time to its token: the first of a call to the first token,
    # the others between tokens. So are least and sum; the stage's median has first steps too.
    stage, between = report.stages["step"], loop["between_ms"]
    assert stage["min"] <= min(between["min"], loop["first_ms"]["min"])
    between_sum = between["mean"] * between["count"]
    first_sum = loop["first_ms"]["mean"] * fresh
    assert stage["mean"] * stage["count"] <= between_sum + first_sum
    # Operators of every stage, also of the loop's.
    assert {operator["stage"] for operator in report.operators} == set(report.stages)
    assert report.loop is None
    report.to_json(tmp_path / "report.json")
    assert Report.from_json(tmp_path / "report.json").stream_loop == loop
    assert '"stream_loop":{"kind"' in render(report)
    show(report)
    words = capsys.readouterr().out
    assert f"loop {kind} in the stream: {fresh} runs, {steps} to {steps} steps each" in words


def test_loops_of_a_stream_are_counted_by_their_end():
    runs = [
        LoopTimes(5.0, [1.0, 3.0], "stop"),
        LoopTimes(6.0, [], "deadline"),
        LoopTimes(None, [], "cancel"),
    ]
    loop = stream_loop_section(runs, SimpleNamespace(kind="generate", stage="step"))
    assert (loop["runs"], loop["steps"], loop["fewest_steps"], loop["most_steps"]) == (3, 4, 0, 3)
    assert loop["finish"] == {"stop": 1, "deadline": 1, "cancel": 1}
    assert (loop["first_ms"]["count"], loop["steps_per_s"]) == (2, 500.0)
    nothing = stream_loop_section([], SimpleNamespace(kind="generate", stage="step"))
    assert (nothing["first_ms"], nothing["between_ms"], nothing["steps_per_s"]) == (None,) * 3
