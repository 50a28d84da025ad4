"""What ``mmedge init`` writes exports to the bundle that its source makes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import loop_networks as networks
import numpy as np
import optimum_folders
import pytest
from onnx import TensorProto, helper
from onnx_files import FLOAT, save
from shared import once
from typer.testing import CliRunner

from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge_export import export

RNG = np.random.default_rng(5)


def run(*words: object):
    result = CliRunner().invoke(build_app(), [*map(str, words)])
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    return result


def contents(path: Path) -> tuple:
    """All of a bundle but when and from what it was made, and what its source remarked."""
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        files = {file: bytes(bundle.read(file)) for file in manifest.files}
    provenance = {k: v for k, v in manifest.provenance.items() if k not in ("created", "source")}
    cut = replace(manifest.cut, remarks=())
    return replace(manifest, provenance=provenance, cut=cut, not_checked=()), files


def check(tmp_path: Path, source: str, *words: object) -> str:
    """Export a source and the factory that was written for it; the factory's text."""
    (tmp_path / "sub").mkdir()
    place = tmp_path / "sub/factory.py"
    said = json.loads(run("init", source, "-o", place, *words, "--json").stdout)
    assert said["fill_in"] == []
    text = place.read_text()
    ast.parse(text)
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "100"]
    done = subprocess.run([*ruff, "--diff", str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    # A cut orders nodes and weights by chance.
    run("export", source, "-o", tmp_path / "a", *words, "--no-split")
    run("export", f"{place}:factory", "-o", tmp_path / "b", "--no-split")
    (manifest, files), (expected_manifest, expected) = (contents(tmp_path / n) for n in "ba")
    assert manifest == expected_manifest
    assert files == expected
    return text


def small(tmp_path: Path) -> Path:
    return save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Cast", ["image"], ["floats"], to=FLOAT),
            helper.make_node("ReduceMean", ["floats"], ["color"], axes=[1, 2], keepdims=0),
            helper.make_node("ReduceMean", ["sound"], ["loud"], axes=[1]),
            helper.make_node("Add", ["color", "loud"], ["y"]),
        ],
        [
            ("image", TensorProto.UINT8, ["batch", "height", "width", 3]),
            ("sound", FLOAT, ["batch", "time"]),
        ],
        [("y", FLOAT, ["batch", 3])],
        {},
    )


def test_an_onnx_file_with_made_up_values(tmp_path):
    text = check(
        tmp_path, str(small(tmp_path)), "--dim", "batch=1:2:8", "--multiple", "width=4",
        "--rate", "image=30", "--optional", "sound", "--rename", "y=level", "--rename", "time=T",
        "--modality", "camera=image",
    )  # fmt: skip
    for words in (
        'dims={"batch": (1, 8), "width": (4, None, 4)}', "rate_hz=30.0,", 'modality="camera",',
        "required=False,", 'rename([here / "../net.onnx"]',
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("kind", ["example", "samples"])
def test_an_onnx_file_with_values_from_files(kind, tmp_path):
    net = small(tmp_path)
    place = tmp_path / kind
    for name, value in (
        ("image", RNG.integers(0, 255, (2, 5, 6, 3)).astype(np.uint8)),
        ("sound", RNG.standard_normal((2, 7)).astype(np.float32)),
    ):
        folder = place / name if kind == "samples" else place
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / ("0.npy" if kind == "samples" else f"{name}.npy"), value)
    text = check(tmp_path, str(net), f"--{kind}", place)
    words = 'here / "../samples/image/0.npy"'
    assert (words if kind == "samples" else 'read_example(here / "../example")["image"]') in text


def test_a_pair_of_files(tmp_path_factory, tmp_path):
    def build(folder):
        export(networks.captions(), folder / "net", split=False).close()

    net = once(tmp_path_factory, "pair-captions", build) / "net/onnx"
    text = check(
        tmp_path, str(net / "model.onnx"), "--decoder", net / "step.onnx", "--token", "input_ids",
        "--start", "1", "--stop", "2", "--limit", 12,
    )  # fmt: skip
    assert "loop=Generate(" in text
    assert 'grows="past' in text


@pytest.mark.parametrize("name", ["translator", "classifier", "writer"])
def test_an_optimum_folder(name, tmp_path_factory, tmp_path):
    write = getattr(optimum_folders, f"write_{name}")
    folder = once(tmp_path_factory, f"optimum-{name}", write)
    text = check(tmp_path, f"optimum:{folder}", *(("--limit", 9) if name == "writer" else ()))
    assert ("constants_file(" in text) == (name == "translator")
    assert ("fill_zeros(" in text) == (name == "classifier")
