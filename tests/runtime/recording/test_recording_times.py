"""Times that are none, recorders that are killed, and files that cost more than they hold."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from recording_kit import FORMS, write
from streaming import value

import mmedge
from mmedge.errors import InputError
from mmedge.recording import Recorder, directory, open_recording, sample
from mmedge.stream import SimulatedClock

mcap_writer = pytest.importorskip("mcap.writer")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("odd", [1e12, -1e12, 1.76e18, 1e300])
def test_one_odd_stamp_leaves_the_rest(manifest, tmp_path, form, odd):
    with Recorder(tmp_path / form, manifest, clock=lambda: 0.0) as made:
        for k in range(200):
            t = odd if k == 100 else k / 10
            taken = made.record("camera", value("camera", k), t, k / 10)
            assert taken == (k != 100)
    assert (made.count, made.lost) == (199, {"bad_time": 1})
    found = open_recording(tmp_path / form)
    assert found.missing == "1 samples not recorded (bad_time)"
    assert [int(s.value[0, 0]) for s in found] == [k for k in range(200) if k != 100]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attached", [False, True])
def test_a_clock_that_begins_again_keeps_arrivals_apart(streaming, tmp_path, form, attached):
    """A bag that plays in a loop: each sample comes 0.1 s after the one before, and 20 ms old."""
    now = [100.0]
    with (
        mmedge.load(streaming, threads=1) as pipe,
        Recorder(tmp_path / form, pipe.bundle, clock=lambda: now[0]) as made,
        made.attach(pipe.stream(trigger="camera", clock=lambda: now[0])) as stream,
    ):
        push = stream.push if attached else made.record
        for k in range(30):
            now[0] = 100.0 + k % 10 / 10
            push("camera", value("camera", k), t=now[0] - 0.02)
        assert (made.count, made.lost) == (30, {})
    samples = list(open_recording(tmp_path / form))
    steps = np.diff([s.arrival for s in samples])
    assert np.delete(steps, [9, 19]) == pytest.approx(0.1)
    assert (np.abs(steps[[9, 19]]) < 5).all()  # the real time that passed
    assert [s.arrival - s.t for s in samples] == pytest.approx([0.02] * 30)


@pytest.mark.parametrize("form", FORMS)
def test_times_in_another_unit_are_refused_at_the_first_sample(manifest, tmp_path, form):
    with (
        Recorder(tmp_path / form, manifest, clock=lambda: 0.0) as made,
        pytest.raises(InputError, match="beyond any clock.*nanoseconds divide it by 1e9"),
    ):
        made.record("camera", value("camera", 1), 1.76e18, 1.76e18)
    assert made.count == 0


def test_times_beyond_the_file_are_not_of_its_clock(manifest, tmp_path):
    with (
        Recorder(tmp_path / "r.mcap", manifest, clock=lambda: 0.0) as made,
        pytest.raises(InputError, match="not of the recorder's clock"),
    ):
        made.record("camera", value("camera", 1), -9e10, 0.0)


@pytest.mark.parametrize(
    "odd", ["1.5", timedelta(seconds=1), np.datetime64(1, "s"), True, None.__class__, 1j]
)
def test_a_time_of_another_type_is_an_input_error(manifest, tmp_path, odd):
    with Recorder(tmp_path / "r", manifest) as made:
        with pytest.raises(InputError, match="a stamp: expected a number of seconds"):
            made.record("camera", value("camera", 1), odd)
        assert made.record("camera", value("camera", 1), np.float64(1.5))


def test_a_stream_on_another_clock_is_refused(streaming, tmp_path):
    with mmedge.load(streaming, threads=1) as pipe, Recorder(tmp_path / "r", pipe.bundle) as made:
        for clock in (SimulatedClock(), time.time):
            with (
                pipe.stream(trigger="camera", clock=clock) as stream,
                pytest.raises(InputError, match="stands at .* make both with the same clock"),
            ):
                made.attach(stream)
        with made.attach(pipe.stream(trigger="camera")) as stream:
            stream.push("camera", value("camera", 1))
    assert made.count == 1
    simulated = SimulatedClock(5.0)
    with (
        mmedge.load(streaming, threads=1) as pipe,
        Recorder(tmp_path / "s", pipe.bundle, clock=simulated) as made,
        made.attach(pipe.stream(trigger="camera", clock=simulated)),
    ):
        pass


def test_an_odd_stamp_of_an_attached_stream_is_counted(streaming, tmp_path):
    simulated = SimulatedClock()
    with (
        mmedge.load(streaming, threads=1) as pipe,
        Recorder(tmp_path / "r.mcap", pipe.bundle, clock=simulated) as made,
        made.attach(pipe.stream(trigger="camera", clock=simulated)) as stream,
    ):
        for k in range(5):
            simulated.advance(0.1)
            # The stream drops it for its own reasons; it disturbs neither.
            stream.push("camera", value("camera", k), -9e10 if k == 2 else k / 10)
    assert (made.count, dict(made.lost)) == (4, {"bad_time": 1})


KILLED = """
import os, sys, time
import numpy as np
from mmedge.bundle import Bundle
from mmedge.recording import Recorder
with Bundle.open(sys.argv[1]) as bundle:
    made = Recorder(sys.argv[2], bundle)
    for k in range(10_000):
        made.record("camera", np.full((1, 4), k, np.float32))
        print(k, time.monotonic(), flush=True)
        time.sleep(0.02)
"""


def killed_after(path, seconds, streaming):
    """Samples that were taken in before a real kill, with their times, and the kill's."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(streaming), str(path)], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    time.sleep(seconds)
    process.kill()
    ended = time.monotonic()
    with process.stdout:
        lines = process.stdout.read().splitlines()
    assert process.wait() == -signal.SIGKILL
    return [(int(k), float(t)) for k, t in map(str.split, lines[:-1])], ended


@pytest.mark.serial
def test_a_killed_mcap_recorder_loses_two_seconds_at_most(streaming, tmp_path):
    taken, ended = killed_after(tmp_path / "r.mcap", 5.0, streaming)
    found = open_recording(tmp_path / "r.mcap")
    assert "the recorder was not closed" in found.missing
    read = [int(sample.value[0, 0]) for sample in found]
    assert read == list(range(len(read)))
    due = [k for k, t in taken if t < ended - 2.0]
    assert len(due) > 50
    assert len(read) > due[-1]


def test_what_waits_is_written_though_nothing_follows(manifest, tmp_path, monkeypatch):
    from mmedge.recording import mcap

    monkeypatch.setattr(mcap, "CHUNK_SECONDS", 0.2)
    monkeypatch.setattr(directory, "CHUNK_SECONDS", 0.2)
    for form in FORMS:
        made = Recorder(tmp_path / form, manifest)
        made.record("camera", value("camera", 7))
        end = time.monotonic() + 10
        while not list(open_recording(tmp_path / form)) and time.monotonic() < end:
            time.sleep(0.1)
        assert len(list(open_recording(tmp_path / form))) == 1
        made.close()


# Files that cost more than they hold.


@pytest.mark.parametrize("form", FORMS)
def test_a_sparse_file_is_refused(manifest, tmp_path, form):
    write(tmp_path / form, manifest)
    if form == "r":
        path = tmp_path / "r/chunk-000000.safetensors"
        index = directory._Index(**json.loads((tmp_path / "r/recording.json").read_text()))
        from dataclasses import asdict, replace

        index = replace(index, chunk_bytes=(directory.MAX_CHUNK_BYTES,))
        sealed = replace(index, sha256=directory._index_digest(index))
        (tmp_path / "r/recording.json").write_text(json.dumps(asdict(sealed)))
    else:
        path = tmp_path / "r.mcap"
    with path.open("r+b") as file:
        file.truncate(directory.MAX_CHUNK_BYTES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="a sparse file is no"):
        list(open_recording(tmp_path / form))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_file_that_the_disk_compresses_is_no_sparse_one(tmp_path):
    """Its blocks are fewer than its bytes, and none is a hole: a stat of such a file system."""
    (tmp_path / "whole").write_bytes(bytes(range(256)) * 4096)
    with (tmp_path / "whole").open("rb") as file:
        true = os.fstat(file.fileno())
        stored = SimpleNamespace(st_size=true.st_size, st_blocks=0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sample, "MAX_HOLE", 0)
            assert not sample.hole_fault(file.fileno(), stored)


@pytest.mark.parametrize(
    "changes",
    [
        {"start_ns": "1" + "0" * 400},
        {"start_ns": "-1"},
        {"start_ns": "1" * 5000},
        {"origin_s": "1e400"},
        {"origin_s": "nan"},
        {"origin_s": "1e300"},
        {"modalities": "[" * 10_000},
        {"modalities": '["\\ud800"]'},
        {"modalities": "3"},
        {"recording_version": "1"},
    ],
)
def test_metadata_that_no_recorder_writes(tmp_path, changes):
    from mmedge.recording.mcap import BEGIN, DIGEST, _digest

    data = {
        "recording_version": "2",
        "bundle": "b",
        "modalities": '["camera"]',
        "start_ns": "1",
        "origin_s": "0.0",
        **changes,
    }
    with (tmp_path / "r.mcap").open("wb") as file:
        writer = mcap_writer.Writer(file)
        writer.start("", "x")
        writer.add_metadata(BEGIN, {**data, DIGEST: _digest(data)})
        writer.finish()
    with pytest.raises(InputError):
        list(open_recording(tmp_path / "r.mcap"))


def test_paths_that_lead_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "loop", tmp_path / ("a" * 5000), "\0"):
        with pytest.raises(InputError):
            open_recording(path)
