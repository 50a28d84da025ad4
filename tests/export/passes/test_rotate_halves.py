"""Rotary positions in fewer operators compute what they did."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from engine_net import graph, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mmedge import load
from mmedge.execution.verify import verify
from mmedge_export import Input, Model, export
from mmedge_export.passes.name_sizes import NameSizesPass
from mmedge_export.passes.rotate_halves import RotateHalvesPass

CONSTANTS = {
    "zero": np.array([0]),
    "four": np.array([4]),
    "end": np.array([2**63 - 1]),
    "last": np.array([-1]),
}


def rotated(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    NameSizesPass()(graph)
    RotateHalvesPass()(graph)
    RemoveUnusedNodesPass()(graph)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def halves(x: str, by: str) -> str:
    if by == "split":
        return f"{x}a, {x}b = Split<axis=3, num_outputs=2>({x})"
    return f"{x}a = Slice({x}, zero, four, last) {x}b = Slice({x}, four, end, last)"


def by_halves(x: str, by: str, swap, y: str) -> str:
    """``[a cos - b sin, b cos + a sin]``, operands in any order where that is the same."""

    def two(op: str, left: str, right: str) -> str:
        return f"{op}({right}, {left})" if swap() else f"{op}({left}, {right})"

    return f"""{halves(x, by)}
      {x}1 = {two("Mul", f"{x}a", "c")} {x}2 = {two("Mul", f"{x}b", "s")} {x}3 = Sub({x}1, {x}2)
      {x}4 = {two("Mul", f"{x}b", "c")} {x}5 = {two("Mul", f"{x}a", "s")}
      {x}6 = {two("Add", f"{x}4", f"{x}5")}
      {y} = Concat<axis=-1>({x}3, {x}6)"""


def by_negation(x: str, by: str, swap, y: str) -> str:
    def two(op: str, left: str, right: str) -> str:
        return f"{op}({right}, {left})" if swap() else f"{op}({left}, {right})"

    return f"""{halves(x, by)}
      {x}1 = Neg({x}b) {x}2 = Concat<axis=-1>({x}1, {x}a)
      {x}3 = {two("Mul", x, "c")} {x}4 = {two("Mul", f"{x}2", "s")}
      {y} = {two("Add", f"{x}3", f"{x}4")}"""


def network(width: int, lines: str, names: str = "qk") -> onnx.ModelProto:
    angles = f"float[n,{width}] c, float[n,{width}] s"
    inputs = ", ".join(f"float[b,3,n,8] {name}" for name in names)
    outputs = ", ".join(f"float[b,3,n,8] y{name}" for name in names)
    return graph(f"net ({inputs}, {angles}) => ({outputs}) {{ {lines} }}", **CONSTANTS)


def values(width: int, names: str = "qk") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, 3, 5, 8), np.float32) for name in names}
    return feeds | {name: rng.standard_normal((5, width), np.float32) for name in "cs"}


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from([by_halves, by_negation]),
    by=st.sampled_from(["split", "slice"]),
    data=st.data(),
)
def test_every_form_becomes_five_operators_each(form, by, data):
    width = 4 if form is by_halves else 8
    lines = "\n".join(form(x, by, lambda: data.draw(st.booleans()), f"y{x}") for x in "qk")
    model = network(width, lines)
    short = rotated(model)
    once = {"Neg": 1, "Concat": 2} if form is by_halves else {"Mul": 1}
    each = Counter({"Split": 2, "Concat": 2, "Mul": 4, "Add": 2})
    assert operators(short) == each + Counter(once)
    feeds = values(width)
    expected, result = run(model, feeds), run(short, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "width"),
    [
        (("Sub(q1, q2)", "Sub(q2, q1)"), 4),
        (("Concat<axis=-1>(q3, q6)", "Concat<axis=-1>(q6, q3)"), 4),
        (("Mul(qb, c)", "Mul(qb, s)"), 4),
        (("Add(q4, q5)", "Sub(q4, q5)"), 4),
        (("q3 = Sub", "q3 = Mul"), 4),
        (("", ""), 1),
    ],
    ids=["order", "halves", "factor", "sign", "operator", "one-angle"],
)
def test_what_is_no_rotation_stays(change, width):
    lines = "\n".join(by_halves(x, "split", lambda: False, f"y{x}") for x in "qk")
    model = network(width, lines.replace(*change))
    same = rotated(model)
    feeds = values(width)
    assert operators(same) == operators(model)
    for name, value in run(model, feeds).items():
        np.testing.assert_array_equal(run(same, feeds)[name], value)


def test_one_rotation_alone_stays():
    lines = by_halves("q", "split", lambda: False, "yq")
    model = network(4, lines, "q")
    assert operators(rotated(model)) == operators(model)


class Rotary(torch.nn.Module):
    """Queries and keys turned by positions, as Llama's are."""

    def forward(self, query, key, position):
        angles = position[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
        angles = torch.cat([angles, angles], -1)
        return tuple(self.turn(x, angles.cos(), angles.sin()) for x in (query, key))

    def turn(self, x, cosine, sine):
        half = x.shape[-1] // 2
        swapped = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * cosine + swapped * sine


def test_an_export_has_the_short_form(tmp_path):
    dynamic = {0: "batch", 2: "time"}
    rng = np.random.default_rng(0)
    inputs = {
        name: Input(rng.standard_normal((1, 3, 5, 8), np.float32), dynamic=dynamic)
        for name in ("query", "key")
    }
    inputs["position"] = Input(np.arange(5), dynamic={0: "time"})
    model = Model(Rotary().eval(), inputs=inputs, outputs=["q", "k"])
    with export(model, tmp_path / "rotary.mmedge", split=False) as bundle:
        path = bundle.file(bundle.manifest.stages[0].graph)
        names = operators(onnx.load(path, load_external_data=False))
        assert names["Neg"] == names["Slice"] == 0
        assert names["Split"] == 2
    with load(tmp_path / "rotary.mmedge") as pipe:
        assert verify(pipe).ok
