"""What samples leave open is tried as far as the network takes it, and said where it does not."""

from __future__ import annotations

import json
import subprocess
import sys

import networks
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export import Input, Model, export
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.case import ParityCase
from mmedge_export.capture.coverage import Coverage, least_integer
from mmedge_export.open_questions import line
from mmedge_export.sources.onnx import load_file

RNG = np.random.default_rng(0)


class Pool(nn.Module):
    """Mean of what is valid; where nothing is, what ``empty`` says."""

    def __init__(self, empty: str = "zero") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.empty = empty
        self.table = nn.Embedding(7, 4)

    def forward(self, ids: Tensor, valid: Tensor) -> Tensor:
        tokens = self.table(ids)
        if torch.compiler.is_exporting() and self.empty == "wrong":
            return tokens.mean(1)  # what a trace of an all-true mask may leave
        total = (tokens * valid[..., None]).sum(1)
        count = valid.sum(1, keepdim=True)
        return total / (count if self.empty == "nan" else count.clamp(min=1))


def pool(empty: str = "zero", samples=None) -> Model:
    ids, valid = np.array([[5, 1, 3, 6], [2, 2, 4, 1]]), np.ones((2, 4), bool)
    axes = {0: "batch"}
    inputs = {"ids": Input(ids, dynamic=axes), "valid": Input(valid, dynamic=axes)}
    return Model(Pool(empty), inputs, ["y"], samples)


@pytest.mark.parametrize("given", [False, True], ids=["invented", "given"])
def test_a_mask_that_is_always_true_is_tried_otherwise(given, tmp_path):
    samples = None
    if given:
        mask = np.ones((2, 4), bool)
        samples = [({"ids": RNG.integers(0, 7, (2, 4)), "valid": mask}, None) for _ in range(4)]
    with pytest.raises(ExportError, match="the exported graph is not the network: output 'y'"):
        export(pool("wrong", samples), tmp_path / "wrong")
    with export(pool("zero", samples), tmp_path / "right") as bundle:
        assert bundle.manifest.not_checked == ()
        assert bundle.manifest.provenance["samples"] == ("given" if given else "invented")


def test_made_up_golden_samples_hold_masks_and_the_whole_range_of_ids(tmp_path):
    with export(pool(), tmp_path / "b") as bundle:
        samples = bundle.samples()
    masks = np.concatenate([sample.inputs["valid"].ravel() for sample in samples])
    assert 0 < masks.mean() < 1
    assert min(sample.inputs["ids"].min() for sample in samples) == 0


def test_what_the_network_answers_with_nan_is_left_out_and_said(tmp_path):
    told: list[str] = []
    with export(pool("nan"), tmp_path / "b", progress=told.append) as bundle:
        (text,) = bundle.manifest.not_checked
        assert all(np.isfinite(sample.outputs["y"]).all() for sample in bundle.samples())
    assert text.startswith("input 'valid' all false: the network answers 'y' with NaN")
    assert f"not checked: {text}" in told


class Fixed(nn.Module):
    """Takes one value of ``kind`` only."""

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and not bool((kind == 3).all()):
            raise ValueError("unknown kind")
        return x + kind


def test_an_input_that_takes_nothing_else_is_named(tmp_path):
    inputs = {"x": Input(networks.floats(2, 3)), "kind": Input(np.full((1,), 3))}
    with export(Model(Fixed(), inputs, ["y"]), tmp_path / "b") as bundle:
        refused, constant = bundle.manifest.not_checked
    assert refused.startswith("input 'kind' 0 throughout: the network refuses it")
    assert constant == "input 'kind' never varied: it was 3 in all samples"


class Silent(nn.Module):
    """Whose output shows nothing of it."""

    def __init__(self, fate: str) -> None:
        super().__init__()
        self.fate = fate

    def forward(self, scores: Tensor) -> Tensor:
        far = scores.cumsum(1) - 1e9
        return far[far > 0] if self.fate == "empty" else torch.relu(far)


@pytest.mark.parametrize("fate", ["empty", "constant"])
def test_an_output_that_showed_nothing_is_named(fate, tmp_path):
    inputs = {"scores": Input(networks.floats(2, 6), dynamic={0: "batch"})}
    told: list[str] = []
    with export(Model(Silent(fate), inputs, ["y"]), tmp_path / "b", progress=told.append) as bundle:
        (named,) = (text for text in bundle.manifest.not_checked if text.startswith("output 'y'"))
    assert fate in named
    assert f"not checked: {named}" in told


class Cells(nn.Module):
    """Mean score of a cell, which torch's exporter gets wrong, behind what shows little of it."""

    def __init__(self, fate: str) -> None:
        super().__init__()
        self.fate = fate

    def forward(self, scores: Tensor, cell: Tensor) -> Tensor:
        mean = torch.zeros_like(scores).scatter_reduce(1, cell, scores, "mean", include_self=False)
        if self.fate == "class":
            return (mean + 1e3 * torch.arange(6)).argmax(1)
        if self.fate == "condition":
            return mean > 1e9
        return mean[mean > 1e9] if self.fate == "empty" else torch.relu(mean - 1e9)


@pytest.mark.parametrize("fate", ["class", "condition", "empty", "constant"])
def test_a_wrong_operator_that_no_output_shows_is_refused(fate, tmp_path):
    cell = np.array([[0, 0, 1, 1, 1, 2]])
    inputs = {
        "scores": Input(networks.floats(1, 6), dynamic={0: "batch"}),
        "cell": Input(cell, dynamic={0: "batch"}),
    }
    place = r"(?s)its outputs agree .*'scatter_reduce', made by \w+ for aten.scatter_reduce.*line"
    with pytest.raises(ExportError, match=place):
        export(Model(Cells(fate), inputs, ["y"]), tmp_path / "b")


class Broken(nn.Module):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("mask", torch.full((3,), -torch.inf if where == "mask" else 0.0))
        if where == "parameter":
            with torch.no_grad():
                self.layer.weight[1, 2] = torch.nan
        if where == "buffer":
            self.mask[0] = torch.nan

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.mask


@pytest.mark.parametrize("where", ["parameter", "buffer"])
def test_weights_that_are_nan_are_refused_unless_they_are_meant(where, tmp_path):
    model = Model(Broken(where), {"x": Input(networks.floats(2, 3))}, ["y"])
    name = "layer.weight" if where == "parameter" else "mask"
    with pytest.raises(ExportError, match=f"weights have NaN or infinity: '{name}'.*--allow-nan"):
        export(model, tmp_path / "b")
    with export(model, tmp_path / "b", allow_nan=True) as bundle:
        assert bundle.manifest.provenance["allow_nan"] == "yes"
        assert any("NaN" in text for text in bundle.manifest.not_checked)


def test_a_mask_of_infinities_is_no_broken_weight(tmp_path):
    model = Model(Broken("mask"), {"x": Input(networks.floats(2, 3))}, ["y"])
    export(model, tmp_path / "b").close()


def linear_file(path, weight, *, divide=False):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])]
    if divide:
        nodes.append(helper.make_node("Div", ["n", "k"], ["q"]))
        for name in ("n", "k"):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, [4]))
        outputs.append(helper.make_tensor_value_info("q", TensorProto.INT64, [4]))
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_a_file_with_broken_weights_is_refused_too(tmp_path):
    weight = np.eye(3, dtype=np.float32)
    weight[0, 1] = np.inf
    path = linear_file(tmp_path / "m.onnx", weight)
    with pytest.raises(ExportError, match="weights have NaN or infinity: 'w'"):
        export(path, tmp_path / "b")
    export(path, tmp_path / "b", allow_nan=True).close()


def test_a_file_that_divides_integers_is_given_no_zero(tmp_path):
    """ONNX Runtime ends the process where it divides an integer by zero."""
    path = linear_file(tmp_path / "m.onnx", np.eye(3, dtype=np.float32), divide=True)
    inputs = {
        "x": Input(networks.floats(1, 3)),
        "n": Input(np.array([7, 8, 9, 10])),
        "k": Input(np.array([3, 4, 5, 6])),
    }
    model = Model(path, inputs, ["y", "q"])
    assert least_integer(load_file(model.module).graph) == 1
    with export(model, tmp_path / "b") as bundle:
        smallest = min(sample.inputs["k"].min() for sample in bundle.samples())
    assert 1 <= smallest < 3


def test_a_golden_output_that_is_nan_is_refused(tmp_path):
    ids = np.ones((2, 4), np.int64)
    given = [({"ids": ids + n, "valid": np.full((2, 4), n < 2)}, None) for n in range(3)]
    with pytest.raises(ExportError, match="output 'y' of the network is NaN for sample 2"):
        export(pool("nan", given), tmp_path / "b")
    with export(pool("nan", given), tmp_path / "b", allow_nan=True) as bundle:
        assert any("output 'y' had NaN in" in text for text in bundle.manifest.not_checked)


def test_other_values_are_of_the_same_kind():
    for value in (
        np.ones((3, 5), bool),
        np.zeros((1,), bool),
        np.array(4),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.full((2, 2), 200, np.uint8),
        np.full((2, 2), 0.5, np.float32),
    ):
        tried = list(probe_inputs.others(value))
        assert tried
        for words, other in tried:
            assert words
            assert (other.shape, other.dtype) == (value.shape, value.dtype)
            assert not np.array_equal(other, value)


def test_the_same_at_another_size_has_not_varied():
    model = pool()
    ids, valid = (model.inputs[name].example for name in ("ids", "valid"))
    coverage = Coverage(model)
    for rows in (2, 1, 6):
        at = np.arange(rows) % 2
        coverage.add(
            ParityCase("", {"ids": ids[at], "valid": valid[at]}, {"y": np.zeros((rows, 4))})
        )
    assert coverage.constant() == ["ids", "valid"]
    assert coverage.findings() == [
        "input 'ids' never varied: it was the same in all samples",
        "input 'valid' never varied: it was true in all samples",
        "output 'y' was constant (0.0) in all samples",
    ]
    coverage.add(ParityCase("", {"ids": ids + 1, "valid": ~valid}, {"y": np.full((2, 4), 1.0)}))
    assert coverage.findings() == []


def test_a_line_is_short_and_printable():
    assert line("a\n\tb \x1b[31m") == "a b [31m"
    assert len(line("word " * 200)) <= 240


def test_the_command_lists_what_was_not_checked(tmp_path):
    path = linear_file(tmp_path / "m.onnx", np.zeros((3, 3), np.float32))
    command = [sys.executable, "-m", "mmedge", "export", str(path), "-o"]
    done = subprocess.run([*command, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = "Not checked\n  - the example is made up; --example FILE gives a real one\n"
    assert f"{said}  - output 'y' was constant (0.0) in all samples" in done.stdout
    assert "4: the example and made-up inputs" in done.stdout
    assert "ort-fp32-cuda (not run where it was made)" in done.stdout
    done = subprocess.run([*command, str(tmp_path / "c"), "--json"], capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert said["not_checked"] == [
        "the example is made up; --example FILE gives a real one",
        "output 'y' was constant (0.0) in all samples",
    ]
    assert said["not_run"] == ["ort-fp32-cuda"]
