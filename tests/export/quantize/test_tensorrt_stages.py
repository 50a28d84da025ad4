"""A bundle's stages in int8 and fp8: calibrated, measured, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from engine_net import graph, write_bundle, write_trio
from hypothesis import given
from hypothesis import strategies as st

from mmedge.errors import AccuracyError, BundleError, ExportError
from mmedge.spec import Tolerance
from mmedge_export.targets.tensorrt.stages import LEAST, emulate, to_qdq, tolerance_of


def normal(*shape):
    values = np.random.default_rng(shape).standard_normal(shape) * np.prod(shape[1:]) ** -0.5
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    with write_trio(tmp_path_factory.mktemp("trio") / "trio.mmedge") as bundle:
        yield bundle


def test_stages_are_calibrated_on_golden_samples_and_measured(trio, tmp_path):
    told = []
    made = to_qdq(trio, tmp_path, precision="int8", progress=told.append)
    assert "camera: 1 of 1 products in int8" in told
    assert made["camera"].quantized == ("conv",)
    assert made["voice"].quantized == ("project",)
    assert "logarithm" in made["voice"].kept["basis"]
    assert made["fusion"].quantized == ("scores", "mix", "head")
    # The error is that of the graphs on the samples, each stage by itself at least.
    for stage in trio.manifest.stages:
        runner = emulate(made[stage.name].file)
        worst = 0.0
        for sample in trio.samples():
            golden = {**sample.inputs, **sample.outputs}
            for name, value in runner(golden).items():
                worst = max(worst, np.abs(value - golden[name]).max() / np.abs(golden[name]).max())
        assert 1e-4 < worst <= made[stage.name].error * 1.001 < 0.1
    # The chain adds to what the last stage costs by itself.
    assert made["fusion"].error > worst


def one_stage(path, text, feeds, **constants):
    return write_bundle(path, {"net": graph(text, **constants)}, feeds, {})


def test_a_network_that_int8_cannot_hold_is_refused(tmp_path):
    """What the output reads is a thousandth of what its weights leave out."""
    w = normal(4, 4)
    w[0] = 0
    text = "net (float[2,4] x) => (float[2,4] y) { [mul] y = MatMul(x, w) }"
    x = np.full((2, 4), 1e-3, np.float32)
    x[:, 0] = 3.0
    with (
        one_stage(tmp_path / "b", text, [{"x": x}], w=w) as bundle,
        pytest.raises(AccuracyError, match=r"int8: output 'y' of stage 'net'.*mmedge quantize"),
    ):
        to_qdq(bundle, tmp_path, precision="int8")


def test_where_nothing_can_be_quantised_it_is_said(tmp_path):
    feeds = [{"x": np.ones((2, 4), np.float32)}]
    text = "net (float[2,4] x) => (float[2,4] y) { [relu] y = Relu(x) }"
    with (
        one_stage(tmp_path / "b", text, feeds) as bundle,
        pytest.raises(ExportError, match="no product of any stage can be computed in fp8"),
    ):
        to_qdq(bundle, tmp_path, precision="fp8")


def test_an_activation_that_was_never_but_zero_stays_float32(tmp_path):
    text = """net (float[2,4] x, float[2,4] z) => (float[2,4] y) {
      [seen] a = MatMul(x, w)
      [dark] b = MatMul(z, w)
      [add] y = Add(a, b)
    }"""
    feeds = [{"x": normal(2, 4), "z": np.zeros((2, 4), np.float32)}]
    with one_stage(tmp_path / "b", text, feeds, w=normal(4, 4)) as bundle:
        made = to_qdq(bundle, tmp_path, precision="int8")["net"]
    assert made.quantized == ("seen",)
    assert made.kept == {"dark": "no range of 'z'"}


def test_bundles_that_cannot_be_calibrated_are_refused(trio, tmp_path, monkeypatch):
    monkeypatch.setattr(type(trio), "samples", lambda _: ())
    with pytest.raises(BundleError, match="fp8 needs golden samples"):
        to_qdq(trio, tmp_path, precision="fp8")


@given(st.floats(0, 0.6))
def test_the_tolerance_covers_half_as_much_again(error):
    found = tolerance_of(error)
    assert found == Tolerance(max(1.5 * error, 1e-3), 1e-6)
    assert found.rtol >= LEAST.rtol
