"""A forked child refuses what its parent loaded, ends, and takes nothing from its parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from streaming import make_streaming

PROGRAM = """
import os, signal, sys, threading, time
import numpy as np
import mmedge
from mmedge.errors import BackendError
from mmedge.recording import Recorder, open_recording
from mmedge.stream import Stream
from streaming import value

path, how = sys.argv[1:]
bundle = mmedge.Bundle.open(path)
placed = bundle.file("onnx/see.onnx")
assert placed.exists()
pipe = mmedge.load(path, threads=4)
frame = value("camera", 1)
inputs = {"image": frame}
stream = Stream(pipe, trigger="camera")
recorder = Recorder(path + ".recording", pipe.bundle)
recording = recorder.attach(stream)
stream.push("camera", frame)
assert stream.result(10).outputs is not None

def refused(call):
    try:
        call()
    except BackendError as error:
        assert "a forked process cannot use what its parent loaded or opened" in str(error), error
        return
    raise AssertionError(call)

if how == "locked":  # a thread of the parent's holds the stream's lock while it forks
    there = threading.Event()
    def hold():
        with stream._lock:
            there.set()
            time.sleep(1.0)
    threading.Thread(target=hold, daemon=True).start()
    there.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    refused(lambda: pipe.run(inputs))
    refused(lambda: pipe.run_stage("see", inputs))
    refused(lambda: pipe.stream(trigger="camera"))
    refused(lambda: stream.push("camera", frame))
    refused(lambda: stream.result(0))
    refused(stream.health)
    refused(lambda: recorder.record("camera", frame))
    refused(lambda: recording.push("camera", frame))
    recorder.close()
    stream.close()
    pipe.close()
    if how != "leave":
        bundle.close()
    if how == "own":  # what the child loads itself works
        with mmedge.load(path, threads=2) as own, Stream(own, trigger="camera") as s:
            s.push("camera", frame)
            assert s.result(10).outputs is not None
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert placed.exists()
recording.push("camera", value("camera", 2))
assert stream.result(10).outputs["seen"].tolist() == [[2.0]]
stream.close()
recorder.close()
assert [s.value.tolist() for s in open_recording(path + ".recording")] == [[[2, 0, 0, 0]]]
pipe.close()
bundle.close()
assert not placed.exists()
print("well")
"""


def run(program, path, how, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(path), how],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[1],
        env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "well"), done.stderr
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("mmedge-")] == []


@pytest.mark.parametrize("how", ["close", "leave", "locked", "own"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_forked_child_takes_nothing_and_ends(tmp_path, how, zipped):
    path = make_streaming(tmp_path / ("b.mmedge" if zipped else "b"))
    program = PROGRAM if path.is_file() else PROGRAM.replace("assert not placed.exists()", "")
    run(program, path, how, tmp_path)


ONE_STAGE = """
import os, signal, sys
import mmedge
from mmedge.errors import BackendError

pipe = mmedge.load(sys.argv[1], threads=4)
inputs = dict(pipe.bundle.samples()[0].inputs)
pipe.run(inputs)
child = os.fork()
if child == 0:
    signal.alarm(20)
    try:
        pipe(**inputs)
    except BackendError as error:
        assert "do so in the child" in str(error)
        sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
pipe.run(inputs)
print("well")
"""


def test_a_network_of_one_stage_is_refused_in_a_child_too(tiny_zip, tmp_path):
    run(ONE_STAGE, tiny_zip, "", tmp_path)
