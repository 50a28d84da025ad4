"""Integer divisions in a bundle never end the process, and equal ONNX Runtime's elsewhere."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import mmedge
from mmedge_export import Input, Model, export
from mmedge_export.passes.guard_division import GuardDivisionPass

KINDS = {"int32": TensorProto.INT32, "int64": TensorProto.INT64}


def division(dtype, op="Div"):
    kind = KINDS[dtype]
    nodes = [
        helper.make_node("Identity", ["a"], ["c"]),
        helper.make_node("Identity", ["b"], ["d"]),
        helper.make_node(op, ["c", "d"], ["e"]),
        helper.make_node("Identity", ["e"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, kind, ["n"]) for name in "aby"]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def session(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("op", ["Div", "Mod"])
@pytest.mark.parametrize("dtype", KINDS)
def test_every_other_pair_of_values_gives_what_it_gave(dtype, op):
    plain = division(dtype, op)
    guarded = ir.serde.deserialize_model(plain)
    assert GuardDivisionPass()(guarded).modified
    guarded = ir.serde.serialize_model(guarded)
    onnx.checker.check_model(guarded, full_check=True)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    edges = [low, low + 1, -7, -2, -1, 0, 1, 2, 7, high - 1, high]
    pairs = [p for p in itertools.product(edges, edges) if p[1] != 0 and p != (low, -1)]
    rng = np.random.default_rng(0)
    random = rng.integers(low, high, (2000, 2), dtype=dtype, endpoint=True)
    feeds = np.concatenate([np.array(pairs, dtype), random[random[:, 1] != 0]])
    inputs = {"a": feeds[:, 0].copy(), "b": feeds[:, 1].copy()}
    expected = session(plain).run(None, inputs)[0]
    np.testing.assert_array_equal(session(guarded).run(None, inputs)[0], expected)
    trapping = {"a": np.array([low], dtype), "b": np.array([-1], dtype)}
    assert session(guarded).run(None, trapping)[0].tolist() == [low if op == "Div" else 0]
    with pytest.raises(Exception, match="[Zz]ero"):  # ONNX Runtime's, as before
        session(guarded).run(None, {"a": np.array([1], dtype), "b": np.array([0], dtype)})


RUN = """
import sys, numpy as np, mmedge
with mmedge.load(sys.argv[1]) as pipe:
    kind = pipe.bundle.manifest.inputs()["b"].dtype
    low = np.iinfo(kind).min
    y = pipe(a=np.array([low, 9, 9], kind), b=np.array([-1, -1, 4], kind))["y"]
    print(y.tolist() == [low, -9, 2])
"""


@pytest.mark.parametrize("dtype", KINDS)
def test_an_onnx_file_that_divides_its_inputs(dtype, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(division(dtype), path)
    example = np.array([5, 6, 7], dtype)
    model = Model(
        path,
        {name: Input(example, dynamic={0: "n"}) for name in "ab"},
        ["y"],
    )
    export(model, tmp_path / "b").close()
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path / "b"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


class Divide(nn.Module):
    def forward(self, a, b):
        return torch.div(a, b, rounding_mode="trunc")


def test_a_torch_network_that_divides_its_inputs(tmp_path):
    example = torch.tensor([5, 6, 7])
    model = Model(
        Divide(), {name: Input(example.numpy(), dynamic={0: "n"}) for name in "ab"}, ["y"]
    )
    export(model, tmp_path / "b").close()
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path / "b"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


class Halve(nn.Module):
    def forward(self, x):
        return x * (x.shape[1] // 2)


def test_sizes_divided_by_a_constant_are_left_alone(tmp_path):
    example = np.ones((1, 8), np.float32)
    model = Model(Halve(), {"x": Input(example, dynamic={1: "n"})}, ["y"])
    with export(model, tmp_path / "b") as bundle:
        graph = onnx.load_model_from_string(bytes(bundle.read(bundle.manifest.stages[0].graph)))
    assert "Where" not in {node.op_type for node in graph.graph.node}
    with mmedge.load(tmp_path / "b") as pipe:
        assert pipe(x=np.ones((1, 13), np.float32))["y"].tolist() == [[6.0] * 13]


class ByTable(nn.Module):
    """Divides by a table that is too large to lie in the graph's own file."""

    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("table", torch.arange(3, 1003, dtype=dtype))

    def forward(self, x):
        return x % self.table, torch.div(x, self.table, rounding_mode="trunc")


@pytest.mark.parametrize("dtype", KINDS)
def test_a_table_of_divisors_beside_the_graph_is_guarded(dtype, tmp_path):
    example = np.random.default_rng(0).integers(-5000, 5000, (1, 1000), dtype)
    model = Model(
        ByTable(getattr(torch, dtype)), {"x": Input(example, dynamic={0: "b"})}, ["rest", "part"]
    )
    with export(model, tmp_path / "net") as bundle, mmedge.load(bundle.path) as pipe:
        found = pipe(x=example)
    np.testing.assert_array_equal(found["rest"], example % np.arange(3, 1003, dtype=dtype))
    np.testing.assert_array_equal(found["part"], np.fix(example / np.arange(3, 1003)).astype(dtype))
