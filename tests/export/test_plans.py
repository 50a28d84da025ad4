"""A bundle holds its network cut and whole: one function and one set of weights."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fusions import FUSIONS
from onnx_files import FLOAT, floats, save, two_encoders
from shared import once

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import ExportError
from mmedge.execution.verify import verify
from mmedge.spec import Stage, TensorSpec
from mmedge_export import Input, Model, export
from mmedge_export.onnx_graph.graph import EXTERNAL_BYTES
from mmedge_export.onnx_graph.merge import merge
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.quantize import whole_graph
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.quantize.quantize_bundle import quantize

#: Networks with attention over concatenations, a backbone that two modalities share, and a GRU.
NAMES = ["joint_attention", "shared_backbone", "recurrent"]


@pytest.fixture(params=NAMES)
def exported(request, tmp_path_factory):
    def make(folder):
        export(FUSIONS[request.param](), folder / "net.mmedge").close()

    return once(tmp_path_factory, f"plans-{request.param}", make) / "net.mmedge"


def external(bundle: Bundle, name: str) -> dict[str, tuple[str, int, int]]:
    """File, begin and end of each weight that lies beside a graph."""
    model = onnx.load_from_string(bytes(bundle.read(name)))
    found = {}
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            begin = int(entries.get("offset", 0))
            found[tensor.name] = entries["location"], begin, begin + int(entries["length"])
    return found


def test_both_plans_are_there_and_compute_the_same(exported):
    with Bundle.open(exported) as bundle:
        plans = {plan.name: plan.stages for plan in bundle.manifest.plans}
        assert plans.keys() == {"cut", "whole"}
        assert len(plans["cut"]) > 1
        assert len(plans["whole"]) == 1
        samples = bundle.samples()
    for plan in plans:
        with mmedge.load(exported, plan=plan) as pipe:
            assert verify(pipe).ok
            assert pipe.run(samples[0].inputs).keys() == samples[0].outputs.keys() & set(
                pipe.bundle.manifest.outputs
            )


def test_weights_are_on_disk_once(exported):
    with Bundle.open(exported) as bundle:
        graphs = [stage.graph for stage in bundle.manifest.stages]
        data = [name for name in bundle.manifest.files if name.endswith(".data")]
        assert len(data) == 1
        content = bytes(bundle.read(data[0]))
        ranges = {spot for graph in graphs for spot in external(bundle, graph).values()}
    # Nothing lies there that no graph names.
    reached = 0
    for _, begin, end in sorted(ranges):
        assert begin <= reached
        reached = max(reached, end)
    assert reached == len(content)
    # What several graphs name is one place, and no two places that lie apart hold the same.
    digests: dict[bytes, tuple[int, int]] = {}
    for _, begin, end in sorted(ranges):
        key = hashlib.sha256(content[begin:end]).digest()
        place = digests.setdefault(key, (begin, end))
        assert place == (begin, end)


def test_the_whole_graph_is_the_one_that_was_exported(exported, tmp_path, request):
    name = request.node.callspec.params["exported"]
    with export(FUSIONS[name](), tmp_path / "whole.mmedge", split=False) as alone:
        (stage,) = alone.manifest.stages
        expected = onnx.load_from_string(bytes(alone.read(stage.graph)))
    with Bundle.open(exported) as bundle:
        (whole,) = bundle.manifest.in_order("whole")
        got = onnx.load_from_string(bytes(bundle.read(whole.graph)))
    assert [n.op_type for n in got.graph.node] == [n.op_type for n in expected.graph.node]
    assert [n.output for n in got.graph.node] == [n.output for n in expected.graph.node]
    assert not any(node.domain == "mmedge" for node in got.graph.node)


def test_each_plan_can_be_kept_alone(tmp_path):
    for split, names in ((True, ("cut",)), (False, ("whole",)), (None, ("cut", "whole"))):
        path = tmp_path / f"{split}.mmedge"
        with export(FUSIONS["shared_backbone"](), path, split=split) as bundle:
            assert bundle.manifest.plan_names() == names


def test_a_modality_may_be_called_as_the_whole_is(tmp_path):
    nodes, weights = two_encoders(64)
    path = save(
        tmp_path / "net.onnx",
        nodes,
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, ["n", 64])],
        weights,
    )
    model = Model(
        path,
        {
            "a": Input(floats(2, 1024), modality="model", dynamic={0: "n"}),
            "b": Input(floats(2, 1024), dynamic={0: "n"}),
        },
        ["y"],
    )
    with export(model, tmp_path / "net.mmedge") as bundle:
        assert {plan.name: plan.stages for plan in bundle.manifest.plans} == {
            "cut": ("model", "b", "fusion"),
            "whole": ("model_",),
        }


def test_rows_of_a_constant_are_a_range_of_it(tmp_path):
    """Positions of a concatenation of fixed size are taken apart, and not stored again."""
    torch = pytest.importorskip("torch")

    class Positions(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left = torch.nn.Linear(64, 128)
            self.right = torch.nn.Linear(64, 128)
            self.position = torch.nn.Parameter(torch.randn(1, 24, 128))
            self.mix = torch.nn.Linear(128, 128)
            self.out = torch.nn.Linear(24, 8)

        def forward(self, a, b):
            tokens = torch.cat([self.left(a), self.right(b)], 1) + self.position
            return self.out(torch.relu(self.mix(tokens)).transpose(1, 2)).mean(1)

    torch.manual_seed(0)
    a, b = floats(2, 8, 64), floats(2, 16, 64)
    model = Model(Positions().eval(), {"a": Input(a), "b": Input(b)}, ["y"])
    with export(model, tmp_path / "net.mmedge") as bundle:
        (whole,) = bundle.manifest.in_order("whole")
        mine = external(bundle, whole.graph)
        position = next(spot for spot in mine.values() if spot[2] - spot[1] == 24 * 128 * 4)
        parts = [
            spot
            for stage in bundle.manifest.in_order("cut")
            for spot in external(bundle, stage.graph).values()
            if spot[0] == position[0] and position[1] <= spot[1] < position[2]
        ]
        assert sorted(parts) == [
            (position[0], position[1], position[1] + 8 * 128 * 4),
            (position[0], position[1] + 8 * 128 * 4, position[2]),
        ]


def part(name, nodes, inputs, outputs, weights, folder, opset=20):
    """A stage and its file, with its weights beside it."""
    make = onnx.helper
    tensors = [onnx.numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    graph = make.make_graph(
        nodes,
        name,
        [make.make_tensor_value_info(n, FLOAT, [2, 32]) for n in inputs],
        [make.make_tensor_value_info(n, FLOAT, [2, 32]) for n in outputs],
        tensors,
    )
    imports = [make.make_opsetid("", opset)]
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.onnx"
    onnx.save(
        make.make_model(graph, opset_imports=imports, ir_version=10),
        path,
        save_as_external_data=True,
        location=f"{name}.data",
        size_threshold=EXTERNAL_BYTES,
    )
    specs = [tuple(TensorSpec(n, "float32", (2, 32)) for n in names) for names in (inputs, outputs)]
    return Stage(name, f"onnx/{folder.name}/{name}.onnx", *specs), path


def test_graphs_whose_inner_names_clash_are_merged(tmp_path):
    """Both stages call a tensor h and a weight w, both take x, and weights lie in two folders."""
    node = onnx.helper.make_node
    first, second = floats(32, 32), floats(32, 32)
    one, one_file = part(
        "one",
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["m"])],
        ["x"],
        ["m"],
        {"w": first},
        tmp_path / "base",
    )
    two, two_file = part(
        "two",
        [node("MatMul", ["m", "w"], ["h"]), node("Add", ["h", "x"], ["y"])],
        ["m", "x"],
        ["y"],
        {"w": second},
        tmp_path / "int8",
    )
    graphs = {"one": (one_file, "onnx/base/one.onnx"), "two": (two_file, "onnx/int8/two.onnx")}
    merged = merge([one, two], graphs, ["x"], ["y", "m"], "onnx")
    ir.save(merged, tmp_path / "merged.onnx")
    onnx.checker.check_model(tmp_path / "merged.onnx")
    x = floats(2, 32)
    m = np.maximum(x @ first, 0)
    got = Runner(tmp_path / "merged.onnx")({"x": x})
    np.testing.assert_allclose(got["m"], m, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got["y"], m @ second + x, rtol=1e-5, atol=1e-4)
    stored = onnx.load(tmp_path / "merged.onnx", load_external_data=False).graph.initializer
    locations = {e.value for t in stored for e in t.external_data if e.key == "location"}
    assert locations == {"base/one.data", "int8/two.data"}


def test_graphs_of_two_versions_are_not_merged(tmp_path):
    node = onnx.helper.make_node
    one, one_file = part("one", [node("Relu", ["x"], ["m"])], ["x"], ["m"], {}, tmp_path / "a")
    two, two_file = part("two", [node("Relu", ["m"], ["y"])], ["m"], ["y"], {}, tmp_path / "b", 17)
    graphs = {"one": (one_file, "onnx/a/one.onnx"), "two": (two_file, "onnx/b/two.onnx")}
    with pytest.raises(ExportError, match="stage 'two' has version 17 .* others have 20"):
        merge([one, two], graphs, ["x"], ["y"], "onnx")


@pytest.fixture
def small(tmp_path):
    """A bundle of both plans that quantizes quickly."""
    export(FUSIONS["shared_backbone"](), tmp_path / "net.mmedge").close()
    return tmp_path / "net.mmedge"


def test_a_quantized_variant_has_both_plans(small):
    bundle, report = quantize(small, options=QuantizeOptions(goal="size", max_error=0.5))
    with bundle:
        assert report.variants == ("ort-int8-cpu",)
        (variant,) = (v for v in bundle.manifest.variants if v.precision == "int8")
        assert bundle.manifest.plan_names(variant) == ("cut", "whole")
        assert any("'whole'" in line for line in variant.not_checked)
        weights = {bundle.weights(file) for file in variant.files.values()}
        # The merged graph names the stages' own files, and brings none.
        assert bundle.weights(variant.files["model"]) == tuple(
            sorted({name for names in weights for name in names})
        )
    for plan in ("cut", "whole"):
        with mmedge.load(small, "ort-int8-cpu", plan=plan) as pipe:
            assert verify(pipe).ok


def test_a_whole_that_misses_the_tolerance_is_left_out_and_told(small, monkeypatch):
    real = whole_graph.merge

    def wrong(stages, graphs, inputs, outputs, folder):
        model = real(stages, graphs, inputs, outputs, folder)
        last = next(v for v in model.graph.outputs)
        node = ir.node("Neg", [last], outputs=[ir.Value(name="negative", type=last.type)])
        model.graph.append(node)
        name, last.name = last.name, "before"
        node.outputs[0].name = name
        node.outputs[0].shape = last.shape
        model.graph.outputs[0] = node.outputs[0]
        return model

    monkeypatch.setattr(whole_graph, "merge", wrong)
    bundle, report = quantize(small, options=QuantizeOptions(goal="size", max_error=0.5))
    with bundle:
        (variant,) = (v for v in bundle.manifest.variants if v.precision == "int8")
        assert bundle.manifest.plan_names(variant) == ("cut",)
        assert f"onnx/{variant.id}.onnx" not in bundle.manifest.files
    assert any("no plan 'whole'" in remark for remark in report.remarks)


def test_another_float_variant_has_both_plans(small):
    pytest.importorskip("openvino")
    from mmedge_export.targets.openvino.variant import add_openvino

    bundle, variant = add_openvino(Bundle.open(small))
    with bundle:
        assert bundle.manifest.plan_names(variant) == ("cut", "whole")
    for plan in ("cut", "whole"):
        with mmedge.load(small, variant.id, plan=plan) as pipe:
            assert verify(pipe).ok


def test_a_bundle_that_is_cut_alone_gets_no_whole(tmp_path):
    export(FUSIONS["shared_backbone"](), tmp_path / "cut.mmedge", split=True).close()
    options = QuantizeOptions(goal="size", max_error=0.5)
    bundle, report = quantize(tmp_path / "cut.mmedge", options=options)
    with bundle:
        assert all(bundle.manifest.plan_names(v) == ("cut",) for v in bundle.manifest.variants)
    assert not any("whole" in remark for remark in report.remarks)
