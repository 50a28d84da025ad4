"""Variants for OpenVINO of bundles with states and loops: proven on golden samples, and chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from loop_bundles import Captioner
from loop_samples import write_captions, write_filter, write_pictures
from typer.testing import CliRunner

import mmedge
from mmedge.backends.openvino.stepper import OpenVinoStepper
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge.errors import AccuracyError, ExportError
from mmedge.execution.verify import verify
from mmedge_export.targets.openvino.variant import OpenVinoRunner, add_openvino

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'mmedge[openvino]'")


def write_wide_captions(path):
    """With 4 frames or more.

    After one of a single frame, OpenVINO 2026.4 is wrong with 16 and more: it attends to them
    without a mask.
    """
    return write_captions(path, frames=4)


@pytest.mark.parametrize(
    "write", [write_wide_captions, write_pictures, write_filter], ids=["tokens", "latent", "state"]
)
def test_the_variant_is_added_and_computes_the_same(tmp_path, write):
    path = write(tmp_path / "b")
    bundle, variant = add_openvino(Bundle.open(path))
    inputs = bundle.samples()[0].inputs
    bundle.close()
    assert variant.id == "openvino-fp32-cpu"
    with (
        mmedge.load(path, backend="openvino") as ours,
        mmedge.load(path, backend="ort") as theirs,
    ):
        assert verify(ours).ok
        got, expected = ours.run(inputs), theirs.run(inputs)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5)
            else:
                assert np.array_equal(got[name], value)


def test_states_and_tokens_are_tried_at_other_sizes(tmp_path, monkeypatch):
    """Golden samples have a state of one size."""
    shapes = set()
    run = OpenVinoRunner.__call__

    def watched(runner, values):
        if "past_k" in values:
            shapes.add((values["tokens"].shape, values["past_k"].shape[2]))
        return run(runner, values)

    monkeypatch.setattr(OpenVinoRunner, "__call__", watched)
    add_openvino(Bundle.open(write_wide_captions(tmp_path / "b")))[0].close()
    assert {((1, 1), 1), ((1, 1), 0), ((8, 67), 63), ((1, 67), 4), ((1, 1), 63)} <= shapes


def test_a_wrong_form_of_a_step_is_refused(tmp_path, monkeypatch):
    path = write_wide_captions(tmp_path / "b")
    run = OpenVinoRunner.__call__

    def wrong_far(runner, values):
        outputs = run(runner, values)
        if "past_k" in values and values["past_k"].shape[2] > 32:
            outputs["logits"] = outputs["logits"] * 1.01
        return outputs

    monkeypatch.setattr(OpenVinoRunner, "__call__", wrong_far)
    with pytest.raises(AccuracyError, match=r"stage 'step' at .*past=63.*'logits'"):
        add_openvino(Bundle.open(path))


def test_what_openvino_computes_wrong_is_refused(tmp_path):
    """See :func:`write_wide_captions`. A version that is right may take this test away."""
    with pytest.raises(AccuracyError, match="stage 'step' at .*frames=67"):
        add_openvino(Bundle.open(write_captions(tmp_path / "b")))


def test_a_loop_that_goes_another_way_leaves_no_variant(tmp_path, monkeypatch):
    """Each run is right by itself; the loop is not."""
    path = write_wide_captions(tmp_path / "b")
    begin = OpenVinoStepper.hold
    monkeypatch.setattr(
        OpenVinoStepper,
        "hold",
        lambda stepper, tensors: begin(
            stepper,
            {n: np.zeros_like(t) if n == "position" else t for n, t in tensors.items()},
        ),
    )
    with pytest.raises(AccuracyError, match=r"of stage '\(loop\)' differs"):
        add_openvino(Bundle.open(path))
    with Bundle.open(path) as bundle:
        assert [variant.id for variant in bundle.manifest.variants] == ["ort-fp32-cpu"]


def test_a_bundle_without_golden_samples_is_refused(tmp_path):
    with (
        Captioner().write(tmp_path / "b") as bundle,
        pytest.raises(ExportError, match="no golden samples"),
    ):
        add_openvino(bundle)


def test_the_command_adds_times_and_chooses_it(tmp_path):
    path = write_wide_captions(tmp_path / "b")
    result = CliRunner().invoke(
        build_app(), ["build", str(path), "--backend", "openvino", "--json"]
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["variants"] == ["openvino-fp32-cpu"]
    assert set(answer["measured"]) == {"ort-fp32-cpu", "openvino-fp32-cpu"}
    # Whichever was faster is what a load without a wish gets.
    fastest = min(answer["measured"], key=lambda name: answer["measured"][name]["latency_ms"])
    with mmedge.load(path) as pipe:
        assert pipe.variant.id == fastest
