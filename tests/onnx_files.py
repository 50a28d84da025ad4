"""ONNX files as many writers make them, and a check of what becomes of one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import mmedge
from mmedge_export import export

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)


def save(
    path: Path, nodes, inputs, outputs, weights=(), *, opset=17, ir_version=8, inner=(), **options
) -> Path:
    """Write a graph; ``inputs`` and ``outputs`` are (name, type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
        value_info=[helper.make_tensor_value_info(*value) for value in inner],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    onnx.save(model, path, **options)
    return path


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def check(path: Path, tmp_path: Path, *feeds: dict, **options):
    """Export, load, and compare with ONNX Runtime on ``feeds``, by position of the inputs."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    with export(path, tmp_path / "bundle", overwrite=True, **options) as bundle:
        manifest = bundle.manifest
    with mmedge.load(tmp_path / "bundle") as pipe:
        for values in feeds:
            expected = session.run(None, values)
            got = pipe(**dict(zip(manifest.inputs(), values.values(), strict=True)))
            for name, value in zip(manifest.outputs, expected, strict=True):
                np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)
                assert got[name].dtype == value.dtype
                assert got[name].shape == value.shape
    return manifest


def two_encoders(width: int):
    """Nodes and weights of two encoders that are added; biases of 4 * width bytes."""
    nodes = [
        helper.make_node("Gemm", ["a", "w", "p"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Gemm", ["b", "v", "q"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Add", ["d", "f"], ["y"]),
    ]
    sizes = {"w": (1024, width), "v": (1024, width), "p": (width,), "q": (width,)}
    return nodes, {name: floats(*shape) for name, shape in sizes.items()}


def relu_chain(*names: str):
    return [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
