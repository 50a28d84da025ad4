"""Smoothing changes no output of the float network, and what int8 loses becomes less."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from mmedge.errors import ExportError
from mmedge_export.onnx_graph.graph import save
from mmedge_export.passes.smooth_outliers import LIMIT, SmoothOutliersPass

WIDTH, OUT = 12, 6

#: What comes before the products: it makes h [batch, WIDTH] of x [batch, WIDTH].
PRODUCERS = {
    "norm": "h = LayerNormalization <axis = -1> (x, gain, shift)",
    "norm without bias": "h = LayerNormalization (x, gain)",
    "gain": "h = Mul (x, gain)",
    "gain first": "h = Mul (gain, x)",
    "scalar gain": "h = Mul (x, one)",
    "gain and shift": "m = Mul (x, gain) h = Add (shift, m)",
    "gains": "m = Mul (x, gain) a = Add (m, one) r = Relu (a) h = Mul (r, other)",
    "product": "h = MatMul (x, before)",
    "product and bias": "m = MatMul (x, before) h = Add (m, shift)",
    "gemm": "h = Gemm <alpha = 0.5, beta = 2.0> (x, before, shift)",
    "gemm transposed": "g = Gemm <transB = 1> (x, before, shift) h = Relu (g)",
    "gemm without bias": "g = Gemm (x, before) h = LeakyRelu <alpha = 0.1> (g)",
    "column bias": "h = Gemm (x, before, column)",
    "gated": "u = MatMul (x, before) t = Tanh (x) h = Mul (t, u)",
}

#: Products that take h.
PRODUCTS = {
    "matmul": "{y} = MatMul (h, {w})",
    "gemm": "{y} = Gemm (h, {w})",
    "gemm with bias": "{y} = Gemm <alpha = 0.25> (h, {w}, bias)",
    "gemm transposed": "{y} = Gemm <transB = 1, beta = 0.5> (h, {w}t, bias)",
}


def build(body, outputs, rng, dtype="float", batch="3"):
    outs = ", ".join(f"{dtype}[{batch},N{name}] {name}" for name in outputs)
    text = f"""<ir_version: 10, opset_import: ["": 20]>
    net ({dtype}[{batch},{WIDTH}] x) => ({outs}) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    shapes = {
        **dict.fromkeys(("gain", "shift", "other"), (WIDTH,)),
        **dict.fromkeys("vw", (WIDTH, OUT)),
        **dict.fromkeys(("vt", "wt"), (OUT, WIDTH)),
        "before": (WIDTH, WIDTH),
        "bias": (OUT,),
        "column": (3, 1),
        "one": (),
    }
    taken = {name for node in proto.graph.node for name in node.input}
    for name in sorted(taken & shapes.keys()):
        array = rng.standard_normal(shapes[name])
        if name in ("gain", "other", "shift"):
            array[rng.integers(WIDTH)] *= 300
        kind = np.float16 if dtype == "float16" else np.float32
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(kind), name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    return ir.serde.deserialize_model(proto)


def session(source):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model, x, extra=()):
    proto = ir.serde.serialize_model(model)
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in extra if n not in known)
    each = session(proto.SerializeToString())
    names = [value.name for value in each.get_outputs()]
    return dict(zip(names, each.run(names, {"x": x}), strict=True))


def largest(model, samples, tensor="h"):
    seen = [np.abs(run(model, x, [tensor])[tensor]).max(axis=0) for x in samples]
    return {tensor: np.max(seen, axis=0)}


def inputs(rng, count=4, dtype=np.float32):
    return [rng.standard_normal((3, WIDTH)).astype(dtype) for _ in range(count)]


def weights(model):
    return {name: v.const_value.numpy().copy() for name, v in model.graph.initializers.items()}


@given(
    producer=st.sampled_from(sorted(PRODUCERS)),
    products=st.lists(
        st.tuples(st.sampled_from(sorted(PRODUCTS)), st.sampled_from("vw")), min_size=1, max_size=3
    ),
    alpha=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_outputs_stay_bit_for_bit(producer, products, alpha, seed):
    rng = np.random.default_rng(seed)
    body = PRODUCERS[producer]
    for index, (kind, weight) in enumerate(products):
        body += " " + PRODUCTS[kind].format(y=f"y{index}", w=weight)
    model = build(body, [f"y{index}" for index in range(len(products))], rng)
    nodes = [(node.name, node.op_type) for node in model.graph]
    samples = inputs(rng)
    wanted = [run(model, x, ["h"]) for x in samples]
    channels = largest(model, samples)
    smooth = SmoothOutliersPass(channels, alpha)
    result = smooth(model)
    assert [(node.name, node.op_type) for node in model.graph] == nodes
    got = [run(model, x, ["h"]) for x in samples]
    for before, after in zip(wanted, got, strict=True):
        scale = smooth.smoothed[0].scale if smooth.smoothed else np.ones(WIDTH, np.float32)
        np.testing.assert_array_equal(after.pop("h") * scale, before.pop("h"))
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)
    live = channels["h"][channels["h"] > 0]
    if alpha == 1.0 and live.max() > 2 * np.median(live):
        assert result.modified
    if result.modified:
        (done,) = smooth.smoothed
        assert done.tensor == "h"
        assert len(done.nodes) == len(products)
        now = largest(model, samples)["h"][channels["h"] > 0]
        for told, seen in ((done.before, live), (done.after, now)):
            assert told == pytest.approx(seen.max() / np.median(seen), rel=1e-5)
        if alpha == 1.0 and done.scale.max() < LIMIT:
            assert now.max() / now.min() <= 2.001
    else:
        assert smooth.smoothed == ()


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("producer", PRODUCERS)
def test_every_producer_and_product_is_smoothed(producer, product):
    rng = np.random.default_rng(0)
    body = f"{PRODUCERS[producer]} {PRODUCTS[product].format(y='y', w='w')}"
    model = build(body, "y", rng)
    (x,) = inputs(rng, 1)
    before = run(model, x, ["h"])
    smooth = SmoothOutliersPass({"h": np.geomspace(1, 1e4, WIDTH)})
    assert smooth(model).modified
    after = run(model, x, ["h"])
    np.testing.assert_array_equal(after["y"], before["y"])
    np.testing.assert_array_equal(after["h"] * smooth.smoothed[0].scale, before["h"])
    assert smooth.smoothed[0].scale.max() >= 4


GAIN = "h = Mul (x, gain) y = MatMul (h, w)"
GAIN_RELU = "m = Mul (x, gain) h = Relu (m) y = MatMul (h, w)"

#: Graphs whose h cannot be smoothed, and their outputs.
SKIPPED = {
    "a residual": (f"{GAIN} z = Add (h, x)", "yz"),
    "an output": (GAIN, "yh"),
    "a left factor transposed": (f"{GAIN} t = Transpose (h) z = MatMul (t, x)", "yz"),
    "a right factor": (f"{GAIN} t = Transpose (x) z = MatMul (t, h)", "yz"),
    "both factors": ("h = Mul (before, gain) y = MatMul (h, h) z = Add (x, x)", "yz"),
    "transA": (f"{GAIN} z = Gemm <transA = 1> (h, x)", "yz"),
    "no scale": ("h = Tanh (x) y = MatMul (h, w)", "y"),
    "not homogeneous": ("m = Mul (x, gain) h = Sigmoid (m) y = MatMul (h, w)", "y"),
    "used before": (f"{GAIN_RELU} z = Add (m, x)", "yz"),
    "an output before": (GAIN_RELU, "ym"),
    "varying shift": ("m = Mul (x, gain) h = Add (m, x) y = MatMul (h, w)", "y"),
    "varying gain": ("h = Mul (x, x) y = MatMul (h, w)", "y"),
    "varying bias": ("t = Tanh (x) h = Gemm (x, before, t) y = MatMul (h, w)", "y"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_what_cannot_be_folded_stays(name):
    body, outputs = SKIPPED[name]
    model = build(body, outputs, np.random.default_rng(0))
    before = weights(model)
    smooth = SmoothOutliersPass({"h": np.geomspace(1, 1000, WIDTH)})
    assert not smooth(model).modified
    assert smooth.smoothed == ()
    after = weights(model)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("body", [GAIN, GAIN_RELU])
def test_the_same_without_the_fault_is_smoothed(body):
    model = build(f"{body} z = Add (x, x)", "yz", np.random.default_rng(0))
    assert SmoothOutliersPass({"h": np.geomspace(1, 1000, WIDTH)})(model).modified


def test_names_that_are_absent_are_left_alone():
    model = build(GAIN, "y", np.random.default_rng(0))
    assert not SmoothOutliersPass({"other": np.ones(WIDTH)})(model).modified


def test_shared_constants_are_copied_for_those_that_change():
    body = """h = LayerNormalization (x, gain, shift) y = MatMul (h, w) z = MatMul (x, w)
    k = LayerNormalization (x, gain) v0 = MatMul (h, w)"""
    rng = np.random.default_rng(3)
    model = build(body, ["y", "z", "k", "v0"], rng)
    before = weights(model)
    (x,) = inputs(rng, 1)
    wanted = run(model, x)
    assert SmoothOutliersPass(largest(model, [x]))(model).modified
    after = weights(model)
    for name in ("gain", "w"):
        np.testing.assert_array_equal(after[name], before[name])
    # One copy each, whichever number of nodes takes it; what only the norm took changes in place.
    assert sorted(after.keys() - before.keys()) == ["gain_smoothed", "w_smoothed"]
    assert not np.array_equal(after["shift"], before["shift"])
    for name, value in run(model, x).items():
        np.testing.assert_array_equal(value, wanted[name])


def test_one_weight_before_and_behind():
    body = "h = MatMul (x, before) y = MatMul (h, before)"
    rng = np.random.default_rng(4)
    model = build(body, "y", rng)
    (x,) = inputs(rng, 1)
    wanted = run(model, x)["y"]
    assert SmoothOutliersPass({"h": np.geomspace(1, 1000, WIDTH)})(model).modified
    np.testing.assert_array_equal(run(model, x)["y"], wanted)
    assert len(model.graph.initializers) == 2


def test_weights_in_external_files(tmp_path):
    rng = np.random.default_rng(5)
    proto = ir.serde.serialize_model(build(GAIN, "y", rng))
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    loaded = ir.load(path)
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
    data = (tmp_path / "net.data").read_bytes()
    (x,) = inputs(rng, 1)
    wanted = session(path).run(None, {"x": x})[0]
    assert SmoothOutliersPass({"h": np.geomspace(1, 1000, WIDTH)})(loaded).modified
    np.testing.assert_array_equal(run(loaded, x)["y"], wanted)
    files = save({"net": loaded}, tmp_path / "saved")
    np.testing.assert_array_equal(session(files["onnx/net.onnx"]).run(None, {"x": x})[0], wanted)
    assert (tmp_path / "net.data").read_bytes() == data


def test_float16():
    rng = np.random.default_rng(6)
    model = build(
        "m = MatMul (x, before) h = Add (m, shift) y = MatMul (h, w)", "y", rng, "float16"
    )
    samples = inputs(rng, 8, np.float16)
    wanted = [run(model, x)["y"] for x in samples]
    assert SmoothOutliersPass({"h": np.geomspace(1, 1000, WIDTH)})(model).modified
    assert {v.dtype for v in model.graph.initializers.values()} == {ir.DataType.FLOAT16}
    for x, value in zip(samples, wanted, strict=True):
        got = run(model, x)["y"].astype(np.float32)
        assert np.abs(got - value).max() <= 1e-3 * np.abs(value).max()


def test_what_float16_cannot_hold_stays():
    model = build(GAIN, "y", np.random.default_rng(6), "float16")
    weight = np.full((WIDTH, OUT), 6e4, np.float16)
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    assert not SmoothOutliersPass({"h": np.geomspace(1, 1000, WIDTH)})(model).modified


def test_dead_channels_keep_their_scale_and_scales_have_limits():
    model = build(GAIN, "y", np.random.default_rng(8))
    weight = model.graph.initializers["w"].const_value.numpy().copy()
    weight[:] = 1
    weight[3] = 0
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    channels = np.ones(WIDTH)
    channels[[1, 2]] = 0, 1e30
    smooth = SmoothOutliersPass({"h": channels})
    assert smooth(model).modified
    scale = smooth.smoothed[0].scale
    assert scale.tolist() == [1, 1, LIMIT, LIMIT, *[1] * (WIDTH - 4)]
    assert not SmoothOutliersPass({"h": np.zeros(WIDTH)})(model).modified


def test_refusals():
    model = build(GAIN, "y", np.random.default_rng(0))
    with pytest.raises(ExportError, match="'h': 5 channels, but node 'node1' takes 12"):
        SmoothOutliersPass({"h": np.ones(5)}).call(model)
    for wrong in (np.ones((2, 3)), np.array([1, np.nan]), np.array([1, np.inf]), np.array([-1.0])):
        with pytest.raises(ExportError, match="channel_max of 'h'"):
            SmoothOutliersPass({"h": wrong})
    with pytest.raises(ExportError, match="alpha"):
        SmoothOutliersPass({}, alpha=1.5)


class Reader(CalibrationDataReader):
    def __init__(self, samples):
        self.feeds = iter([{"x": x} for x in samples])

    def get_next(self):
        return next(self.feeds, None)


def int8_error(model, samples, folder, how):
    """Error of int8 relative to the float outputs, root mean square."""
    source, target = folder / "float.onnx", folder / f"{how}.onnx"
    ir.save(model, source)
    if how == "dynamic":
        quantize_dynamic(source, target, ["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    else:
        quantize_static(
            source,
            target,
            Reader(samples),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    each = session(target)
    wanted = np.concatenate([run(model, x)["y"] for x in samples])
    got = np.concatenate([each.run(["y"], {"x": x})[0] for x in samples])
    return float(np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)))


@pytest.mark.parametrize("how", ["dynamic", "static"])
@pytest.mark.parametrize(
    "producer", ["norm", "gain and shift", "product and bias", "gemm transposed"]
)
def test_int8_loses_less_on_planted_outliers(producer, how, tmp_path):
    rng = np.random.default_rng(9)
    model = build(f"{PRODUCERS[producer]} y = MatMul (h, w)", "y", rng)
    scale = np.ones(WIDTH, np.float32)
    scale[[2, 7]] = 1000
    normal = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    planted = {
        "gain": scale,
        "shift": scale * rng.standard_normal(WIDTH).astype(np.float32),
        "before": normal * (scale[:, None] if "transposed" in producer else scale),
        # What the large channels say counts as little as what the others do.
        "w": rng.standard_normal((WIDTH, OUT)).astype(np.float32) / scale[:, None],
    }
    for name, value in model.graph.initializers.items():
        value.const_value = ir.tensor(planted[name], name=name)
    samples = inputs(rng, 40)
    before = int8_error(model, samples, tmp_path, how)
    smooth = SmoothOutliersPass(largest(model, samples))
    smooth(model)
    assert smooth.smoothed[0].before > 100
    assert smooth.smoothed[0].after < smooth.smoothed[0].before / 10
    after = int8_error(model, samples, tmp_path, how)
    assert after < before / 4
