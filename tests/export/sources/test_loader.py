"""What a command line may name as a source, and what it is told when that is nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mmedge.errors import ExportError
from mmedge_export import Model
from mmedge_export.sources.loader import load_source

FILE = """
import numpy as np
import torch
from helper import SIZE
from mmedge_export import Input, Model


class Net(torch.nn.Module):
    def forward(self, x):
        return x + 1


def make():
    return Model(Net(), {"x": Input(np.zeros((1, SIZE), np.float32))}, ["y"])


def raises():
    raise OSError("no weights here")


def wrong():
    return Net()


made = make()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text("SIZE = 3\n")
    path = tmp_path / "factory_for_test.py"
    path.write_text(FILE)
    yield path
    for name in ("factory_for_test", "helper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["make", "made"])
def test_a_file_gives_a_model_and_finds_its_neighbours(file, name):
    before = list(sys.path)
    model = load_source(f"{file}:{name}")
    assert isinstance(model, Model)
    assert model.inputs["x"].example.shape == (1, 3)
    assert sys.path == before


def test_a_module_gives_a_model():
    assert isinstance(load_source("networks:cameras"), Model)


@pytest.mark.parametrize(
    ("spec", "pattern"),
    [
        ("nothing", "'nothing' names no source; expected path/to/file.py:factory"),
        (":make", "names no source"),
        ("missing.onnx", "no such file: missing.onnx"),
        ("missing.py:make", "no such file: missing.py"),
        ("missing_package.module:make", "no module named 'missing_package' is installed"),
        ("networks:missing", "networks has no 'missing'; it defines .*resnet18"),
        ("networks:RNG", "networks:RNG gave Generator; expected a mmedge_export.Model"),
        ("zoo:missing", "no reference network is named 'missing'"),
    ],
)
def test_what_cannot_be_loaded_is_told(spec, pattern):
    with pytest.raises(ExportError, match=pattern):
        load_source(spec)


def test_what_a_factory_does_wrong_is_told(file):
    with pytest.raises(ExportError, match="raises raised OSError: no weights here") as error:
        load_source(f"{file}:raises")
    assert isinstance(error.value.__cause__, OSError)
    with pytest.raises(ExportError, match="wrong gave Net; expected a mmedge_export.Model"):
        load_source(f"{file}:wrong")
    with pytest.raises(
        ExportError, match=r"factory_for_test.py has no 'absent'; it defines .*make"
    ):
        load_source(f"{file}:absent")


def test_a_file_that_does_not_import_leaves_nothing_behind(tmp_path):
    path = tmp_path / "broken_for_test.py"
    path.write_text("import no_such_library\n")
    with pytest.raises(
        ExportError,
        match="cannot be imported: ModuleNotFoundError: No module named .*pip install no_such_lib",
    ):
        load_source(f"{path}:make")
    assert "broken_for_test" not in sys.modules
    assert str(tmp_path) not in sys.path


def test_sizes_are_for_onnx_files_only(file):
    with pytest.raises(ExportError, match="are for .onnx files"):
        load_source(f"{file}:make", sizes={"batch": 1})
    assert np.isfinite(load_source(f"{file}:make").inputs["x"].example).all()


def test_what_is_probably_meant_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lies_here.py").write_text(
        "from pathlib import Path\n\n\ndef factory():\n    pass\n"
    )
    with pytest.raises(ExportError, match=r"for the file that lies here give lies_here\.py:NAME"):
        load_source("lies_here:factory")
    with pytest.raises(ExportError, match=r"as in lies_here\.py:factory"):
        load_source("lies_here.py")
    with pytest.raises(ExportError, match=r"has no 'Factory'; it defines factory$"):
        load_source("lies_here.py:Factory")
