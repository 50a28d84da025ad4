"""A replay says how long it takes, waits for no gap unasked, and knows whose stamp is whose."""

from __future__ import annotations

import time

import numpy as np
import pytest
from recording_kit import FORMS, Listed, at
from streaming import make_streaming, value
from typer.testing import CliRunner

import mmedge
from mmedge.bench.replay import bench_stream, replay
from mmedge.cli.app import build_app
from mmedge.errors import InputError
from mmedge.recording import Recorder, open_recording
from mmedge.recording.timeline import WithoutGaps, plan_replay, read_timeline
from mmedge.stream import SimulatedClock

pytestmark = [pytest.mark.usefixtures("unsynced"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")


@pytest.fixture(scope="module")
def pipe(path):
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def drives(gap, count=10):
    """Two drives with ``gap`` seconds between them."""
    times = [1.76e9 + k / 30 + gap * (k >= count // 2) for k in range(count)]
    return Listed([at("camera", t, k, t - 0.005) for k, t in enumerate(times)])


@pytest.mark.parametrize("gap", [11.0, 3600.0, 8.64e6])
def test_a_gap_is_refused_and_said(pipe, gap):
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"in 1 gaps, the longest .*--skip-gaps.*--no-skip-gaps"):
        replay(pipe, drives(gap), trigger="camera")
    assert time.monotonic() - begun < 5.0


def test_gaps_are_skipped_and_samples_keep_their_ages(pipe):
    lines = []
    run = replay(pipe, drives(3600.0), trigger="camera", skip_gaps=True, say=lines.append)
    assert run.pace.pushed == 10
    assert 1.0 < run.pace.seconds < 2.0
    assert len(lines) == 1
    assert lines[0].startswith(
        "replaying 10 samples over 3600 s, of them 3600 s in 1 gaps; without"
    )
    shorter = WithoutGaps(drives(3600.0), read_timeline(drives(3600.0)))
    assert shorter.missing == "1 gaps of 3600 s in all skipped"
    assert all(s.arrival - s.t == pytest.approx(0.005, abs=1e-6) for s in shorter)
    steps = np.diff([s.arrival for s in shorter])
    assert max(steps) == pytest.approx(1.0, abs=1e-6)


def test_a_gap_that_is_wanted_is_waited_for_and_announced(pipe, monkeypatch):
    monkeypatch.setattr("mmedge.recording.timeline.GAP", 0.5)
    lines = []
    run = replay(pipe, drives(1.0), trigger="camera", skip_gaps=False, say=lines.append)
    assert run.pace.seconds > 1.0
    assert "in 1 gaps, which takes 1.3 s" in lines[0]


def test_a_simulated_clock_waits_for_nothing(pipe):
    run = replay(pipe, drives(3600.0), trigger="camera", clock=SimulatedClock())
    assert run.pace.seconds == pytest.approx(3600.3, abs=0.1)
    lines = []
    plan_replay(drives(3600.0), say=lines.append, waits=False)
    assert lines[0].startswith("replaying 10 samples over 3600 s")
    assert "takes" not in lines[0]


def test_most_of_it_gaps_is_another_unit(pipe):
    millis = Listed([at("camera", k * 33.0, k) for k in range(10)])
    for skip in (None, True):
        with pytest.raises(InputError, match="in milliseconds or nanoseconds record them in sec"):
            replay(pipe, millis, trigger="camera", skip_gaps=skip)


@pytest.mark.parametrize("unit", [1e9, 1e6, 1e3])
def test_stamps_that_cannot_be_seconds_are_refused(pipe, tmp_path, unit):
    times = [(1.76e9 + k / 30) * unit for k in range(10)]
    with (
        Recorder(tmp_path / "r", pipe.bundle, clock=lambda: 0.0) as made,
        pytest.raises(InputError, match="beyond any clock"),
    ):
        for t in times:
            made.record("camera", value("camera", 1), t, t)


def test_stamps_and_arrivals_of_two_clocks_are_refused(pipe):
    two = Listed([at("camera", k / 10, k, 1.76e9 + k / 10) for k in range(10)])
    with pytest.raises(InputError, match="of two clocks or units"):
        replay(pipe, two, trigger="camera")


def test_golden_samples_of_a_slow_sensor_have_no_gaps(pipe):
    from mmedge.recording import Golden

    golden = Golden(pipe.bundle, seconds=40.0, rates=dict.fromkeys(pipe_names(pipe), 0.05))
    assert plan_replay(golden) is golden


def pipe_names(pipe):
    return [modality.name for modality in pipe.bundle.manifest.modalities]


@pytest.mark.parametrize("form", FORMS)
def test_the_command_line_says_the_span_first(path, pipe, tmp_path, form):
    with Recorder(tmp_path / form, pipe.bundle, clock=lambda: 0.0) as made:
        for sample in drives(3600.0).samples:
            made.record("camera", sample.value, sample.t, sample.arrival)
    args = ["replay", str(path), str(tmp_path / form), "--trigger", "camera"]
    args += ["--no-profile"]
    found = CliRunner().invoke(build_app(), args)
    assert isinstance(found.exception, InputError)
    assert "--skip-gaps" in str(found.exception)
    found = CliRunner().invoke(build_app(), [*args, "--skip-gaps", "--json"])
    assert found.exit_code == 0, found.exception
    assert "replaying 10 samples over 3600 s, of them 3600 s in 1 gaps" in found.stderr
    assert "1 gaps of 3600 s in all skipped" in found.stdout


def test_a_damaged_recording_is_refused_before_the_replay_begins(path, pipe, tmp_path):
    with Recorder(tmp_path / "r", pipe.bundle, clock=lambda: 0.0) as made:
        for k in range(200):
            made.record("camera", value("camera", k), k / 10, k / 10)
    chunk = max((tmp_path / "r").glob("chunk-*"))
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    begun = time.monotonic()
    with pytest.raises(InputError, match="altered"):
        bench_stream(str(path), trigger="camera", recording=tmp_path / "r")
    assert time.monotonic() - begun < 10.0
    assert open_recording(tmp_path / "r")


def test_equal_stamps_of_two_sensors_keep_their_own_latency(pipe):
    """The lidar's samples come 80 ms after the camera's of the same stamp."""
    samples = []
    for k in range(4):
        samples.append(at("camera", k * 0.5, k, k * 0.5))
        samples.append(at("lidar", k * 0.5 + 0.08, k, k * 0.5))
    clock = SimulatedClock(costs={"fuse": 0.01})
    run = replay(pipe, Listed(samples), trigger="any", clock=clock)
    assert run.results["fresh"] == 8
    assert run.latency_ms == pytest.approx([10.0] * 8, abs=1e-6)
