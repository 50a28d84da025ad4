"""An application in C brings an engine of its own: what it is told, what it gives, what it says."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from native_builds import ROOT

import mmedge
from mmedge import sdk
from mmedge.bundle import Bundle

pytestmark = pytest.mark.native_build

BUNDLES = ROOT / "conformance" / "cases" / "bundles"
#: The engine by bundle.
ENGINES = {"sums": "tensorrt", "state": "toy"}
HERE = ROOT / "tests" / "native" / "runtime"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own_backend"
    lib = sdk.folder() / "lib"
    command = [
        *("cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"),
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        *(f"-I{sdk.folder() / 'include'}", str(HERE / "own_backend.c"), "-o", str(path)),
        *(str(lib / "libmmedge.so.0"), f"-Wl,-rpath,{lib}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Bundles with a variant for the toy, in a folder and as a zip.

    That of the sums is for TensorRT, whose files are no graphs.
    """
    folder = tmp_path_factory.mktemp("toys")
    for name in ("sums", "state"):
        path = folder / f"{name}.mmedge"
        shutil.copy(BUNDLES / path.name, path)
        with Bundle.open(path) as bundle:
            (base,) = (v for v in bundle.manifest.variants if v.backend == "ort")
            files, extra = dict(base.files), {}
            if name == "sums":
                files["fusion"], extra = "toy/fusion.txt", {"toy/fusion.txt": b"toy 10"}
            backend = ENGINES[name]
            variant = replace(base, backend=backend, files=files, requires={backend: "1.5"})
            bundle.with_variant(variant, extra).close()
        shutil.unpack_archive(path, folder / name, "zip")
    return folder


def run(program, bundle, name="tensorrt", fault="none"):
    done = subprocess.run([program, bundle, name, fault], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "left: 0 stages, 0 slots"
    return lines[:-1]


def inputs_of(pipe, turn):
    """The numbers that the program takes."""
    inputs = {}
    for place, spec in enumerate(pipe.bundle.manifest.inputs().values()):
        sizes = [
            size if isinstance(size, int) else 2 if axis == 0 else 5
            for axis, size in enumerate(spec.shape)
        ]
        values = (3 * np.arange(np.prod(sizes, dtype=int)) + turn + place) % 7
        values = values > 3 if spec.dtype == "bool" else values
        inputs[spec.name] = values.astype(spec.dtype).reshape(sizes)
    return inputs


@pytest.mark.parametrize("form", ["sums", "sums.mmedge", "state", "state.mmedge"])
def test_its_results_are_those_of_python(program, toys, form):
    engine = ENGINES[form.removesuffix(".mmedge")]
    lines = run(program, toys / form, engine)
    stages = [line for line in lines if line.startswith("stage ")]
    place = f"in memory {int(form.endswith('.mmedge'))}"
    if form.startswith("sums"):
        told = "tensorrt-fp32-cpu of fp32 for cpu, 0 files, threads 3, alone 0"
        assert stages == [
            f"stage camera: {told}, {place}: image/9/4 >seen",
            f"stage fusion: {told}, {place}: seen/0/2 ids/8/2 mask/4/2 pcm/0/2 state/0/2 >out",
        ]
    else:
        assert f"alone 1, {place}: x/0/2 gain/0/2 h/0/2 >y >h_new" in stages[0]
    assert f"choice: {engine}-fp32-cpu by {engine} 1.5" in lines
    with mmedge.load(toys / form, backend="ort", threads=1) as pipe:
        state = pipe.state() if form.startswith("state") else None
        expected = []
        for turn in range(3):
            outputs = pipe.run(inputs_of(pipe, turn), state=state)
            expected.append("run: 0 ")
            for name, value in outputs.items():
                expected.append(f"{name}: " + " ".join(f"{x:.9g}" for x in value.ravel()))
    assert lines[lines.index("warm up: 0 ") + 1 :] == expected


def test_it_takes_the_place_of_libmmedges_own(program):
    lines = run(program, BUNDLES / "sums.mmedge", name="ort")
    assert "choice: ort-fp32-cpu by ort 1.5" in lines
    assert lines.count("run: 0 ") == 3


@pytest.mark.parametrize("name", ["tensorrt", "ort"])
def test_what_it_computes_is_verified(program, toys, name):
    """The same variant of ONNX Runtime's is not replayed at each load: export has proven it."""
    load = run(program, toys / "sums", name, "wrong")[-1]
    assert load.startswith("load: 103 ")
    assert "output 'seen'" in load


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("missing", 101, "tensorrt-fp32-cpu: the toy's chip is not here; plug it in"),
        (
            "open",
            102,
            "stage 'camera', variant tensorrt-fp32-cpu: tensorrt failed: the toy does not open",
        ),
        (
            "slot",
            102,
            "stage 'camera', variant tensorrt-fp32-cpu: tensorrt failed: the toy makes no slot",
        ),
        (
            "input",
            102,
            "stage 'camera', variant tensorrt-fp32-cpu: tensorrt failed: the toy takes no input",
        ),
        ("output", 102, "tensorrt failed: the toy keeps its output"),
        ("silent", 102, "tensorrt failed: it gives no reason"),
        (
            "dtype",
            102,
            "tensorrt gave output 'seen' as int32 of rank 2; the manifest declares float32",
        ),
        ("rank", 102, "tensorrt gave output 'seen' no dtype, rank or shape of a bundle's"),
        ("size", 102, "tensorrt gave output 'seen' no dtype, rank or shape of a bundle's"),
        (
            "no run",
            200,
            "backend 'tensorrt': a name and all functions but `missing` have to be set",
        ),
        ("struct size", 200, "make it with MMEDGE_BACKEND"),
    ],
)
def test_what_it_does_wrong_is_said_in_its_words(program, toys, fault, status, words):
    load = run(program, toys / "sums", fault=fault)[-1]
    assert load.startswith(f"load: {status} ")
    assert words in load


def test_a_run_that_fails_is_told_and_the_next_may_not(program, toys):
    lines = run(program, toys / "sums", fault="run")
    failed = "run: 102 stage 'camera', variant tensorrt-fp32-cpu: tensorrt failed: the toy is tired"
    assert lines.count(failed) == 2
    assert lines.count("run: 0 ") == 1


def test_another_version_is_not_what_a_variant_needs(program, toys, tmp_path):
    shutil.copytree(toys / "sums", tmp_path / "sums")
    with Bundle.open(tmp_path / "sums") as bundle:
        (base,) = (v for v in bundle.manifest.variants if v.backend == "tensorrt")
        bundle.with_variant(replace(base, requires={"tensorrt": "1.6"}), {}).close()
    load = run(program, tmp_path / "sums")[-1]
    assert load.startswith("load: 101 ")
    assert "needs tensorrt 1.6, found 1.5" in load
