"""What a user installs holds both packages with their data, and nothing else."""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shared import once

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    def build(folder):
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    (wheel,) = once(tmp_path_factory, "wheel", build).glob("mmedge-*.whl")
    return wheel


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_one_wheel_of_an_architecture_serves_every_python(wheel):
    assert f"-py3-none-linux_{platform.machine()}" in wheel.name


def test_every_source_and_data_file_is_in_the_wheel(names):
    for base, package in ((ROOT, "mmedge"), (ROOT / "export", "mmedge_export")):
        for path in (base / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(base)) in names


def test_the_wheel_has_data_licence_and_commands(names):
    for name in (
        "mmedge/libmmedge.so",
        "mmedge/py.typed",
        "mmedge_export/py.typed",
        "mmedge_export/zoo/tokenizer.json",
        "mmedge_export/zoo/samples/samples.json",
        "mmedge_export/zoo/weights/vqa-attention.safetensors",
    ):
        assert name in names
    for end in ("licenses/LICENSE", "entry_points.txt"):
        assert any(name.endswith(end) for name in names)


def test_nothing_else_is_in_the_wheel(names):
    folders = {name.split("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {
        "mmedge",
        "mmedge_export",
    }
