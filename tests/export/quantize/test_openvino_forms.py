"""Forms as OpenVINO runs them: that they are integers there, how near they lie, and the gate."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import convnet, saved
from onnx import TensorProto, helper, numpy_helper

import mmedge
from mmedge.backends.registry import probe
from mmedge.bundle import Bundle
from mmedge.errors import InputError
from mmedge.execution.verify import verify
from mmedge.spec import Stage
from mmedge_export import Input, Model, export
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.quantize import Task, quantize
from mmedge_export.quantize.evaluate import error
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.targets.onnxruntime.schemes import find_sites, prepare, write_form
from mmedge_export.targets.openvino.variant import OpenVinoRunner

openvino = pytest.importorskip("openvino", reason="pip install 'mmedge[openvino]'")

STAGE = Stage("net", "net.onnx", (), ())


def ready(model, folder, x):
    """Prepared graph, sites and ranges."""
    prepared = folder / "net.onnx"
    sites = find_sites(prepare(saved(model, folder / "source.onnx"), prepared))
    names = sorted({name for site in sites for name in (site.activation, site.output)})
    inner = Runner(prepared, names)({"x": x})
    return prepared, sites, {n: (float(inner[n].min()), float(inner[n].max())) for n in names}


def runner(path):
    return OpenVinoRunner(path, STAGE, alone=True, threads=1)


def precisions(path, x):
    """Of the convolutions and products that OpenVINO made: the types that they take."""
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({"x": list(x.shape)})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kinds = ("Convolution", "FullyConnected", "MatMul")
    heavy = [info for info in infos if info["layerType"].astype(str) in kinds]
    return [info["runtimePrecision"].astype(str) for info in heavy]


@pytest.mark.parametrize(("form", "limit"), [("entering", 0.05), ("block8", 0.03)])
def test_each_form_lies_near_and_entering_runs_in_integers(form, limit, tmp_path):
    x = np.random.default_rng(1).standard_normal((4, 3, 12, 12)).astype(np.float32)
    prepared, sites, ranges = ready(convnet(), tmp_path, x)
    path = tmp_path / "form.onnx"
    write_form(prepared, path, {s.node: form for s in sites if form in s.forms}, ranges)
    wanted = Runner(prepared)({"x": x})
    far = error([runner(path)({"x": x})], [wanted])[0]
    assert 0 < far <= limit
    assert far == pytest.approx(error([Runner(path)({"x": x})], [wanted])[0], rel=0.5)
    if form == "entering":
        assert set(precisions(prepared, x)) == {"f32"}
        found = precisions(path, x)
        assert len(found) >= 2
        assert set(found) <= {"i8", "u8"}


def test_what_leaves_a_node_is_not_rounded(tmp_path):
    x = np.random.default_rng(1).standard_normal((4, 3, 12, 12)).astype(np.float32)
    prepared, sites, ranges = ready(convnet(), tmp_path, x)
    path = tmp_path / "form.onnx"
    write_form(prepared, path, {"matmul": "entering"}, ranges)
    graph = onnx.load(path).graph
    assert [node.op_type for node in graph.node if "y" in node.output] == ["MatMul"]
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 1
    write_form(prepared, path, {site.node: "entering" for site in sites}, ranges)
    graph = onnx.load(path).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == len(sites)


def test_a_product_of_two_activations_takes_both_exactly(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["left"], name="left"),
        helper.make_node("MatMul", ["x", "b"], ["right"], name="right"),
        helper.make_node("MatMul", ["left", "right"], ["y"], name="both"),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((6, 6)).astype(np.float32), name)
        for name in "ab"
    ]
    graph = helper.make_graph(
        nodes,
        "both",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, 6])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = rng.standard_normal((6, 6)).astype(np.float32)
    prepared, sites, ranges = ready(model, tmp_path, x)
    assert [site.node for site in sites] == ["left", "right"]
    path = tmp_path / "form.onnx"
    write_form(prepared, path, {site.node: "entering" for site in sites}, ranges)
    made = onnx.load(path).graph
    assert sum(node.op_type == "QuantizeLinear" for node in made.node) == 1
    both = next(node for node in made.node if node.name == "both")
    makers = {name: node.op_type for node in made.node for name in node.output}
    assert [makers[name] for name in both.input] == ["MatMul", "MatMul"]


def test_names_that_are_taken_are_not_given_again(tmp_path):
    model = convnet()
    for index, tensor in enumerate(list(model.graph.initializer)[:3]):
        old, new = tensor.name, f"q.{index}"
        tensor.name = new
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
    x = np.random.default_rng(1).standard_normal((4, 3, 12, 12)).astype(np.float32)
    prepared, sites, ranges = ready(model, tmp_path, x)
    for form in ("static", "entering", "dynamic", "block8"):
        path = tmp_path / f"{form}.onnx"
        write_form(prepared, path, {s.node: form for s in sites if form in s.forms}, ranges)
        assert error([Runner(path)({"x": x})], [Runner(prepared)({"x": x})])[0] <= 0.05


def joined(seed=0):
    """Two tensors of other ranges, joined over tokens, times weights: zero points would differ."""
    rng = np.random.default_rng(seed)

    def weight(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["left"], name="left"),
        helper.make_node("MatMul", ["x", "b"], ["loose"], name="right"),
        helper.make_node("Relu", ["loose"], ["right_out"], name="relu"),
        helper.make_node("Concat", ["left", "right_out"], ["cat"], name="cat", axis=1),
        helper.make_node("MatMul", ["cat", "c"], ["y"], name="out"),
    ]
    graph = helper.make_graph(
        nodes,
        "joined",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 7, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 14, 8])],
        [weight("a", 16, 24), weight("b", 16, 24), weight("c", 24, 8)],
    )
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def test_joined_tensors_have_no_zero_points(tmp_path):
    x = np.random.default_rng(2).standard_normal((2, 7, 16)).astype(np.float32)
    prepared, sites, ranges = ready(joined(), tmp_path, x)
    path = tmp_path / "form.onnx"
    write_form(prepared, path, {site.node: "entering" for site in sites}, ranges)
    far = error([runner(path)({"x": x})], [Runner(prepared)({"x": x})])[0]
    assert 0 < far <= 0.05


def lookups(seed=0, rows=4096, width=16):
    """A table that rows are looked up in, and a product."""
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((rows, width)).astype(np.float32) * rng.uniform(0.01, 9, (rows, 1))
    table[7] = 0
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["found"], name="look"),
        helper.make_node("MatMul", ["found", "w"], ["y"], name="out"),
    ]
    weights = [
        numpy_helper.from_array(table.astype(np.float32), "table"),
        numpy_helper.from_array(rng.standard_normal((width, 4)).astype(np.float32), "w"),
    ]
    graph = helper.make_graph(
        nodes,
        "lookups",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 5])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 4]),
            helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", 5, width]),
        ],
        weights,
    )
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10), table


@pytest.mark.parametrize("make", [Runner, runner])
def test_rows_of_a_table_are_rounded_each_by_its_own_scale(make, tmp_path):
    model, table = lookups()
    prepared, path = tmp_path / "net.onnx", tmp_path / "form.onnx"
    sites = find_sites(prepare(saved(model, tmp_path / "source.onnx"), prepared))
    assert [(s.node, s.op, s.forms) for s in sites if s.op == "Gather"] == [
        ("look", "Gather", ("rows8",))
    ]
    write_form(prepared, path, {"look": "rows8"}, {})
    assert path.with_name("form.onnx.data").stat().st_size < 0.35 * 4 * table.size
    x = np.random.default_rng(1).integers(0, len(table), (3, 5))
    x[0, :2] = 7, -1
    found = make(path)({"x": x})
    assert found.keys() == {"y", "found"}
    step = np.abs(table).max(axis=1)[x] / 127
    assert (np.abs(found["found"] - table[x]) <= 0.5001 * step[..., None]).all()
    assert not found["found"][0, 0].any()


def test_a_table_with_an_infinity_stays(tmp_path):
    model, table = lookups()
    table = table.copy()
    table[3, 0] = -np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    sites = find_sites(prepare(saved(model, tmp_path / "s.onnx"), tmp_path / "a.onnx"))
    assert [site.node for site in sites] == ["out"]


def test_small_tables_and_other_axes_stay(tmp_path):
    small, _ = lookups(rows=64)
    sites = find_sites(prepare(saved(small, tmp_path / "s.onnx"), tmp_path / "a.onnx"))
    assert [site.node for site in sites] == ["out"]
    other, _ = lookups()
    other.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    del other.graph.output[:]
    other.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    assert all(s.op != "Gather" for s in find_sites(prepare(
        saved(other, tmp_path / "o.onnx"), tmp_path / "b.onnx")))  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network whose text is looked up, with a task that its own answers are right in."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words = nn.Embedding(3000, 32)
            self.sight = nn.Linear(64, 32)
            self.out = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4))

        def forward(self, words, image):
            both = [self.words(words).mean(1), torch.relu(self.sight(image))]
            return self.out(torch.cat(both, -1))

    net, rng, samples = Net().eval(), np.random.default_rng(0), []
    for _ in range(400):
        values = {
            "words": rng.integers(0, 3000, (1, 6)),
            "image": rng.standard_normal((1, 64)).astype(np.float32),
        }
        with torch.no_grad():
            answer = net(**{n: torch.from_numpy(v) for n, v in values.items()})[0].argmax()
        samples.append((values, int(answer)))

    def accuracy(outputs, targets):
        pairs = zip(outputs, targets, strict=True)
        return float(np.mean([out["y"][0].argmax() == target for out, target in pairs]))

    inputs = {name: Input(value, dynamic={0: "n"}) for name, value in samples[0][0].items()}
    model = Model(net, inputs, ["y"], samples=samples[:8], evaluation=samples, metric=accuracy)
    path = tmp_path_factory.mktemp("trained") / "b"
    export(model, path, split=False).close()
    return path, Task.of(model)


def test_the_gate_makes_a_variant_that_loads_and_is_proven(trained):
    path, task = trained
    bundle, report = quantize(
        path, task, QuantizeOptions(goal="size", max_drop=0.1, backend="openvino")
    )
    bundle.close()
    assert report.variant == "openvino-int8-cpu"
    assert report.bytes_after <= 0.3 * report.bytes_before
    with Bundle.open(path) as again:
        made = {variant.id: variant for variant in again.on(probe()).variants}
        assert {"ort-fp32-cpu", "openvino-fp32-cpu", "openvino-int8-cpu"} <= made.keys()
        assert made["openvino-int8-cpu"].build["openvino"]
        assert all(made[name].metrics["latency_ms"] > 0 for name in made if name.endswith("-cpu"))
    with mmedge.load(path, backend="openvino", precision="int8") as pipe:
        assert verify(pipe).ok
        right = [
            int(pipe.run(inputs)["y"][0].argmax() == target) for inputs, target in task.samples
        ]
        assert np.mean(right) >= 0.9


def test_an_unknown_backend_is_refused(trained):
    with pytest.raises(InputError, match="backend 'tvm': expected ort or openvino"):
        quantize(trained[0], trained[1], QuantizeOptions(backend="tvm"))
