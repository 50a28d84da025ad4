"""Products of one tensor, merged, compute what they did one by one."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from engine_net import graph, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmedge import load
from mmedge.execution.verify import verify
from mmedge_export import Generate, Input, Model, StateInput, export
from mmedge_export.passes.merge_projections import MOST_ROWS, MergeProjectionsPass
from mmedge_export.passes.name_sizes import NameSizesPass
from mmedge_export.passes.unpack_projection import unpack_projection


def merged(model: onnx.ModelProto, **sizes: int) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    NameSizesPass()(graph)
    MergeProjectionsPass(sizes)(graph)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def two(rng: np.random.Generator) -> onnx.ModelProto:
    """The difference of two products of one tensor."""
    constants = {name: rng.standard_normal((6, 3)).astype(np.float32) for name in "wv"}
    body = "a = MatMul(x, w) b = MatMul(x, v) y = Sub(a, b)"
    return graph(f"net (float[n,6] x) => (float[n,3] y) {{ {body} }}", **constants)


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
    rows=st.integers(1, 3),
)
def test_columns_are_those_of_each_product(widths, data, rows):
    rng = np.random.default_rng(0)
    constants, body, ends = {}, [], []
    for at, width in enumerate(widths):
        constants[f"w{at}"] = rng.standard_normal((6, width)).astype(np.float32)
        body.append(f"p{at} = MatMul(x, w{at})")
        ends.append(f"p{at}")
        if data.draw(st.booleans()):
            constants[f"b{at}"] = rng.standard_normal(width).astype(np.float32)
            left_first = data.draw(st.booleans())
            body.append(f"s{at} = Add({f'p{at}, b{at}' if left_first else f'b{at}, p{at}'})")
            ends[-1] = f"s{at}"
        if data.draw(st.booleans()):  # what else reads the product itself
            body.append(f"t{at} = Tanh(p{at})")
            ends.append(f"t{at}")
    text = f"""net (float[n,2,6] x) => (float[n,2,?] y) {{
      {" ".join(body)}
      y = Concat<axis=-1>({", ".join(ends)})
    }}"""
    model = graph(text, **constants)
    together = merged(model, n=1)
    assert operators(together).count("MatMul") == 1
    x = {"x": rng.standard_normal((rows, 2, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(together, x)["y"], run(model, x)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "n"),
    [
        ("a = MatMul(x, w) b = MatMul(x, v) y = Sub(a, b)", MOST_ROWS + 1),
        ("a = MatMul(x, w) b = MatMul(x, w) y = Sub(a, b)", 1),
        ("z = Neg(x) a = MatMul(x, w) b = MatMul(z, v) y = Sub(a, b)", 1),
        ("a = MatMul(x, w) y = MatMul(x, v)", 1),
        ("u = Neg(v) a = MatMul(x, w) b = MatMul(x, u) y = Sub(a, b)", 1),
    ],
    ids=["many-rows", "shared-matrix", "other-tensor", "output", "computed-matrix"],
)
def test_what_stays_by_itself(body, n):
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal((6, 3)).astype(np.float32) for name in "wv"}
    model = graph(f"net (float[n,6] x) => (float[n,3] y) {{ {body} }}", **constants)
    assert operators(merged(model, n=n)) == operators(model)


def test_a_size_that_is_not_known_counts_as_many_rows():
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal((6, 3)).astype(np.float32) for name in "wv"}
    text = (
        "net (float[n,6] x) => (float[n,3] y) { a = MatMul(x, w) b = MatMul(x, v) y = Sub(a, b) }"
    )
    model = graph(text, **constants)
    assert operators(merged(model)) == operators(model)
    assert operators(merged(model, n=1)) == ["MatMul", "Split", "Sub"]
    old = ir.from_proto(model)
    old.graph.opset_imports[""] = 12  # where Split has no tensor of sizes
    MergeProjectionsPass({"n": 1})(old)
    assert [node.op_type for node in old.graph] == operators(model)


def test_what_was_merged_can_be_unpacked():
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal((6, 3)).astype(np.float32) for name in "wv"}
    text = (
        "net (float[n,6] x) => (float[n,3] y) { a = MatMul(x, w) b = MatMul(x, v) y = Sub(a, b) }"
    )
    model = graph(text, **constants)
    together = ir.from_proto(merged(model, n=1))
    NameSizesPass()(together)
    assert len(unpack_projection(together.graph, together.graph[0])) == 2
    x = {"x": rng.standard_normal((4, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(ir.to_proto(together), x)["y"], run(model, x)["y"], rtol=1e-5)


class Step(torch.nn.Module):
    """New tokens attend to themselves and what came before; then a gated linear unit."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 16)
        self.query, self.key, self.value = (torch.nn.Linear(16, 16) for _ in range(3))
        self.gate, self.up = (torch.nn.Linear(16, 24, bias=False) for _ in range(2))
        self.down = torch.nn.Linear(24, 11)

    def forward(self, token, position, past_key, past_value):
        x = self.embedding(token)
        key = torch.cat([past_key, self.key(x)], 1)
        value = torch.cat([past_value, self.value(x)], 1)
        mask = torch.arange(key.shape[1]) <= position[:, None]
        queries, keys, values = (part[:, None] for part in (self.query(x), key, value))
        x = x + F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)[:, 0]
        logits = self.down(F.silu(self.gate(x)) * self.up(x))
        return {"logits": logits, "present_key": key, "present_value": value}


def test_the_step_of_a_loop_has_merged_products(tmp_path):
    torch.manual_seed(0)
    shape = ("batch", "past", 16)
    state = {
        f"past_{name}": StateInput(f"present_{name}", shape, grows="past")
        for name in ("key", "value")
    }
    model = Model(
        None,
        inputs={"token": Input(np.array([[1, 2, 3]]), dynamic={0: "batch", 1: "new"})},
        dims={"batch": (1, 2), "new": (1, 8)},
        loop=Generate(
            Step().eval(),
            token="token",
            logits="logits",
            position="position",
            position_shape=("new",),
            state=state,
            stop=[10],
            limit=6,
        ),
    )
    with export(model, tmp_path / "step.mmedge") as bundle:
        (stage,) = bundle.manifest.loop_stages()
        names = operators(onnx.load(bundle.file(stage.graph), load_external_data=False))
        assert names.count("MatMul") + names.count("Gemm") == 5  # two of them attention's own
        assert not bundle.manifest.cut.remarks
    with load(tmp_path / "step.mmedge") as pipe:
        assert verify(pipe).ok
