"""Engines in int8 and fp8 go through the gate, by the Q/DQ graphs that they are built from."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from engine_net import graph, write_bundle, write_trio
from fusions import FUSIONS
from hostile_networks import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.bundle import Bundle
from mmedge.errors import AccuracyError, BackendError, InputError
from mmedge_export import export
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.quantize import QuantizeOptions, Task, plan_search, quantize, stage_work
from mmedge_export.quantize.golden_differences import SLACK
from mmedge_export.targets.quantizable import switches
from mmedge_export.targets.tensorrt import EngineOptions
from mmedge_export.targets.tensorrt.engine import FP32_TOLERANCE
from mmedge_export.targets.tensorrt.qdq import find_nodes, prepare, write_qdq, write_switched
from mmedge_export.targets.tensorrt.quantizer import NOT_CHECKED, open_graph

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'mmedge[rtx]'")

ENGINES = EngineOptions(("sm_89", "sm_120"))
OPTIONS = partial(QuantizeOptions, backend="tensorrt-rtx", engines=ENGINES, threads=1)


def normal(*shape):
    values = np.random.default_rng(shape).standard_normal(shape) * np.prod(shape[1:]) ** -0.5
    return values.astype(np.float32)


def one_stage(path, text, feeds, **constants):
    return write_bundle(path, {"net": graph(text, **constants)}, feeds, {})


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    """Three stages in int8, whole, and in fp8, of which the limit leaves two products."""
    bundle = write_trio(tmp_path_factory.mktemp("trio") / "trio.mmedge")
    bundle, int8 = quantize(bundle, options=OPTIONS(precision="int8"))
    bundle, fp8 = quantize(bundle, options=OPTIONS(precision="fp8"))
    yield bundle, int8, fp8
    bundle.close()


def test_every_gpu_gets_engines_that_the_device_can_check(trio):
    bundle, int8, fp8 = trio
    assert int8.variants == ("tensorrt_rtx-int8-sm_89", "tensorrt_rtx-int8-sm_120")
    assert fp8.variants == ("tensorrt_rtx-fp8-sm_89", "tensorrt_rtx-fp8-sm_120")
    bundle.verify()
    variants = {variant.id: variant for variant in bundle.manifest.variants}
    for name in (*int8.variants, *fp8.variants):
        variant = variants[name]
        assert variant.requires == {"tensorrt-rtx": trt.__version__}
        assert all(path.startswith(f"engines/{name}/") for path in variant.files.values())
        tolerances = [variant.tolerance, *variant.tolerances.values()]
        worst = max(tolerance.rtol for tolerance in tolerances)
        assert worst == pytest.approx(SLACK * variant.metrics["max_rel"])
        assert all(tolerance.rtol >= FP32_TOLERANCE.rtol for tolerance in tolerances)


def test_the_tolerance_is_what_the_graphs_differ_by(trio, tmp_path):
    """Of each stage alone, on the golden tensors that enter it."""
    bundle, int8, _ = trio
    variant = next(v for v in bundle.manifest.variants if v.id == int8.variants[0])
    for stage in bundle.manifest.stages:
        prepared = tmp_path / f"{stage.name}.onnx"
        nodes, _ = find_nodes(prepare(bundle.file(stage.graph), prepared), "int8")
        assert len(nodes) == {"camera": 1, "voice": 2, "fusion": 3}[stage.name]
        for spec in stage.outputs:
            assert FP32_TOLERANCE.rtol < variant.tolerances[spec.name].rtol < 0.1


def test_what_was_not_run_is_said_where_the_result_is_shown(trio):
    bundle, int8, fp8 = trio
    assert NOT_CHECKED == (
        "not run where it was made",
        "the engine itself: its Q/DQ graph was judged, in ONNX Runtime on the CPU",
        "speed: an engine runs on its GPU alone",
    )
    for report in (int8, fp8):
        assert report.not_checked[:3] == NOT_CHECKED
        assert any("no metric" in line for line in report.not_checked)
        assert report.latency_ms is None
        assert {stage.speed for stage in report.stages} <= {
            "-", "not timed: an engine runs on its GPU alone"
        }  # fmt: skip
        for variant in bundle.manifest.variants:
            if variant.id in report.variants:
                assert variant.not_checked == report.not_checked


def test_products_that_do_harm_go_back_and_others_say_why_they_stay(trio):
    bundle, int8, fp8 = trio
    assert int8.attempts == 1
    assert [stage.forms for stage in int8.stages] == [
        {"qdq_int8": 1}, {"qdq_int8": 2}, {"qdq_int8": 3}
    ]  # fmt: skip
    assert fp8.attempts > 1
    camera, voice, fusion = fp8.stages
    documented = "TensorRT documents fp8 for matrix products only"
    assert camera.kept == {"conv": documented}
    assert voice.kept == {"basis": documented, "project": "the metric needs it"}
    assert fusion.kept == {"head": "the metric needs it"}
    assert fusion.forms == {"qdq_fp8": 2, "float": 1}
    assert fp8.verdict.worst <= fp8.limit < 0.08
    build = next(v for v in bundle.manifest.variants if v.id == fp8.variants[0]).build
    assert build["fusion kept float32"] == "head: the metric needs it"


def test_the_metric_decides_with_its_interval(tmp_path, monkeypatch):
    """The layer that int8 breaks is put back, as it is on the CPU, and the others are not."""
    monkeypatch.setattr(stage_work, "OUTLYING", np.inf)
    hostile = HOSTILE["gain_0"]()
    task = Task(list(hostile.model.samples), hostile.calibration, hostile.model.metric)
    bundle = export(hostile.model, tmp_path / "b", split=True)
    bundle, report = quantize(
        bundle, task, OPTIONS(max_drop=0.02, engines=EngineOptions(("sm_89",)))
    )
    variant = bundle.manifest.variants[-1]
    bundle.close()
    assert report.attempts > 1
    assert report.verdict.drop.bound <= 0.02
    assert variant.metrics["metric_drop_bound"] == report.verdict.drop.bound
    assert "with confidence" in dict(report.summary())["drop"]
    assert not any("no metric" in line for line in variant.not_checked)
    back = [n for s in report.stages for n, why in s.kept.items() if why == "the metric needs it"]
    quantized = sum(stage.forms.get("qdq_int8", 0) for stage in report.stages)
    assert 0 < len(back) < quantized


def test_engines_are_of_the_cut_alone(tmp_path):
    """A bundle that holds the network whole as well has no engine of it: weights lie there once."""
    bundle = export(FUSIONS["cross_attention"](), tmp_path / "b", samples_limit=3)
    assert bundle.manifest.plan_names() == ("cut", "whole")
    options = OPTIONS(max_error=0.3, engines=EngineOptions(("sm_89",)))
    bundle, report = quantize(bundle, options=options)
    variant = bundle.manifest.variants[-1]
    assert variant.id == report.variant
    assert bundle.manifest.plan_names(variant) == ("cut",)
    assert set(variant.files) == {stage.name for stage in bundle.manifest.in_order("cut")}
    bundle.close()


def test_engines_for_another_gpu_need_no_new_search(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    options = OPTIONS(precision="fp8", engines=EngineOptions(("sm_89",)))
    bundle, first = quantize(write_trio(tmp_path / "a.mmedge"), options=options, resume=folder)
    bundle.close()
    answers = []
    old = plan_search.BundleNetwork.answers
    monkeypatch.setattr(
        plan_search.BundleNetwork, "answers", lambda self, s: answers.append(1) or old(self, s)
    )
    options = OPTIONS(precision="fp8", engines=EngineOptions(("sm_120",)))
    bundle, second = quantize(write_trio(tmp_path / "b.mmedge"), options=options, resume=folder)
    bundle.close()
    assert answers == [1]  # the float network's own
    assert second.variants == ("tensorrt_rtx-fp8-sm_120",)
    assert second.verdict == first.verdict


def test_a_network_that_int8_cannot_hold_is_refused(tmp_path):
    """What the output reads is a thousandth of what its weights leave out."""
    w = normal(4, 4)
    w[0] = 0
    text = "net (float[2,4] x) => (float[2,4] y) { [mul] y = MatMul(x, w) }"
    x = np.full((2, 4), 1e-3, np.float32)
    x[:, 0] = 3.0
    with (
        one_stage(tmp_path / "b", text, [{"x": x}], w=w) as bundle,
        pytest.raises(AccuracyError, match=r"no node in lower precision(.|\n)*net mul alone"),
    ):
        quantize(bundle, options=OPTIONS())


def test_where_nothing_can_be_quantised_nothing_is_built(tmp_path):
    feeds = [{"x": np.ones((2, 4), np.float32)}]
    text = "net (float[2,4] x) => (float[2,4] y) { [relu] y = Relu(x) }"
    bundle, report = quantize(one_stage(tmp_path / "b", text, feeds), options=OPTIONS())
    assert report.variant is None
    assert [variant.id for variant in bundle.manifest.variants] == ["ort-fp32-cpu"]
    bundle.close()


def test_an_activation_that_was_never_but_zero_stays_float32(tmp_path):
    text = """net (float[2,4] x, float[2,4] z) => (float[2,4] y) {
      [seen] a = MatMul(x, w)
      [dark] b = MatMul(z, w)
      [add] y = Add(a, b)
    }"""
    feeds = [{"x": normal(2, 4), "z": np.zeros((2, 4), np.float32)}]
    bundle, report = quantize(
        one_stage(tmp_path / "b", text, feeds, w=normal(4, 4)), options=OPTIONS()
    )
    bundle.close()
    (stage,) = report.stages
    assert stage.forms == {"qdq_int8": 1}
    assert stage.kept == {"dark": "no range of 'z'"}


def test_what_cannot_be_built_is_refused_before_calibration(tmp_path):
    told: list[str] = []
    with write_trio(tmp_path / "b") as bundle:
        before = bundle.manifest
        for fault, message, options in (
            (InputError, r"fp8 for sm_86.*need sm_89",
             OPTIONS(precision="fp8", engines=EngineOptions(("sm_89", "sm_86")))),
            (InputError, "sm_90.*builds for", OPTIONS(engines=EngineOptions(("sm_90",)))),
            (InputError, "'no such'",
             OPTIONS(engines=EngineOptions(("sm_89",), {"no such": (1, 1, 1)}))),
            (BackendError, "this machine's GPU is none|cannot be imported",
             OPTIONS(backend="tensorrt", engines=EngineOptions(("sm_89",)))),
            (InputError, "for engines; ort runs", QuantizeOptions(engines=ENGINES)),
        ):  # fmt: skip
            with pytest.raises(fault, match=message):
                quantize(bundle, options=options, progress=told.append)
        assert bundle.manifest == before
    assert not told


NET = """net (float[batch,4,8] x) => (float[batch,4,6] y) {
  [query] q = MatMul(x, w_query)
  [key] k = MatMul(x, w_key)
  [turn] kt = Transpose<perm=[0,2,1]>(k)
  [scores] s = MatMul(q, kt)
  [softmax] p = Softmax<axis=-1>(s)
  [mix] v = MatMul(p, x)
  [pack] c = MatMul(v, w_pack)
  [split] a, b = Split<axis=-1,num_outputs=2>(c)
  [add] y = Add(a, b)
}"""
X = np.random.default_rng(0).standard_normal((2, 4, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A prepared graph with all kinds of products, its nodes by precision, and ranges."""
    folder = tmp_path_factory.mktemp("net")
    model = graph(NET, w_query=normal(8, 8), w_key=normal(8, 8), w_pack=normal(8, 12))
    onnx.save(model, folder / "source.onnx")
    prepared = folder / "net.onnx"
    model = prepare(folder / "source.onnx", prepared)
    names = ("x", "q", "kt", "p", "v")
    inner = Runner(prepared, names)({"x": X})
    ranges = {name: (float(inner[name].min()), float(inner[name].max())) for name in names}
    return prepared, {p: find_nodes(model, p, ranges)[0] for p in ("int8", "fp8")}, ranges


@settings(max_examples=12, deadline=None)
@given(
    on=st.sets(st.sampled_from(["query", "key", "scores", "mix", "pack"]), min_size=1),
    precision=st.sampled_from(["int8", "fp8"]),
)
def test_switches_turn_single_products_on(net, tmp_path_factory, on, precision):
    """With some on, the graph computes what the graph with those in 8 bits does."""
    prepared, by_precision, ranges = net
    nodes = by_precision[precision]
    folder = tmp_path_factory.mktemp("switched")
    plan = {node.node: node.forms[0] for node in nodes}
    write_switched(prepared, folder / "s.onnx", nodes, plan, ranges)
    write_qdq(prepared, folder / "q.onnx", sorted(on), ranges, precision=precision)
    switched = open_graph(folder / "s.onnx", None, alone=True)
    wanted = open_graph(folder / "q.onnx", None, alone=True)({"x": X})["y"]
    got = switched({"x": X, **switches(nodes, on)})["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    floats = switched({"x": X, **switches(nodes, set())})["y"]
    np.testing.assert_allclose(floats, Runner(prepared)({"x": X})["y"], rtol=1e-5, atol=1e-5)
    assert np.abs(got - floats).max() > 1e-4


def test_a_prepared_graph_is_prepared(net, tmp_path):
    prepared, by_precision, ranges = net
    again = prepare(prepared, tmp_path / "again.onnx")
    assert find_nodes(again, "int8", ranges)[0] == by_precision["int8"]
    assert len(ir.load(prepared).graph) == len(again.graph)


def test_the_command_prints_data_alone_on_stdout(tmp_path):
    path = tmp_path / "trio.mmedge"
    write_trio(path).close()
    command = [sys.executable, "-m", "mmedge", "quantize", str(path), "--backend", "tensorrt-rtx"]
    command += ["--target", "sm_89", "--precision", "int8", "--profile", "samples=40:400:800"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["variant"] == "tensorrt_rtx-int8-sm_89"
    assert data["variants"] == ["tensorrt_rtx-int8-sm_89"]
    assert data["not_checked"][:3] == list(NOT_CHECKED)
    with Bundle.open(path) as built:
        assert built.manifest.variants[-1].build["profile samples"] == "40:400:800"
    for extra, message in (
        (["--precision", "int4"], "expected int8 or fp8"),
        (["--backend", "ort"], "--target is for engines"),
        (["--target", "rtx4090"], "expected sm_NN"),
        (["--profile", "samples=1:2"], "MIN:OPT:MAX"),
    ):
        wrong = subprocess.run([*command, *extra], capture_output=True, text=True, timeout=240)
        assert wrong.returncode == 2, extra
        assert message in " ".join(wrong.stderr.replace("│", " ").split()), extra


def test_build_names_the_command_that_judges(tmp_path):
    path = tmp_path / "trio.mmedge"
    write_trio(path).close()
    command = [sys.executable, "-m", "mmedge", "build", str(path), "--target", "sm_89"]
    done = subprocess.run(
        [*command, "--precision", "fp8"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2
    words = " ".join(done.stderr.replace("│", " ").split())
    assert "mmedge quantize BUNDLE --backend tensorrt-rtx --precision fp8 --target sm_89" in words
