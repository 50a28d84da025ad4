"""Variants for GPUs in libmmedge beside Python's: with no GPU, and with a stand-in for one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from native_builds import ROOT

from mmedge.bundle import Bundle

pytestmark = pytest.mark.native_build

#: Loads the bundle in one of the two runtimes, and prints what was decided.
PROGRAM = """
import json, sys
import mmedge
from mmedge.errors import MMEdgeError
from mmedge.native.runtime import NativeBundle, NativePipeline
runtime, path, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
try:
    if runtime == "python":
        pipe = mmedge.load(path, threads=1, **options)
        decisions = pipe.decisions
    else:
        pipe = NativePipeline(NativeBundle(path), threads=1, **options)
        decisions = pipe.decisions()
    print(json.dumps({row.variant: [row.accepted, row.reason] for row in decisions}))
except MMEdgeError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Variants for the CPU, for CUDA and for TensorRT."""
    path = tmp_path_factory.mktemp("gpu") / "tiny.mmedge"
    shutil.copy(ROOT / "conformance" / "cases" / "bundles" / path.name, path)
    with Bundle.open(path) as opened:
        (base,) = opened.manifest.variants
    for backend, target in (("ort", "cuda"), ("tensorrt", "sm_72")):
        with Bundle.open(path) as opened:
            opened.with_variant(replace(base, backend=backend, target=target), {}).close()
    return path


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder with libcuda.so.1, and one below it with libonnxruntime.so."""
    folder = tmp_path_factory.mktemp("stand-in")
    (real,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name, more in {
        "libcuda.so.1": [],
        "ort/libonnxruntime.so": [f'-DMMEDGE_REAL="{real}"', f"-I{ROOT / 'cpp_ext/ort'}"],
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-shared", "-fPIC", *more]
        command += [str(Path(__file__).with_name("cuda_stand_in.cpp")), "-o", str(folder / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


def decide(runtime, path, gpu=None, **options):
    """What is decided, and the lines before."""
    environment = {**os.environ, **({"LD_LIBRARY_PATH": str(gpu)} if gpu else {})}
    command = [sys.executable, "-c", PROGRAM, runtime, str(path), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    *before, last = done.stdout.splitlines()
    return json.loads(last), before


def without_fix(reason):
    """A reason without how to install what is missing, which is another thing in C++."""
    return reason.partition(": pip install")[0].rstrip(")")


@pytest.mark.parametrize("has_gpu", [False, True])
def test_variants_for_cuda_are_refused_for_the_same_reasons(bundle, stand_in, has_gpu):
    gpu = stand_in if has_gpu else None
    (python, _), (native, _) = (decide(each, bundle, gpu) for each in ("python", "native"))
    assert list(native) == list(python)
    assert [row[0] for row in native.values()] == [row[0] for row in python.values()]
    cuda = "ort-fp32-cuda"
    assert without_fix(native[cuda][1]) == without_fix(python[cuda][1])
    if has_gpu:
        assert (
            "this device offers cpu, sm_87 (ONNX Runtime here has no CUDA provider"
            in native[cuda][1]
        )
    else:
        assert "(no NVIDIA GPU: the driver library offers none to this process)" in native[cuda][1]
    accepted, reason = native["tensorrt-fp32-sm_72"]
    assert not accepted
    assert "no backend tensorrt; bring one by mmedge_load_options.backends" in reason


def test_the_device_that_is_asked_for_is_not_here(bundle):
    (python, _), (native, _) = (
        decide(each, bundle, device="cuda") for each in ("python", "native")
    )
    assert native == python or without_fix(native[1]) == without_fix(python[1])
    assert native[0] == "InputError"


def test_an_architecture_that_onnx_runtime_does_not_run(bundle, stand_in, tmp_path):
    """It is here, and preferred."""
    bundle = shutil.copy(bundle, tmp_path / "tiny.mmedge")
    with Bundle.open(bundle) as opened:
        base = opened.manifest.variants[0]
        opened.with_variant(replace(base, target="sm_87"), {}).close()
    words = [decide(each, bundle, stand_in)[0] for each in ("python", "native")]
    assert words[0][0] == words[1][0] == "BackendError"
    assert "runs variants for cpu and cuda, not for sm_87; export the bundle again" in words[0][1]
    assert words[1][1].partition("ONNX")[2] == words[0][1].partition("ONNX")[2]


def test_the_cuda_provider_is_added_as_it_is_and_its_placement_is_read_back(bundle, stand_in):
    """As InferenceSession(providers=["CUDAExecutionProvider"]) does: no option is set."""
    result, before = decide(
        "native", bundle, stand_in, onnxruntime=str(stand_in / "ort"), variant="ort-fp32-cuda"
    )
    assert before == [
        "provider: options as they are made",
        "provider: CUDA with these",
        "provider: options released",
    ]
    assert result[0] == "BackendError"
    assert "variant ort-fp32-cuda: expected every node on CUDAExecutionProvider, found" in result[1]
    assert "on CPUExecutionProvider" in result[1]
