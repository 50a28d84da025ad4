"""Forms that runtimes fuse compute what the forms of exporters did."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from engine_net import graph, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mmedge import load
from mmedge.execution.verify import verify
from mmedge_export import Input, Model, export
from mmedge_export.passes.divide_by_root import DivideByRootPass
from mmedge_export.passes.lift_transposes import LiftTransposesPass
from mmedge_export.passes.name_sizes import NameSizesPass
from mmedge_export.passes.scale_queries import ScaleQueriesPass
from mmedge_export.passes.simplify_reshapes import SimplifyReshapesPass
from mmedge_export.proof import network

NORM = """net (float[n,3,8] x) => (float[n,3,8] y) {
  square = Pow(x, two)
  mean = ReduceMean<keepdims=1>(square, last)
  sum = Add(mean, small)
  root = Sqrt(sum)
  inverse = Reciprocal(root)
  scaled = Mul(%s)
  y = Mul(scaled, weight)
}"""


def rewritten(model: onnx.ModelProto, *passes: ir.passes.InPlacePass) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    for each in (NameSizesPass(), *passes, RemoveUnusedNodesPass()):
        each(graph)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def optimised(model: onnx.ModelProto | Path, folder: Path) -> list[str]:
    """Operators of the graph that ONNX Runtime makes of it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    source = model if isinstance(model, Path) else model.SerializeToString()
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return operators(onnx.load(folder / "optimised.onnx", load_external_data=False))


def norm(order: str = "x, inverse") -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return graph(
        NORM % order,
        two=np.array(2, np.float32),
        last=np.array([-1]),
        small=np.array(1e-5, np.float32),
        weight=rng.standard_normal(8).astype(np.float32),
    )


@pytest.mark.parametrize("order", ["x, inverse", "inverse, x"])
def test_a_norm_by_the_root_of_the_mean_square_is_one_operator_in_onnx_runtime(order, tmp_path):
    model = norm(order)
    divided = rewritten(model, DivideByRootPass())
    assert "Reciprocal" not in operators(divided)
    assert optimised(divided, tmp_path) == ["SimplifiedLayerNormalization"]
    x = np.random.default_rng(1).standard_normal((2, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(run(divided, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-6)


def test_a_reciprocal_that_is_used_otherwise_stays():
    model = graph(
        """net (float[n,4] x) => (float[n,4] y, float[n,4] inverse) {
          root = Sqrt(x)
          inverse = Reciprocal(root)
          y = Mul(x, inverse)
        }"""
    )
    divided = rewritten(model, DivideByRootPass())
    assert operators(divided) == ["Sqrt", "Reciprocal", "Div"]
    x = np.array([[0.0, 1.0, 4.0, np.inf]], np.float32)
    for name, value in run(model, {"x": x}).items():
        np.testing.assert_array_equal(run(divided, {"x": x})[name], value)


def test_a_division_in_a_branch_is_written_there():
    model = graph(
        """net (float[n] x, bool c) => (float[n] y) {
          root = Sqrt(x)
          y = If(c) <
            then_branch = a () => (float[n] p) { r = Reciprocal(root) p = Mul(r, x) },
            else_branch = b () => (float[n] q) { q = Identity(x) }
          >
        }"""
    )
    divided = rewritten(model, DivideByRootPass())
    branch = next(node for node in divided.graph.node if node.op_type == "If").attribute[0].g
    assert [node.op_type for node in branch.node] == ["Div"]
    feeds = {"x": np.array([4.0, 9.0], np.float32), "c": np.array(True)}
    np.testing.assert_allclose(run(divided, feeds)["y"], run(model, feeds)["y"], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_reshape_transpose_reshape_computes_the_same_as_what_stands_for_it(data):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=5))
    dynamic = data.draw(st.integers(0, len(sizes) - 1))
    cuts = data.draw(st.lists(st.booleans(), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    groups = [[0]]
    for axis, cut in enumerate(cuts, 1):
        if cut:
            groups.append([axis])
        else:
            groups[-1].append(axis)
    perm = data.draw(st.permutations(range(len(groups))))
    straight = data.draw(st.booleans())
    merged = [-1 if dynamic in group else math.prod(sizes[a] for a in group) for group in groups]
    axes = [axis for at in perm for axis in groups[at]]
    last = [-1 if axis == dynamic else sizes[axis] for axis in axes]
    if not straight:
        last = data.draw(st.permutations(last))
    shape = ["n" if axis == dynamic else size for axis, size in enumerate(sizes)]
    model = graph(
        f"""net (float[{",".join(map(str, shape))}] x) => (float[{",".join("?" * len(last))}] y) {{
          a = Reshape(x, merged)
          b = Transpose<perm = {perm}>(a)
          y = Reshape(b, last)
        }}""",
        merged=np.array(merged),
        last=np.array(last),
    )
    lifted = rewritten(model, LiftTransposesPass())
    if straight and 1 not in sizes:  # an axis of 1 may belong to either neighbor
        assert operators(lifted) == ["Transpose"]
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
    wanted = run(model, {"x": x})["y"]
    np.testing.assert_array_equal(run(lifted, {"x": x})["y"], wanted)


def test_keys_are_transposed_inside_their_product(tmp_path):
    model = graph(
        """net (float[n,3,5,4] q, float[n,3,m,4] k) => (float[n,3,5,m] y) {
          shape = Shape(k)
          width = Slice(shape, three, four)
          length = Slice(shape, two, three)
          lead = Slice(shape, zero, two)
          flat = Concat<axis=0>(rest, length, width)
          a = Reshape(k, flat)
          b = Transpose<perm = [0, 2, 1]>(a)
          back = Concat<axis=0>(lead, width, length)
          c = Reshape(b, back)
          y = MatMul(q, c)
        }""",
        zero=np.array([0]),
        two=np.array([2]),
        three=np.array([3]),
        four=np.array([4]),
        rest=np.array([-1]),
    )
    lifted = rewritten(model, LiftTransposesPass())
    assert operators(lifted) == ["Transpose", "MatMul"]
    assert optimised(lifted, tmp_path) == ["FusedMatMul"]
    rng = np.random.default_rng(0)
    for length in (0, 1, 7):
        feeds = {
            "q": rng.standard_normal((2, 3, 5, 4)).astype(np.float32),
            "k": rng.standard_normal((2, 3, length, 4)).astype(np.float32),
        }
        if length:  # the exporter's own form does not take an empty tensor
            np.testing.assert_allclose(
                run(lifted, feeds)["y"], run(model, feeds)["y"], rtol=1e-5, atol=1e-6
            )
        assert run(lifted, feeds)["y"].shape == (2, 3, 5, length)


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(["b", "n", 3, 4]),
    merged=st.integers(0, 2),
    allow_zero=st.booleans(),
    empty=st.booleans(),
)
def test_targets_of_reshapes_hold_for_every_size(order, merged, allow_zero, empty):
    """The target is computed from the input's shape, and two neighboring axes become one."""
    shape = ",".join(map(str, order))
    kept = [at for at in range(4) if at not in (merged, merged + 1)]
    model = graph(
        f"""net (float[{shape}] x) => (float[?,?,?] y) {{
          shape = Shape(x)
          {" ".join(f"d{at} = Gather(shape, i{at})" for at in range(4))}
          product = Mul(d{merged}, d{merged + 1})
          target = Concat<axis=0>({
            ", ".join("product" if at == merged else f"d{at}" for at in sorted([*kept, merged]))
        })
          y = Reshape<allowzero = {int(allow_zero)}>(x, target)
        }}""",
        **{f"i{at}": np.array([at]) for at in range(4)},
    )
    simple = rewritten(model, SimplifyReshapesPass(["n"] if empty else []))
    for b, n in ((1, 1), (2, 5), (3, 0) if empty else (1, 3)):
        x = np.arange(12 * b * n, dtype=np.float32)
        x = x.reshape([{"b": b, "n": n}.get(size, size) for size in order])
        if n == 0 and not allow_zero:
            continue  # there a size of 0 copies that of the input, in the model itself
        wanted = run(model, {"x": x})["y"]
        np.testing.assert_array_equal(run(simple, {"x": x})["y"], wanted)
    in_place = all(at < merged for at in kept if isinstance(order[at], str))
    if in_place and not empty:
        assert operators(simple) == ["Reshape"]


class Block(torch.nn.Module):
    """Normalization by the root of the mean square, then attention with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.RMSNorm(16, 1e-5)
        self.query, self.key, self.value = (torch.nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        parts = [layer(x) for layer in (self.query, self.key, self.value)]
        heads = [part.reshape(*x.shape[:2], 2, 8).transpose(1, 2) for part in parts]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads)
        return mixed.transpose(1, 2).reshape(x.shape)


def test_an_export_writes_its_stages_in_these_forms(tmp_path):
    torch.manual_seed(0)
    model = Model(
        Block().eval(),
        inputs={"x": Input(np.ones((1, 5, 16), np.float32), dynamic={0: "batch", 1: "time"})},
        outputs=["y"],
    )
    bundle_path = tmp_path / "block.mmedge"
    with export(model, bundle_path) as bundle:
        (stage,) = bundle.manifest.stages
        path = bundle.file(stage.graph)
        names = operators(onnx.load(path, load_external_data=False))
        assert not {"Reciprocal", "Shape", "Slice"} & set(names)
        assert names.count("Concat") == 0
        assert names.count("Reshape") == 4
        fused = optimised(path, tmp_path)
        assert fused.count("SimplifiedLayerNormalization") == 1
        assert fused.count("FusedMatMul") == 1
    with load(bundle_path) as pipe:
        assert verify(pipe).ok


@pytest.mark.left_out
def test_a_simplification_that_fails_is_left_out_with_a_remark(tmp_path, monkeypatch):
    def wrong(graph: ir.Model, _: Model) -> ir.Model:
        graph = graph.clone()
        node = next(node for node in graph.graph if node.op_type == "Softmax")
        node.attributes["axis"] = ir.AttrInt64("axis", 1)
        return graph

    monkeypatch.setattr(network, "simplify", wrong)
    torch.manual_seed(0)
    inputs = {"x": Input(np.random.default_rng(0).standard_normal((1, 5, 16), np.float32))}
    model = Model(Block().eval(), inputs=inputs, outputs=["y"])
    bundle_path = tmp_path / "block.mmedge"
    with export(model, bundle_path) as bundle:
        assert any("simplifying the graph is left out" in r for r in bundle.manifest.cut.remarks)
    with load(bundle_path) as pipe:
        assert verify(pipe).ok


SCORES = """net (float[b,2,n,4] q, float[b,2,t,4] k) => (float[b,2,n,t] y) {
  turned = Transpose<perm=[0, 1, 3, 2]>(k)
  %s
}"""


@pytest.mark.parametrize(
    ("lines", "multiplications"),
    [
        ("keys = Mul(turned, half)  y = MatMul(q, keys)", 1),
        ("keys = Mul(half, turned)  queries = Mul(q, third)  y = MatMul(queries, keys)", 1),
        # What else reads the keys still has them.
        ("keys = Mul(turned, half)  s = MatMul(q, keys)  z = MatMul(q, keys)  y = Add(s, z)", 2),
        # Not of one number, or not in front of a Transpose: as it was.
        ("keys = Mul(turned, row)  y = MatMul(q, keys)", 1),
        ("queries = Mul(q, third)  y = MatMul(queries, turned)", 1),
    ],
)
def test_attentions_scale_is_on_the_queries_alone(lines, multiplications):
    model = graph(
        SCORES % lines.replace("  ", "\n  "),
        half=np.array(0.5, np.float32),
        third=np.array([1 / 3], np.float32),
        row=np.full((4, 1), 0.5, np.float32),
    )
    result = rewritten(model, ScaleQueriesPass())
    assert operators(result).count("Mul") == multiplications
    by_value = {output: node for node in result.graph.node for output in node.output}
    if "row" not in lines:
        products = [node for node in result.graph.node if node.op_type == "MatMul"]
        assert {by_value[node.input[1]].op_type for node in products} == {"Transpose"}
    rng = np.random.default_rng(0)
    feeds = {
        "q": rng.standard_normal((2, 2, 3, 4), np.float32),
        "k": rng.standard_normal((2, 2, 5, 4), np.float32),
    }
    np.testing.assert_allclose(
        run(result, feeds)["y"], run(model, feeds)["y"], rtol=1e-5, atol=1e-6
    )
