"""``mmedge init`` writes a factory that mmedge export takes, or says what is to be filled in."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import mmedge
from mmedge.cli.app import run

NETWORKS = """
import torch
from torch import nn


class Fuse(nn.Module):
    def __init__(self):
        super().__init__()
        self.see, self.read = nn.Conv2d(3, 8, 3), nn.Embedding(100, 8)
        self.feel, self.out = nn.Linear(7, 8), nn.Linear(8, 4)

    def forward(self, image, words, state, scale: float = 1.0):
        seen = self.see(image.float() / 255).mean((2, 3))
        both = seen + self.read(words).mean(1) + self.feel(state)
        return self.out(both) * scale, both


class Needs(nn.Module):
    def __init__(self, hidden: int):
        super().__init__()
        self.out = nn.Linear(7, hidden)

    def forward(self, state):
        return {"force": self.out(state)}


class Odd(nn.Module):
    def forward(self, pose, other):
        if pose.sum() > 1e9:
            return pose
        return pose @ other


def build():
    return Fuse()


made = Fuse()
text = "no network"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    return tmp_path


@pytest.fixture
def call(folder, monkeypatch, capfd):
    """Runs a command in the folder, and returns what it printed."""
    monkeypatch.chdir(folder)

    def run_command(*words, expect=0):
        code = run(list(map(str, words)))
        printed = capfd.readouterr()
        assert code == expect, printed.err + printed.out
        assert "Traceback" not in printed.err
        return printed

    return run_command


@pytest.mark.parametrize("name", ["Fuse", "build", "made"])
def test_a_torch_module_whose_sizes_its_layers_tell(folder, call, name):
    said = json.loads(call("init", f"nets.py:{name}", "--json").out)
    assert said["fill_in"] == []
    assert said["inputs"] == {
        "image": "float32[1, 3, 64, 64]", "words": "int64[1, 16]", "state": "float32[1, 7]",
    }  # fmt: skip
    text = (folder / "factory.py").read_text()
    assert "forward also takes scale: float = 1.0" in text
    for words in ("rate_hz=30.0", "modality=", "load_state_dict", "metric="):
        assert words in text
    if name == "Fuse":
        call("export", "factory.py:factory", "-o", "b", "--no-split", "-q")
        with mmedge.load(folder / "b") as pipe:
            assert list(pipe.bundle.manifest.inputs()) == ["image", "words", "state"]


def test_what_cannot_be_told_is_marked_and_runs_when_filled_in(folder, call):
    (folder / "sub").mkdir()
    place = folder / "sub" / "needs.py"
    done = call("init", "nets.py:Needs", "-o", place)
    for words in ("fill in the arguments", "an example of state", "the names of the outputs"):
        assert words in done.err
    text = place.read_text()
    assert text.count("FILL IN") >= 4
    failed = call("export", f"{place}:factory", "-o", "b", expect=1)
    line = next(n for n, one in enumerate(text.splitlines(), 1) if one.startswith("    network"))
    assert f"fill in hidden ({place}, line {line}, in factory" in failed.err
    text = text.replace("hidden=fill_in('hidden')", "hidden=5")
    text = text.replace('[fill_in("a name for each output")]', '["force"]')
    text = text.replace("np.zeros(fill_in('the shape of state, such as (1, 3, 224, 224)')",
                        "np.zeros((1, 7)")  # fmt: skip
    assert "fill_in('" not in text
    # What is offered in comments is taken when it is no comment any more.
    for words in ('dynamic={0: "batch"},', 'dims={"batch": (1, 8)},', 'modality="state",'):
        assert f"# {words}" in text
        text = text.replace(f"# {words}", words)
    place.write_text(text)
    call("export", f"{place}:factory", "-o", "b", "-q")


def test_a_network_that_cannot_be_traced_still_gets_its_inputs(folder, call):
    call("init", "nets.py:Odd")
    text = (folder / "factory.py").read_text()
    ast.parse(text)
    assert '"pose": Input(' in text
    assert '"other": Input(' in text


def test_an_onnx_file_runs_as_it_stands(folder, call):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["state", "w"], ["s"]),
        helper.make_node("Where", ["flag", "mean", "s"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "tokens"]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, ["n", 7]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, [1]),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.ones((30, 4), np.float32), "table"),
        onnx.numpy_helper.from_array(np.ones((7, 4), np.float32), "w"),
        onnx.numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "my net.onnx")
    (folder / "sub").mkdir()
    said = call("init", "my net.onnx", "-o", "sub/net.py", "--json")
    assert json.loads(said.out)["fill_in"] == []
    text = (folder / "sub" / "net.py").read_text()
    assert '{0: "n", 1: "tokens"}' in text
    call("export", "sub/net.py:factory", "-o", "b", "-q")
    with mmedge.load(folder / "b") as pipe:
        assert [m.name for m in pipe.bundle.manifest.modalities] == ["ids", "state", "flag"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nets.py:Nothing",), 1, "has no 'Nothing'"),
        (("nets.py:text",), 1, "expected a class of a torch.nn.Module"),
        (("nets.py",), 1, "names no source; name what is meant in it, as in nets.py:Net; expected"),
        (
            ("none.py:Net",),
            1,
            "no such file: none.py; expected model.onnx, or path/to/file.py:NAME",
        ),
        (("missing.onnx",), 1, "no such file"),
        (("nets.py:Fuse", "-o", "nets.py"), 2, "already exists"),
        (("nets.py:Fuse", "-o", "nets.py", "--overwrite"), 2, "is the source itself"),
        (("nets.py:Fuse", "-o", "a.txt"), 2, "is no .py file"),
        (("nets.py:Fuse", "-o", "none/a.py"), 2, "there is no folder"),
    ],
)
def test_what_cannot_be_looked_at_is_told_and_nothing_is_written(folder, call, words, code, said):
    done = call("init", *words, expect=code)
    assert said in done.err
    assert [path.name for path in folder.iterdir() if path.suffix] == ["nets.py"]
    assert (folder / "nets.py").read_text() == NETWORKS


def test_the_modality_that_is_offered_may_be_one():
    from mmedge_export.sources.factory_text import Draft, DraftInput, write_draft

    own = DraftInput("gpu_0/data:0", np.zeros((1, 3), np.float32))
    text = write_draft(Draft("a.onnx", [], ['network = "a.onnx"'], [own], ["y"]), Path("f.py")).text
    assert '# modality="gpu_0_data_0",  # inputs that come together share one' in text
