"""The one runner of graphs in the toolchain."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.errors import BackendError, ExportError
from mmedge_export.onnx_graph.graph import save
from mmedge_export.onnx_graph.memory_graph import MemoryGraph
from mmedge_export.onnx_graph.runner import Runner

SIZE = 32  # squared, floats of more bytes than stay in a graph's own file
X = np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)[None]
WEIGHTS = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)


@pytest.fixture
def model() -> ir.Model:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    weights = [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(X[0], "b")]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, ["rows", SIZE])],
        [value("y", TensorProto.FLOAT, ["rows", SIZE])],
        weights,
    )
    opsets = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.mark.parametrize("optimise", ["all", "basic", "none"])
def test_inner_tensors_are_read_beside_weights_in_another_file(model, tmp_path, optimise):
    path = save({"net": model}, tmp_path)["onnx/net.onnx"]
    assert path.with_name("net.onnx.data").exists()
    before = path.read_bytes()
    runner = Runner(path, ["y", "product", "x"], optimise=optimise)
    results = runner({"x": X})
    assert list(results) == ["y", "product", "x"]
    np.testing.assert_array_equal(results["x"], X)
    np.testing.assert_allclose(results["product"], X @ WEIGHTS, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results["y"], np.maximum(X @ WEIGHTS + X, 0), rtol=1e-5, atol=1e-5)
    assert list(runner({"x": X}, ["product"])) == ["product"]
    assert runner.shapes == {name: ["rows", SIZE] for name in ("y", "product", "x")}
    assert runner.dtypes == dict.fromkeys(("y", "product", "x"), ir.DataType.FLOAT)
    assert path.read_bytes() == before
    assert Runner(path)({"x": X, "more": X}).keys() == {"y"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_taken_from_memory(model, tmp_path, dtype):
    weights = model.graph.initializers
    for name in ("w", "b"):
        tensor = ir.tensor(weights[name].const_value.numpy(), name=name)
        weights[name].const_value = tensor
        if dtype != "float32":
            weights[name].const_value = ir.Tensor(
                tensor.numpy().astype(ir.DataType[dtype.upper()].numpy()), name=name
            )
    if dtype != "float32":
        for name in ("w", "b"):
            cast = ir.node("Cast", [weights[name]], attributes={"to": ir.DataType.FLOAT})
            cast.outputs[0].name = f"{name}_float32"
            for user, index in tuple(weights[name].uses()):
                if user is not cast:
                    user.replace_input_with(index, cast.outputs[0])
            model.graph.insert_before(model.graph[0], cast)
    before = {name: value.const_value for name, value in weights.items()}
    graph = MemoryGraph.of(model)
    assert list(graph.weights) == ["w"]
    assert len(graph.proto.SerializeToString()) < WEIGHTS.nbytes / 2
    assert {name: value.const_value for name, value in weights.items()} == before
    runner = Runner(graph, ["y", "product"])
    results = runner({"x": X})
    path = save({"net": model}, tmp_path)["onnx/net.onnx"]
    file_results = Runner(path, ["y", "product"])({"x": X})
    for name, value in file_results.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results["product"], X @ WEIGHTS, rtol=0.02, atol=0.05)


def test_what_does_not_run_says_why(model, tmp_path):
    graph = MemoryGraph.of(model)
    with pytest.raises(ExportError, match=r"does not load the graph: .*none"):
        Runner(graph, ["none"])
    with pytest.raises(ExportError, match=r"the graph fails on x: float32 \[1, 1\]: "):
        Runner(graph)({"x": X[:, :1]})
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"no graph")
    for outputs in (None, ["y"]):
        with pytest.raises(ExportError, match="ONNX Runtime .* does not load broken.onnx"):
            Runner(file, outputs)


def test_without_onnx_runtime_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"graph.onnx, is not installed: pip install 'mmedge"):
        Runner(Path("graph.onnx"))
