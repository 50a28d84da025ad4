"""Every verb as a user calls it: data on stdout, words on stderr, exit 0, 1 or 2."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import mmedge
from mmedge.cli.run import _describe


def call(*words, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == expect, done.stderr + done.stdout
    return done


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.ones((2, 2, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_help_names_all_verbs():
    out = call("--help").stdout
    for verb in ("bench", "build", "env", "export", "inspect", "run", "verify"):
        assert f" {verb} " in out


def test_misuse_exits_with_2():
    for words in (("nonsense",), ("run",), ("bench", "x", "--calls", "0")):
        done = call(*words, expect=2)
        assert done.stdout == ""
        assert "Usage" in done.stderr


def test_a_failure_exits_with_1_and_says_what(tmp_path):
    for verb in ("verify", "bench", "inspect"):
        done = call(verb, tmp_path / "none", expect=1)
        assert done.stdout == ""
        assert "BundleError" in done.stderr
        assert "Traceback" not in done.stderr


def test_verify(sums):
    assert "ok" in call("verify", sums).stdout
    data = json.loads(call("verify", sums, "--json").stdout)
    assert data["ok"] is True
    (verified,) = data["verified"]
    assert {row["stage"] for row in verified["rows"]} == {"camera", "fusion", "(whole network)"}


def test_run_on_a_picture_and_text(sums, picture, tmp_path):
    out = tmp_path / "out.safetensors"
    words = ("run", sums, "-i", f"image={picture}", "-i", "text=red ball", "-o", out)
    done = call(*words, "--json")
    found = json.loads(done.stdout)["outputs"]["out"]
    assert found["shape"] == [1, 1]
    assert found["rows"][0]["values"] == [12.5 + 50 + 200]
    assert load_file(out)["seen"] == 12
    assert "wrote" in done.stderr
    assert "262.5" in call(*words).stdout


def test_run_refuses_what_does_not_fit(sums, picture):
    done = call("run", sums, "-i", f"pcm={picture}", expect=1)
    assert "takes no picture" in done.stderr
    done = call("run", sums, "-i", "text=red", expect=1)
    assert "missing input 'image'" in done.stderr


def test_bench_writes_the_report_it_prints(sums, tmp_path):
    path = tmp_path / "report.json"
    done = call("bench", sums, "--calls", 20, "--warmup", 2, "--threads", 1, "-o", path, "--json")
    assert json.loads(done.stdout) == json.loads(path.read_text())
    assert mmedge.Report.from_json(path).load["threads"] == 1
    table = call("bench", sums, "--calls", 20, "--warmup", 2).stdout
    for word in ("end to end", "camera", "fusion", "residual", "cold start", "peak memory"):
        assert word in table


def test_what_was_computed_is_shown_even_when_it_cannot_be_written(sums, picture, tmp_path):
    full = "/dev/full"  # a device that takes nothing
    done = call("run", sums, "-i", f"image={picture}", "-o", full, expect=1)
    assert "12.5" in done.stdout
    assert "cannot be written" in done.stderr
    done = call("bench", sums, "--calls", 2, "--warmup", 0, "-o", full, "--json", expect=1)
    assert json.loads(done.stdout)["load"]["calls"] == 2
    assert "cannot be written" in done.stderr


def test_run_replaces_no_input_and_writes_no_other_kind_of_file(sums, tmp_path):
    array = tmp_path / "a.safetensors"
    save_file({"image": np.ones((1, 2, 2, 3), np.uint8)}, array)
    before = array.read_bytes()
    done = call("run", sums, "-i", f"image={array}", "-o", array, expect=2)
    assert "is an input of this call" in done.stderr
    assert array.read_bytes() == before
    done = call("run", sums, "-i", f"image={array}", "-o", tmp_path / "out.npy", expect=2)
    assert "ends in .safetensors" in done.stderr
    call("run", sums, "-i", f"image={array}", "-o", tmp_path / "out.safetensors")


def test_what_cannot_be_written_is_refused_before_the_work(sums, picture, tmp_path):
    for verb, option in (
        (("run", sums, "-i", f"image={picture}"), "-o"),
        (("bench", sums), "-o"),
        (("bench", sums), "--html"),
        (("bench", sums), "--trace"),
        (("inspect", sums), "--svg"),
    ):
        done = call(*verb, option, tmp_path / "none" / "x", expect=2)
        assert "there is no folder" in done.stderr
        done = call(*verb, option, tmp_path, expect=2)
        assert "is a folder" in done.stderr
        assert done.stdout == ""


def test_odd_outputs_are_plain_data():
    for value, rows in [
        (np.array([[np.nan, -np.inf, 1.5]], np.float32), [["nan", "-inf", 1.5]]),
        (np.array([2**60 + 1], np.int64), [[2**60 + 1]]),
        (np.array(True), [[True]]),
        (np.zeros((0, 4), np.float32), []),
    ]:
        found = _describe([], value)
        assert [row["values"] for row in found["rows"]] == rows
        assert json.dumps(found, allow_nan=False)


def test_inspect(sums):
    out = call("inspect", sums).stdout
    for word in ("camera", "takes text", "ort-fp32-cpu", "onnx/fusion.onnx", "runs"):
        assert word in out
    data = json.loads(call("inspect", sums, "--json").stdout)
    assert data["manifest"]["name"] == "sums"
    assert data["decisions"][0]["accepted"] is True
    assert sum(data["sizes_bytes"].values()) > 0


def test_env_says_why_not_and_what_to_install():
    data = json.loads(call("env", "--json").stdout)
    assert "ort" in data["backends"]
    assert data["takes_text"]
    assert data["verifies_signatures"]
    out = call("env").stdout
    assert "runs" in out
    for backend, why in data["missing"].items():
        assert backend in out
        assert "pip install" in why or "GPU" in why
