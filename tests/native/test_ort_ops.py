"""The kernels as operators of ONNX Runtime, in the place of the functions that graphs carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from fusions import FUSIONS

import mmedge
from mmedge import native
from mmedge.backends import SessionOptions
from mmedge.backends.registry import open_stage
from mmedge.errors import BackendError
from mmedge.execution.verify import verify
from mmedge.native import capi, dispatch
from mmedge.native.dispatch import KernelMeasurement
from mmedge_export import export
from mmedge_export.partition.attention_function import KINDS, attention_function


def graph(segments, kind, dtype=np.float32, width=None):
    """One node on inputs of unknown sizes but perhaps the width of heads."""
    function = attention_function(segments, kind, 20)
    letters = ("k", "v", *(["bias"] if kind else []))
    names = ["q", *(f"{letter}{i}" for letter in letters for i in range(segments))]
    shapes = [[None, None, None, None if n.startswith("bias") else width] for n in names]
    inputs = [
        ir.val(n, ir.DataType.from_numpy(np.dtype(dtype)), shape)
        for n, shape in zip(names, shapes, strict=True)
    ]
    node = ir.node(function.name, inputs, {"scale": 0.3}, domain="mmedge")
    out = node.outputs[0]
    out.name, out.type, out.shape = "y", inputs[0].type, ir.Shape([None] * 4)
    made = ir.Graph(inputs, [out], nodes=[node], opset_imports={"": 20, "mmedge": 1}, name="g")
    return ir.serde.serialize_model(ir.Model(made, ir_version=10, functions=[function]))


def session(model, *, kernel, threads=1):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if kernel:
        options.register_custom_ops_library(str(native.library().path))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(model, feeds, **how):
    before = native.cpu_calls()
    result = session(model, **how).run(None, feeds)[0]
    assert native.cpu_calls() - before == int(how["kernel"])
    return result


def feeds(
    segments,
    kind,
    *,
    q=(2, 3, 5, 16),
    k=(2, 3),
    dim_v=16,
    bias=(2, 3, 5),
    lengths=(7, 0, 64, 1, 30, 2, 9, 33),
):
    rng = np.random.default_rng(segments)

    def values(*shape):
        return rng.standard_normal(shape, np.float32)

    made = {"q": values(*q)}
    made |= {f"k{i}": values(*k, lengths[i], q[-1]) for i in range(segments)}
    made |= {f"v{i}": values(*k, lengths[i], dim_v) for i in range(segments)}
    if kind:
        for i in range(segments):
            made[f"bias{i}"] = values(*bias, lengths[i])
            made[f"bias{i}"][rng.random(made[f"bias{i}"].shape) < 0.3] = -np.inf
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segments", range(2, 9))
def test_the_kernel_computes_what_the_body_does(segments, kind):
    model, values = graph(segments, kind), feeds(segments, kind)
    wanted = run(model, values, kernel=False)
    for threads in (1, 2):
        got = run(model, values, kernel=True, threads=threads)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shapes",
    [
        {"q": (1, 3, 5, 16), "k": (2, 3)},
        {"q": (2, 1, 5, 16), "k": (2, 3)},
        {"q": (2, 3, 5, 16), "k": (1, 3)},
        {"q": (2, 3, 5, 16), "k": (2, 1)},
        {"bias": (1, 1, 1)},
        {"bias": (2, 1, 5)},
        {"bias": (1, 3, 1)},
        {"dim_v": 24},
        {"q": (2, 3, 1, 16), "bias": (2, 3, 1)},
        {"q": (2, 3, 40, 13), "bias": (1, 1, 40)},
        {"q": (0, 3, 5, 16), "k": (0, 3), "bias": (1, 1, 1)},
        {"q": (2, 3, 5, 200), "dim_v": 200},
        {"lengths": (3000, 900)},
    ],
    ids=str,
)
def test_shapes_that_repeat(shapes, kind):
    model, values = graph(2, kind), feeds(2, kind, **shapes)
    wanted = session(model, kernel=False).run(None, values)[0]
    got = session(model, kernel=True, threads=2).run(None, values)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["Biased", "Guarded"])
def test_rows_with_nothing_to_attend_to(kind):
    model, values = graph(2, kind), feeds(2, kind)
    values["bias0"][0, 1, 2] = values["bias1"][0, 1, 2] = -np.inf
    got, wanted = (run(model, values, kernel=kernel) for kernel in (True, False))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-6)
    assert np.isnan(got[0, 1, 2]).all() == (kind == "Biased")
    assert np.isnan(got).any() == (kind == "Biased")


def test_shapes_that_do_not_fit_are_named():
    made = session(graph(2, ""), kernel=True)
    values = feeds(2, "")
    with pytest.raises(Exception, match=r"mmedge::SegmentedAttention2: expected q \[B, H, Lq, D\]"):
        made.run(None, {**values, "k1": values["k0"]})
    with pytest.raises(Exception, match=r"input 0: expected 4 axes, got 3|Invalid rank"):
        made.run(None, {**values, "q": values["q"][0]})


def test_a_graph_in_float16_takes_the_body(tmp_path):
    """What ONNX Runtime does with a kernel of another type: it refuses the graph."""
    model = graph(2, "", np.float16)
    with pytest.raises(Exception, match=r"Type Error|INVALID_GRAPH|Type 'tensor\(float16\)'"):
        session(model, kernel=True)
    session(model, kernel=False)


def test_heads_that_are_too_wide_are_refused_when_the_session_is_made():
    assert session(graph(2, "", width=256), kernel=True)
    with pytest.raises(Exception, match=r"heads of up to 256 elements are supported, got 257"):
        session(graph(2, "", width=257), kernel=True)


# In bundles.


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("fusion") / "b"
    export(FUSIONS["cross_attention"](), path, samples_limit=2, split=True).close()
    return path


def fusion(opened):
    return next(s for s in opened.manifest.stages if s.modality is None)


def test_a_bundle_runs_through_the_kernel(bundle):
    with mmedge.load(bundle, kernels=True) as pipe:
        before = native.cpu_calls()
        assert verify(pipe).ok
        assert native.cpu_calls() - before >= 3
        attention = pipe.attention
        stage = fusion(pipe.bundle).name
        assert attention.keys() == {stage}
        assert attention[stage].nodes == 3
        assert attention[stage].kernel == native.cpu_isa()
        assert str(attention[stage]) == f"3 nodes by kernel ({native.cpu_isa()})"
        kernel = pipe.run(pipe.bundle.samples()[0].inputs)
    with mmedge.load(bundle, kernels=False) as pipe:
        before = native.cpu_calls()
        assert pipe.attention[stage].kernel is None
        assert str(pipe.attention[stage]) == "3 nodes by standard operators: kernels are turned off"
        body = pipe.run(pipe.bundle.samples()[0].inputs)
        assert native.cpu_calls() == before
    for name, value in body.items():
        np.testing.assert_allclose(kernel[name], value, rtol=1e-5, atol=1e-6)


@pytest.fixture
def _choice_anew():
    dispatch.choose.cache_clear()
    yield
    dispatch.choose.cache_clear()


@pytest.mark.usefixtures("_choice_anew")
@pytest.mark.parametrize("pays", [True, False])
def test_by_default_the_measurements_decide(bundle, monkeypatch, pays):
    row = KernelMeasurement(
        "onnxruntime", f"cpu-{native.cpu_isa()}", "float32", 64, 1, 64, 0.5 + pays
    )
    monkeypatch.setattr(dispatch, "measurements", lambda: (row,))
    with mmedge.load(bundle) as pipe:
        found = pipe.attention[fusion(pipe.bundle).name]
    if pays:
        assert found.kernel == native.cpu_isa()
    else:
        assert found.kernel is None
        assert found.reason.startswith(f"measured on cpu-{native.cpu_isa()}: 0.50 times as fast")


def test_without_the_library_the_body_runs(bundle, monkeypatch):
    monkeypatch.setattr(capi, "_find", lambda: capi._Lookup(None, "it was left out"))
    with mmedge.load(bundle) as pipe:
        assert verify(pipe).ok
        found = pipe.attention[fusion(pipe.bundle).name]
        assert (found.kernel, found.reason) == (None, "it was left out")


def test_a_library_that_onnx_runtime_refuses_leaves_the_body(bundle, monkeypatch, tmp_path):
    other = tmp_path / "libother.so"
    other.write_bytes(b"no library")
    monkeypatch.setattr(native, "ort_kernels", lambda: (Path(other), ""))
    with mmedge.load(bundle, kernels=True) as pipe:
        assert verify(pipe).ok
        found = pipe.attention[fusion(pipe.bundle).name]
        assert found.reason.startswith("ONNX Runtime refused the kernel: ")


def test_a_kernel_that_is_not_called_is_an_error(bundle, monkeypatch):
    with mmedge.Bundle.open(bundle) as opened:
        stage, variant = fusion(opened), opened.manifest.variants[0]
        made = open_stage(opened, stage, variant, options=SessionOptions(kernels=True))
        values = {**opened.samples()[0].inputs, **opened.samples()[0].outputs}
        feeds = {spec.name: values[spec.name] for spec in made.inputs}
        monkeypatch.setattr(native, "cpu_calls", lambda: 0)
        with pytest.raises(BackendError, match=r"3 nodes of segmented attention are said to run"):
            made.run(feeds)
        monkeypatch.undo()
        made.run(feeds)
