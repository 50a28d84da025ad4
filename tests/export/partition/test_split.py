"""The cut by modality on hand-made ONNX graphs: no annotation but which inputs form a modality."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mmedge_export.partition.split import split

RNG = np.random.default_rng(0)


def parse(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def session(model: ir.Model) -> ort.InferenceSession:
    return ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def chain(made, feeds: dict) -> dict:
    """Run the parts one after another; only what a part declares goes in and comes out."""
    tensors = dict(feeds)
    for part in made.parts:
        taken = {name: tensors[name] for name in part.inputs}
        tensors.update(
            zip(part.outputs, session(part.model).run(list(part.outputs), taken), strict=True)
        )
    return tensors


def check(model: ir.Model, groups: dict, feeds: dict, **options):
    """Cut, check every part with the ONNX checker, and compare with the uncut graph."""
    before = ir.to_proto(model).SerializeToString()
    made = split(model, groups, feeds, **{"least_flops": 1, **options})
    assert ir.to_proto(model).SerializeToString() == before, "the given graph was changed"
    for part in made.parts:
        onnx.checker.check_model(ir.to_proto(part.model), full_check=True)
        if part.modality is not None:
            assert set(part.inputs) == set(groups[part.modality])
    names = [v.name for v in model.graph.outputs]
    expected = session(model).run(names, feeds)
    got = chain(made, feeds)
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)
    return made


def names(made) -> dict:
    return {part.name: part.modality for part in made.parts}


def feed(**shapes) -> dict:
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


TWO = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[batch, 8] a, float[batch, 8] b) => (float[batch, 8] y)

{
    p = MatMul (a, w)
    q = MatMul (b, v)
    r = Relu (q)
    y = Add (p, r)
}
"""


def weighted(text: str, **weights) -> ir.Model:
    """A graph in ONNX's text form without initializers, and its weights."""
    proto = onnx.parser.parse_model(text)
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def w(*shape) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def two() -> ir.Model:
    return weighted(TWO, w=w(8, 8), v=w(8, 8))


def test_each_modality_gets_an_encoder_and_what_mixes_is_fusion():
    made = check(two(), {"left": ["a"], "right": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    assert names(made) == {"left": "left", "right": "right", "fusion": None}
    left, right, fusion = made.parts
    # By hand: 2 rows, 8 by 8, a multiply-add is two; Relu and Add one for each of 16 elements.
    assert (left.flops, right.flops, fusion.flops) == (2 * 2 * 64, 2 * 2 * 64 + 16, 16)
    assert [n.op_type for n in fusion.model.graph] == ["Add"]


def test_inputs_of_one_modality_may_be_mixed_in_its_encoder():
    made = check(two(), {"both": ["a", "b"]}, feed(a=(2, 8), b=(2, 8)))
    assert names(made) == {"model": None}
    assert made.cut.remarks == ("nothing to cut: the outputs depend on one modality",)


def test_modalities_mixed_at_the_first_node():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2, 8] a, float[2, 8] b) => (float[2, 8] y)
    { s = Concat <axis=1> (a, b)  y = MatMul (s, w) }
    """
    model = weighted(text, w=w(16, 8))
    made = check(model, {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    assert names(made) == {"model": None}
    assert "l is mixed with other modalities at its first node" in made.cut.remarks
    assert "nothing to cut: no modality has work of its own" in made.cut.remarks


def test_a_small_encoder_stays_in_fusion_and_is_said():
    made = check(two(), {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 8)), least_flops=260)
    assert names(made) == {"r": "r", "fusion": None}
    assert set(made.parts[1].inputs) == {"a", made.parts[0].outputs[0]}
    assert any(
        remark.startswith("l has no encoder: its own work is 256") for remark in made.cut.remarks
    )


def test_an_output_of_one_encoder_alone_leaves_from_there():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2, 8] a, float[2, 8] b) => (float[2, 8] y, float[2, 8] seen)
    { p = MatMul (a, w)  seen = Tanh (p)  q = MatMul (b, w)  y = Add (seen, q) }
    """
    made = check(weighted(text, w=w(8, 8)), {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    assert made.parts[0].outputs == ("seen",)
    assert made.parts[-1].outputs == ("y",)
    assert "output seen depends on l alone" in made.cut.remarks


def test_towers_without_fusion():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2, 8] a, float[2, 8] b) => (float[2, 8] y, float[2, 8] z)
    { y = MatMul (a, w)  z = MatMul (b, w) }
    """
    made = check(weighted(text, w=w(8, 8)), {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    assert names(made) == {"l": "l", "r": "r"}
    assert "no fusion stage: every output depends on one modality" in made.cut.remarks


def test_an_unused_input_is_said_and_taken_by_some_stage():
    text = TWO.replace("float[batch, 8] b)", "float[batch, 8] b, float[3] idle)")
    model = weighted(text, w=w(8, 8), v=w(8, 8))
    groups = {"l": ["a"], "r": ["b"], "i": ["idle"]}
    made = check(model, groups, feed(a=(2, 8), b=(2, 8), idle=(3,)))
    assert names(made) == {"l": "l", "r": "r", "fusion": None}
    assert "idle" in made.parts[-1].inputs
    assert "no output depends on input idle" in made.cut.remarks


def test_sizes_are_read_from_the_stages_own_tensors():
    """The text branch expands to the batch that the exporter read from the image."""
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[batch, 8] image, float[batch, time, 8] text) => (float[batch, n, 8] y)
    {
        shape = Shape (image)
        zero = Constant <value_ints=[0]> ()
        n = Gather <axis=0> (shape, zero)
        rest = Constant <value_ints=[1, 8]> ()
        target = Concat <axis=0> (n, rest)
        token = Expand (learned, target)
        words = MatMul (text, w)
        both = Concat <axis=1> (token, words)
        coded = Tanh (both)
        i = MatMul (image, w)
        one = Constant <value_ints=[1]> ()
        seen = Unsqueeze (i, one)
        y = Add (coded, seen)
    }
    """
    model = weighted(text, w=w(8, 8), learned=w(1, 1, 8))
    for batch, time in ((1, 3), (4, 7)):
        feeds = feed(image=(batch, 8), text=(batch, time, 8))
        made = check(model, {"image": ["image"], "text": ["text"]}, feeds)
        assert names(made) == {"image": "image", "text": "text", "fusion": None}
        assert [n.op_type for n in made.parts[1].model.graph].count("Tanh") == 1


def test_a_size_that_only_the_other_modality_has_makes_it_fusion():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[batch, 8] image, float[time, 8] text) => (float[n, 8] y)
    {
        shape = Shape (image)
        words = MatMul (text, w)
        sum = ReduceSum <keepdims=1> (words)
        spread = Expand (sum, shape)
        coded = MatMul (spread, w)
        i = MatMul (image, w)
        y = Add (coded, i)
    }
    """
    feeds = feed(image=(2, 8), text=(5, 8))
    made = check(weighted(text, w=w(8, 8)), {"image": ["image"], "text": ["text"]}, feeds)
    fusion = [node.op_type for node in made.parts[-1].model.graph]
    assert "Expand" in fusion
    assert fusion.count("MatMul") == 1


#: Ways to make a value from the sizes of ``image`` alone, whose own shape the text branch reads.
FROM_SIZES = {
    "of zeros": """
        size = Shape <end=1> (image)
        more = Constant <value_ints=[8]> ()
        target = Concat <axis=0> (size, more)
        made = ConstantOfShape (target)
        shape = Shape (made)
    """,
    "of zeros, all sizes": """
        size = Shape (image)
        made = ConstantOfShape (size)
        shape = Shape (made)
    """,
    "of indices": """
        size = Shape <end=1> (image)
        n = Squeeze (size)
        zero = Constant <value_int=0> ()
        step = Constant <value_int=1> ()
        made = Range (zero, n, step)
        count = Shape (made)
        more = Constant <value_ints=[8]> ()
        shape = Concat <axis=0> (count, more)
    """,
    "of a shape of zeros": """
        size = Shape (image)
        first = ConstantOfShape (size)
        second = Shape (first)
        made = ConstantOfShape (second)
        shape = Shape (made)
    """,
}


@pytest.mark.parametrize("how", FROM_SIZES)
@pytest.mark.parametrize("same", [True, False])
def test_the_shape_of_what_is_made_from_sizes_alone_is_followed(how, same):
    """CLIP reads the batch of a mask that was itself made from the batch of another input."""
    text = (
        (
            """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[BATCH, 8] image, float[TEXT, 8] text) => (float[n, 8] y)
    {
    """
            + FROM_SIZES[how]
            + """
        words = MatMul (text, w)
        spread = Expand (words, shape)
        coded = MatMul (spread, w)
        i = MatMul (image, w)
        y = Add (coded, i)
    }
    """
        )
        .replace("BATCH", "batch")
        .replace("TEXT", "batch" if same else "1")
    )
    for batch in (1, 3):
        feeds = feed(image=(batch, 8), text=(batch if same else 1, 8))
        made = check(weighted(text, w=w(8, 8)), {"image": ["image"], "text": ["text"]}, feeds)
        assert "image" in names(made)
        # Of one batch the text has its own encoder; else its size is the image's to tell.
        assert made.parts[-1].modality is None
        expands = sum(node.op_type == "Expand" for node in made.parts[-1].model.graph)
        assert expands == (not same)


def test_a_shape_that_fusion_takes_of_what_is_made_from_sizes_alone():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[batch, 8] image, float[batch, 8] text) => (float[n, 8] y)
    {
        size = Shape (image)
        zeros = ConstantOfShape (size)
        shape = Shape (zeros)
        words = MatMul (text, w)
        i = MatMul (image, w)
        both = Add (words, i)
        sum = ReduceSum <keepdims=1> (both)
        spread = Expand (sum, shape)
        y = Tanh (spread)
    }
    """
    for batch in (1, 3):
        feeds = feed(image=(batch, 8), text=(batch, 8))
        made = check(weighted(text, w=w(8, 8)), {"image": ["image"], "text": ["text"]}, feeds)
        assert names(made) == {"image": "image", "text": "text", "fusion": None}


def test_a_mask_crosses_before_it_is_spread():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2, 8] a, float[2, 64] b) => (float[2, 4, 64, 64] y)
    {
        p = MatMul (a, v)
        q = MatMul (b, w)
        mask = Greater (q, zero)
        wide = Cast <to=1> (mask)
        four = Unsqueeze (wide, axes)
        target = Constant <value_ints=[2, 4, 64, 64]> ()
        spread = Expand (four, target)
        one = Constant <value_ints=[2, 1, 1, 1]> ()
        p4 = Reshape (p, one)
        y = Mul (spread, p4)
    }
    """
    model = weighted(text, w=w(64, 64), v=w(8, 1), zero=np.float32([0.0]), axes=np.int64([1, 2]))
    made = check(model, {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 64)))
    # 512 bytes and not 131,072; that "mask" has 128 does not pay for two more nodes in fusion.
    assert made.parts[1].outputs == ("four",)
    assert "Expand" in [node.op_type for node in made.parts[-1].model.graph]


@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
def test_subgraphs_go_whole_into_the_stage_of_what_they_capture(op):
    bodies = {
        "If": """
            k = ReduceSum <keepdims=0> (a)
            c = Greater (k, zero)
            p = If (c) <
                then_branch = yes () => (float[2, 8] t) { t = MatMul (a, w) },
                else_branch = no () => (float[2, 8] e) { e = Neg (a) }
            >""",
        "Loop": """
            n = Constant <value_int=3> ()
            true = Constant <value=bool {1}> ()
            p = Loop (n, true, a) <
                body = step (int64 i, bool keep, float[2, 8] x) => (bool more, float[2, 8] z)
                { more = Identity (keep)  m = MatMul (x, w)  z = Tanh (m) }
            >""",
        "Scan": """
            z0 = Mul (a, zero)
            start = ReduceSum <keepdims=0> (z0, first)
            last, p = Scan <num_scan_inputs=1,
                body = step (float[8] s, float[8] x) => (float[8] s2, float[8] o)
                { s2 = Add (s, x)  o = Tanh (s2) }
            > (start, a)""",
    }
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2, 8] a, float[2, 8] b) => (float[2, 8] y)
    {{
        {bodies[op]}
        q = MatMul (b, w)
        y = Add (p, q)
    }}
    """
    model = weighted(text, w=w(8, 8), zero=np.float32(0.0), first=np.int64([0]))
    made = check(model, {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    assert names(made) == {"l": "l", "r": "r", "fusion": None}
    assert op in [node.op_type for node in made.parts[0].model.graph]


def test_a_subgraph_that_captures_two_modalities_is_fusion():
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2, 8] a, float[2, 8] b) => (float[2, 8] y)
    {
        p = MatMul (a, w)
        q = MatMul (b, w)
        k = ReduceSum <keepdims=0> (p)
        c = Greater (k, zero)
        y = If (c) <
            then_branch = yes () => (float[2, 8] t) { t = Add (p, q) },
            else_branch = no () => (float[2, 8] e) { e = Sub (q, p) }
        >
    }
    """
    model = weighted(text, w=w(8, 8), zero=np.float32(0.0))
    made = check(model, {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    assert names(made) == {"l": "l", "r": "r", "fusion": None}
    assert "If" in [node.op_type for node in made.parts[-1].model.graph]


def test_functions_are_looked_into():
    text = """
    <ir_version: 10, opset_import: ["" : 20, "own" : 1]>
    net (float[2, 8] a, float[2, 8] b) => (float[2, 8] y)
    { y = own.both (a, b, w) }
    <opset_import: ["" : 20], domain: "own">
    both (x, z, m) => (o)
    { p = MatMul (x, m)  q = MatMul (z, m)  o = Add (p, q) }
    """
    made = check(weighted(text, w=w(8, 8)), {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    assert names(made) == {"l": "l", "r": "r", "fusion": None}


def test_a_modality_named_fusion_keeps_its_name():
    made = check(two(), {"fusion": ["a"], "b": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    assert names(made) == {"fusion": "fusion", "b": "b", "fusion_": None}


def test_names_that_no_manifest_takes_are_replaced():
    model = two()
    for node in model.graph:
        if node.op_type == "MatMul":
            node.outputs[0].name += " <odd & long>" + "x" * 300
    made = check(model, {"l": ["a"], "r": ["b"]}, feed(a=(2, 8), b=(2, 8)))
    import re

    for part in made.parts:
        for name in (*part.inputs, *part.outputs):
            assert re.fullmatch(r"[A-Za-z0-9_./:-]{1,200}", name)


UNARY = ("Relu", "Tanh", "Neg", "Sigmoid", "Identity")


@st.composite
def graphs(draw):
    """Random graphs over up to four modalities of a dynamic batch, and feeds."""
    count = draw(st.integers(2, 4))
    inputs = [f"in{i}" for i in range(count)]
    values, nodes, weights = list(inputs), [], {}
    for k in range(draw(st.integers(3, 16))):
        kind = draw(st.sampled_from(["unary", "matmul", "add", "shape", "shared"]))
        source, out = draw(st.sampled_from(values)), f"v{k}"
        if kind == "unary":
            nodes.append(helper.make_node(draw(st.sampled_from(UNARY)), [source], [out]))
        elif kind in ("matmul", "shared"):
            weight = "shared" if kind == "shared" else f"w{k}"
            weights[weight] = np.random.default_rng(k).standard_normal((6, 6)).astype(np.float32)
            nodes.append(helper.make_node("MatMul", [source, weight], [out]))
        elif kind == "add":
            nodes.append(helper.make_node("Add", [source, draw(st.sampled_from(values))], [out]))
        else:  # a learned row repeated over another tensor's batch
            weights["row"] = np.ones((1, 6), np.float32)
            other = draw(st.sampled_from(values))
            nodes.append(helper.make_node("Shape", [other], [f"{out}_s"]))
            nodes.append(helper.make_node("Expand", ["row", f"{out}_s"], [f"{out}_e"]))
            nodes.append(helper.make_node("Add", [source, f"{out}_e"], [out]))
        values.append(out)
    made = [v for v in values if v not in inputs]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 6]) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 6]) for n in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    groups: dict[str, list[str]] = {}
    for name in inputs:
        groups.setdefault(draw(st.sampled_from(["m0", "m1", "m2"])), []).append(name)
    return ir.from_proto(model), groups


@given(graphs(), st.integers(1, 3), st.sampled_from([1, 100, 400]))
def test_any_graph_cut_computes_what_it_did(made, batch, least):
    model, groups = made
    feeds = {
        name: np.random.default_rng(3).standard_normal((batch, 6)).astype(np.float32)
        for names in groups.values()
        for name in names
    }
    found = check(model, groups, feeds, least_flops=least)
    # Every input goes to some stage, an encoder takes only its own, nothing is made twice.
    taken = {name for part in found.parts for name in part.inputs}
    assert set(feeds) <= taken
    given_out = [name for part in found.parts for name in part.outputs]
    assert len(given_out) == len(set(given_out))


def test_two_encoders_share_their_weights_once_on_disk(tmp_path):
    from mmedge_export.onnx_graph.graph import save

    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[2, 64] a, float[2, 64] b) => (float[2, 64] y)
    { p = MatMul (a, w)  q = MatMul (b, w)  y = Add (p, q) }
    """
    made = check(weighted(text, w=w(64, 64)), {"l": ["a"], "r": ["b"]}, feed(a=(2, 64), b=(2, 64)))
    files = save({part.name: part.model for part in made.parts}, tmp_path)
    assert files["onnx/weights.data"].stat().st_size == 64 * 64 * 4
    for name in ("l", "r"):
        assert files[f"onnx/{name}.onnx"].stat().st_size < 2000
        ort.InferenceSession(files[f"onnx/{name}.onnx"], providers=["CPUExecutionProvider"])
