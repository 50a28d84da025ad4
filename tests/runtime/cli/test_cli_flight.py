"""``mmedge replay`` of a flight recorder's dump, and the page that says how."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from flights import fly
from streaming import value
from swap_bundles import frame, make_network

import mmedge
from mmedge.cli.app import run
from mmedge.recording import DumpTriggers, FlightRecorder
from mmedge.recording.flight.history import happenings
from mmedge.recording.flight.reader import FlightDump
from mmedge.stream import Adaptive

pytest.importorskip("mcap.writer")

PAGE = Path(__file__).parents[3] / "docs/howto/flight-recorder.md"


@pytest.fixture(scope="module")
def pipe(streaming):
    with mmedge.load(streaming, threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def dump(pipe, tmp_path_factory, unsynced):
    folder = tmp_path_factory.mktemp("dumps")
    with fly(pipe, folder, trigger="camera", deadline_ms=20, costs={"fuse": 0.03}) as flight:
        for k in range(6):
            flight.push("camera", k, every=0.1)
            bad = np.full((1, 3), np.nan if 1 < k < 5 else k, np.float32)
            flight.stream.push("state", bad)
        flight.stream.forget("state")
        return flight.recorder.dump("the arm shook")


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def replay(*words, code=0):
        got = run(["replay", *map(str, words)])
        output = capsys.readouterr()
        assert got == code, output
        return output.out

    return replay


def test_it_prints_why_what_happened_and_that_all_is_equal(call, streaming, dump):
    text = call(streaming, dump)
    assert "application at +0.000 s: the arm shook" in text
    assert re.search(r"state +│ +6 │ +0 │ +3 nan", text)
    assert "state: dropped as nan (3 in a row)" in text
    assert "forget: modality 'state' was forgotten" in text
    assert "results later than the deadline" in text
    assert re.search(r"equal +│ +6 ", text)


def test_spans_say_when_they_began_and_ended(dump):
    found = {str(h): h for h in happenings(FlightDump.open(dump))}
    nan = found["state: dropped as nan (3 in a row)"]
    assert (nan.begin, nan.end) == (pytest.approx(5.3), pytest.approx(5.5))
    assert not nan.is_open


def test_json_has_everything(call, streaming, dump):
    tree = json.loads(call(streaming, dump, "--json"))
    assert tree["triggers"][0]["message"] == "the arm shook"
    assert tree["replay"]["method"] == "whole run"
    assert tree["replay"]["counts"] == {"equal": 6}
    assert any(h["words"] == "state: dropped as nan" for h in tree["happenings"])


def test_what_differs_is_printed_and_the_exit_code_says_so(
    call, streaming, pipe, tmp_path, monkeypatch
):
    real = pipe.run_stage

    def run_stage(name, feeds):
        outputs = real(name, feeds)
        return {k: v + (name == "fuse") * np.float32(0.5) for k, v in outputs.items()}

    monkeypatch.setattr(pipe, "run_stage", run_stage)
    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("camera", 1)
        path = flight.recorder.dump("test")
    text = call(streaming, path, code=1)
    assert "DIFFERENT" in text
    assert "output 'out': 11 of 11 elements differ, by up to 0.5" in text


def test_results_of_several_variants_are_each_computed_by_their_own(call, tmp_path):
    path = make_network(tmp_path / "net", 1, variants=("fp32", "fp16"))
    pipes = [
        mmedge.load(path, f"ort-{name}-cpu", threads=1, allow_unverified=True)
        for name in ("fp32", "fp16")
    ]
    costs = {"ort-fp32-cpu/fuse1": 0.06, "ort-fp16-cpu/fuse1": 0.002}
    variants = Adaptive(pipes[1:], dwell_s=0.1, hold_s=9.0)
    with fly(
        pipes[0], tmp_path / "d", trigger="camera", deadline_ms=40, costs=costs, variants=variants
    ) as flight:
        for k in range(30):
            flight.stream.push("lidar", frame(k))
            flight.stream.push("camera", frame(k))
            flight.clock.advance(0.1)
        path_ = flight.recorder.dump("test")
    for pipe in pipes:
        pipe.close()
    replay = json.loads(call(path, path_, "--json"))["replay"]
    assert "not_reproducible" not in replay["counts"]
    dump = FlightDump.open(path_)
    assert {dump.header["networks"][r.network]["variant"] for r in dump.results} == {
        "ort-fp32-cpu",
        "ort-fp16-cpu",
    }
    assert replay["counts"]["equal"] > 20


def test_misuse_is_named(call, streaming, dump):
    for words in (
        (streaming,),
        (streaming, dump, "--simulated"),
        (streaming, dump, "--deadline", 5),
    ):
        call(*words, code=2)


def test_the_code_of_the_page_runs(streaming, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "robot.mmedge").symlink_to(streaming)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGUSR1)
    use = (
        "for k in range(3):\n        stream.push('camera', value('camera', k)); stream.result(60)\n"
    )
    code = "\n".join(blocks).replace("...  # push and result as before", use)
    exec(code, {"value": value})
    assert signal.getsignal(signal.SIGUSR1) is before
    (path,) = (tmp_path / "dumps").iterdir()
    assert len(FlightDump.open(path).results) == 3


def test_the_page_names_all_options():
    page = PAGE.read_text()
    for options in (DumpTriggers, FlightRecorder.__init__):
        names = getattr(options, "__dataclass_fields__", None) or options.__kwdefaults__
        for name in names:
            assert f"`{name}" in page or f"{name}=" in page, name
