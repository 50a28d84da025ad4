"""The operators that a bundle may call: the tables are those of ONNX, and each rule has its reason.

What ends the process is run in child processes, so that a rule whose reason went away with a newer
ONNX Runtime is seen too.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.bundle import Bundle
from mmedge.bundle.onnxfile import check_graph
from mmedge.bundle.operators import DOMAINS, FIRST, NEWEST, NO_INTEGERS, SAME, TYPED
from mmedge.errors import BundleError
from mmedge.spec import Dimension, Manifest, Modality, Stage, TensorSpec, Tolerance, Variant

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
INTEGERS = {"tensor(int32)", "tensor(int64)"}
#: Of strings, of pictures, and of sequences of them: nothing that a bundle's tensors can be.
LEFT_OUT = {
    "ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
    "TfIdfVectorizer", "CastMap", "CategoryMapper", "DictVectorizer", "ZipMap",
}  # fmt: skip

SCHEMAS = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain in ("", "ai.onnx.ml")]


def allowed(schema, parameter):
    types = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    return types.get(parameter.type_str, {parameter.type_str})


def test_every_operator_of_onnx_is_in_the_table_or_left_out():
    assert onnx.defs.onnx_opset_version() >= NEWEST
    for domain in ("", "ai.onnx.ml"):
        known = {s.name for s in SCHEMAS if s.domain == domain and s.since_version <= NEWEST}
        assert known - LEFT_OUT == DOMAINS[domain]


@pytest.mark.parametrize("op", sorted(op for domain, op in NO_INTEGERS if not domain))
def test_what_is_said_to_give_no_integers_gives_none(op):
    versions = [s for s in SCHEMAS if (s.domain, s.name) == ("", op)]
    assert versions
    for schema in versions:
        for output in schema.outputs:
            assert not allowed(schema, output) & INTEGERS


@pytest.mark.parametrize("op", sorted(SAME))
def test_what_is_said_to_have_the_type_of_an_input_has_it(op):
    versions = [s for s in SCHEMAS if (s.domain, s.name) == ("", op)]
    assert versions
    for schema in versions:
        for output in schema.outputs:
            same = output.type_str == schema.inputs[SAME[op]].type_str
            assert same or not allowed(schema, output) & INTEGERS


@pytest.mark.parametrize("op", sorted(FIRST))
def test_the_first_of_several_results_has_the_type_that_is_said(op):
    for schema in (s for s in SCHEMAS if (s.domain, s.name) == ("", op)):
        first, source = schema.outputs[0], FIRST[op]
        same = source is not None and first.type_str == schema.inputs[source].type_str
        assert same or not allowed(schema, first) & INTEGERS


@pytest.mark.parametrize("op", sorted(TYPED))
def test_an_attribute_that_is_said_to_hold_a_type_does(op):
    name, default = TYPED[op]
    for schema in (s for s in SCHEMAS if (s.domain, s.name) == ("", op)):
        if schema.since_version < 6 and op == "Cast":
            continue  # text; ONNX Runtime reads none
        assert schema.attributes[name].type == onnx.defs.OpSchema.AttrType.INT
        if default is not None:
            assert schema.attributes[name].default_value.i == default


def test_operators_of_onnx_runtime_give_no_integers():
    program = (
        "from onnxruntime.capi import onnxruntime_pybind11_state as state\n"
        "import sys\n"
        "wide = {'tensor(int32)', 'tensor(int64)'}\n"
        "for s in state.get_all_operator_schema():\n"
        "    if s.domain == 'com.microsoft' and s.name in sys.argv[1:]:\n"
        "        types = {c.type_param_str: set(c.allowed_type_strs) for c in s.type_constraints}\n"
        "        print(s.name)\n"
        "        for o in s.outputs:\n"
        "            assert not types.get(o.typeStr, {o.typeStr}) & wide, s.name\n"
    )
    names = DOMAINS["com.microsoft"]
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == names


def model(nodes, inputs, constants=(), outputs=("y",)):
    """Bytes of a model; ``inputs`` maps names to (type, rank, shape or None)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(name, kind, [None] * rank if type(rank) is int else rank)
            for name, (kind, rank) in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def check(data):
    return check_graph(memoryview(data), "onnx/net.onnx", {}, "x")


def run(data, tmp_path, **feeds):
    """Exit status of a child that runs a model, negative for a signal; its output in ``y.npy``."""
    (tmp_path / "m.onnx").write_bytes(data)
    np.savez(tmp_path / "feeds.npz", **feeds)
    program = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "session = ort.InferenceSession('m.onnx', providers=['CPUExecutionProvider'])\n"
        "np.save('y.npy', session.run(['y'], dict(np.load('feeds.npz')))[0])\n"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=tmp_path, capture_output=True).returncode


node = helper.make_node
ZERO = np.zeros(0, np.float32)

#: Name -> nodes, inputs (type, rank), constants, what is fed, words of the refusal.
FATAL = {
    "smallest integer by -1": (
        [node("Div", ["a", "b"], ["y"])],
        {"a": (INT64, 1), "b": (INT64, 1)},
        {},
        {"a": np.array([-(2**63)]), "b": np.array([-1])},
        "integer division",
    ),
    "smallest int32 by a constant -1": (
        [node("Div", ["a", "b"], ["y"])],
        {"a": (INT32, 1)},
        {"b": np.array([-1], np.int32)},
        {"a": np.array([-(2**31)], np.int32)},
        "integer division",
    ),
    "division of what was cast": (
        [node("Cast", ["a"], ["i"], to=INT64), node("Neg", ["c"], ["b"]),
         node("Identity", ["b"], ["d"]), node("Div", ["i", "d"], ["y"])],
        {"a": (FLOAT, 1), "c": (INT64, 1)},
        {},
        {"a": np.array([-1e30], np.float32), "c": np.array([1])},
        "integer division",
    ),
    "GatherND with negative batch_dims": (
        [node("GatherND", ["a", "i"], ["y"], batch_dims=-3)],
        {"a": (FLOAT, 3), "i": (INT64, 2)},
        {},
        {"a": np.zeros((2, 3, 4), np.float32), "i": np.zeros((2, 1), np.int64)},
        "attribute 'batch_dims' of less than 0",
    ),
    "Unique along an axis of nothing": (
        [node("Unique", ["a"], ["y"], axis=0)],
        {"a": (FLOAT, 2)},
        {},
        {"a": np.zeros((3, 0), np.float32)},
        "attribute 'axis'",
    ),
    "DFT of a scalar": (
        [node("DFT", ["a"], ["y"])],
        {"a": (FLOAT, None)},
        {},
        {"a": np.float32(1)},
        "input 0 may be a scalar",
    ),
    "STFT of empty frames": (
        [node("STFT", ["a", "step", "window"], ["y"])],
        {"a": (FLOAT, 3)},
        {"step": np.int64(1), "window": ZERO},
        {"a": np.zeros((1, 0, 1), np.float32)},
        "frames without step or length",
    ),
    "QLinearSigmoid": (
        [node("QLinearSigmoid", ["a", "s", "z", "s"], ["y"], domain="com.microsoft")],
        {"a": (TensorProto.INT8, 1)},
        {"s": np.ones((2, 2), np.float32), "z": np.zeros((), np.int8)},
        {"a": np.zeros(2, np.int8)},
        "'QLinearSigmoid' of domain 'com.microsoft' is not known",
    ),
    "heads that are cut to 32 bits": (
        [node("GroupQueryAttention", ["q", "k", "k", "", "", "l", "t"], ["y", "p", "r"],
              domain="com.microsoft", num_heads=4, kv_num_heads=2**32)],
        {"q": (FLOAT, 3), "k": (FLOAT, 3), "l": (INT32, 1), "t": (INT32, 0)},
        {},
        {"q": np.zeros((1, 1, 32), np.float32), "k": np.zeros((1, 1, 16), np.float32),
         "l": np.zeros(1, np.int32), "t": np.int32(1)},
        "attribute 'kv_num_heads' beyond 32 bits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FATAL)
def test_what_ends_the_process_is_refused(name, tmp_path):
    nodes, inputs, constants, feeds, words = FATAL[name]
    data = model(nodes, inputs, constants.items())
    assert run(data, tmp_path, **feeds) < 0, "ONNX Runtime runs it: is the rule still needed?"
    with pytest.raises(BundleError, match=words):
        check(data)


ROW = np.zeros((1, 4, 1), np.float32)
#: What ends the process on a tensor of nothing: nodes, constants, shape of nothing.
EMPTY = {
    "ConvTranspose": (
        [node("ConvTranspose", ["x", "w"], ["y"])],
        {"w": np.ones((1, 1, 3, 3, 3), np.float32)},
        (1, 1, 0, 4, 4),
    ),
    "GRU": (
        [node("GRU", ["x", "w", "r"], ["y"], hidden_size=1)],
        {"w": ROW[:, :3], "r": ROW[:, :3]},
        (0, 2, 1),
    ),
    "LSTM": (
        [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=1)],
        {"w": ROW, "r": ROW},
        (2, 0, 1),
    ),
}


@pytest.mark.parametrize("op", EMPTY)
def test_a_dimension_of_nothing_is_refused_where_it_ends_the_process(op, tmp_path):
    nodes, constants, shape = EMPTY[op]
    data = model(nodes, {"x": (FLOAT, len(shape))}, constants.items())
    assert run(data, tmp_path, x=np.zeros(shape, np.float32)) < 0, "is the rule still needed?"
    assert check(data).needs_elements == (op,)
    axes = tuple("n" if size == 0 else size for size in shape)
    x = TensorSpec("x", "float32", axes)
    y = TensorSpec("y", "float32", tuple(f"y{i}" for i in range({"GRU": 4, "LSTM": 4}.get(op, 5))))
    sizes = {name: Dimension(0, 1) for name in y.shape}

    def write(least):
        manifest = Manifest(
            "empty",
            (Modality("x", ("x",)),),
            (Stage("net", "net.onnx", (x,), (y,)),),
            ("y",),
            (Variant("ort", "fp32", "cpu", {"net": "net.onnx"}, Tolerance(0, 0)),),
            {},
            dimensions={**sizes, "n": Dimension(least, 1)},
        )
        Bundle.write(tmp_path / f"b{least}", manifest, {"net.onnx": data}).close()

    with pytest.raises(BundleError, match=f"dimension 'n' may be 0, and {op} ends the process"):
        write(0)
    write(1)


@pytest.mark.parametrize("step", [None, 0, -1])
def test_frames_have_a_step(step):
    constants = {"window": np.ones(4, np.float32)} | ({} if step is None else {"s": np.int64(step)})
    inputs = {"a": (FLOAT, (1, 16, 1))} | ({"s": (INT64, 0)} if step is None else {})
    data = model([node("STFT", ["a", "s", "window"], ["y"])], inputs, constants.items())
    with pytest.raises(BundleError, match="frames is not constant|frames without step"):
        check(data)


def test_a_division_in_a_branch_is_refused():
    inner = [node("Div", ["a", "b"], ["q"])]
    out = [helper.make_empty_tensor_value_info("q")]
    body = helper.make_graph(inner, "body", [], out)
    nodes = [node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
    inputs = {"a": (INT64, 1), "b": (INT64, 1), "c": (TensorProto.BOOL, 0)}
    with pytest.raises(BundleError, match="integer division"):
        check(model(nodes, inputs))


SAFE = {
    "floats": ([node("Div", ["f", "g"], ["y"])], {}),
    "floats after a branch of operators": (
        [node("Softmax", ["f"], ["s"]), node("Transpose", ["s"], ["t"]),
         node("Sqrt", ["a_like"], ["r"]), node("Div", ["t", "r"], ["y"])],
        {},
    ),
    "weights of experts": (
        [node("Softmax", ["f"], ["s"]), node("TopK", ["s", "three"], ["w", "at"]),
         node("ReduceSum", ["w", "last"], ["sum"]), node("Div", ["w", "sum"], ["y"])],
        {"three": np.array([3]), "last": np.array([-1])},
    ),
    "by a constant": ([node("Div", ["a", "two"], ["y"])], {"two": np.array(2)}),
    "of a constant": ([node("Div", ["ten", "a"], ["y"])], {"ten": np.array([10, -3])}),
    "of what is cast to float": (
        [node("Cast", ["a"], ["x"], to=FLOAT), node("Cast", ["b"], ["z"], to=FLOAT),
         node("Div", ["x", "z"], ["y"])],
        {},
    ),
    "by a node's constant": (
        [node("Constant", [], ["k"], value_int=-2), node("Div", ["a", "k"], ["y"])], {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAFE)
def test_a_division_that_is_harmless_is_taken(name):
    nodes, constants = SAFE[name]
    inputs = {"a": (INT64, 1), "b": (INT64, 1)}
    inputs |= {"f": (FLOAT, 2), "g": (FLOAT, 2), "a_like": (FLOAT, 2)}
    check(model(nodes, inputs, constants.items()))


def test_results_of_a_function_have_the_types_of_where_it_is_called():
    imports = [helper.make_opsetid("", 20)]
    body = [node("Softmax", ["p"], ["s"]), node("MatMul", ["s", "v"], ["r"])]
    nodes = [
        node("F", ["f", "g"], ["t"], domain="mmedge"),
        node("ReduceMax", ["t"], ["most"], keepdims=0),
        node("Div", ["t", "most"], ["y"]),
    ]
    parsed = onnx.load_model_from_string(model(nodes, {"f": (FLOAT, 2), "g": (FLOAT, 2)}))
    parsed.functions.append(helper.make_function("mmedge", "F", ["p", "v"], ["r"], body, imports))
    check(parsed.SerializeToString())
    for kept in parsed.functions[0].node:
        kept.op_type = "MatMul"
        kept.input[:] = ["p", "v"]
    parsed.functions[0].node[1].input[0] = "s"
    parsed.graph.input[0].type.tensor_type.elem_type = INT64
    parsed.graph.input[1].type.tensor_type.elem_type = INT64
    with pytest.raises(BundleError, match="integer division"):
        check(parsed.SerializeToString())


@pytest.mark.parametrize("rounding", [{}, {"fmod": 0}, {"fmod": 1}], ids=str)
def test_a_remainder_is_as_dangerous(rounding):
    data = model([node("Mod", ["a", "b"], ["y"], **rounding)], {"a": (INT64, 1), "b": (INT64, 1)})
    if rounding.get("fmod") == 1:
        check(data)
        return
    with pytest.raises(BundleError, match="integer division"):  # until ONNX Runtime 1.31
        check(data)


def guarded(minus=-1, one=1, other="b", op="Equal"):
    return [
        node(op, ["b", "minus"], ["is"]),
        node("Where", ["is", "one", other], ["safe"]),
        node("Div", ["a", "safe"], ["y"]),
    ], {"minus": np.array(minus), "one": np.array(one)}


def test_a_guard_is_recognised():
    nodes, constants = guarded()
    check(model(nodes, {"a": (INT64, 1), "b": (INT64, 1)}, constants.items()))


@pytest.mark.parametrize(
    "change", [{"minus": -2}, {"one": -1}, {"other": "a"}, {"op": "Less"}], ids=str
)
def test_what_only_looks_like_a_guard_is_not(change):
    nodes, constants = guarded(**change)
    with pytest.raises(BundleError, match="integer division"):
        check(model(nodes, {"a": (INT64, 1), "b": (INT64, 1)}, constants.items()))


def test_a_guard_of_another_tensor_is_none():
    nodes, constants = guarded()
    nodes[2].input[1] = "b"
    with pytest.raises(BundleError, match="integer division"):
        check(model(nodes, {"a": (INT64, 1), "b": (INT64, 1)}, constants.items()))


def test_a_constant_is_read_as_protobuf_reads_it():
    """An int32 may stand as a varint of more bits: 2**32 - 1 is -1."""
    tensor = TensorProto(name="b", data_type=INT32, dims=[1], int32_data=[-1])
    data = model([node("Div", ["a", "b"], ["y"])], {"a": (INT32, 1)})
    parsed = onnx.load_model_from_string(data)
    parsed.graph.initializer.append(tensor)
    sent = parsed.SerializeToString()
    minus_one = b"\xff" * 9 + b"\x01"
    assert minus_one in sent
    # Ten bytes become five: lengths of the tensor, the graph and the packed field shrink by five.
    wire = sent.replace(minus_one, b"\xff\xff\xff\xff\x0f")
    for before, after in ((b"\x2a\x0a\xff", b"\x2a\x05\xff"),):
        wire = wire.replace(before, after)
    wire = _shrunk(wire, sent, tensor)
    assert onnx.load_model_from_string(wire).graph.initializer[0].int32_data[0] == -1
    with pytest.raises(BundleError, match="integer division"):
        check(wire)


def _shrunk(wire, sent, tensor):
    """``wire`` with the lengths of the tensor and the graph five less than in ``sent``."""
    size = tensor.ByteSize()
    graph = onnx.load_model_from_string(sent).graph.ByteSize()
    for number, length in ((5, size), (7, graph)):
        tag = bytes([number << 3 | 2])
        assert tag + _varint(length) in wire
        wire = wire.replace(tag + _varint(length), tag + _varint(length - 5), 1)
    return wire


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_a_constant_of_two_values_is_refused():
    two = node("Constant", [], ["b"], value_int=1, value=numpy_helper.from_array(np.array(-1)))
    with pytest.raises(BundleError, match="2 values"):
        check(model([two, node("Div", ["a", "b"], ["y"])], {"a": (INT64, 1)}))


def test_a_constant_among_others_in_its_attribute_is_not_taken():
    constant = node("Constant", [], ["b"], value=numpy_helper.from_array(np.array(-1)))
    constant.attribute[0].tensors.append(numpy_helper.from_array(np.array(1)))
    with pytest.raises(BundleError, match="integer division"):
        check(model([constant, node("Div", ["a", "b"], ["y"])], {"a": (INT64, 1)}))


def test_a_name_that_a_body_makes_later_is_not_the_one_around_it():
    body = helper.make_graph(
        [node("Div", ["a", "b"], ["q"]), node("Neg", ["a"], ["b"])],
        "body",
        [],
        [helper.make_empty_tensor_value_info("q")],
    )
    nodes = [node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
    inputs = {"a": (INT64, 1), "c": (TensorProto.BOOL, 0)}
    with pytest.raises(BundleError, match="integer division"):
        check(model(nodes, inputs, [("b", np.array(2))]))


COSTLY = {
    "ConstantOfShape": ([node("ConstantOfShape", ["n"], ["y"])], np.array([1 << 31])),
    "Expand": ([node("Expand", ["f", "n"], ["y"])], np.array([1 << 15, 1 << 15])),
    "Tile": ([node("Tile", ["f", "n"], ["y"])], np.array([1 << 15, 1 << 15])),
    "Range": ([node("Range", ["zero", "n", "one"], ["y"])], np.array(1 << 40)),
    "OneHot": ([node("OneHot", ["i", "n", "pair"], ["y"])], np.array(1 << 40)),
    "Pad": ([node("Pad", ["f", "n"], ["y"])], np.array([1 << 40, 0, 0, 0])),
    "HannWindow": ([node("HannWindow", ["n"], ["y"])], np.array(1 << 40)),
    "Resize": ([node("Resize", ["f", "", "", "n"], ["y"])], np.array([1 << 20, 1 << 20])),
    "RandomNormal": ([node("RandomNormal", [], ["y"], shape=[1 << 20, 1 << 20])], np.array(0)),
    "LpPool": ([node("LpPool", ["f"], ["y"], kernel_shape=[1 << 30, 2])], np.array(0)),
}


@pytest.mark.parametrize("name", COSTLY)
def test_constants_that_ask_for_too_much_are_refused(name):
    nodes, size = COSTLY[name]
    constants = {"n": size, "zero": np.array(0), "one": np.array(1), "pair": np.zeros(2)}
    with pytest.raises(BundleError, match=r"asks for \d+ elements|a kernel of size"):
        check(model(nodes, {"f": (FLOAT, 2), "i": (INT64, 1)}, constants.items()))


def test_functions_are_counted_where_they_are_called():
    imports = [helper.make_opsetid("", 20)]
    body = [node("Relu", ["x"], ["t0"])]
    body += [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(999)]
    data = model(
        [node("F", ["f"], [f"y{i}"], domain="mmedge") for i in range(1000)],
        {"f": (FLOAT, 1)},
        outputs=["y0"],
    )
    parsed = onnx.load_model_from_string(data)
    parsed.functions.append(helper.make_function("mmedge", "F", ["x"], ["t999"], body, imports))
    with pytest.raises(BundleError, match="more than 100000 nodes with the bodies of functions"):
        check(parsed.SerializeToString())


def test_calls_of_a_function_in_many_ways_cost_no_more_than_its_nodes_written_out():
    """Types are followed through a body for each way in which it is called."""
    imports = [helper.make_opsetid("", 20)]
    names = [f"x{i}" for i in range(12)]
    body = [node("Identity", ["x0"], ["t0"])]
    body += [node("Identity", [f"t{i}"], [f"t{i + 1}"]) for i in range(19_999)]
    calls = []
    for way in range(4096):
        inputs = ["i" if way >> bit & 1 else "f" for bit in range(12)]
        calls.append(node("F", inputs, [f"y{way}"], domain="mmedge"))
    data = model(calls, {"f": (FLOAT, 1), "i": (INT64, 1)}, outputs=["y0"])
    parsed = onnx.load_model_from_string(data)
    parsed.functions.append(helper.make_function("mmedge", "F", names, ["t19999"], body, imports))
    begin = time.process_time()
    with pytest.raises(BundleError, match="more than 100000 nodes with the bodies of functions"):
        check(parsed.SerializeToString())
    assert time.process_time() - begin < 10


def test_a_newer_version_of_the_operators_is_refused():
    parsed = onnx.load_model_from_string(model([node("Relu", ["f"], ["y"])], {"f": (FLOAT, 1)}))
    parsed.opset_import[0].version = NEWEST + 1
    with pytest.raises(BundleError, match=f"version {NEWEST + 1}.*upgrade mmedge"):
        check(parsed.SerializeToString())
