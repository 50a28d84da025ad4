"""Bundles within the rules that crash, hang or take too much: a limit of time, a child first."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import mmedge
from mmedge.backends.openvino.compiled import core
from mmedge.backends.openvino.session import read_onnx
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, BundleError, InputError
from mmedge.execution import isolation
from mmedge.spec import Manifest, Modality, Sample, Stage, TensorSpec, Tolerance, Variant

X, Y = TensorSpec("x", "float32", (4,)), TensorSpec("y", "float32", (4,))
info = helper.make_tensor_value_info
node = helper.make_node


def bundle(path, nodes, constants=(), sample=1.0):
    """A bundle of one stage that makes ``y`` of ``x``, four floats each."""
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [4])],
        [info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    manifest = Manifest(
        "hostile",
        (Modality("x", ("x",)),),
        (Stage("net", "net.onnx", (X,), (Y,)),),
        ("y",),
        (Variant("ort", "fp32", "cpu", {"net": "net.onnx"}, Tolerance(0, 0)),),
        {},
    )
    values = np.full(4, sample, np.float32)
    samples = [Sample({"x": values}, {"y": values})]
    Bundle.write(path, manifest, {"net.onnx": model.SerializeToString()}, samples=samples).close()
    return path


def endless(path, sample=1.0):
    """It repeats its body for ever where ``x`` is above 0."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["again"]), node("Add", ["s", "s"], ["t"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []),
         info("s", TensorProto.FLOAT, [4])],
        [info("again", TensorProto.BOOL, []), info("t", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Greater", ["most", "zero"], ["go"]),
        node("Loop", ["times", "go", "x"], ["y"], body=body),
    ]
    constants = [("times", np.array(2**62)), ("zero", np.float32(0))]
    return bundle(path, nodes, constants, sample)


def crashing(path):
    """An LSTM of a batch that is cut to nothing."""
    nodes = [
        node("Reshape", ["x", "shape"], ["rows"]),
        node("Slice", ["rows", "one", "one", "one"], ["none"]),
        node("LSTM", ["none", "w", "r"], ["h"], hidden_size=1),
        node("ReduceSum", ["h"], ["sum"], keepdims=0),
        node("Add", ["x", "sum"], ["y"]),
    ]
    constants = [
        ("shape", np.array([1, 4, 1])),
        ("one", np.array([1])),
        ("w", np.ones((1, 4, 1), np.float32)),
        ("r", np.ones((1, 4, 1), np.float32)),
    ]
    return bundle(path, nodes, constants)


def hungry(path):
    """Constants ask for 4 GB, by way of a product."""
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Cast", ["most"], ["n"], to=TensorProto.INT64),
        node("Mul", ["n", "many"], ["size"]),
        node("ConstantOfShape", ["size"], ["zeros"]),
        node("Exp", ["zeros"], ["ones"]),
        node("ReduceMean", ["ones"], ["one"], keepdims=0),
        node("Mul", ["x", "one"], ["y"]),
    ]
    return bundle(path, nodes, [("many", np.array([1 << 30]))])


@pytest.mark.serial
def test_an_endless_loop_ends_in_time(tmp_path):
    with mmedge.load(endless(tmp_path / "b"), backend="ort", run_timeout_s=0.3) as pipe:
        start = time.monotonic()
        with pytest.raises(BackendError, match=r"stage 'net'.*more than run_timeout_s = 0\.3"):
            pipe(x=np.ones(4, np.float32))
        assert 0.25 < time.monotonic() - start < 5
        np.testing.assert_array_equal(pipe(x=np.zeros(4, np.float32))["y"], np.zeros(4))


def test_each_run_has_its_own_time(tmp_path):
    with mmedge.load(endless(tmp_path / "b"), backend="ort", run_timeout_s=1.0) as pipe:
        late = []

        def run():
            try:
                pipe(x=np.ones(4, np.float32))
            except BackendError as error:
                late.append(str(error))

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            pipe(x=np.zeros(4, np.float32))
        assert len(late) == 2


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none(tmp_path, seconds):
    with pytest.raises(ValueError, match="run_timeout_s must be seconds above 0"):
        mmedge.load(tmp_path, run_timeout_s=seconds)


def test_another_backend_has_no_such_limit(tiny, tmp_path):
    pytest.importorskip("openvino")
    variants = tuple(replace(v, backend="openvino") for v in tiny.manifest.variants)
    manifest = replace(tiny.manifest, variants=variants)
    Bundle.write(tmp_path / "b", manifest, tiny.files, samples=tiny.samples).close()
    with pytest.raises(BackendError, match="run_timeout_s ends runs in ort alone"):
        mmedge.load(tmp_path / "b", run_timeout_s=1)


def test_a_good_bundle_is_loaded_and_runs(tiny_bundle, tiny_zip):
    for path in (tiny_bundle, tiny_zip):
        with mmedge.load(path, backend="ort", isolate=True) as pipe:
            pipe.run(pipe.bundle.samples()[0].inputs)


def test_a_crash_ends_the_child(tmp_path):
    path = crashing(tmp_path / "b")
    with pytest.raises(BundleError, match=r"in a child process ended it by SIG(ABRT|SEGV|FPE)"):
        mmedge.load(path, backend="ort", isolate=True)


def test_a_child_has_so_much_time(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "SECONDS", 4.0)
    with pytest.raises(BundleError, match="in a child process took more than 4 s"):
        mmedge.load(endless(tmp_path / "b"), backend="ort", isolate=True)


def test_a_child_has_so_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "MEMORY_BYTES", 600 << 20)
    with pytest.raises(BundleError, match=r"in a child process took more than 0\.6 GB of memory"):
        mmedge.load(hungry(tmp_path / "b"), backend="ort", isolate=True)


def test_what_the_child_raises_is_raised_here(tmp_path, tiny_bundle):
    with pytest.raises(BundleError, match="no such file"):
        mmedge.load(tmp_path / "none", isolate=True)
    with pytest.raises(InputError, match="device 'sm_1' is not here"):
        mmedge.load(tiny_bundle, device="sm_1", isolate=True)


def test_what_is_exchanged_after_the_child_is_refused(tiny, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "load_in_child", lambda settings: "0" * 64)
    with pytest.raises(BundleError, match="changed since a child process loaded it"):
        mmedge.load(tiny_bundle, isolate=True)


def test_without_a_limit_no_run_options_are_made(tiny_bundle, monkeypatch):
    monkeypatch.setattr(ort, "RunOptions", lambda: pytest.fail("made"))
    with mmedge.load(tiny_bundle, backend="ort") as pipe:
        pipe.run(pipe.bundle.samples()[0].inputs)


def test_an_onnx_runtime_that_divides_by_zero(tiny_bundle, monkeypatch):
    monkeypatch.setattr(ort, "__version__", "1.24.4")
    with pytest.raises(BackendError, match=r"1\.24\.4 ends the process.*install 1\.25 or a later"):
        mmedge.load(tiny_bundle, backend="ort")


def test_openvino_reads_onnx_alone(tmp_path):
    """It would run XML as a network of its own, whatever the file's name."""
    pytest.importorskip("openvino")

    path = tmp_path / "net.onnx"
    path.write_text('<?xml version="1.0"?><net name="n" version="11"><layers/><edges/></net>')
    assert core().read_model(path).get_friendly_name() == "n"
    with pytest.raises(Exception, match="parsed"):
        read_onnx(path)


def test_what_a_library_says_when_it_ends_is_no_answer(tmp_path, monkeypatch):
    chatty = "import atexit, sys\natexit.register(lambda: sys.stderr.write('bye\\n'))\n"
    monkeypatch.setattr(isolation, "_CHILD", chatty + isolation._CHILD)
    path = bundle(tmp_path / "b", [node("Identity", ["x"], ["y"])])
    mmedge.load(path, isolate=True).close()
