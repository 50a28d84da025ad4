"""Every command of the page on ONNX files runs, in order, on files of the names that it has."""

from __future__ import annotations

import re
import shlex
import sys
import wave
from pathlib import Path

import numpy as np
import onnx
import optimum_folders
import torch
from loop_networks import HEADS, WIDTH, Voice, Writer, captions
from onnx import TensorProto, helper
from onnx_files import FLOAT, save
from optimum_folders import write
from PIL import Image

import mmedge
from mmedge.cli.app import run
from mmedge_export import export

PAGE = Path(__file__).resolve().parent.parent / "docs/howto/onnx.md"
RNG = np.random.default_rng(3)


def write_model(path: Path) -> None:
    """Means of a picture, in blocks of 8, and of a sound."""
    save(
        path,
        [
            helper.make_node("Cast", ["image"], ["floats"], to=FLOAT),
            helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("MaxPool", ["planes"], ["pooled"], kernel_shape=[8, 8]),
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


def write_inputs(folder: Path) -> None:
    pixels = RNG.integers(0, 255, (16, 24, 3)).astype(np.uint8)
    sound = RNG.standard_normal(40).astype(np.float32)
    Image.fromarray(pixels).save(folder / "photo.png")
    np.save(folder / "sound.npy", sound)
    np.savez(folder / "example.npz", image=pixels[None], audio=sound[None])
    for name in ("image", "audio"):
        (folder / "samples" / name).mkdir(parents=True)
    for number, (height, width, count) in enumerate([(16, 24, 50), (24, 8, 70)]):
        pixels = RNG.integers(0, 255, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"samples/image/{number}.png")
        with wave.open(str(folder / f"samples/audio/{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(RNG.integers(-9999, 9999, count).astype("<i2").tobytes())


def write_loops(folder: Path) -> None:
    """A decoder, an encoder with a decoder, and a detector with states."""
    torch.manual_seed(2)
    ids, past = torch.randint(3, 40, (2, 3)), torch.randn(2, HEADS, 5, WIDTH // HEADS)
    rows, cache = {0: "batch", 1: "new"}, {0: "batch", 2: "past"}
    inputs = {
        "input_ids": (ids, rows), "position_ids": (torch.arange(5, 8).repeat(2, 1), rows),
        "past_key_values.0.key": (past, cache), "past_key_values.0.value": (past.flip(2), cache),
    }  # fmt: skip
    write(folder / "writer.onnx", Writer(), inputs, ["logits", "present.0.key", "present.0.value"])
    export(captions(), folder / "captions", split=False).close()
    for name, graph in (("encoder", "model"), ("decoder", "step")):
        model = onnx.load(folder / f"captions/onnx/{graph}.onnx")
        onnx.save(model, folder / f"{name}.onnx", save_as_external_data=False)
    inputs = {
        "input": (torch.randn(2, 16), {0: "batch"}), "window": (torch.randn(2, 8), {0: "batch"}),
        "state_h": (torch.randn(2, WIDTH), {0: "batch"}),
        "state_c": (torch.randn(2, WIDTH), {0: "batch"}),
    }  # fmt: skip
    outputs = ["output", "window_out", "state_h_out", "state_c_out"]
    write(folder / "detector.onnx", Voice(), inputs, outputs)
    (folder / "translator").mkdir()
    optimum_folders.write_translator(folder / "translator")


def test_every_command_of_the_page(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.onnx")
    write_inputs(tmp_path)
    write_loops(tmp_path)
    pattern = r"^```(?:\{code-block\} )?(\w*)\n(?::caption: (\S+)\n\n)?(.*?)^```$"
    text = PAGE.read_text(encoding="utf-8")
    commands = 0
    for _, caption, block in re.findall(pattern, text, re.DOTALL | re.MULTILINE):
        if caption:
            (tmp_path / caption).write_text(block)
            continue
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[0] != "mmedge":
                assert words[0] == "optimum-cli"  # tests/export/sources/test_optimum.py
                continue
            capfd.readouterr()
            assert run(words[1:]) == 0, f"{line}: {capfd.readouterr()}"
            commands += 1
    assert commands == 19
    for module in ("factory", "translate"):
        sys.modules.pop(module, None)
    for name, dimension, rates in (
        ("sized", 8, [None, None]), ("robot", None, [30, 10]), ("faster", 8, [60, 10]),
    ):  # fmt: skip
        with mmedge.Bundle.open(tmp_path / f"{name}.mmedge") as bundle:
            manifest = bundle.manifest
        assert manifest.dimensions["batch"].max == dimension
        assert manifest.dimensions["height"].multiple == (8 if dimension else 1)
        assert [modality.rate_hz for modality in manifest.modalities] == rates
