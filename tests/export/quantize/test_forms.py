"""Forms of nodes in ONNX Runtime: what they compute, that they fuse, and how large they are."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import convnet, saved
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.quantize.choose_schemes import graph_bytes
from mmedge_export.quantize.evaluate import error
from mmedge_export.targets.onnxruntime.schemes import find_sites, prepare, write_form
from mmedge_export.targets.onnxruntime.sensitivity import rounded_weights, write_switched
from mmedge_export.targets.quantizable import switches

RNG = np.random.default_rng(1)
X = RNG.standard_normal((4, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """Prepared graph, its sites, and the range of every tensor around them."""
    folder = tmp_path_factory.mktemp("forms")
    source = saved(convnet(), folder / "source.onnx")
    prepared = folder / "net.onnx"
    sites = find_sites(prepare(source, prepared))
    names = sorted({name for site in sites for name in (site.activation, site.output)})
    inner = Runner(prepared, names)({"x": X})
    ranges = {name: (float(inner[name].min()), float(inner[name].max())) for name in names}
    return source, prepared, sites, ranges


def optimised(path, tmp_path):
    """Operators that ONNX Runtime makes of a graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]


def test_the_prepared_graph_computes_the_same(net):
    source, prepared, sites, _ = net
    assert error([Runner(prepared)({"x": X})], [Runner(source)({"x": X})])[0] <= 1e-6
    assert [(site.node, site.op) for site in sites] == [
        ("conv1", "Conv"), ("conv2", "Conv"), ("gemm", "MatMul"), ("matmul", "MatMul"),
    ]  # fmt: skip
    assert [site.size for site in sites] == [16 * 27, 32 * 16 * 9, 64 * 32, 5 * 64]


@pytest.mark.parametrize(
    ("form", "operators", "limit"),
    [
        ("static", {"QLinearConv": 2, "QLinearMatMul": 2}, 0.05),
        ("dynamic", {"DynamicQuantizeMatMul": 2}, 0.03),
        ("dynamic_tensor", {"DynamicQuantizeMatMul": 2}, 0.05),
        ("block8", {"MatMulNBits": 2}, 0.03),
        ("block4", {"MatMulNBits": 2}, 0.3),
    ],
)
def test_each_form_fuses_and_lies_near(net, tmp_path, form, operators, limit):
    _, prepared, sites, ranges = net
    path = tmp_path / "form.onnx"
    plan = {site.node: form for site in sites if form in site.forms}
    write_form(prepared, path, plan, ranges)
    found = optimised(path, tmp_path)
    assert {name: found.count(name) for name in operators} == operators
    far = error([Runner(path)({"x": X})], [Runner(prepared)({"x": X})])[0]
    assert 1e-5 < far <= limit


def test_a_plan_may_mix_forms_and_leave_nodes_out(net, tmp_path):
    _, prepared, _, ranges = net
    path = tmp_path / "mixed.onnx"
    write_form(prepared, path, {"conv2": "static", "gemm": "block8", "matmul": "dynamic"}, ranges)
    found = optimised(path, tmp_path)
    for name in ("Conv", "QLinearConv", "MatMulNBits", "DynamicQuantizeMatMul"):
        assert found.count(name) == 1, name
    assert error([Runner(path)({"x": X})], [Runner(prepared)({"x": X})])[0] <= 0.05


def test_seven_bits_where_products_would_saturate(net, tmp_path):
    _, prepared, sites, ranges = net
    shapes = {t.name: tuple(t.dims) for t in onnx.load(prepared).graph.initializer}
    for plan in (dict.fromkeys([s.node for s in sites], "static"), {"matmul": "dynamic"}):
        narrow = {"matmul", "conv1"} & plan.keys()
        write_form(prepared, tmp_path / "narrow.onnx", plan, ranges, reduce_range=narrow)
        weights = {
            tuple(t.dims): onnx.numpy_helper.to_array(t, str(tmp_path))
            for t in onnx.load(tmp_path / "narrow.onnx").graph.initializer
            if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
        }
        for site in sites:
            if site.node in plan:
                found = weights[shapes[site.weight]]
                assert np.abs(found).max() == (64 if site.node in narrow else 127)


def test_eight_bits_are_a_quarter_of_the_size(tmp_path):
    rng = np.random.default_rng(0)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="m")
    weight = onnx.numpy_helper.from_array(rng.standard_normal((512, 512)).astype(np.float32), "w")
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", 512])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", 512])],
        [weight],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    prepare(saved(model, tmp_path / "m.onnx"), tmp_path / "p.onnx")
    for form, share in (("static", 0.26), ("dynamic", 0.26), ("block8", 0.27), ("block4", 0.17)):
        path = tmp_path / f"{form}.onnx"
        write_form(tmp_path / "p.onnx", path, {"m": form}, {"x": (-3.0, 3.0), "y": (-90.0, 90.0)})
        assert graph_bytes(path) <= share * graph_bytes(tmp_path / "p.onnx")


@settings(max_examples=15)
@given(st.sets(st.integers(0, 3)), st.sampled_from(["static", "dynamic"]))
def test_switches_turn_single_nodes_on(net, tmp_path_factory, on, form):
    """With a set of switches on, the graph rounds as the graph with those nodes quantised does."""
    _, prepared, sites, ranges = net
    folder = tmp_path_factory.mktemp("switched")
    plan = {site.node: form if form in site.forms else "static" for site in sites}
    write_switched(prepared, folder / "s.onnx", sites, plan, ranges, set())
    chosen = {sites[i].node for i in on}
    switched = Runner(folder / "s.onnx")({"x": X, **switches(sites, chosen)})
    plain = Runner(prepared)({"x": X})
    if not chosen:
        assert error([switched], [plain])[0] <= 1e-6
        return
    write_form(prepared, folder / "q.onnx", {node: plan[node] for node in chosen}, ranges)
    real = Runner(folder / "q.onnx")({"x": X})
    # Adding up in another order moves single values over the edge of a step, more so when a node
    # takes what another rounded.
    share = 0.2 if len(chosen) == 1 else 0.9
    assert error([switched], [real])[0] <= share * error([real], [plain])[0]


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from(["block8", "block4", "static"])
)
def test_rounded_weights_lie_within_half_a_step(seed, rows, form):
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((rows, 3)) * 10.0 ** rng.integers(-4, 4)).astype(np.float32)
    steps = 7.5 if form == "block4" else 127
    made = rounded_weights(weights, form, "MatMul")
    assert made.shape == weights.shape
    assert np.abs(made - weights).max() <= np.abs(weights).max() / steps * 1.01


def test_blocks_of_four_bits_have_zero_points():
    """Weights that lie on steps of their block, wherever these begin, are kept."""
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 16, (5, 2, 32))
    steps[..., :2] = 0, 15
    lowest = rng.integers(0, 16, (5, 2, 1))
    weights = (steps - lowest) * rng.uniform(0.5, 2, (5, 2, 1))
    weights = weights.reshape(5, 64).T.astype(np.float32)
    np.testing.assert_allclose(rounded_weights(weights, "block4", "MatMul"), weights, atol=1e-5)


def test_blocks_are_rounded_as_onnx_runtime_does(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((160, 8)).astype(np.float32)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="m")
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", 160])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", 8])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    prepare(saved(model, tmp_path / "m.onnx"), tmp_path / "p.onnx")
    # One at a time, rows of the identity read the weights out, with what the kernel does to them.
    x = np.eye(160, dtype=np.float32)
    for form in ("block8", "block4"):
        write_form(tmp_path / "p.onnx", tmp_path / "q.onnx", {"m": form}, {})
        got = Runner(tmp_path / "q.onnx")({"x": x})["y"]
        np.testing.assert_allclose(got, rounded_weights(weights, form, "MatMul"), atol=2e-2)


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_old_operators_are_converted_and_take_every_form(opset, tmp_path):
    """Scales by channel came with opset 13; a network of an older one had no ranges and failed."""
    source = saved(convnet(opset=opset), tmp_path / "source.onnx")
    prepared = tmp_path / "net.onnx"
    model = prepare(source, prepared)
    sites = find_sites(model)
    assert model.opset_imports[""] == 13
    assert [site.forms[0] for site in sites] == ["static"] * len(sites)
    np.testing.assert_allclose(
        Runner(prepared)({"x": X})["y"], Runner(source)({"x": X})["y"], rtol=1e-5, atol=1e-6
    )
