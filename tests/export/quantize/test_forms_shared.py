"""Forms of nodes that share activations or weights with others, and graphs with odd parts."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import saved
from onnx import TensorProto, helper, numpy_helper

from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.quantize.evaluate import error
from mmedge_export.quantize.saturate import saturating_nodes
from mmedge_export.targets.onnxruntime.schemes import DYNAMIC, find_sites, prepare, write_form
from mmedge_export.targets.onnxruntime.sensitivity import write_switched
from mmedge_export.targets.quantizable import switches

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 32)).astype(np.float32)
W = (RNG.standard_normal((32, 32)) / 6).astype(np.float32)


def graph(nodes, weights, outputs, opset=20, name="x"):
    """From ``x`` float32 [n, 32] to outputs [n, 32]."""
    kind = TensorProto.FLOAT
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, ["n", 32])],
        [helper.make_tensor_value_info(output, kind, ["n", 32]) for output in outputs],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def heads(shared):
    """Three products of one activation, the first used again behind, and the activation added."""
    names = ["w"] * 3 if shared else ["wa", "wb", "wc"]
    nodes = [
        helper.make_node("MatMul", ["x", names[0]], ["a"], name="ma"),
        helper.make_node("MatMul", ["x", names[1]], ["b"], name="mb"),
        helper.make_node("MatMul", ["x", names[2]], ["c"], name="mc"),
        helper.make_node("Add", ["a", "x"], ["sum"], name="add"),
        helper.make_node("MatMul", ["a", names[0]], ["d"], name="md"),
    ]
    weights = {name: np.roll(W, i, axis=1) for i, name in enumerate(dict.fromkeys(names))}
    return graph(nodes, weights, ["sum", "b", "c", "d"])


RANGES = dict.fromkeys(["x", "a", "b", "c", "d"], (-5.0, 5.0))
FORMS = ("float", "static", "dynamic", "dynamic_tensor", "block8")


@pytest.mark.parametrize("shared", [True, False])
def test_any_mix_of_forms_runs_and_leaves_float_nodes_alone(tmp_path, shared):
    prepared = tmp_path / "p.onnx"
    sites = find_sites(prepare(saved(heads(shared), tmp_path / "s.onnx"), prepared))
    assert [site.node for site in sites] == ["ma", "mb", "mc", "md"]
    assert len({site.weight for site in sites}) == 4
    plain = Runner(prepared)({"x": X})
    for a, b, c in itertools.product(FORMS, repeat=3):
        plan = {"ma": a, "mb": b, "mc": c, "md": "float"}
        path = tmp_path / "q.onnx"
        write_form(prepared, path, {n: f for n, f in plan.items() if f != "float"}, RANGES)
        got = Runner(path)({"x": X})
        for output, form in (("sum", a), ("b", b), ("c", c)):
            far = error([{output: got[output]}], [{output: plain[output]}])[0]
            if form == "float":
                assert far <= 1e-6, plan
            else:
                assert 1e-5 < far < 0.05, (plan, output)
        kinds = [node.op_type for node in onnx.load(path).graph.node]
        assert kinds.count("MatMulNBits") == [a, b, c].count("block8")
        dynamic = sum(form in DYNAMIC for form in (a, b, c))
        assert kinds.count("MatMulInteger") == dynamic


def test_a_graph_with_our_own_names_gets_switches(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["scale", "w"], ["zero"], name="m"),
        helper.make_node("Relu", ["zero"], ["y"], name="r"),
    ]
    prepared = tmp_path / "p.onnx"
    source = saved(graph(nodes, {"w": W}, ["y"], name="scale"), tmp_path / "s.onnx")
    sites = find_sites(prepare(source, prepared))
    ranges = dict.fromkeys(["scale", "zero"], (-5.0, 5.0))
    write_switched(prepared, tmp_path / "w.onnx", sites, {"m": "static"}, ranges, set())
    plain = Runner(prepared)({"scale": X})
    on = Runner(tmp_path / "w.onnx")({"scale": X, **switches(sites, {"m"})})
    assert 1e-5 < error([on], [plain])[0] < 0.05


def test_constants_of_other_ranks_are_left_alone(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="ok"),
        helper.make_node("MatMul", ["a", "v"], ["b"], name="vector"),
        helper.make_node("Unsqueeze", ["b", "axis"], ["c"], name="u"),
        helper.make_node("Add", ["a", "c"], ["y"], name="add"),
    ]
    weights = {"w": W, "v": W[0], "axis": np.array([1])}
    prepared = tmp_path / "p.onnx"
    sites = find_sites(prepare(saved(graph(nodes, weights, ["y"]), tmp_path / "s.onnx"), prepared))
    assert [site.node for site in sites] == ["ok"]
    saturating_nodes(prepared, sites, [{"x": X}], {"x": (-5.0, 5.0)})


def test_old_opsets_have_no_static_form(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    source = saved(graph(nodes, {"w": W}, ["y"], opset=11), tmp_path / "s.onnx")
    # Not prepared, as where the operators cannot be converted.
    (site,) = find_sites(ir.load(source))
    assert "static" not in site.forms
    write_form(source, tmp_path / "q.onnx", {"m": "dynamic"}, {})
    plain = Runner(source)({"x": X})
    assert error([Runner(tmp_path / "q.onnx")({"x": X})], [plain])[0] < 0.05


def test_answers_of_another_shape_are_infinitely_far():
    assert error([{"y": np.zeros((0, 4))}], [{"y": np.zeros((2, 4))}]) == [np.inf]
    assert error([{"y": np.zeros((2, 4))}], [{"y": np.zeros((0, 4))}]) == [np.inf]
    assert error([{"y": np.zeros((0, 4))}], [{"y": np.zeros((0, 4))}]) == [0.0]
