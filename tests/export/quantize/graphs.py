"""Small graphs with constant weights, for the tests of quantisation."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def convnet(seed=0, classes=5, opset=20):
    """x float32 [n, 3, 12, 12] -> conv, relu, conv, pool, gemm (transB), matmul, y [n, classes]."""
    rng = np.random.default_rng(seed)

    def weight(name, *shape):
        fan = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        array = rng.standard_normal(shape) / np.sqrt(fan)
        return numpy_helper.from_array(array.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "c1", "b1"], ["h1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "c2"], ["h2"], name="conv2", strides=[2, 2]),
        helper.make_node("Relu", ["h2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "g", "gb"], ["k"], name="gemm", transB=1),
        helper.make_node("Transpose", ["mt"], ["m"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["k", "m"], ["y"], name="matmul"),
    ]
    weights = [
        weight("c1", 16, 3, 3, 3), weight("b1", 16), weight("c2", 32, 16, 3, 3),
        weight("g", 64, 32), weight("gb", 64), weight("mt", classes, 64),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "convnet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def saved(model, path):
    onnx.save(model, path)
    return path
