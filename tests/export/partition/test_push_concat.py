"""Concats of modalities move down through row-wise work: same values, same work, fewer owners."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fusion_graphs import GROUPS, NETS, assert_same, exported, feeds, run
from grown_graphs import grown
from hypothesis import given, settings
from onnx import helper, numpy_helper

from mmedge_export.partition.owners import find_owners
from mmedge_export.partition.push_concat import push_concat

SIZES = ((2, 7, 4), (3, 1, 6))

#: How many weights make keys and values of the concatenated tokens (one packed weight counts once).
PROJECTIONS = {
    "cross": 6,
    "low": 6,
    "boolean": 6,
    "infinite": 6,
    "multihead": 1,
    "multihead_masked": 1,
    "multihead_weights": 1,
    "multihead_sequence_first": 1,
    "decoder_pre": 2,
    "decoder_post": 2,
    "joint": 1,
}


def projections(model):
    """Owners of the products with weights, each with how many there are."""
    owners = find_owners(model.graph, GROUPS)
    return Counter(
        owners.of(node.inputs[0])
        for node in model.graph
        if node.op_type in ("MatMul", "Gemm") and owners.fixed(node.inputs[1])
    )


@pytest.mark.parametrize("name", NETS)
def test_projections_of_a_torch_network_become_one_modalitys(name):
    model = exported(name)
    before = projections(model)
    wanted = [run(model, feeds(*sizes)) for sizes in SIZES]
    moved = push_concat(model, GROUPS)
    for sizes, values in zip(SIZES, wanted, strict=True):
        assert_same(run(model, feeds(*sizes)), values)
    image, text, both = (frozenset(names) for names in (["image"], ["text"], ["image", "text"]))
    after = projections(model)
    count = PROJECTIONS[name]
    assert after[image] == after[text] == count
    assert before[image] == before[text] == 0
    assert before[both] - after[both] == count
    assert after[frozenset()] == before[frozenset()]
    for modality in ("image", "text"):
        found = Counter(
            n.op_type for move in moved for n in move.nodes if move.modality == modality
        )
        assert found["MatMul"] + found["Gemm"] == count
        assert any(f"{found['MatMul']} MatMul" in move.what for move in moved)
    assert {node.graph for move in moved for node in move.nodes} == {model.graph}


@pytest.mark.parametrize("name", ["cross", "multihead_masked", "decoder_pre", "joint"])
def test_what_is_one_modalitys_own_needs_no_size_of_another(name):
    model = exported(name)
    moved = push_concat(model, GROUPS)
    for move in moved:
        behind, waiting = set(), list(move.nodes)
        while waiting:
            node = waiting.pop()
            for value in node.inputs:
                if value is not None and value not in behind:
                    behind.add(value)
                    waiting += [value.producer()] if value.producer() else []
        inputs = {value.name for value in behind if value.is_graph_input()}
        assert inputs <= set(GROUPS[move.modality])


def test_weights_are_shared():
    model = exported("cross")
    before = sum(v.const_value.nbytes for v in model.graph.initializers.values())
    push_concat(model, GROUPS)
    after = sum(v.const_value.nbytes for v in model.graph.initializers.values())
    assert after <= before + 512  # a few sizes


def parsed(body, inputs="float[B,I,8] image, float[B,T,8] text", outputs="y", opset=20):
    """A graph from ONNX's text syntax, with weights that it names."""
    outs = ", ".join(f"float[{','.join(f'{n}{i}' for i in range(3))}] {n}" for n in outputs.split())
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g ({inputs}) => ({outs}) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 8), "b": (8,), "c": (), "k": (8, 8, 1), "position": (1, 8, 8)}
    taken = {name for node in proto.graph.node for name in node.input}
    for name, shape in ((n, s) for n, s in shapes.items() if n in taken):
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    ranked = onnx.shape_inference.infer_shapes(proto)
    for output, inferred in zip(proto.graph.output, ranked.graph.output, strict=True):
        output.CopyFrom(inferred)
    return ir.serde.deserialize_model(proto)


def simple(batch, image, text):
    rng = np.random.default_rng(1)
    lengths = {"image": image, "text": text}
    return {n: rng.standard_normal((batch, k, 8)).astype(np.float32) for n, k in lengths.items()}


def text_of(model):
    return ir.serde.serialize_model(model).SerializeToString(deterministic=True)


def kinds(model):
    return Counter(node.op_type for node in model.graph)


CAT = "x = Concat<axis = 1>(image, text) "

#: Work after the Concat of two, and which operators there are twice then.
ROWWISE = {
    "residual": ("h = MatMul(x, w) h2 = Relu(h) y = Add(x, h2)", "MatMul Relu Add"),
    "gelu": (
        "h = Div(x, c) e = Erf(h) g = Mul(x, e) y = MatMul(g, w)",
        "Div Erf Mul MatMul",
    ),
    "layer norm by hand": (
        (
            "axes = Constant<value_ints = [-1]>() m = ReduceMean(x, axes) d = Sub(x, m) "
            "s = Mul(d, d) v = ReduceMean(s, axes) e = Add(v, c) a = Abs(e) "
            "r = Sqrt(a) n = Div(d, r) y = Mul(n, b)"
        ),
        "ReduceMean Sub Sqrt Div",
    ),
    "weight first": (
        "t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(w, t)",
        "Transpose MatMul",
    ),
    "rotary": (
        (
            "two = Constant<value_ints = [4, 4]>() p, q = Split<axis = 2>(x, two) n = Neg(q) "
            "z = Concat<axis = 2>(n, p) y = Mul(z, b)"
        ),
        "Split Neg Mul",
    ),
    "squeezed": (
        "one = Constant<value_ints = [0]>() u = Unsqueeze(x, one) r = Relu(u) y = Squeeze(r, one)",
        "Unsqueeze Relu Squeeze",
    ),
    "taken and sliced": (
        (
            "i = Constant<value_ints = [1, 3, 3]>() f = Gather<axis = 2>(x, i) "
            "s = Constant<value_ints = [1]>() t = Constant<value_ints = [3]>() "
            "a = Constant<value_ints = [2]>() y = Slice(f, s, t, a)"
        ),
        "Gather Slice",
    ),
    "softmax over features": ("y = Softmax<axis = -1>(x)", "Softmax"),
    "reshaped by sizes": (
        (
            "s = Shape(x) l = Constant<value_ints = [0, 1]>() kk = Gather(s, l) "
            "r = Constant<value_ints = [2, 4]>() t = Concat<axis = 0>(kk, r) h = Reshape(x, t) "
            "p = Transpose<perm = [0, 2, 1, 3]>(h) n = Softmax(p) "
            "axes = Constant<value_ints = [-1]>() y = ReduceSum<keepdims = 0>(n, axes)"
        ),
        "Reshape Transpose Softmax ReduceSum",
    ),
    "clip and cast": (
        "kk = Cast<to = 1>(x) lo = Constant<value_float = -0.5>() y = Clip(kk, lo)",
        "Cast Clip",
    ),
    "where": (
        "z = Constant<value_float = 0.0>() p = Greater(x, z) y = Where(p, x, b)",
        "Greater Where",
    ),
}


@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise_work_is_done_part_by_part(name):
    body, twice = ROWWISE[name]
    model = parsed(CAT + body)
    before = kinds(model)
    wanted = [run(model, simple(*sizes)) for sizes in SIZES]
    push_concat(model, GROUPS)
    for sizes, values in zip(SIZES, wanted, strict=True):
        assert_same(run(model, simple(*sizes)), values)
    after = kinds(model)
    for kind in twice.split():
        assert after[kind] == 2 * before[kind], kind
    assert model.graph.outputs[0].producer().op_type == "Concat"
    assert model.graph.outputs[0].name == "y"


#: Work that mixes rows, or that is not known not to.
MIXING = {
    "softmax over tokens": "y = Softmax<axis = 1>(x)",
    "sum over tokens": "a = Constant<value_ints = [1]>() y = ReduceSum(x, a)",
    "largest token": "a = Constant<value_ints = [1]>() y = ReduceMax(x, a)",
    "scores": "t = Transpose<perm = [0, 2, 1]>(text) y = MatMul(x, t)",
    "one token": "i = Constant<value_ints = [0]>() y = Gather<axis = 1>(x, i)",
    "rows and columns as one": "t = Constant<value_ints = [0, -1]>() y = Reshape(x, t)",
    "flattened": "y = Flatten(x)",
    "running sum": "a = Constant<value_int = 1>() y = CumSum(x, a)",
}


@pytest.mark.parametrize("name", MIXING)
def test_work_that_mixes_rows_leaves_the_graph_as_it_was(name):
    model = parsed(CAT + MIXING[name])
    wanted = run(model, simple(2, 7, 4))
    nodes = list(model.graph)
    assert push_concat(model, GROUPS) == ()
    assert list(model.graph) == nodes
    assert_same(run(model, simple(2, 7, 4)), wanted)


def test_convolution_along_the_axis_stays():
    model = parsed(CAT + "f = Transpose<perm = [0, 2, 1]>(x) y = Conv(f, k)")
    wanted = run(model, simple(2, 7, 4))
    push_concat(model, GROUPS)
    assert kinds(model)["Conv"] == 1
    assert_same(run(model, simple(2, 7, 4)), wanted)


def test_both_the_whole_and_its_parts_may_be_taken():
    model = parsed(
        CAT
        + "h = MatMul(x, w) s = Softmax<axis = 1>(h) r = Relu(h) y = Add(r, s) z = MatMul(r, w)",
        outputs="y z",
    )
    wanted = run(model, simple(2, 7, 4))
    push_concat(model, GROUPS)
    assert_same(run(model, simple(2, 7, 4)), wanted)
    assert kinds(model) == {"MatMul": 4, "Relu": 2, "Concat": 3, "Softmax": 1, "Add": 1}


def test_nested_concats_are_one():
    model = parsed(
        "x0 = Concat<axis = 1>(image, text) x1 = Relu(x0) x = Concat<axis = 1>(x1, more) "
        "y = MatMul(x, w) z = Softmax<axis = 1>(x)",
        inputs="float[B,I,8] image, float[B,T,8] text, float[B,M,8] more",
        outputs="y z",
    )
    values = simple(2, 7, 4) | {"more": np.ones((2, 3, 8), np.float32)}
    wanted = run(model, values)
    push_concat(model, GROUPS | {"audio": ["more"]})
    assert_same(run(model, values), wanted)
    assert kinds(model) == {"Relu": 2, "MatMul": 3, "Concat": 2, "Softmax": 1}


def test_neighbours_of_one_modality_stay_together():
    model = parsed(
        "x = Concat<axis = 1>(image, more, text) y = MatMul(x, w)",
        inputs="float[B,I,8] image, float[B,T,8] text, float[B,M,8] more",
    )
    values = simple(2, 7, 4) | {"more": np.ones((2, 3, 8), np.float32)}
    wanted = run(model, values)
    moved = push_concat(model, {"image": ["image", "more"], "text": ["text"]})
    assert_same(run(model, values), wanted)
    assert kinds(model) == {"MatMul": 2, "Concat": 2}
    assert [(move.modality, move.what) for move in moved] == [
        ("image", "1 MatMul after concat 'x'"),
        ("text", "1 MatMul after concat 'x'"),
    ]


@pytest.mark.parametrize(
    "groups",
    [
        {"both": ["image", "text"]},
        {"other": [], "another": []},  # inputs of no modality belong to all
    ],
)
def test_nothing_moves_where_nothing_is_gained(groups):
    model = parsed(CAT + "h = MatMul(x, w) y = Relu(h)")
    before = text_of(model)
    assert push_concat(model, groups) == ()
    assert [n.op_type for n in model.graph] == ["Concat", "MatMul", "Relu"]
    assert len(text_of(model)) >= len(before)  # at most shapes were added


def test_a_constant_for_every_row_is_cut_where_sizes_are_fixed():
    model = parsed(
        CAT + "h = Add(x, position) y = MatMul(h, w)",
        inputs="float[B,5,8] image, float[B,3,8] text",
    )
    wanted = run(model, simple(2, 5, 3))
    push_concat(model, GROUPS)
    assert_same(run(model, simple(2, 5, 3)), wanted)
    assert kinds(model) == {"Add": 2, "MatMul": 2, "Concat": 1}
    assert "position" not in model.graph.initializers


def test_subgraphs_and_functions_take_the_whole():
    text = """
    <ir_version: 10, opset_import: ["" : 20, "own" : 1]>
    g (float[B,I,8] image, float[B,T,8] text, bool flag) => (float[B,S,8] y, float[B,S,8] z)
    <float c = {2}>
    {
        x = Concat<axis = 1>(image, text)
        h = Mul(x, c)
        y = If(flag) <
            then_branch = t () => (float[B,S,8] p) { p = Add(h, h) },
            else_branch = e () => (float[B,S,8] q) { q = Neg(h) }
        >
        z = own.twice(h)
    }
    <domain: "own", opset_import: ["" : 20]>
    twice (a) => (b) { b = Add(a, a) }
    """
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    for flag in (True, False):
        values = simple(2, 7, 4) | {"flag": np.array(flag)}
        wanted = run(model, values)
        push_concat(model, GROUPS)
        assert_same(run(model, values), wanted)
    assert kinds(model) == {"Mul": 2, "Concat": 1, "If": 1, "twice": 1}


def test_below_opset_13_nothing_is_touched():
    model = parsed(CAT + "y = MatMul(x, w)", opset=12)
    before = text_of(model)
    assert push_concat(model, GROUPS) == ()
    assert text_of(model) == before


#: Ops that compute, whose number of results must not grow.
COMPUTE = {
    "MatMul",
    "Gemm",
    "LayerNormalization",
    "Softmax",
    "Erf",
    "Sigmoid",
    "Relu",
    "Tanh",
    "CumSum",
}
COMPUTE |= {"Add", "Sub", "Mul", "Max", "ReduceMean", "ReduceMax", "ReduceSum", "Greater", "Where"}


def work(proto, values):
    """Per operator, and per weight of a product, how many elements are computed."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    named = {v.name for v in proto.graph.output}
    nodes = [n for n in proto.graph.node if n.op_type in COMPUTE]
    dtypes = {v.name: v.type for v in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    whole = [n for n in nodes if n.output[0] in named or n.output[0] in dtypes]
    for node in whole:
        if node.output[0] not in named:
            proto.graph.output.append(
                helper.make_value_info(node.output[0], dtypes[node.output[0]])
            )
    got = run(proto, values)
    counts = Counter()
    for node in whole:
        elements = got[node.output[0]]
        if elements.dtype != np.int64:  # sizes are no work
            key = node.op_type
            if node.op_type in ("MatMul", "Gemm"):
                weights = [n for n in node.input if n.startswith("w")]
                key += f" by {weights}"
            counts[key] += elements.size
    return counts


@settings(max_examples=80)
@given(grown())
def test_any_graph_computes_the_same_with_the_same_work(case):
    grower, proto = case
    groups = {name: [name] for name in grower.names}
    model = ir.serde.deserialize_model(proto)
    nodes = list(model.graph)
    moved = push_concat(model, groups)
    after = ir.serde.serialize_model(model)
    for sizes in ((2, 3, 2, 3, 1), (1, 2, 4, 1, 2)):
        values = grower.values(sizes)
        assert_same(run(after, values), run(proto, values))
        before, now = work(proto, values), work(after, values)
        assert {k: n for k, n in now.items() if "MatMul" in k or "Gemm" in k} == {
            k: n for k, n in before.items() if "MatMul" in k or "Gemm" in k
        }
        assert all(now[kind] <= before[kind] for kind in now), (before, now)
    owners = find_owners(model.graph, groups)
    for move in moved:
        for node in move.nodes:
            assert owners.of(node.outputs[0]) == {move.modality}
    if not moved:
        assert list(model.graph) == nodes
    assert push_concat(model, groups) == ()  # all that could move has moved
