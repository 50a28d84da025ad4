"""Q/DQ graphs: what they compute in ONNX Runtime, and what TensorRT-RTX makes of them."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from engine_net import _stage, graph
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.errors import BackendError, ExportError
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.targets.tensorrt.qdq import LARGEST, find_nodes, prepare_model, write_qdq
from mmedge_export.targets.tensorrt.quantizer import open_graph

NET = """net (float[batch,3,8,8] x) => (float[batch,4] y) {
  [conv] c = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x, w_conv, b_conv)
  [relu] r = Relu(c)
  [flat] f = Reshape(r, to_tokens)
  [turn] t = Transpose<perm=[0,2,1]>(f)
  [query] q = MatMul(t, w_query)
  [key] k = MatMul(t, w_key)
  [turn_key] kt = Transpose<perm=[0,2,1]>(k)
  [scores] s = MatMul(q, kt)
  [softmax] p = Softmax<axis=-1>(s)
  [mix] v = MatMul(p, t)
  [pool] o = ReduceMean<keepdims=0>(v, one)
  [head] y = Gemm<transB=1>(o, w_head, b_head)
}"""


@dataclass
class Written:
    """A Q/DQ graph, the products that are in 8 bits, and why others are not."""

    file: Path
    quantized: tuple[str, ...]
    excluded: dict[str, str]


def quantize(source, path, ranges, *, precision, keep=()):
    """Every product that can be in 8 bits, but those of ``keep``."""
    nodes, excluded = find_nodes(prepare_model(ir.load(source)), precision, ranges)
    names = tuple(node.node for node in nodes if node.node not in keep)
    write_qdq(source, path, names, ranges, precision=precision)
    return Written(path, names, excluded)


def activations(file):
    """Tensors whose ranges int8 asks for."""
    nodes, _ = find_nodes(prepare_model(ir.load(file)), "int8")
    return tuple(dict.fromkeys(name for node in nodes for name in node.ranged))


def emulate(file):
    return open_graph(file, None, alone=True)


def normal(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])  # whichever tests run before
    return (rng.standard_normal(shape) * np.prod(shape[1:]) ** -0.5).astype(np.float32)


def weights():
    return {
        "w_conv": normal(16, 3, 3, 3),
        "b_conv": normal(16),
        "to_tokens": np.array([0, 16, 64]),
        "w_query": normal(16, 16),
        "w_key": normal(16, 16, seed=1),
        "one": np.array([1]),
        "w_head": normal(4, 16),
        "b_head": normal(4),
    }


def save(path, model):
    onnx.save(model, path)
    return path


def observe(file, names, feeds):
    """(lowest, highest) of tensors of a graph."""
    model = onnx.load(file)
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in feeds)
    probe = save(file.with_name("probe.onnx"), model)
    found = Runner(probe, [n for n in names if n not in feeds] or None)(feeds) | feeds
    return {name: (float(found[name].min()), float(found[name].max())) for name in names}


def snr(got, wanted):
    """Signal to noise in dB."""
    return 10 * np.log10(np.square(wanted).sum() / np.square(got - wanted).sum())


def program(engine):
    """Layer name -> dtypes of the first two inputs, of the products in an engine's program."""
    text = "\n".join(found.decode() for found in re.findall(rb"[ -~\n]{40,}", engine))
    types = dict(re.findall(r'tensor=\{[^\n]* name="([^"]+)"[^\n]* type=(\w+) \}', text))
    products = re.findall(
        r'(?:fully_connected|corrltn|deconvolution)=\{ name="([^"]+)"[^\n]*? input=\{([^}]*)\}',
        text,
    )
    return {n: [types[i] for i in re.findall(r'"([^"]+)"', inputs)[:2]] for n, inputs in products}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """The network's file, feeds, and ranges of all that int8 asks for."""
    file = save(tmp_path_factory.mktemp("net") / "net.onnx", graph(NET, **weights()))
    feeds = {"x": normal(2, 3, 8, 8) * 10}
    return file, feeds, observe(file, activations(file), feeds)


def test_every_product_is_quantised_and_near(net, tmp_path):
    file, feeds, ranges = net
    assert list(ranges) == ["x", "t", "q", "kt", "p", "o"]
    wanted = Runner(file)(feeds)["y"]
    made = quantize(file, tmp_path / "int8.onnx", ranges, precision="int8")
    assert made.quantized == ("conv", "query", "key", "scores", "mix", "head")
    assert not made.excluded
    assert 35 < snr(emulate(made.file)(feeds)["y"], wanted) < 60
    made = quantize(file, tmp_path / "fp8.onnx", ranges, precision="fp8")
    assert made.quantized == ("query", "key", "scores", "mix", "head")
    assert made.excluded == {"conv": "TensorRT documents fp8 for matrix products only"}
    assert 25 < snr(emulate(made.file)(feeds)["y"], wanted) < 60


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_the_graph_is_typed_and_biases_stay_float32(net, tmp_path, precision):
    file, _, ranges = net
    made = quantize(file, tmp_path / "q.onnx", ranges, precision=precision)
    model = onnx.shape_inference.infer_shapes(onnx.load(made.file), strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    narrow = onnx.TensorProto.INT8 if precision == "int8" else onnx.TensorProto.FLOAT8E4M3FN
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert types[node.output[0]] == narrow
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    assert stored["b_conv"].data_type == stored["b_head"].data_type == onnx.TensorProto.FLOAT
    assert stored[f"w_query_{precision}_1"].data_type == narrow
    assert stored[f"w_query_{precision}_1_scale"].dims == [16]
    assert stored[f"w_head_{precision}_0_scale"].dims == [4]  # transB: rows are output channels
    assert "w_query" not in stored
    assert stored["x_int8_scale" if precision == "int8" else "t_fp8_scale"].dims == []


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 12)),
    spread=st.sampled_from([1e-6, 1.0, 1e6]),
    clip=st.sampled_from([0.3, 1.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_a_linear_is_the_integer_product(sizes, spread, clip, seed):
    m, k, n = sizes
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((m, k)) * spread).astype(np.float32)
    w = (rng.standard_normal((k, n)) * 10.0 ** rng.integers(-3, 4, n)).astype(np.float32)
    w[:, 0] = 0  # a dead channel
    low, high = clip * float(x.min()), clip * float(x.max())
    text = f"net (float[{m},{k}] x) => (float[{m},{n}] y) {{ [mul] y = MatMul(x, w) }}"
    with tempfile.TemporaryDirectory() as folder:
        file = save(Path(folder) / "net.onnx", graph(text, w=w))
        target = Path(folder) / "int8.onnx"
        made = quantize(file, target, {"x": (low, high)}, precision="int8")
        assert made.quantized == ("mul",)
        got = emulate(made.file)({"x": x})["y"]
    x_scale = np.float32(max(abs(low), abs(high)) / 127)
    w_scale = (np.abs(w).max(axis=0) / 127).astype(np.float32)
    w_scale[w_scale == 0] = 1
    x_int = np.clip(np.rint(x / x_scale), -128, 127).astype(np.int64)
    w_int = np.clip(np.rint(w / w_scale), -127, 127).astype(np.int64)
    assert x_int.any()
    wanted = (x_int @ w_int) * x_scale.astype(np.float64) * w_scale
    # Float32 sums of k terms of at most 128 * 127 steps each.
    assert (np.abs(got - wanted) <= 1e-6 * k * 128 * 127 * x_scale * w_scale).all()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_stored_in_a_quarter_of_the_bytes(tmp_path, precision):
    text = """net (float[batch,512] x) => (float[batch,512] y) {
      [one] a = MatMul(x, w1)
      [relu] b = Relu(a)
      [two] y = Gemm<transB=1>(b, w2, bias)
    }"""
    model = graph(text, w1=normal(512, 512), w2=normal(512, 512, seed=1), bias=normal(512))
    file = save(tmp_path / "net.onnx", model)
    made = quantize(file, tmp_path / "q.onnx", {"x": (-3, 3), "b": (0, 2)}, precision=precision)
    size = sum(part.stat().st_size for part in tmp_path.glob("q.onnx*"))
    assert made.quantized == ("one", "two")
    assert size <= 0.27 * file.stat().st_size


def test_what_stays_float32_has_a_reason(tmp_path):
    text = """net (float[4,8] x, float[8,8] given, float16[4,8] half, bool pick)
      => (float[4,8] y, float16[4,8] h, float[1,4,9] d, float[8,8] c, float[4,8] i) {
      [unseen] a = MatMul(x, w)
      [zero] b = MatMul(a, w)
      [kept] e = MatMul(x, w)
      [wild] f = MatMul(x, w_nan)
      [vector] v = MatMul(x, w_vector)
      [both] c = MatMul(w, w)
      [halves] h = MatMul(half, w_half)
      [up] u = Unsqueeze(x, first)
      [turn] t0 = Transpose<perm=[0,2,1]>(u)
      [deconv] d = ConvTranspose(t0, w_up)
      [pair] g = MatMul(x, given)
      [sum] y = Add(b, g)
      [branch] i = If(pick) <
        then_branch = then () => (float[4,8] t) { [inner] t = MatMul(x, w) },
        else_branch = other () => (float[4,8] o) { o = Identity(x) }
      >
    }"""
    nan = normal(8, 8)
    nan[2, 3] = np.nan
    model = graph(
        text,
        w=normal(8, 8),
        w_nan=nan,
        w_vector=normal(8),
        w_half=normal(8, 8).astype(np.float16),
        w_up=normal(8, 4, 6),
        first=np.array([0]),
    )
    made = quantize(
        save(tmp_path / "net.onnx", model),
        tmp_path / "q.onnx",
        {"x": (-1, 2), "a": (0, 0)},
        precision="int8",
        keep=["kept"],
    )
    assert made.excluded == {
        "zero": "range of 'a' is 0 to 0: there is no scale for it",
        "wild": "weights 'w_nan' are not finite",
        "vector": "input 1 is a constant vector",
        "both": "both factors are constant",
        "halves": "input 0 is not float32",
        "deconv": "ConvTranspose is not quantised",
        "pair": "no range of 'given'",
        "inner": "it is inside a subgraph",
    }
    assert made.quantized == ("unseen",)


def test_a_tensor_is_quantised_once_and_its_other_readers_keep_it(tmp_path):
    text = """net (float[4,8] x, int64[4] ids) => (float[4,8] y) {
      [first] a = MatMul(x, table)
      [second] b = MatMul(x, w)
      [embed] c = Gather<axis=0>(table, ids)
      [add] d = Add(a, b)
      [add2] y = Sum(d, c, x)
    }"""
    table, w = normal(8, 8), normal(8, 8, seed=1)
    file = save(tmp_path / "net.onnx", graph(text, table=table, w=w))
    made = quantize(file, tmp_path / "q.onnx", {"x": (-1, 1)}, precision="int8")
    model = onnx.load(made.file)
    readers = [(node.name, node.op_type) for node in model.graph.node if "x" in node.input]
    assert readers == [("QuantizeLinear_x_int8", "QuantizeLinear"), ("add2", "Sum")]
    assert [n.op_type for n in model.graph.node].count("DequantizeLinear") == 3
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored["table"]), table)
    # All but x's steps of 1/127 and the weights' is exact: 0 in, the embedding out.
    feeds = {"x": np.zeros((4, 8), np.float32), "ids": np.arange(4)}
    np.testing.assert_array_equal(emulate(made.file)(feeds)["y"], table[:4])


PACKED = """net (float[batch,6,16] x) => (float[batch,6,16] y) {
  [pack] c = MatMul(x, w)
  [bias] e = Add(c, b)
  [split] q, k, v = Split<axis=-1,num_outputs=3>(e)
  [heads_q] q1 = Reshape(q, heads)
  [turn_q] q2 = Transpose<perm=[0,2,1,3]>(q1)
  [heads_k] k1 = Reshape(k, heads)
  [turn_k] k2 = Transpose<perm=[0,2,3,1]>(k1)
  [scores] s = MatMul(q2, k2)
  [softmax] p = Softmax<axis=-1>(s)
  [heads_v] v1 = Reshape(v, heads)
  [turn_v] v2 = Transpose<perm=[0,2,1,3]>(v1)
  [mix] o = MatMul(p, v2)
  [back] o1 = Transpose<perm=[0,2,1,3]>(o)
  [join] o2 = Reshape(o1, whole)
  [turned] wt = Transpose(w_out)
  [out] y = MatMul(o2, wt)
}"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    model = graph(
        PACKED,
        w=normal(16, 48),
        b=normal(48),
        heads=np.array([0, 0, 2, 8]),
        whole=np.array([0, 0, 16]),
        w_out=normal(16, 16),
    )
    return save(tmp_path_factory.mktemp("packed") / "net.onnx", model)


def test_a_packed_projection_is_written_as_one_product_for_each_part(packed, tmp_path):
    assert activations(packed) == ("x", "q2", "k2", "p", "v2", "o2")
    feeds = {"x": normal(3, 6, 16) * 5}
    ranges = observe(packed, ["x", "o2"], feeds)
    made = quantize(packed, tmp_path / "q.onnx", ranges, precision="int8")
    assert made.quantized == ("pack", "out")  # named as in the source
    names = [node.name for node in onnx.load(made.file).graph.node]
    assert {"pack_part0", "pack_part1", "pack_part2", "out"} <= set(names)
    assert not {"pack", "bias", "split", "turned"} & set(names)
    assert snr(emulate(made.file)(feeds)["y"], Runner(packed)(feeds)["y"]) > 30
    # The parts hold the same integers and scales as the whole would.
    parts = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(made.file).graph.initializer}
    scales = [parts[f"w_pack_part{i}_int8_1_scale"] for i in range(3)]
    np.testing.assert_array_equal(
        np.concatenate(scales), (np.abs(normal(16, 48)).max(axis=0) / 127).astype(np.float32)
    )
    whole = quantize(packed, tmp_path / "k.onnx", ranges, precision="int8", keep=["pack"])
    assert "split" in [node.name for node in onnx.load(whole.file).graph.node]


def test_tensorrt_rtx_multiplies_a_packed_projection_in_8_bits(packed, tmp_path, builder_of):
    """As one product again, which it computes in float32 when it is given as one."""
    from mmedge_export.targets.tensorrt.profiles import ProfileSizes

    made = quantize(packed, tmp_path / "q.onnx", {"x": (-5, 5), "o2": (-5, 5)}, precision="int8")
    stage = _stage("net", onnx.load(packed))
    found = program(builder_of("sm_89").build(made.file, stage, {"batch": ProfileSizes(1, 2, 4)}))
    assert len(found) == 4
    assert sorted(types[0] for types in found.values()) == ["float", "float", "int8", "int8"]
    assert found["out"] == ["int8", "int8"]


def test_functions_are_inlined_and_uint8_is_cast_before_it_is_moved(tmp_path):
    model = graph(
        """net (uint8[4,8] x) => (float[8,4] y) {
          [turn] t = Transpose<perm=[1,0]>(x)
          [widen] f = Cast<to=1>(t)
          [call] y = mmedge.linear(f, w)
        }""",
        w=normal(4, 4),
    )
    body = onnx.parser.parse_function(
        '<opset_import: ["" : 20], domain: "mmedge"> linear (a, b) => (c) { c = MatMul(a, b) }'
    )
    model.functions.append(body)
    model.opset_import.append(onnx.helper.make_opsetid("mmedge", 1))
    file = save(tmp_path / "net.onnx", model)
    assert activations(file) == ("f",)
    made = quantize(file, tmp_path / "q.onnx", {"f": (0, 255)}, precision="int8")
    assert len(made.quantized) == 1
    written = onnx.load(made.file)
    assert not written.functions
    assert written.graph.node[0].op_type == "Cast"
    x = np.random.default_rng(0).integers(0, 256, (4, 8), np.uint8)
    assert snr(emulate(made.file)({"x": x})["y"], Runner(file)({"x": x})["y"]) > 30


def test_what_cannot_be_written_is_refused(net, tmp_path):
    file, _, ranges = net

    def write(source=file, ranges=ranges, precision="int8", names=("query",)):
        write_qdq(source, tmp_path / "q.onnx", names, ranges, precision=precision)

    with pytest.raises(ExportError, match=r"there is no node 'no such'"):
        write(names=["conv", "no such"])
    with pytest.raises(ExportError, match=r"node 'conv' cannot be in fp8: TensorRT documents fp8"):
        write(names=["conv"], precision="fp8")
    for low, high in ((np.nan, 1), (0, np.inf), (1, 0)):
        with pytest.raises(ExportError, match=r"range of 't'.*two finite numbers"):
            write(ranges=ranges | {"t": (low, high)})
    with pytest.raises(ExportError, match="name another file"):
        write_qdq(file, file, ["query"], ranges, precision="int8")
    quantised = quantize(file, tmp_path / "first.onnx", ranges, precision="int8").file
    with pytest.raises(ExportError, match="quantised already; take the float32 graph"):
        write(source=quantised)
    old = onnx.load(file)
    old.opset_import[0].version = 17
    old = save(tmp_path / "old.onnx", old)
    with pytest.raises(ExportError, match="fp8 needs opset 18 or later, the graph has 17"):
        write(source=old, precision="fp8")
    assert onnx.load(file).opset_import[0].version == 20


def test_opset_18_may_be_called_19(tmp_path):
    """Whatever changed with 19 takes a node of 18 as it is."""
    changed = [s for s in onnx.defs.get_all_schemas_with_history()
               if s.domain == "" and s.since_version == 19]  # fmt: skip
    names = {schema.name for schema in changed}
    assert {"Cast", "Reshape", "Resize", "Pad", "Identity"} <= names
    for new in changed:
        if not onnx.defs.has(new.name, 18):
            continue
        old = onnx.defs.get_schema(new.name, 18)
        inputs, outputs = len(old.inputs), len(old.outputs)
        assert [i.name for i in new.inputs][:inputs] == [i.name for i in old.inputs], new.name
        assert [i.name for i in new.outputs][:outputs] == [i.name for i in old.outputs], new.name
        assert old.attributes.keys() <= new.attributes.keys(), new.name
        added = new.attributes.keys() - old.attributes.keys()
        assert not any(new.attributes[name].required for name in added), new.name
        for name, attribute in old.attributes.items():
            assert attribute.default_value == new.attributes[name].default_value, (new.name, name)
    model = graph("net (float[4,8] x) => (float[4,8] y) { y = MatMul(x, w) }", w=normal(8, 8))
    model.opset_import[0].version, model.ir_version = 18, 8
    file = save(tmp_path / "net.onnx", model)
    for precision, wanted in (("int8", (18, 8)), ("fp8", (19, 9))):
        made = quantize(file, tmp_path / f"{precision}.onnx", {"x": (-1, 1)}, precision=precision)
        written = onnx.load(made.file)
        assert (written.opset_import[0].version, written.ir_version) >= wanted
        assert written.opset_import[0].version == wanted[0]
        assert emulate(made.file)({"x": np.ones((4, 8), np.float32)})["y"].shape == (4, 8)


def test_fp8_steps_and_saturates_as_its_definition_says(tmp_path):
    eye = np.eye(5, dtype=np.float32) * np.float32(448)  # a scale of 1, and 448 is exact
    file = save(
        tmp_path / "net.onnx",
        graph("net (float[1,5] x) => (float[1,5] y) { y = MatMul(x, w) }", w=eye),
    )
    made = quantize(file, tmp_path / "q.onnx", {"x": (-448, 100)}, precision="fp8")
    x = np.array([[17, 19, 500, -1e6, 2.0**-9]], np.float32)  # 4 significant bits; 2**-9 the least
    got = emulate(made.file)({"x": x})["y"] / np.float32(448)
    np.testing.assert_array_equal(got, [[16, 20, 448, -448, 2.0**-9]])


@pytest.fixture(scope="module")
def builder_of():
    pytest.importorskip("tensorrt_rtx", reason="pip install 'mmedge[rtx]'")
    from mmedge_export.targets.tensorrt.engine_builder import EngineBuilder

    return lambda target: EngineBuilder("tensorrt_rtx", target)


@pytest.mark.parametrize("target", ["sm_89", "sm_120"])
@pytest.mark.parametrize(("precision", "dtype"), [("int8", "int8"), ("fp8", "fp8_e4m3")])
def test_tensorrt_rtx_multiplies_in_8_bits(net, tmp_path, builder_of, target, precision, dtype):
    """As far as it can be seen without a GPU: in the program that the engine holds as text."""
    from mmedge_export.targets.tensorrt.profiles import ProfileSizes

    file, _, ranges = net
    stage = _stage("net", onnx.load(file))
    sizes = {"batch": ProfileSizes(1, 2, 4)}
    plain = program(builder_of(target).build(file, stage, sizes))
    assert {"conv", "head"} <= plain.keys()
    assert all(types == ["float", "float"] for types in plain.values())
    made = quantize(file, tmp_path / "q.onnx", ranges, precision=precision)
    found = program(builder_of(target).build(made.file, stage, sizes))
    assert {"conv", "scores", "mix", "head"} <= found.keys()
    for name, types in found.items():
        kept = precision == "fp8" and name == "conv"
        assert types == (["float", "float"] if kept else [dtype, dtype]), name


def test_an_architecture_without_fp8_is_named(net, tmp_path, builder_of):
    from mmedge_export.targets.tensorrt.profiles import ProfileSizes

    file, _, ranges = net
    made = quantize(file, tmp_path / "q.onnx", ranges, precision="fp8")
    stage = _stage("net", onnx.load(file))
    with pytest.raises(BackendError, match=r"stage 'net'.*for sm_86: .*fp8_e4m3"):
        builder_of("sm_86").build(made.file, stage, {"batch": ProfileSizes(1, 2, 4)})


def test_largest_is_what_the_formats_hold():
    import ml_dtypes

    assert LARGEST["int8"] == np.iinfo(np.int8).max
    assert LARGEST["fp8"] == float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
