"""mmedge-replay: the lines of Python, to the byte, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter

import numpy as np
import pytest
from native_builds import ROOT
from shared import zoo_bundle

import mmedge
from mmedge.bench.result_lines import result_lines
from mmedge.errors import InputError
from mmedge.native.runtime import installed_onnxruntime
from mmedge.recording import Recorder, open_recording
from mmedge.spec import DTYPES

pytestmark = pytest.mark.native_build

BUNDLES = ROOT / "conformance/cases/bundles"
#: Sizes that keep what the network of this name asks for.
KEPT = {"k": 6, "m": 3}
#: ONNX Runtime keeps what it made until the process ends.
QUIET = {"ASAN_OPTIONS": "detect_leaks=0"}


@pytest.fixture(scope="module", autouse=True)
def _unsynced():
    """A disk that others use takes seconds to flush."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="module")
def program(probe):
    return probe("mmedge-replay")


@pytest.fixture
def play(program):
    def run(*words, code=0):
        command = [program, "--onnxruntime", installed_onnxruntime(), "--threads", "1", *words]
        done = subprocess.run([str(w) for w in command], capture_output=True, text=True, env=QUIET)
        assert done.returncode == code, done.stdout[-1000:] + done.stderr
        return done.stderr if code else done.stdout.splitlines()

    return run


def values(rng, manifest, modality, batch):
    """A random value of a modality, at times with what no sensor should say."""
    specs = manifest.inputs()
    sizes = {"batch": batch, **(KEPT if manifest.name == "sizes" else {})}
    arrays = {}
    for name in modality.inputs:
        spec = specs[name]
        shape = []
        for axis in spec.shape:
            if isinstance(axis, str) and axis not in sizes:
                limits = manifest.dimensions[axis]
                most = min(limits.max or limits.opt + 3, limits.min + 6)
                step = limits.multiple
                sizes[axis] = step * int(rng.integers(-(-limits.min // step), most // step + 1))
            shape.append(sizes[axis] if isinstance(axis, str) else axis)
        dtype = DTYPES[spec.dtype]
        array = rng.normal(size=shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        arrays[name] = array.astype(dtype)
        if dtype.kind == "f" and array.size and rng.random() < 0.05:
            arrays[name].reshape(-1)[0] = rng.choice([np.nan, np.inf, 1e6])
    one = len(arrays) == 1 and rng.random() < 0.5
    return arrays[modality.inputs[0]] if one else arrays


def record(path, manifest, seed, count=60):
    """A recording of sensors with jitter, whose stamps are at times wrong."""
    rng = np.random.default_rng(seed)
    arrival = float(rng.choice([0.0, 1234.56789, 1.7e9]))
    last = {}
    with Recorder(path, manifest, clock=lambda: arrival) as recorder:
        for _ in range(count):
            arrival += float(rng.exponential(0.02))
            modality = manifest.modalities[rng.integers(len(manifest.modalities))]
            stamp = arrival - float(rng.exponential(0.01))
            odd = rng.random()
            if odd < 0.1:
                stamp = last.get(modality.name, stamp)
            elif odd < 0.15:
                stamp = arrival + float(rng.choice([-5.0, 0.4, 20.0]))
            last[modality.name] = stamp
            batch = 2 if rng.random() < 0.05 else 1
            value = values(rng, manifest, modality, batch)
            if isinstance(value, dict) or value.size or rng.random() < 0.5:
                recorder.record(modality.name, value, stamp, arrival)
    return path


def python(bundle, recording, **options):
    with mmedge.load(bundle, threads=1) as pipe:
        return list(result_lines(pipe, open_recording(recording), **options))


#: Not `attention`: the kernels of a build for tests round otherwise than those of Python's.
TRIGGERS = (
    ("both", "camera", None),
    ("both", "any", 5.0),
    ("both", 20.0, None),
    ("streaming", "camera", None),
    ("streaming", 30.0, 12.0),
    ("poses", "camera", None),
    ("poses", "any", None),
    ("sizes", "a", None),
    ("sizes", "any", None),
    ("tiny", "image", 8.0),
    ("floats", "plain", None),
    ("captioner", "image", None),
    ("policy", "camera", None),
    ("painter", 10.0, None),
    ("speller", "sound", None),
    ("decoder", "text", None),
    ("recurrent", "audio", None),
    ("recurrent", "any", 9.0),
    ("state", "x", None),
    ("fusion-state", "any", None),
)


@pytest.mark.parametrize("form", ["run", "run.mcap"])
def test_lines_are_those_of_python(play, tmp_path, form):
    seen = Counter()
    for seed, (name, trigger, deadline) in enumerate(TRIGGERS):
        bundle = BUNDLES / f"{name}.mmedge"
        with mmedge.Bundle.open(bundle) as opened:
            path = record(tmp_path / str(seed) / form, opened.manifest, seed)
        words = ["--trigger", trigger, bundle, path]
        if deadline is not None:
            words = ["--deadline", deadline, *words]
        expected = python(bundle, path, trigger=trigger, deadline_ms=deadline)
        got = play(*words)
        for number, (ours, theirs) in enumerate(zip(got, expected, strict=False)):
            assert ours == theirs, (name, trigger, number)
        assert len(got) == len(expected)
        rows = [json.loads(line) for line in got]
        assert rows[0]["recording"] == form
        seen["lines"] += len(got)
        seen["outputs"] += sum(row["outputs"] is not None for row in rows[1:-1])
        seen["empty"] += rows[-1]["end"]["empty"]
        seen["misses"] += rows[-1]["end"]["deadline_misses"]
        for modality, counts in rows[-1]["end"]["dropped"].items():
            seen.update(counts)
            told = Counter()
            for row in rows[1:-1]:
                told.update(row["dropped"].get(modality, {}))
            assert told <= Counter(counts)
    # What was played is no quiet afternoon.
    for what in ("outputs", "empty", "misses", "duplicate", "future", "nan", "superseded"):
        assert seen[what] > 0, seen
    assert seen["lines"] > 280


def test_a_reference_network_gives_what_it_gives_in_python(play, tmp_path, tmp_path_factory):
    bundle = zoo_bundle(tmp_path_factory, "vqa-attention")
    rng = np.random.default_rng(5)
    with mmedge.Bundle.open(bundle) as opened, Recorder(tmp_path / "run", opened) as recorder:
        samples = opened.samples()
        for number in range(12):
            inputs = samples[number % len(samples)].inputs
            for modality in opened.manifest.modalities:
                if rng.random() < 0.7 or modality.required:
                    content = {name: inputs[name] for name in modality.inputs}
                    recorder.record(modality.name, content, number / 10, number / 10)
    trigger = opened.manifest.modalities[0].name
    got = play("--trigger", trigger, bundle, tmp_path / "run")
    assert got == python(bundle, tmp_path / "run", trigger=trigger)
    assert sum(json.loads(line)["outputs"] is not None for line in got[1:-1]) >= 10


def test_gaps_are_skipped_as_in_python(play, tmp_path):
    bundle = BUNDLES / "both.mmedge"
    frame = np.zeros((1, 2, 2, 3), np.uint8)
    with mmedge.Bundle.open(bundle) as opened, Recorder(tmp_path / "run", opened) as recorder:
        for number in range(20):
            time = 0.1 * number + 100.0 * (number > 10)
            recorder.record("camera", frame + number, time - 0.25, time)
    words = ("--trigger", "camera", bundle, tmp_path / "run")
    assert play(*words) == python(bundle, tmp_path / "run", trigger="camera")
    words = ("--trigger", 2, bundle, tmp_path / "run")
    whole = play(*words)
    assert whole == python(bundle, tmp_path / "run", trigger=2.0)
    skipped = play("--skip-gaps", *words)
    assert skipped == python(bundle, tmp_path / "run", trigger=2.0, skip_gaps=True)
    assert len(skipped) < len(whole) / 10
    assert "1 gaps of 100.1 s in all skipped" in skipped[0]
    with mmedge.Bundle.open(bundle) as opened, Recorder(tmp_path / "slow", opened) as recorder:
        for number in range(3):
            recorder.record("camera", frame, number * 50.0, number * 50.0)
    words = ("--skip-gaps", "--trigger", "camera", bundle, tmp_path / "slow")
    assert "record them in seconds" in play(*words, code=1)
    with pytest.raises(InputError, match="record them in seconds"):
        python(bundle, tmp_path / "slow", trigger="camera", skip_gaps=True)


def test_what_cannot_be_played_is_refused_in_words(play, tmp_path):
    bundle = BUNDLES / "streaming.mmedge"
    with mmedge.Bundle.open(bundle) as opened:
        manifest = opened.manifest
        path = record(tmp_path / "run", manifest, 3)
        with Recorder(tmp_path / "texts", manifest) as recorder:
            recorder.record("camera", np.zeros((1, 4), np.float32), 0.0, 0.0)
            for number in range(3):
                recorder.record("text", "go", number, number)
    refused = play("--trigger", "camera", bundle, tmp_path / "texts", code=1)
    assert "of 4 samples are texts: 3 of 'text'" in refused
    words = ("--trigger", "camera")
    assert "makes texts" in play(*words, BUNDLES / "completer.mmedge", path, code=1)
    assert "no recording is there" in play(*words, bundle, tmp_path / "nothing", code=1)
    other = play(*words, BUNDLES / "poses.mmedge", path, code=1)
    assert "modality 'lidar' is none of bundle 'echo'" in other
    chunk = path / "chunk-000000.safetensors"
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    assert "its digest differs" in play(*words, bundle, path, code=1)
    with pytest.raises(InputError, match="its digest differs"):
        python(bundle, path, trigger="camera")
    for wrong in (
        ("--trigger", "-1", bundle, path),
        (bundle, path),
        ("--trigger", "camera", bundle),
        ("--colour", "red", "--trigger", "camera", bundle, path),
        ("--deadline", "0", "--trigger", "camera", bundle, path),
        ("--largest", "batch", "--trigger", "camera", bundle, path),
    ):
        assert "usage: mmedge-replay" in play(*wrong, code=2)
    assert play("--help")[0].startswith("usage: mmedge-replay")


def test_a_value_that_does_not_fit_ends_a_replay(play, tmp_path):
    bundle = BUNDLES / "both.mmedge"
    with mmedge.Bundle.open(bundle) as opened, Recorder(tmp_path / "run", opened) as recorder:
        recorder.record("camera", np.zeros((1, 2, 2, 3), np.uint8), 0.0, 0.0)
        recorder.record("camera", np.zeros((1, 2, 2, 4), np.uint8), 0.1, 0.1)
    refused = play("--trigger", "camera", bundle, tmp_path / "run", code=1)
    assert "sample 1 of 'camera'" in refused
    with pytest.raises(InputError, match="image"):
        python(bundle, tmp_path / "run", trigger="camera")


def test_a_replay_of_what_was_signed(play, tmp_path):
    signed = ROOT / "conformance/cases/signatures"
    content = json.loads((signed / "signatures.json").read_text())
    for name in "ac":
        (tmp_path / f"{name}.pub").write_text(content["keys"][name])
    bundle = signed / "signed.mmedge"
    with mmedge.Bundle.open(bundle) as opened:
        path = record(tmp_path / "run", opened.manifest, 1, count=8)
        trigger = opened.manifest.modalities[0].name
    words = ("--trigger", trigger, bundle, path)
    lines = play(*words)
    assert play("--key", tmp_path / "a.pub", "--lowest-version", 7, *words) == lines
    assert "no signature by a trusted key" in play("--key", tmp_path / "c.pub", *words, code=1)
    assert "expected a number" in play("--lowest-version", "-1", *words, code=2)
