"""A single call refuses NaN and infinity where no golden sample has them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import InputError
from mmedge.execution.finite import SMALL
from mmedge.execution.verify import verify
from mmedge.spec import Manifest, Modality, Sample, Stage, TensorSpec, Tolerance, Variant

KINDS = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": 11}


def write_doubles(path, examples, names=("x",)):
    """One stage that adds each input to itself; ``examples`` are the golden inputs."""
    dtype, shape = examples[0]["x"].dtype.name, examples[0]["x"].shape
    ins = [helper.make_tensor_value_info(name, KINDS[dtype], shape) for name in names]
    outs = [helper.make_tensor_value_info(f"{name}2", KINDS[dtype], shape) for name in names]
    nodes = [helper.make_node("Add", [name, name], [f"{name}2"]) for name in names]
    graph = helper.make_graph(nodes, "doubles", ins, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    manifest = Manifest(
        name="doubles",
        modalities=tuple(Modality(name, (name,)) for name in names),
        stages=(
            Stage(
                "net",
                "onnx/net.onnx",
                tuple(TensorSpec(name, dtype, shape) for name in names),
                tuple(TensorSpec(f"{name}2", dtype, shape) for name in names),
            ),
        ),
        outputs=tuple(f"{name}2" for name in names),
        variants=(Variant("ort", "fp32", "cpu", {"net": "onnx/net.onnx"}, Tolerance(1e-5, 1e-6)),),
        files={},
    )
    samples = [
        Sample(inputs, {f"{name}2": value + value for name, value in inputs.items()})
        for inputs in examples
    ]
    Bundle.write(
        path, manifest, {"onnx/net.onnx": model.SerializeToString()}, samples=samples
    ).close()
    return path


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [3, SMALL + 5])
def test_a_value_that_is_not_finite_is_refused_with_its_place(tmp_path, bad, dtype, size):
    path = write_doubles(tmp_path / "b", [{"x": np.ones((1, size), dtype)}])
    value = np.ones((1, size), dtype)
    value[0, 2] = bad
    word = "NaN" if np.isnan(bad) else "infinity"
    with mmedge.load(path) as pipe:
        for call in (pipe, lambda x: pipe.run({"x": x}), lambda x: pipe.timed({"x": x})):
            with pytest.raises(InputError, match=rf"input 'x': {word} at \[0, 2\] \(1 of {size} "):
                call(x=value)
        assert (pipe(x=np.ones((1, size), dtype))["x2"] == 2).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [3, SMALL + 5])
def test_the_largest_finite_values_are_taken(tmp_path, dtype, size):
    path = write_doubles(tmp_path / "b", [{"x": np.ones((1, size), dtype)}])
    with mmedge.load(path) as pipe:
        pipe(x=np.full((1, size), np.finfo(dtype).max, dtype))
        pipe(x=np.full((1, size), np.finfo(dtype).min, dtype))


def test_what_a_golden_sample_holds_is_taken_in_that_input_alone(tmp_path):
    masked = np.array([[0.0, -np.inf, 1.0]], np.float32)
    path = write_doubles(
        tmp_path / "b", [{"x": masked, "y": np.zeros((1, 3), np.float32)}], ("x", "y")
    )
    plain = np.ones((1, 3), np.float32)
    with mmedge.load(path) as pipe:
        assert verify(pipe).ok
        assert np.isneginf(pipe(x=masked, y=plain)["x2"][0, 1])
        with pytest.raises(InputError, match="input 'y': infinity"):
            pipe(x=plain, y=masked)
        with pytest.raises(InputError, match="input 'x': NaN"):  # of another kind than was seen
            pipe(x=np.full((1, 3), np.nan, np.float32), y=plain)


def test_it_can_be_asked_for(tmp_path):
    path = write_doubles(tmp_path / "b", [{"x": np.ones((1, 3), np.float32)}])
    with mmedge.load(path, allow_non_finite=True) as pipe:
        assert np.isnan(pipe(x=np.full((1, 3), np.nan, np.float32))["x2"]).all()


def test_of_several_stages_too_and_with_features_in_the_cache(pair):
    image = np.ones((1, 2, 2, 3), np.uint8)
    bad = np.array([[1, np.nan, 1, 1]], np.float32)
    with mmedge.load(pair) as pipe:
        assert pipe(image=image)["out"] == 12
        for _ in range(2):
            with pytest.raises(InputError, match="input 'pcm': NaN"):
                pipe(image=image, pcm=bad)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_that_are_no_number_from_1_are_refused(pair, threads):
    with pytest.raises(ValueError, match="threads must be a whole number from 1"):
        mmedge.load(pair, threads=threads)
