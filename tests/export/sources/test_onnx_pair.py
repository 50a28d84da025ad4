"""An encoder and a decoder as two ONNX files, joined on the command line."""

from __future__ import annotations

import json

import loop_networks as networks
import numpy as np
import onnx
import pytest
from shared import once
from typer.testing import CliRunner

import mmedge
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge_export import SourceOptions, export
from mmedge_export.sources.loader import load_source


def files(tmp_path_factory, name: str, make):
    """A bundle of a torch network, whose graphs are files of a module and of a step."""

    def build(folder):
        export(make(), folder / "net", split=False).close()

    return once(tmp_path_factory, f"pair-{name}", build) / "net"


def run(*words: object):
    return CliRunner().invoke(build_app(), ["export", *map(str, words)])


TOKENS = ("--token", "input_ids", "--start", "1", "--stop", "2")


def test_a_pair_generates_what_the_network_does(tmp_path_factory, tmp_path):
    net = files(tmp_path_factory, "captions", networks.captions)
    result = run(
        net / "onnx/model.onnx", "--decoder", net / "onnx/step.onnx", *TOKENS, "--limit", 12,
        "--rate", "image=30", "-o", tmp_path / "net", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    said = json.loads(result.stdout)
    assert said["states"][0] == {
        "stage": "step", "input": "past_k", "output": "present_k", "axis": 2, "initial": "empty",
        "source": None,
    }  # fmt: skip
    with Bundle.open(net) as bundle, mmedge.load(tmp_path / "net") as pipe:
        assert pipe.bundle.manifest.modalities[0].rate_hz == 30
        assert len(pipe.bundle.manifest.stages) > 2  # encoders are cut apart
        for sample in bundle.samples():
            got = pipe(**sample.inputs)
            assert np.array_equal(got["tokens"], sample.loop["tokens"])


def test_a_state_begins_as_what_the_first_file_gives(tmp_path_factory, tmp_path):
    net = files(tmp_path_factory, "hinted", networks.hinted)
    first = tmp_path / "first.onnx"
    model = onnx.load(net / "onnx/model.onnx")
    onnx.save(model, first, save_as_external_data=False)
    words = (*TOKENS, "--limit", 6, "--position", "position_ids")
    # Outputs of the states' own names, which a bundle cannot have, are called otherwise.
    again = ("--rename", "initial.past_k=past_k", "--rename", "initial.past_v=past_v")
    step = net / "onnx/step.onnx"
    for place, more in (("a", ()), ("b", again)):
        result = run(first, "--decoder", step, *words, *more, "-o", tmp_path / place)
        assert result.exit_code == 0, f"{result.output} {result.exception}"
        with Bundle.open(net) as bundle, mmedge.load(tmp_path / place) as pipe:
            assert [s.source for s in pipe.bundle.manifest.states] == [
                "initial.past_k", "initial.past_v",
            ]  # fmt: skip
            for sample in bundle.samples():
                got = pipe(**sample.inputs)
                assert np.array_equal(got["tokens"], sample.loop["tokens"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs --token"),
        ((*TOKENS, "--rename", "present_k=keys"), "input past_k is no state and nothing that"),
        ((*TOKENS, "--rename", "nothing=keys"), "--rename nothing=keys: no input, output or dim"),
        ((*TOKENS, "--rename", "image=audio"), "has input 'audio' already"),
        ((*TOKENS, "--rename", "image=a b"), "'a b' is no name of the form"),
        ((*TOKENS, "--logits", "scores"), "no output 'scores'; its outputs are logits, present_k"),
        ((*TOKENS, "--state", "image_k=present_k"), "names two tensors of the step"),
    ],
)
def test_what_does_not_join_is_told(words, message, tmp_path_factory, tmp_path):
    net = files(tmp_path_factory, "captions", networks.captions)
    result = run(
        net / "onnx/model.onnx", "--decoder", net / "onnx/step.onnx", *words, "-o", tmp_path / "b"
    )
    assert result.exit_code != 0
    assert message in str(result.exception)


def test_inputs_outputs_and_dimensions_get_other_names(tmp_path_factory, tmp_path):
    net = files(tmp_path_factory, "captions", networks.captions)
    names = {"image": "frame", "image_k": "frame/k", "patches": "P", "audio_v": "image"}
    model = load_source(str(net / "onnx/model.onnx"), SourceOptions(rename=names)).model
    assert list(model.inputs) == ["frame", "audio"]
    assert model.inputs["frame"].dynamic == {0: "batch", 1: "P"}
    assert list(model.outputs) == ["frame/k", "image_v", "audio_k", "image"]
    with export(model, tmp_path / "b", split=False) as bundle:
        assert any("input 'image' of the file is" in r for r in bundle.manifest.cut.remarks)
    with Bundle.open(net) as bundle, mmedge.load(tmp_path / "b") as pipe:
        sample = bundle.samples()[0]
        got = pipe(frame=sample.inputs["image"], audio=sample.inputs["audio"])
        np.testing.assert_allclose(got["frame/k"], sample.outputs["image_k"], atol=1e-5)
