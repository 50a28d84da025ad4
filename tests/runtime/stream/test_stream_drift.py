"""Drift in a stream: scores in results and health, events, and nothing else changed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from streaming import make_streaming

import mmedge
from mmedge.bench.drift import learn_drift, play
from mmedge.cli.app import run
from mmedge.drift import DriftProfile
from mmedge.errors import InputError
from mmedge.recording import Recorder, open_recording
from mmedge.stream import Observer, SimulatedClock


class Events(Observer):
    def __init__(self):
        self.events = []

    def on_event(self, event):
        if event.kind.startswith("drift"):
            self.events.append(event)


HZ = 10


def camera(seed, seconds):
    rng = np.random.default_rng(seed)
    x = np.zeros((1, 4))
    for _ in range(round(seconds * HZ)):
        x = 0.9 * x + 0.4 * rng.standard_normal((1, 4))
        yield x.astype(np.float32)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A bundle, two recordings of normal operation, and one in which the camera breaks at 20 s."""
    folder = tmp_path_factory.mktemp("drift")
    make_streaming(folder / "b.mmedge")
    with mmedge.Bundle.open(folder / "b.mmedge") as bundle:
        for name, seed, seconds in (("one", 0, 120), ("two", 1, 60), ("broken", 2, 40)):
            with Recorder(folder / name, bundle) as recorder:
                for index, value in enumerate(camera(seed, seconds)):
                    t = 1000.0 + index / HZ
                    if name == "broken" and t >= 1020.0:
                        value[0, 2] += 9.0
                    recorder.record("camera", value, t, t)
                    if index % 2 == 0:
                        recorder.record("odom", np.float32([[50, 60 + index % 7]]), t, t)
                    if index % 200 == 0:
                        recorder.record("text", "red ball", t, t)
    return folder


@pytest.fixture(scope="module")
def pipe(recordings):
    with mmedge.load(recordings / "b.mmedge") as pipe:
        yield pipe


@pytest.fixture(scope="module")
def profile(pipe, recordings):
    return learn_drift(pipe, [open_recording(recordings / name) for name in ("one", "two")])


def test_what_is_learned(profile):
    watched = {(r.modality, r.source): r for r in profile.references}
    assert set(watched) == {
        ("camera", "inputs"), ("camera", "features"), ("odom", "inputs"), ("odom", "features"),
    }  # fmt: skip
    reference = watched["camera", "inputs"]
    assert reference.interval == pytest.approx(0.2, abs=0.001)
    assert reference.looks == 12
    assert reference.seconds == pytest.approx(180, abs=1)
    assert profile.unwatched["lidar inputs"] == "no value of it came"
    assert "too few" in profile.unwatched["text features"]


def test_a_change_is_told_and_results_are_as_without(pipe, profile, recordings):
    recording = open_recording(recordings / "broken")
    events = Events()
    watched = list(play(pipe, recording, drift=profile, observer=events))
    bare = list(play(pipe, recording))
    assert len(watched) == len(bare) == 400
    for one, other in zip(watched, bare, strict=True):
        assert (one.t, one.made, one.samples, one.notes) == (
            other.t, other.made, other.samples, other.notes,
        )  # fmt: skip
        assert one.outputs["out"].tobytes() == other.outputs["out"].tobytes()
        assert other.drift == {}
    assert watched[5].drift == {}  # less than a window came
    assert watched[190].drift["camera"] < 1.0 <= watched[-1].drift["camera"]
    assert watched[-1].drift["odom"] < 1.0
    begin, update = events.events
    assert (begin.kind, update.kind) == ("drift", "drift_update")
    assert 20.0 <= begin.t <= 24.0
    assert update.details["modality"] == "camera"
    assert update.details["statistic"] == "element 2"
    assert update.details["value"] > update.details["high"]
    assert "element 2" in update.message


def push(stream, clock, values):
    for value in values:
        clock.advance(1 / HZ)
        stream.push("camera", value)
        while True:
            try:
                stream.result(0.0)
            except TimeoutError:
                break


def test_health_forget_and_absence(pipe, profile):
    clock, events = SimulatedClock(), Events()
    with pipe.stream(trigger="camera", clock=clock, drift=profile) as stream:
        stream.observe(events)
        assert stream.health().modalities["camera"].drift is None
        values = list(camera(3, 20))
        push(stream, clock, values[:100])
        state = stream.health().modalities["camera"]
        assert 0.0 <= state.drift < 1.0
        assert (state.drift_since, state.drift_reason) == (None, "")
        assert stream.health().modalities["lidar"].drift is None  # not watched
        push(stream, clock, [value + np.float32(9) for value in values[100:150]])
        state = stream.health().modalities["camera"]
        assert state.drift >= 1.0
        assert 10.0 <= state.drift_since <= 13.0
        assert "'camera'" in state.drift_reason
        clock.advance(60.0)
        assert stream.health().modalities["camera"].drift == state.drift
        stream.forget("camera")
        state = stream.health().modalities["camera"]
        assert (state.drift, state.drift_since, state.drift_reason) == (None, None, "")
        assert events.events[-1].kind == "drift_end"
        assert "was forgotten" in events.events[-1].message
        assert stream.health().events["drift"] == 1


def test_samples_that_are_dropped_are_not_looked_at(pipe, profile):
    clock = SimulatedClock()
    with pipe.stream(trigger="camera", clock=clock, drift=profile) as stream:
        push(stream, clock, list(camera(3, 10)))
        before = stream.health().modalities["camera"].drift
        push(stream, clock, [np.full((1, 4), np.nan, np.float32)] * 20)
        assert stream.health().modalities["camera"].drift == before


def test_a_profile_of_another_bundle_is_refused(pipe, profile):
    other = DriftProfile("other", "0" * 64, 24.0, profile.references, {})
    with pytest.raises(InputError, match="drift profile is of bundle 'other'"):
        pipe.stream(trigger="camera", drift=other)


def test_a_fault_of_the_detector_ends_the_scores_alone(pipe, profile, monkeypatch):
    clock = SimulatedClock()
    with pipe.stream(trigger="camera", clock=clock, drift=profile) as stream:
        monkeypatch.setattr("mmedge.drift.detector.Detector.see", lambda *_: 1 / 0)
        push(stream, clock, list(camera(3, 1)))
        health = stream.health()
        assert health.events == {"observer_error": 1}
        assert health.modalities["camera"].drift is None
        assert health.results == 10


def test_command_line(recordings, tmp_path, capsys):
    bundle, file = str(recordings / "b.mmedge"), str(tmp_path / "drift.json")
    good = str(recordings / "one")
    assert run(["drift", bundle, good, "--learn", file, "--json", "--false-alarms", "48"]) == 0
    learned = json.loads(capsys.readouterr().out)
    assert learned["false_alarm_hours"] == 48.0
    assert learned["references"][0]["window_s"] == pytest.approx(2.4, abs=0.01)
    assert run(["drift", bundle, str(recordings / "broken"), "--profile", file, "--json"]) == 0
    (scored,) = json.loads(capsys.readouterr().out)["recordings"]
    assert scored["results"] == 400
    assert scored["modalities"]["camera"]["max"] >= 1.0 > scored["modalities"]["odom"]["max"]
    assert scored["events"][0]["kind"] == "drift"
    assert run(["drift", bundle, good, "--profile", file, "--window", "3"]) == 2
    assert "--learn" in capsys.readouterr().err
