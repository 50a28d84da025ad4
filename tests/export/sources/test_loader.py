"""What a command line may name as a source, and what it is told when that is nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import metadata

import networks
import numpy as np
import pytest

from mmedge.errors import ExportError
from mmedge_export import Model, SourceOptions, export
from mmedge_export.sources.loader import load_source
from mmedge_export.sources.source import DimensionOption, SourceModel

FILE = """
import networks
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
    model = load_source(f"{file}:{name}").model
    assert isinstance(model, Model)
    assert model.inputs["x"].example.shape == (1, 3)
    assert sys.path == before


def test_a_module_gives_a_model():
    assert isinstance(load_source("networks:cameras").model, Model)


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


def test_options_that_a_source_does_not_take_are_refused_by_name(file, tmp_path):
    for said, name in [
        ({"dims": {"batch": DimensionOption(opt=1)}}, "--dim or --multiple"),
        ({"example": {"x": np.zeros(3)}}, "--example"),
        ({"task": "text", "trust_remote_code": True}, "--task, --trust-remote-code"),
        ({"start": (0,)}, "--start"),
    ]:
        with pytest.raises(ExportError, match=rf"^{name}: not for .*the source 'factory' takes"):
            load_source(f"{file}:make", SourceOptions(**said))
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ExportError, match=r"--task: not for .*'onnx' takes .*--example"):
        load_source(str(tmp_path / "net.onnx"), SourceOptions(task="text"))


def test_every_source_takes_rates_absence_and_modalities():
    options = SourceOptions(
        modality={"both": ["left", "right"]}, rates={"left": 20.0}, optional=["both"]
    )
    inputs = load_source("networks:cameras", options).model.inputs
    assert [(i.modality, i.rate_hz, i.required) for i in inputs.values()] == [
        ("both", 20.0, False)
    ] * 2
    with pytest.raises(ExportError, match="modality 'both' has 2 rates"):
        load_source("networks:cameras", replace(options, rates={"left": 20.0, "right": 5.0}))


class Other:
    """A source of another package."""

    name = "other"
    forms = "other:NAME"
    options = frozenset({"task"})

    def takes(self, spec: str) -> bool:
        return spec.startswith("other:") or spec.endswith(".onnx")

    def read(self, spec: str, options: SourceOptions) -> SourceModel:
        return SourceModel(
            networks.cameras(), (f"chose {options.task}",), ("the rate of left is not said",)
        )


@pytest.fixture
def join(monkeypatch):
    """Adds an entry point of the group ``mmedge.sources``."""

    def add(name: str, value: str) -> None:
        entry = metadata.EntryPoint(name, value, "mmedge.sources")
        names = (*metadata.entry_points(group="mmedge.sources"), entry)
        monkeypatch.setattr(metadata, "entry_points", lambda group: names)

    return add


def test_other_packages_join_their_sources(join, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "module_of_other", sys.modules[Other.__module__])
    join("other", "module_of_other:Other")
    told: list[str] = []
    source_model = load_source("other:net", SourceOptions(task="text"))
    with export(source_model, tmp_path / "b", progress=told.append) as bundle:
        assert bundle.manifest.cut.remarks[0] == "chose text"
        assert bundle.manifest.not_checked[0] == "the rate of left is not said"
    assert {"chose text", "not checked: the rate of left is not said"} <= set(told)
    with pytest.raises(ExportError, match=r"may be of the sources onnx, other; .*other:NAME"):
        load_source("net.onnx")
    with pytest.raises(ExportError, match="'nothing' names no source; expected .*other:NAME"):
        load_source("nothing")


def test_a_source_that_does_not_load_hides_no_other(join):
    join("broken", "no_such_package:Source")
    with pytest.warns(UserWarning, match="source 'broken' of a package does not load: No module"):
        assert load_source("networks:cameras").model is not None
    with pytest.raises(ExportError, match="source 'broken' .*install that package again"):
        load_source("broken:x")


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
