"""A product whose output is split computes the same as a product for each part."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from engine_net import graph, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes import common

from mmedge_export.passes.fold_transpose import FoldTransposePass
from mmedge_export.passes.unpack_projection import unpack_projection


def unpacked(model):
    """The model after the rewrite of its node 'pack', and the products that stand for it."""
    typed = common.ShapeInferencePass()(ir.from_proto(model)).model
    pack = next(node for node in typed.graph if node.name == "pack")
    made = unpack_projection(typed.graph, pack)
    return ir.to_proto(typed), [node.name for node in made]


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    bias=st.booleans(),
    bias_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_parts_compute_what_the_whole_did(sizes, bias, bias_first, seed):
    rng = np.random.default_rng(seed)
    total, parts = sum(sizes), [f"p{i}" for i in range(len(sizes))]
    add = "[bias] e = " + ("Add(b, c)" if bias_first else "Add(c, b)") if bias else ""
    text = f"""net (float[n,3,6] x) => (float[n,3,{total}] y) {{
      [pack] c = MatMul(x, w)
      {add}
      [split] {", ".join(parts)} = Split<axis=-1>({"e" if bias else "c"}, sizes)
      {" ".join(f"r{i} = Neg({name})" for i, name in enumerate(parts))}
      [join] y = Concat<axis=-1>({", ".join(f"r{i}" for i in reversed(range(len(sizes))))})
    }}"""
    constants = {
        "w": rng.standard_normal((6, total)).astype(np.float32),
        "sizes": np.array(sizes),
    }
    if bias:
        constants["b"] = rng.standard_normal(total).astype(np.float32)
    model = graph(text, **constants)
    x = rng.standard_normal((2, 3, 6)).astype(np.float32)
    wanted = run(model, {"x": x})["y"]
    made, names = unpacked(model)
    assert names == [f"pack_part{i}" for i in range(len(sizes))]
    assert not {"pack", "bias", "split"} & {node.name for node in made.graph.node}
    np.testing.assert_allclose(run(made, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "a, b = Split<axis=1,num_outputs=2>(c) d = Add(a, b) y = Mul(d, s)",  # another axis
        "a, b = Split<axis=-1,num_outputs=2>(c) d = Add(a, b) y = Mul(c, s)",  # the whole is read
        "e = Add(c, c) a, b = Split<axis=-1,num_outputs=2>(e) y = Add(a, b)",  # no bias
        "y = Neg(c)",
        "y, b = Split<axis=-1,num_outputs=2>(c)",  # a part is an output of the graph
    ],
)
def test_other_products_stay(body):
    text = f"net (float[4,4,6] x) => (float[p,q,r] y) {{ [pack] c = MatMul(x, w) {body} }}"
    model = graph(text, w=np.ones((6, 4), np.float32), s=np.ones((), np.float32))
    before = len(model.graph.node)
    made, names = unpacked(model)
    assert names == ["pack"]
    assert len(made.graph.node) == before


def test_transposed_constants_are_stored_transposed():
    text = """net (float[4,6] x) => (float[4,6] y, float[6,4] whole) {
      [one] a = Transpose(w)
      [two] b = Transpose<perm=[1,0]>(w)
      [three] c = MatMul(x, a)
      [four] y = MatMul(c, b)
      [five] whole = Transpose(x)
    }"""
    model = graph(text, w=np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32))
    x = np.ones((4, 6), np.float32)
    made = ir.to_proto(FoldTransposePass()(ir.from_proto(model)).model)
    assert [node.name for node in made.graph.node] == ["three", "four", "five"]
    assert {tensor.name for tensor in made.graph.initializer} == {"a", "b"}
    for name, value in run(made, {"x": x}).items():
        np.testing.assert_array_equal(value, run(model, {"x": x})[name])
