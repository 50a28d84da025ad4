"""``mmedge record`` as a user calls it: a recording of golden samples that replays."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import mmedge
from mmedge.bench.replay import replay
from mmedge.recording import open_recording


def call(*words, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", "record", *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == expect, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("form", ["run", "run.mcap"])
def test_a_stream_is_driven_and_recorded(pair, tmp_path, form):
    pytest.importorskip("mcap")
    rates = ("--rate", "camera=20", "--rate", "state=50")
    done = call(pair, "-o", tmp_path / form, "--seconds", 0.49, *rates)
    assert done.stdout == ""
    assert f"{form}: 40 samples" in done.stderr
    found = open_recording(tmp_path / form)
    assert (found.bundle, found.missing) == ("pair", "")
    read = list(found)
    arrivals = {name: [s.arrival for s in read if s.modality == name] for name in found.modalities}
    assert {name: len(times) for name, times in arrivals.items()} == {
        "camera": 10,
        "voice": 5,  # no rate is stated: 10 Hz
        "state": 25,
    }
    # They came in real time, and not before their stamps.
    assert arrivals["camera"][-1] - arrivals["camera"][0] == pytest.approx(0.45, abs=0.2)
    assert all(s.arrival >= s.t for s in read)
    with mmedge.load(pair, threads=1) as pipe:
        run = replay(pipe, found, trigger="camera")
    assert run.pace.pushed == 40
    assert run.results["triggers"] == 10


def test_nominal_arrivals_are_written_at_once(pair, tmp_path):
    call(pair, "-o", tmp_path / "run", "--seconds", 100, "--rate", "camera=2", "--from-samples")
    camera = [s for s in open_recording(tmp_path / "run") if s.modality == "camera"]
    assert [s.arrival for s in camera] == [k / 2 for k in range(200)]
    assert [s.t for s in camera] == [s.arrival for s in camera]
    assert camera[0].value.dtype == np.uint8


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        (("--rate", "camera"), "expected modality=Hz", 2),
        (("--rate", "nose=1"), "unknown modality", 1),  # the words are right, for other bundles
        (("--seconds", "-1"), "greater than or equal to 0.001", 2),
    ],
)
def test_misuse_is_told_and_leaves_nothing(pair, tmp_path, words, error, code):
    done = call(pair, "-o", tmp_path / "run", "--from-samples", *words, expect=code)
    assert error in done.stderr
    assert not (tmp_path / "run").exists()


def test_nothing_is_overwritten(pair, tmp_path):
    (tmp_path / "run").mkdir()
    done = call(pair, "-o", tmp_path / "run", "--from-samples", expect=2)
    assert "already exists" in done.stderr


def test_what_was_recorded_as_json(pair, tmp_path):
    words = (pair, "-o", tmp_path / "run", "--seconds", 2, "--from-samples", "--json")
    said = json.loads(call(*words).stdout)
    assert said["path"] == str(tmp_path / "run")
    assert said["samples"] == 2 * sum(said["rates_hz"].values())
    assert said["not_recorded"] == {}
