"""OpenVINO in libmmedge beside Python's: the same bits, and the same refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from native_builds import ROOT
from safetensors.numpy import load_file

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, MMEdgeError, NoVariantError
from mmedge.native.runtime import NativeBundle, NativePipeline, installed_openvino
from tests.native.runtime.test_stream_api import Stream

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'mmedge[openvino]'")
pytestmark = pytest.mark.native_build

CASES = ROOT / "conformance" / "cases"
OPTIONS = {"backend": "openvino", "threads": 1}


def add_openvino(path):
    """Adds a variant of the same graphs, without what the toolchain proves of it."""
    with Bundle.open(path) as bundle:
        base = next(v for v in bundle.manifest.variants if v.cache != "in_place")
        if all(v.backend != "openvino" for v in bundle.manifest.variants):
            bundle.with_variant(replace(base, backend="openvino"), {}).close()
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The bundles of the conformance cases, each as a zip and as a folder."""
    folder = tmp_path_factory.mktemp("openvino")
    for source in sorted((CASES / "bundles").glob("*.mmedge")):
        path = add_openvino(shutil.copy(source, folder / source.name))
        shutil.unpack_archive(path, folder / source.stem, "zip")
    return folder


@contextmanager
def both(path, **options):
    """The bundle in both runtimes; for either, its error in place of a pipeline."""
    options = {**OPTIONS, **options}
    opened = []

    def native(path, **options):
        with NativeBundle(path) as bundle:
            return NativePipeline(bundle, **options)

    for load in (mmedge.load, native):
        try:
            opened.append(load(path, **options))
        except MMEdgeError as error:
            opened.append(error)
    yield opened
    for each in opened:
        if not isinstance(each, MMEdgeError):
            each.close()


def outcome(run):
    """Arrays of a run, or the name of its error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return run()
    except (MMEdgeError, TimeoutError) as error:
        return type(error).__name__


def assert_same(got, expected, where=""):
    if isinstance(expected, str) or isinstance(got, str):
        assert got == expected, where
        return
    assert list(got) == list(expected), where
    for name, value in expected.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), (where, name)
        assert got[name].tobytes() == np.ascontiguousarray(value).tobytes(), (where, name)


def read_cases(kind):
    """By bundle: cases that have no text, and their tensors."""
    for path in sorted((CASES / kind).glob("*.json")):
        content = json.loads(path.read_text())
        if "bundle" in content:
            cases = [case for case in content["cases"] if not case["texts"]]
            yield content["bundle"], cases, load_file(path.with_suffix(".safetensors"))


#: Each as a zip, some as folders, too; bundles of texts are others of the same networks.
FORMS = [
    *(path.name for path in sorted((CASES / "bundles").glob("*.mmedge")) if "-" not in path.stem),
    *("both", "painter", "tiny"),
]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bundles_load(bundles, form):
    """What golden samples are not met by is refused by both."""
    with both(bundles / form) as (python, native):
        if isinstance(python, MMEdgeError):
            assert type(native) is type(python), (python, native)
            return
        assert not isinstance(native, MMEdgeError), native
        assert native.choice()["backend"] == f"openvino {metadata.version('openvino')}"
        expected = [(row.variant, row.accepted) for row in python.decisions]
        assert [(row.variant, row.accepted) for row in native.decisions()] == expected


def test_calls_give_the_same_bits(bundles):
    compared = 0
    for name, cases, tensors in read_cases("calls"):
        for plan in {case["plan"] for case in cases}:
            options = {"plan": plan, "allow_unverified": True, "allow_non_finite": True}
            with both(bundles / f"{name}.mmedge", **options) as (python, native):
                if isinstance(python, MMEdgeError):
                    assert type(python) is type(native), (python, native)
                    continue
                states = {}
                for case in cases:
                    if case["plan"] != plan:
                        continue
                    inputs = {each: tensors[case["inputs"][each]] for each in case["order"]}
                    state = case["state"]
                    if state is not None and state not in states:
                        states[state] = python.state(), native.state()
                    held = states.get(state, (None, None))
                    expected = outcome(lambda: python.run(inputs, state=held[0]))  # noqa: B023
                    got = outcome(lambda: native.run(inputs, state=held[1]))  # noqa: B023
                    assert_same(got, expected, f"{name}: {case['name']}")
                    compared += 1
                for _, held in states.values():
                    held.close()
    assert compared > 50


def run_steps(pipe, inputs, **options):
    """What a loop of Python's gives, and each step's scores or latent."""
    with pipe.iterate(inputs, cached=False, **options) as loop:
        steps = [step.latent if hasattr(step, "latent") else step.scores for step in loop]
        result = loop.result()
    arrays = {name: value for name, value in result.items() if isinstance(value, np.ndarray)}
    return {**arrays, "steps": np.stack(steps) if steps else np.zeros(0)}


def run_native_steps(pipe, inputs, **options):
    pipe.begin(inputs, cached=False, **options)
    steps = [step.scores if step.latent is None else step.latent for step in pipe.steps()]
    outputs, _ = pipe.result(8)
    return {**outputs, "steps": np.stack(steps) if steps else np.zeros(0)}


def test_loops_give_the_same_bits(bundles):
    compared = 0
    for name, cases, tensors in read_cases("loops"):
        with both(bundles / f"{name}.mmedge", allow_unverified=True) as (python, native):
            assert not isinstance(python, MMEdgeError), python
            assert not isinstance(native, MMEdgeError), native
            native.reserve(8, 64)
            states = {}
            for case in cases:
                if case["variant"].endswith("-in_place"):
                    continue
                options = dict(case["options"])
                options |= {k: tensors[case[k]] for k in ("forced", "noise") if k in case}
                inputs = {each: tensors[key] for each, key in case["inputs"].items()}
                state = case["state"]
                if state is not None and state not in states:
                    states[state] = python.state(), native.state()
                held = states.get(state, (None, None))
                expected = outcome(lambda: run_steps(python, inputs, state=held[0], **options))  # noqa: B023
                got = outcome(lambda: run_native_steps(native, inputs, state=held[1], **options))  # noqa: B023
                if not isinstance(expected, str) and not isinstance(got, str):
                    got["steps"] = got["steps"].reshape(expected["steps"].shape)
                assert_same(got, expected, f"{name}: {case['name']}")
                compared += 1
            for _, held in states.values():
                held.close()
    assert compared > 40


def test_shapes_of_samples_and_others_take_turns(bundles):
    """Forms of fixed and of any shapes, each more than once, and what is held meanwhile."""
    rng = np.random.default_rng(0)
    with both(bundles / "both.mmedge", plan="cut") as (python, native):
        for batch, samples in [(1, 4), (2, 7), (1, 4), (8, 10), (1, 5), (1, 4)] * 2:
            inputs = {
                "image": rng.integers(0, 256, (batch, 2, 2, 3), dtype=np.uint8),
                "pcm": rng.normal(size=(batch, samples)).astype(np.float32),
                "state": rng.normal(size=(batch, 2)).astype(np.float32),
            }
            for keys in (inputs, ["image"], ["image", "state"]):
                some = {key: inputs[key] for key in keys}
                assert_same(native.run(some), python.run(some), f"{batch} {samples} {list(some)}")


def test_states_stay_what_they_were_while_others_run(bundles):
    """Outputs that OpenVINO writes to one place, kept by several states at a time."""
    rng = np.random.default_rng(1)
    with both(bundles / "state.mmedge") as (python, native):
        states = [(python.state(), native.state()) for _ in range(3)]
        for turn in range(12):
            first, second = states[turn % 3]
            x = rng.normal(size=(1, 4)).astype(np.float32)
            inputs = {"x": x, "gain": x + 1}
            assert_same(
                native.run(inputs, state=second), python.run(inputs, state=first), str(turn)
            )
            if turn == 5:
                states[0][1].close()
                states[0] = states[1][0].copy(), states[1][1].copy()
        for _, held in states:
            held.close()


def test_integers_beyond_32_bits_are_refused(bundles):
    with both(bundles / "tiny.mmedge") as (python, native):
        inputs = {"image": np.zeros((1, 4, 4, 3), np.uint8), "text": np.full((1, 5), 1 << 31)}
        words = []
        for pipe in (python, native):
            with pytest.raises(BackendError) as error:
                pipe.run(inputs)
            words.append(str(error.value))
        assert words[0] == words[1]
        inputs["text"][:] = 2
        assert_same(native.run(inputs), python.run(inputs))


def test_what_openvino_does_not_do_is_refused_in_the_same_words(bundles, tmp_path):
    attention = shutil.copytree(bundles / "attention", tmp_path / "attention")
    with both(attention, kernels=True) as (python, native):
        assert str(native) == str(python)
        assert "mmedge's kernels do not run in OpenVINO" in str(python)
    other = shutil.copytree(bundles / "tiny", tmp_path / "tiny")
    with Bundle.open(other) as bundle:
        base = next(v for v in bundle.manifest.variants if v.backend == "openvino")
        bundle.with_variant(replace(base, requires={"openvino": "2024.1.0"}), {}).close()
    with both(other) as (python, native):
        assert isinstance(native, NoVariantError), native
        words = f"needs openvino 2024.1.0, found {metadata.version('openvino')}"
        assert words in str(python)
        assert words in str(native)


def test_a_stream_gives_the_bits_of_calls(bundles):
    with both(bundles / "both.mmedge", plan="cut") as (python, native):
        stream = Stream(native, b"camera")
        for number in range(8):
            voice = np.full((1, 4 + number % 3), number / 8, np.float32)
            image = np.full((1, 2, 2, 3), number, np.uint8)
            stamp = 99 + number / 10
            assert stream.push("voice", voice, stamp)[0] == 0
            assert stream.push("camera", image, stamp + 0.01)[0] == 0
            stream.poll()
            assert stream.take().has_outputs
            for name, value in python.run({"image": image, "pcm": voice}).items():
                assert stream.output(name).tobytes() == value.tobytes(), (number, name)
        stream.close()


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads_are_those_of_python(bundles, threads):
    with both(bundles / "both.mmedge", threads=threads) as (python, native):
        inputs = {
            name: value
            for name, value in python.bundle.samples()[0].inputs.items()
            if name in ("image", "pcm", "state")
        }
        assert_same(native.run(inputs), python.run(inputs))


def test_where_it_is_looked_for(bundles, tmp_path):
    found = Path(installed_openvino())
    (library,) = found.glob("libopenvino_c.so*")
    for place in (library, found, found.parent, found.parent.parent):
        with NativeBundle(bundles / "tiny.mmedge") as bundle:
            NativePipeline(bundle, openvino=str(place), **OPTIONS).close()
    for place, words in [
        (tmp_path, f"no OpenVINO in {tmp_path}: expected a file libopenvino_c.so*"),
        (tmp_path / "none.so", f"OpenVINO cannot be loaded from {tmp_path / 'none.so'}"),
        ("libm.so.6", "has no function ov_get_openvino_version: it is not OpenVINO's C library"),
    ]:
        with NativeBundle(bundles / "tiny.mmedge") as bundle:
            with pytest.raises(NoVariantError) as error:
                NativePipeline(bundle, openvino=str(place), **OPTIONS)
            assert words in str(error.value)
            # The others go on.
            pipe = NativePipeline(bundle, openvino=str(place), threads=1)
            assert pipe.choice()["variant"] == "ort-fp32-cpu"
            reasons = {row.variant: row.reason for row in pipe.decisions()}
            assert words in reasons["openvino-fp32-cpu"]
            pipe.close()


XML = """<?xml version="1.0"?><net name="x" version="11"><layers>
<layer id="0" name="other" type="Parameter" version="opset1">
<data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32" names="other"><dim>1</dim></port></output></layer>
<layer id="1" name="r" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer></layers>
<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""


def wire(number, data):
    """A field of bytes in a protobuf message."""
    parts = []
    for value in (number << 3 | 2, len(data)):
        rest = value
        while rest > 127:
            parts.append(rest & 127 | 128)
            rest >>= 7
        parts.append(rest)
    return bytes(parts) + data


def orders(model):
    """The fields of an ONNX model in orders by which OpenVINO may take it for something else."""
    first = b"\x08" + bytes([model.ir_version])
    graph = wire(7, model.graph.SerializeToString())
    opsets = [wire(8, each.SerializeToString()) for each in model.opset_import]
    opsets.append(wire(8, onnx.helper.make_opsetid("other", 1).SerializeToString()))
    xml = wire(2, XML.encode())
    entries = [
        wire(14, onnx.StringStringEntryProto(key=key, value="v").SerializeToString())
        for key in "ab"
    ]
    yield "usual", first + graph + b"".join(opsets)
    yield "text in front", xml + first + graph + b"".join(opsets)
    yield "entries in front", b"".join(entries) + xml + first + graph + b"".join(opsets)
    yield "versions in front", opsets[-1] + xml + b"".join(opsets[:-1]) + first + graph
    yield "versions side by side", b"".join(opsets) + xml + first + graph
    yield "a key in two bytes", b"\x92\x00" + xml[1:] + first + graph + b"".join(opsets)


def test_a_graph_is_read_as_onnx_whatever_else_it_looks_like(bundles, tmp_path):
    """One that is ONNX to whoever checks it, and another network to OpenVINO, would not be safe."""
    with Bundle.open(bundles / "tiny") as bundle:
        model = onnx.load_from_string(bytes(bundle.read("onnx/net.onnx")))
    inputs = {"image": np.ones((1, 4, 4, 3), np.uint8), "text": np.ones((1, 5), np.int64)}
    expected = None
    for number, (name, data) in enumerate(orders(model)):
        path = shutil.copy(CASES / "bundles" / "tiny.mmedge", tmp_path / f"{number}.mmedge")
        with Bundle.open(path) as bundle:
            (base,) = bundle.manifest.variants
            variant = replace(base, backend="openvino", files={"net": "onnx/other.onnx"})
            bundle.with_variant(variant, {"onnx/other.onnx": data}).close()
        shutil.unpack_archive(path, tmp_path / str(number), "zip")
        for form in (path, tmp_path / str(number)):
            with NativeBundle(form) as bundle, NativePipeline(bundle, **OPTIONS) as pipe:
                got = pipe.run(inputs)
            if expected is None:
                with mmedge.load(form, **OPTIONS) as python:
                    expected = python.run(inputs)
            assert_same(got, expected, name)


def test_files_of_a_zip_are_copied_for_the_load_alone(bundles, tmp_path):
    path, name = tmp_path / "tiny.mmedge", f"net-{os.getpid()}-{time.monotonic_ns()}.onnx"
    shutil.copy(CASES / "bundles" / path.name, path)
    with Bundle.open(path) as bundle:
        (base,) = bundle.manifest.variants
        graph = bytes(bundle.read("onnx/net.onnx"))
        variant = replace(base, backend="openvino", files={"net": f"onnx/{name}"})
        bundle.with_variant(variant, {f"onnx/{name}": graph}).close()
    with NativeBundle(path) as bundle, NativePipeline(bundle, **OPTIONS) as pipe:
        assert not [*Path("/tmp").glob(f"*/{name}"), *Path("/var/tmp").glob(f"*/{name}")]
        inputs = {"image": np.zeros((3, 4, 4, 3), np.uint8), "text": np.zeros((3, 5), np.int64)}
        assert pipe.run(inputs)["score"].shape == (3, 2)  # a form that is compiled now


def test_its_c_abi_is_that_of_its_headers():
    include = Path(installed_openvino()).parent / "include"
    if not (include / "openvino/c/openvino.h").is_file():
        pytest.skip("this OpenVINO has no headers")
    command = ["c++", "-std=c++17", "-fsyntax-only", f"-I{include}"]
    command.append(f"-I{ROOT / 'cpp_ext/runtime/backends/openvino'}")
    command.append(str(ROOT / "tests/native/check_openvino_abi.cpp"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
