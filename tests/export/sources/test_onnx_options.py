"""What a user says of an ONNX file on the command line, or in source.toml beside it."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_files import FLOAT, save
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge.spec import Dimension

RNG = np.random.default_rng(5)


def run(*words: object):
    return CliRunner().invoke(build_app(), ["export", *map(str, words)])


def text(result) -> str:
    said = f"{result.output} {result.exception or ''}".replace("│", " ")
    return " ".join(said.split())


@pytest.fixture
def net(tmp_path) -> Path:
    """Means of a picture and of a sound; sizes of pictures are multiples of 8."""
    return save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Cast", ["image"], ["floats"], to=FLOAT),
            helper.make_node(
                "MaxPool", ["planes"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]
            ),
            helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("ReduceMean", ["pooled"], ["color"], axes=[2, 3], keepdims=0),
            helper.make_node("ReduceMean", ["audio"], ["loud"], axes=[1]),
            helper.make_node("Add", ["color", "loud"], ["y"]),
        ],
        [
            ("image", TensorProto.UINT8, ["batch", "height", "width", 3]),
            ("audio", FLOAT, ["batch", "samples"]),
        ],
        [("y", FLOAT, ["batch", 3])],
        {},
    )


def write_wav(path: Path, count: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(RNG.integers(-9999, 9999, count).astype("<i2").tobytes())


def picture(path: Path, height: int, width: int) -> None:
    Image.fromarray(RNG.integers(0, 255, (height, width, 3)).astype(np.uint8)).save(path)


@pytest.fixture
def samples(tmp_path) -> Path:
    folder = tmp_path / "samples"
    for name in ("image", "audio"):
        (folder / name).mkdir(parents=True)
    for number, (height, suffix) in enumerate([(16, "png"), (24, "jpg"), (8, "png")]):
        picture(folder / "image" / f"{number}.{suffix}", height, 16)
    write_wav(folder / "audio/0.wav", 50)
    write_wav(folder / "audio/1.wav", 40)
    np.save(folder / "audio/2.npy", RNG.standard_normal(30).astype(np.float32))
    return folder


def test_sizes_have_limits(net, tmp_path):
    result = run(
        net, "-o", tmp_path / "b", "--dim", "batch=1:2:64", "--dim", "samples=4:10:",
        "--multiple", "height=8", "--dim", "width=8:24:640", "--multiple", "width=8",
        "--rate", "image=30", "--rate", "audio=10", "--optional", "audio", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, text(result)
    with Bundle.open(tmp_path / "b") as bundle:
        manifest = bundle.manifest
    assert manifest.dimensions == {
        "batch": Dimension(1, 2, 64),
        "samples": Dimension(4, 10, None),
        "height": Dimension(8, 16, None, 8),
        "width": Dimension(8, 24, 640, 8),
    }
    assert [(m.name, m.rate_hz, m.required) for m in manifest.modalities] == [
        ("image", 30, True),
        ("audio", 10, False),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dim", "batch=0:0:3"), "the example from 1 on"),
        (("--dim", "batch=2:1:3"), "expected smallest <= example <= largest"),
        (("--dim", "depth=1:2:3"), "sizes name depth, but the dynamic dimensions are"),
        (("--multiple", "depth=8"), "sizes name depth"),
        (("--dim", "height=8:20:40", "--multiple", "height=8"), "multiples of a third number"),
        (("--samples", "nowhere"), "--samples: no folder nowhere; expected NAME.safetensors"),
        (("--limit", "5"), "--limit: needs --token"),
        (("--decoder", "no.onnx"), "--decoder: no such file: no.onnx"),
    ],
)
def test_what_does_not_fit_is_told(words, message, net, tmp_path):
    result = run(net, "-o", tmp_path / "b", *words)
    assert result.exit_code != 0
    assert message in text(result)


def test_a_folder_for_each_input_has_the_samples(net, samples, tmp_path):
    result = run(net, "-o", tmp_path / "b", "--samples", samples, "--golden-samples", 2, "--json")
    assert result.exit_code == 0, text(result)
    said = json.loads(result.stdout)
    assert said["samples"] == 2
    assert said["provenance"]["samples"] == "given"
    assert any("sampling rate of the WAV files for 'audio'" in line for line in said["not_checked"])
    with Bundle.open(tmp_path / "b") as bundle:
        golden = bundle.samples()
    with Image.open(samples / "image/0.png") as image:
        assert np.array_equal(golden[0].inputs["image"], np.asarray(image)[None])
    assert golden[1].inputs["audio"].shape == (1, 40)


def test_a_safetensors_file_is_a_sample_of_all_inputs(net, tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    values = [
        {
            "image": RNG.integers(0, 255, (batch, 8, 8, 3)).astype(np.uint8),
            "sound": RNG.standard_normal((batch, 7)).astype(np.float32),
        }
        for batch in (2, 1)
    ]
    for number, each in enumerate(values):
        save_file(each, folder / f"{number}.safetensors")
    words = ("--samples", folder, "--rename", "audio=sound", "--rename", "samples=time")
    result = run(net, "-o", tmp_path / "b", *words)
    assert result.exit_code == 0, text(result)
    with Bundle.open(tmp_path / "b") as bundle:
        manifest, golden = bundle.manifest, bundle.samples()
    assert manifest.inputs()["sound"].shape == ("batch", "time")
    assert all(
        np.array_equal(sample.inputs[name], each[name])
        for sample, each in zip(golden, values, strict=False)
        for name in each
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "audio/1.wav").unlink(), "sample '1' has no file in"),
        (lambda f: (f / "image").rename(f / "photo"), "has folders audio, photo, the inputs are"),
        (lambda f: (f / "note.txt").touch(), "holds files beside folders"),
        (lambda f: (f / "audio/1.npy").touch(), "are one sample"),
        (lambda f: write_wav(f / "image/0.wav", 9), "are one sample"),
        (lambda f: (f / "audio/0.wav").write_bytes(b""), "0.wav: cannot be read as PCM WAV"),
    ],
)
def test_samples_that_do_not_fit_are_told(change, message, net, samples, tmp_path):
    change(samples)
    result = run(net, "-o", tmp_path / "b", "--samples", samples)
    assert result.exit_code == 1
    assert message in text(result)


def test_files_of_a_network_of_several_inputs_must_say_which(net, tmp_path):
    (tmp_path / "files").mkdir()
    picture(tmp_path / "files/a.png", 8, 8)
    result = run(net, "-o", tmp_path / "b", "--samples", tmp_path / "files")
    assert "a.png does not say which of the inputs image, audio it is for" in text(result)


SETTINGS = """
file = "net.onnx"
samples = "samples"
optional = ["audio"]
[dim]
batch = "1:1:8"
[multiple]
width = 8
[rate]
image = 30
audio = 12.5
[rename]
y = "mean"
"""


def test_source_toml_says_the_same_and_the_command_line_counts_more(net, samples, tmp_path):
    (tmp_path / "source.toml").write_text(SETTINGS)
    result = run(net, "-o", tmp_path / "b", "--rate", "image=60", "--rename", "y=level", "--json")
    assert result.exit_code == 0, text(result)
    with Bundle.open(tmp_path / "b") as bundle:
        manifest = bundle.manifest
    assert manifest.outputs == ("level",)
    assert manifest.dimensions["batch"] == Dimension(1, 1, 8)
    assert manifest.dimensions["width"] == Dimension(8, 16, None, 8)
    assert [(m.rate_hz, m.required) for m in manifest.modalities] == [(60, True), (12.5, False)]
    remarks = "\n".join(manifest.cut.remarks)
    assert "--rate of the command line counts for image, and not that of source.toml" in remarks
    assert "--rename of the command line counts for y" in remarks
    assert "source.toml says --dim or --multiple, --samples, --rate, --optional" in remarks
    assert "--rate of the command line counts for image" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("[rates]\nimage = 3", "unknown key rates; expected file, modality, rate"),
        ("rate = 30", "rate = 30: expected a table of numbers above 0"),
        ("[dim]\nbatch = '8:1'", "dim = {'batch': '8:1'}: expected a table such as"),
        ("limit = true", "limit = True: expected a whole number"),
        ("start = '1,2'", "expected a list of token ids"),
        ("task = 'ocr'", "--task: not for"),
        ("= 3", "cannot be read as TOML"),
        ("trust_remote_code = true", "unknown key trust_remote_code"),
    ],
)
def test_what_source_toml_says_wrongly_is_told(words, message, net, tmp_path):
    (tmp_path / "source.toml").write_text(words)
    result = run(net, "-o", tmp_path / "b")
    assert result.exit_code == 1
    assert message in text(result)


def test_source_toml_of_another_file_is_left_alone(net, tmp_path):
    (tmp_path / "source.toml").write_text('file = "other.onnx"\ntask = "ocr"\n')
    result = run(net, "-o", tmp_path / "b")
    assert result.exit_code == 0, text(result)
    assert "source.toml is not for net.onnx, as it says" in result.stderr
