"""Networks that cannot be exported are told by module, line and what to do."""

from __future__ import annotations

import sys
import weakref

import failing
import numpy as np
import pytest
import torch
from failing import Bessel, Branch, Cut, Fixed, Numpy, Packed, Recurrent
from torch import nn

from mmedge.errors import ExportError
from mmedge_export import Input, Model, export
from mmedge_export.capture.locate import local
from mmedge_export.capture.network import TorchNetwork
from mmedge_export.capture.trace import trace

X, FOUR = np.zeros((2, 3), np.float32), np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("kind", "module", "advice"),
    [
        (Branch, "'encoder.1' (Branch)", "choose with torch.where"),
        (Cut, "'encoder.1' (Cut)", "mask in place of cutting"),
        (Bessel, "'encoder.1' (Bessel)", "write this operation with ones that ONNX has"),
        (Recurrent, "'rnn' (GRU)", "keep their time axis at a fixed size"),
        (Packed, "'encoder.1.rnn' (GRU)", "run the recurrent layer over the padded batch"),
        (Numpy, "'encoder.1' (Numpy)", "do the same with torch operations"),
        (Fixed, "'encoder.1' (Fixed)", "in place of a Python number"),
    ],
)
def test_the_message_names_module_line_and_remedy(kind, module, advice, capfd):
    with pytest.raises(ExportError) as raised:
        trace(failing.failing(kind))
    message = str(raised.value)
    assert f"in module {module}, {failing.__file__} line {failing.guilty_line(kind)}: " in message
    assert advice in message
    assert raised.value.__cause__ is not None
    assert not isinstance(raised.value.__cause__, ExportError)
    assert capfd.readouterr() == ("", "")


class Picks(nn.Module):
    """Takes rows by an index that has to be there."""

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return x[at]


def picks(*samples: int) -> Model:
    inputs = {"x": Input(FOUR, dynamic={0: "rows"}), "at": Input(np.array([3, 1]))}
    return Model(
        Picks(),
        inputs,
        ["y"],
        [({"x": np.ones((n, 3), np.float32), "at": np.array([0, n - 1])}, None) for n in samples]
        or None,
    )


def test_a_size_that_the_network_refuses_is_not_declared(tmp_path):
    with pytest.raises(ExportError, match=r"refuses the example at rows=1.*Model\.dims") as e:
        export(picks(), tmp_path / "b")
    assert "Picks itself" in str(e.value)


def test_samples_of_several_sizes_prove_what_generated_sizes_cannot(tmp_path):
    said: list[str] = []
    with export(picks(6, 8), tmp_path / "b", progress=said.append) as bundle:
        assert bundle.manifest.samples == 2
    assert [line for line in said if line.startswith("not checked: the example at rows=1")]


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("kind", [Noisy, Counting])
def test_a_network_that_answers_differently_each_time_is_refused(kind, tmp_path):
    with pytest.raises(
        ExportError, match="not deterministic: on the same input, output 'y' differs"
    ):
        export(Model(kind(), {"x": Input(X + 1)}, ["y"]), tmp_path / "b")


class Mode(nn.Module):
    """What it returns depends on the argument ``kind`` of the constructor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor, *, scale: float = 1.0):
        if self.kind == "fails":
            return x @ x
        return {
            "two": (x, x + 1),
            "nested": (x, (x, x)),
            "dict": {"a": x, "b": x},
            "number": [x, 3.0],
            "text": "hello",
            "bfloat16": x.bfloat16() * scale,
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "outputs", "pattern"),
    [
        ("two", ["y"], r"returns 2 tensors, but outputs names 1 \(y\)"),
        ("two", ["y", "z", "w"], "returns 2 tensors, but outputs names 3"),
        ("nested", ["y", "z"], "returns 3 tensors, but outputs names 2 .*1.0 .Tensor"),
        ("dict", ["a", "c"], "returns no 'c'; it returns a .Tensor.*, b .Tensor"),
        ("number", ["y", "z"], "output 'z' is float, not a tensor"),
        ("text", ["y"], "returns str; expected a tensor"),
        ("bfloat16", ["y"], "output 'y' is bfloat16, which a bundle cannot hold"),
        (
            "fails",
            ["y"],
            r"the network itself fails in Mode itself, .*test_trace_failures.py line \d+",
        ),
    ],
)
def test_results_that_are_not_the_named_tensors_are_refused(kind, outputs, pattern):
    with pytest.raises(ExportError, match=pattern):
        TorchNetwork(Model(Mode(kind), {"x": Input(X)}, outputs))({"x": X})


class Needs(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x * mask


def test_forward_must_take_the_inputs_by_name():
    with pytest.raises(ExportError, match="takes no 'image'; its parameters are x, mask"):
        TorchNetwork(Model(Needs(), {"image": Input(X), "x": Input(X), "mask": Input(X)}, ["y"]))
    with pytest.raises(ExportError, match="needs 'mask', which inputs does not name"):
        TorchNetwork(Model(Needs(), {"x": Input(X)}, ["y"]))


def test_a_dimension_of_one_size_is_not_dynamic():
    value = Input(np.zeros((1, 3), np.float32), dynamic={0: "batch"})
    with pytest.raises(ExportError, match="allows only size 1 for batch"):
        trace(Model(nn.Identity(), {"input": value}, ["y"], dims={"batch": (1, 1)}))


class Asks(nn.Module):
    """Takes a form of its own for ONNX."""

    def forward(self, x):
        return torch.relu(x) if torch.onnx.is_in_onnx_export() else torch.where(x > 0, x, 0 * x)


def test_a_network_can_tell_that_it_is_exported_to_onnx():
    assert not torch.onnx.is_in_onnx_export()
    graph = trace(Model(Asks().eval(), {"x": Input(X)}, ["y"]))
    assert [node.op_type for node in graph.model.graph] == ["Relu"]
    assert not torch.onnx.is_in_onnx_export()


def test_an_opset_out_of_reach_is_refused():
    with pytest.raises(ExportError, match="opset 5"):
        trace(Model(nn.GELU(), {"input": Input(X)}, ["y"]), opset=5)


class Importing(nn.Module):
    """Imports a library when it runs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            raise ModuleNotFoundError(f"No module named {self.name!r}", name=self.name)
        return x


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("onnxscript.version", "pip install 'mmedge[export,cpu]'"),
        ("no_such_library", "pip install no_such_library, or the package that provides"),
    ],
)
def test_a_missing_library_is_to_be_installed(name, remedy):
    with pytest.raises(ExportError) as raised:
        trace(Model(Importing(name), {"x": Input(X)}, ["y"]))
    assert f"What to do: {remedy}" in str(raised.value)


def test_looking_at_a_frame_keeps_nothing_alive():
    """torch takes a tensor of the trace for a constant where one is held beyond its function."""

    def forward(this: object) -> tuple[object, bool]:
        tensor = torch.zeros(3)
        held = weakref.ref(tensor)
        owner = local(sys._getframe(), "this")
        tensor = None
        return owner, held() is not None

    assert forward("module") == ("module", False)
