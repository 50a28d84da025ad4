"""Results on a simulated clock as lines of JSON, by the function and by ``mmedge replay``."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from recording_kit import Listed, at
from streaming import make_streaming

import mmedge
from mmedge.bench.result_lines import result_lines
from mmedge.errors import InputError
from mmedge.recording import Recorder


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")


@pytest.fixture(scope="module")
def pipe(path):
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def lines(pipe, samples, **options):
    return [json.loads(line) for line in result_lines(pipe, Listed(samples), **options)]


def test_a_line_says_what_a_result_is(pipe):
    samples = [at("state", 99.5), at("camera", 100.0, t=99.9), at("camera", 100.1, t=99.9)]
    samples += [at("camera", 100.2, 2, t=100.2)]
    first, one, two, last = lines(pipe, samples, trigger="camera", deadline_ms=50)
    assert (first["replay"], first["bundle"], first["plan"]) == (1, "streaming", "cut")
    assert (first["origin"], first["trigger"], first["deadline_ms"]) == (99.5, "camera", 50.0)
    assert one["t"] == pytest.approx(0.4)
    assert (one["made"], one["met"], one["trigger"]) == (0.5, False, "camera")
    camera, state = one["modalities"]["camera"], one["modalities"]["state"]
    assert (camera["age"], camera["samples"], camera["sequence"]) == (0.0, 1, 0)
    assert state["age"] is None  # over its maximum age
    assert "too_old" in state["absent"]
    assert one["dropped"] == {}
    assert two["dropped"] == {"camera": {"duplicate": 1}}
    assert two["met"] is True
    output = one["outputs"]["out"]
    values = np.array(output["values"], output["dtype"]).reshape(output["shape"])
    assert values.shape == tuple(output["shape"])
    assert len(output["sha256"]) == 64
    assert last["end"]["pushed"]["camera"] == 3
    assert last["end"]["dropped"]["camera"] == {"duplicate": 1}
    assert (last["end"]["results"], last["end"]["deadline_misses"]) == (2, 1)


def test_a_timer_ends_with_the_last_sample_and_nothing_is_something_too(pipe):
    samples = [at("camera", 5.0), at("camera", 5.9)]
    rows = lines(pipe, samples, trigger=10)
    assert [round(row["t"], 3) for row in rows[1:-1]] == [round(k / 10, 3) for k in range(1, 10)]
    rows = lines(pipe, [], trigger=10)
    assert rows[0]["origin"] is None
    assert rows[1]["end"]["results"] == 0
    with pytest.raises(InputError, match="unknown trigger|expected"):
        lines(pipe, samples, trigger="nobody")


def test_the_command_prints_them_and_takes_no_option_that_measures(path, tmp_path):
    with mmedge.Bundle.open(path) as bundle, Recorder(tmp_path / "run", bundle) as recorder:
        for number in range(3):
            recorder.record("camera", np.full((1, 4), number, np.float32), number, number)

    def call(*words):
        command = [sys.executable, "-m", "mmedge", "replay", path, *words, "--simulated"]
        command += ["--trigger", "camera", "--threads", "1"]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True)

    done = call(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.get("t") for row in rows] == [None, 0.0, 1.0, 2.0, None]
    assert "3 samples over 2 s" in done.stderr
    for words in ((), (tmp_path / "run", "--json"), (tmp_path / "run", "--warmup", "3")):
        refused = call(*words)
        assert refused.returncode == 2
        assert "--simulated" in refused.stderr
