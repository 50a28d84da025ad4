"""Attention over concatenated keys becomes one node over segments that computes the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fusion_graphs import GROUPS, NETS, assert_same, exported, feeds, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mmedge_export.partition.attention_function import KINDS, attention_function
from mmedge_export.partition.push_concat import push_concat
from mmedge_export.partition.segment_attention import segment_attention

SIZES = ((2, 7, 4), (3, 1, 6))

#: Nodes that each network ends up with. Rows that hide all keys are set to 0 behind them.
NODES = {
    "cross": {"SegmentedAttention2": 3},
    "low": {"SegmentedAttention2Biased": 3},
    "boolean": {"SegmentedAttention2Biased": 3},
    "infinite": {"SegmentedAttention2Biased": 3},
    "multihead": {"SegmentedAttention2": 1},
    "multihead_masked": {"SegmentedAttention2Biased": 1},
    "multihead_weights": {"SegmentedAttention2Biased": 1},
    "multihead_sequence_first": {"SegmentedAttention2Biased": 1},
    "decoder_pre": {"SegmentedAttention2": 2},
    "decoder_post": {"SegmentedAttention2": 2},
    "joint": {"SegmentedAttention2": 1},
}


def segmented(model):
    return Counter(node.op_type for node in model.graph if node.domain == "mmedge")


@pytest.mark.parametrize("name", NETS)
def test_attention_of_a_torch_network(name):
    model = exported(name)
    cases = [feeds(*SIZES[0]), feeds(*SIZES[1]), feeds(*SIZES[0], valid=0.0)]
    wanted = [run(model, values) for values in cases]
    push_concat(model, GROUPS)
    assert segment_attention(model) == sum(NODES[name].values())
    assert segmented(model) == NODES[name]
    for values, results in zip(cases, wanted, strict=True):
        assert_same(run(model, values), results)
    if name == "cross":
        # Nothing is left of the keys transposed by way of three axes, nor of their factors.
        kinds = Counter(node.op_type for node in model.graph)
        assert kinds["Softmax"] == kinds["Mul"] == 0
        scales = [n.attributes["scale"].as_float() for n in model.graph if n.domain]
        assert scales == pytest.approx([8**-0.5] * 3)


@pytest.mark.parametrize("name", ["cross", "low", "boolean"])
def test_attention_as_onnx_defines_it(name):
    model = exported(name, opset=23)
    cases = [feeds(*SIZES[0]), feeds(*SIZES[1]), feeds(*SIZES[0], valid=0.0)]
    wanted = [run(model, values) for values in cases]
    push_concat(model, GROUPS)
    assert segment_attention(model) == 3
    assert segmented(model) == {"SegmentedAttention2" + ("" if name == "cross" else "Guarded"): 3}
    for values, results in zip(cases, wanted, strict=True):
        assert_same(run(model, values), results)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", [15, 20, 23])
def test_functions_in_both_runtimes(kind, dtype, opset):
    rng = np.random.default_rng(0)
    lengths = (3, 0, 5)
    shapes = {"q": (2, 2, 4, 8)} | {
        f"{n}{i}": (2, 2, k, 8) for n in "kv" for i, k in enumerate(lengths)
    }
    values = {n: rng.standard_normal(s).astype(dtype) for n, s in shapes.items()}
    if kind:
        for i, k in enumerate(lengths):
            bias = np.where(rng.random((2, 1, 4, k)) < 0.5, 0, -np.inf).astype(dtype)
            bias[0, 0, 1] = -np.inf
            values[f"bias{i}"] = bias
    function = attention_function(3, kind, opset)
    inputs = [ir.val(n, ir.DataType.from_numpy(np.dtype(dtype)), [None] * 4) for n in values]
    node = ir.node(function.name, inputs, {"scale": 0.3}, domain="mmedge")
    node.outputs[0].name, node.outputs[0].type = "y", inputs[0].type
    node.outputs[0].shape = ir.Shape([None] * 4)
    graph = ir.Graph(
        inputs, node.outputs, nodes=[node], opset_imports={"": opset, "mmedge": 1}, name="g"
    )
    model = ir.Model(graph, ir_version=10, functions=[function])
    got = run(model, values)["y"]
    proto = ir.serde.serialize_model(model)
    with np.errstate(invalid="ignore"):
        other = ReferenceEvaluator(proto).run(None, values)[0]
    keys, rows = (
        np.concatenate([values[f"{n}{i}"] for i in range(3)], 2).astype(np.float64) for n in "kv"
    )
    scores = 0.3 * values["q"].astype(np.float64) @ keys.transpose(0, 1, 3, 2)
    if kind:
        scores = scores + np.concatenate([values[f"bias{i}"] for i in range(3)], 3)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
    wanted = (np.nan_to_num(weights) if kind == "Guarded" else weights) @ rows
    assert np.isnan(wanted).any() == (kind == "Biased")
    error = 1e-5 if dtype == np.float32 else 5e-3
    assert got.dtype == dtype
    np.testing.assert_allclose(got, wanted, atol=error)
    np.testing.assert_allclose(other, wanted, atol=error)


def attention(
    *,
    rank=4,
    segments=2,
    mask=None,
    keys="direct",
    scale="scores",
    guard=False,
    lengths=None,
    extra=(),
):
    """A graph of one decomposed attention; segments are inputs ``k0``, ``v0``, ``m0``, ..."""
    nodes, weights, inputs = [], {}, []
    batch = ["B", "H"] if rank == 4 else ["B"]

    def add(kind, *names, **attributes):
        out = f"n{len(nodes)}"
        nodes.append(helper.make_node(kind, names, [out], **attributes))
        return out

    def weight(value, dtype=np.float32):
        weights[f"c{len(weights)}"] = np.asarray(value, dtype)
        return f"c{len(weights) - 1}"

    def given_(name, shape, dtype=TensorProto.FLOAT):
        inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    q = given_("q", [*batch, "Q", 8])
    swap = [*range(rank - 2), rank - 1, rank - 2]
    lengths = lengths or [f"L{i}" for i in range(segments)]
    ks, vs, ms = [], [], []
    for i, length in enumerate(lengths):
        outside = rank == 4 and keys == "outside"
        shape = ["B", length, "H", 8] if outside else [*batch, length, 8]
        k = given_(f"k{i}", shape)
        if keys == "parts":
            k = add("Transpose", k, perm=swap)
        if outside:
            k = add("Transpose", k, perm=[0, 2, 3, 1])
        if scale == "both":
            k = add("Mul", k, weight([0.5]))
        ks.append(k)
        vs.append(given_(f"v{i}", [*batch, length, 8]))
    columns = add("Concat", *ks, axis=rank - 2 if keys == "direct" else rank - 1)
    if keys == "direct":
        columns = add("Transpose", columns, perm=swap)
    if scale in ("q", "both"):
        q = add("Mul", weight(0.7), q)
    scores = add("MatMul", q, columns)
    if scale == "scores":
        scores = add("Div", scores, weight(2.5))
    boolean = mask in ("where", "where_not")
    kind = TensorProto.BOOL if boolean else TensorProto.FLOAT
    if mask in ("segments", "where", "where_not"):
        ms = [given_(f"m{i}", ["B", *[1] * (rank - 2), n], kind) for i, n in enumerate(lengths)]
        whole = add("Concat", *ms, axis=-1)
    elif mask == "whole":
        total = sum(lengths) if isinstance(lengths[0], int) else " + ".join(lengths)
        whole = given_("m", ["Q", total])
    if boolean:
        low = weight(-np.inf)
        scores = add("Where", whole, *((scores, low) if mask == "where" else (low, scores)))
    elif mask:
        scores = add("Add", *([whole, scores] if scale == "q" else [scores, whole]))
    made = add("Softmax", scores, axis=-1)
    if guard:
        made = add("Where", add("IsNaN", made), weight(0.0), made)
    y = add("MatMul", made, add("Concat", *vs, axis=rank - 2))
    outputs = [y, *(made for _ in extra)]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * rank) for n in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def filled(proto, sizes, seed=0):
    rng = np.random.default_rng(seed)
    values = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [
            d.dim_value or sum(sizes[n] for n in d.dim_param.split(" + ")) for d in kind.shape.dim
        ]
        if kind.elem_type == TensorProto.BOOL:
            values[value.name] = rng.random(shape) < 0.4
        else:
            values[value.name] = rng.standard_normal(shape).astype(np.float32)
    return values


LENGTHS = {f"L{i}": n for i, n in enumerate((3, 1, 4, 2, 5, 1, 2, 3, 2))}


@settings(max_examples=60)
@given(
    rank=st.sampled_from((3, 4)),
    segments=st.integers(2, 8),
    mask=st.sampled_from((None, "segments", "whole", "where", "where_not")),
    keys=st.sampled_from(("direct", "parts", "outside")),
    scale=st.sampled_from(("none", "scores", "q", "both")),
    guard=st.booleans(),
    fixed=st.booleans(),
)
def test_every_form_of_attention(rank, segments, mask, keys, scale, guard, fixed):
    if rank == 3 and keys == "outside":
        keys = "parts"
    lengths = [LENGTHS[f"L{i}"] for i in range(segments)] if fixed else None
    form = {"rank": rank, "segments": segments, "mask": mask, "keys": keys, "scale": scale}
    proto = attention(**form, guard=guard, lengths=lengths)
    model = ir.serde.deserialize_model(proto)
    assert segment_attention(model) == 1
    kind = "" if mask is None else "Guarded" if guard else "Biased"
    assert segmented(model) == {f"SegmentedAttention{segments}{kind}": 1}
    left = {n.op_type for n in model.graph}
    assert not left & {"Softmax", "MatMul", "IsNaN", "Div", "Mul"}
    assert "Concat" not in left or mask == "whole"
    for sizes in ({"B": 2, "H": 2, "Q": 3}, {"B": 1, "H": 3, "Q": 1}):
        values = filled(proto, LENGTHS | sizes)
        assert_same(run(model, values), run(proto, values))


@pytest.mark.parametrize(
    "options",
    [
        {"segments": 9},
        {"segments": 1},
        {"extra": ("weights",)},
    ],
)
def test_what_is_left_alone(options):
    model = ir.serde.deserialize_model(attention(**options))
    nodes = list(model.graph)
    assert segment_attention(model) == 0
    assert list(model.graph) == nodes
    assert not model.functions


def edited(change, **options):
    proto = attention(**options)
    change(proto.graph)
    return ir.serde.deserialize_model(proto)


def test_keys_and_values_cut_differently_stay():
    def change(graph):
        (concat,) = (n for n in graph.node if n.op_type == "Concat" and n.input[0] == "v0")
        concat.input[:] = reversed(concat.input)

    assert segment_attention(edited(change)) == 0


def test_softmax_over_queries_stays():
    def change(graph):
        (softmax,) = (n for n in graph.node if n.op_type == "Softmax")
        softmax.attribute[0].i = -2

    assert segment_attention(edited(change)) == 0


def test_a_finite_value_for_hidden_scores_stays():
    """Where sets a score to it, and adding it would not."""

    def change(graph):
        (low,) = (w for w in graph.initializer if np.isinf(numpy_helper.to_array(w)).all())
        low.CopyFrom(numpy_helper.from_array(np.float32(-1e4), low.name))

    assert segment_attention(edited(change, mask="where")) == 0


def test_a_mask_of_unknown_length_stays():
    def change(graph):
        (mask,) = (v for v in graph.input if v.name == "m")
        mask.type.tensor_type.shape.dim[1].dim_param = "other"

    assert segment_attention(edited(change, mask="whole")) == 0


def test_attention_in_a_subgraph_stays():
    inner = attention()
    outer = helper.make_graph(
        [
            helper.make_node(
                "If",
                ["flag"],
                ["y"],
                then_branch=branch(inner.graph),
                else_branch=branch(inner.graph),
            )
        ],
        "outer",
        [helper.make_tensor_value_info("flag", TensorProto.BOOL, []), *inner.graph.input],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
    )
    proto = helper.make_model(outer, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.serde.deserialize_model(proto)
    values = filled(inner, LENGTHS | {"B": 2, "H": 2, "Q": 3}) | {"flag": np.array(True)}
    wanted = run(model, values)
    assert push_concat(model, {"a": ["k0", "v0"], "b": ["k1", "v1"]}) == ()
    assert segment_attention(model) == 0
    assert_same(run(model, values), wanted)


def branch(graph):
    copied = onnx.GraphProto()
    copied.CopyFrom(graph)
    del copied.input[:]
    return copied
