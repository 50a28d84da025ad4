"""What a user installs holds both packages, and nothing else; the zoo's data are a wheel apart."""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shared import once

ROOT = Path(__file__).resolve().parent.parent
#: Bytes that a device downloads at most.
LIMIT = 2_500_000


def build(factory, source, key):
    def make(folder):
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    (wheel,) = once(factory, key, make).glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory, ROOT, "wheel")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return build(tmp_path_factory, ROOT / "zoo", "wheel_of_the_zoo")


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files(base, package):
    for path in (base / package).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(base))


def test_one_wheel_of_an_architecture_serves_every_python(wheel, zoo):
    assert f"-py3-none-linux_{platform.machine()}" in wheel.name
    assert zoo.name.endswith("-py3-none-any.whl")


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size <= LIMIT


def test_every_source_and_data_file_is_in_a_wheel(wheel, zoo):
    assert names(wheel) >= {*files(ROOT, "mmedge"), *files(ROOT / "export", "mmedge_export")}
    assert names(zoo) >= set(files(ROOT / "zoo", "mmedge_zoo"))


def test_the_wheel_has_data_licence_and_commands(wheel):
    for name in (
        "mmedge/libmmedge_kernels.so",
        "mmedge/py.typed",
        "mmedge_export/py.typed",
        "mmedge_export/zoo/vqa/tokenizer.json",
    ):
        assert name in names(wheel)
    for end in ("licenses/LICENSE", "entry_points.txt"):
        assert any(name.endswith(end) for name in names(wheel))


def test_the_zoo_has_weights_samples_and_licence(zoo):
    assert {
        "mmedge_zoo/samples/vqa/samples.json",
        "mmedge_zoo/weights/vqa-attention.safetensors",
    } <= names(zoo)
    assert any(name.endswith("licenses/LICENSE") for name in names(zoo))


def test_nothing_else_is_in_a_wheel(wheel, zoo):
    def packages(wheel):
        folders = {name.split("/")[0] for name in names(wheel)}
        return {name for name in folders if not name.endswith(".dist-info")}

    assert packages(wheel) == {"mmedge", "mmedge_export"}
    assert packages(zoo) == {"mmedge_zoo"}


def test_tokenizers_comes_with_the_extra_for_text_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needs = [line for line in lines if line.startswith("Requires-Dist: tokenizers")]
    assert [line.partition("; ")[2] for line in needs] == ['extra == "text"']
    assert 'Requires-Dist: mmedge[text]; extra == "export"' in lines
