"""What a network returns, by name: any shape that Python gives it; and what cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mmedge
from mmedge.errors import ExportError
from mmedge_export import Input, Model, export
from mmedge_export.capture.network import TorchNetwork

X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


class Pair(NamedTuple):
    logits: Tensor
    loss: Tensor | None
    hidden: tuple[Tensor, ...]


@dataclasses.dataclass
class Record:
    logits: Tensor
    loss: Tensor | None = None


class Lazy(Mapping[str, Any]):
    """A mapping that torch knows nothing of."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Returns(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return {
            "pair": Pair(x * 2, None, (x + 1, x + 2)),
            "record": Record(x * 2),
            "lazy": Lazy({"logits": x * 2, "note": "text", "hidden": [x + 1]}),
            "nested": (x * 2, None, (x + 1, x + 2)),
            "echo": {"x": x * 2},
            "text": "no tensor",
        }[self.kind]


def model(kind: str, outputs: Any) -> Model:
    return Model(Returns(kind), {"x": Input(X, dynamic={0: "batch"})}, outputs)


@pytest.mark.parametrize(
    ("kind", "outputs", "expected"),
    [
        ("pair", ["logits"], [X * 2]),
        ("pair", ["hidden.1", "logits"], [X + 2, X * 2]),
        ("pair", ["a", "b", "c"], [X * 2, X + 1, X + 2]),
        ("record", ["logits"], [X * 2]),
        ("lazy", ["logits", "hidden.0"], [X * 2, X + 1]),
        ("nested", ["a", "b", "c"], [X * 2, X + 1, X + 2]),
        ("echo", {"x_out": "x"}, [X * 2]),
    ],
)
def test_outputs_are_found_by_name(kind, outputs, expected, tmp_path):
    with export(model(kind, outputs), tmp_path / "b") as bundle:
        assert bundle.manifest.outputs == tuple(outputs)
    with mmedge.load(tmp_path / "b") as pipe:
        got = pipe(x=X)
    for name, value in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got[name], value, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "outputs", "words"),
    [
        ("pair", ["score"], r"returns 3 tensors, but outputs names 1 \(score\).*hidden\.1 \(Tens"),
        ("pair", ["logits", "loss"], "output 'loss' is NoneType, not a tensor"),
        ("pair", ["logits", "hidden"], r"'hidden' is tuple.*name one of hidden\.0 \(Tensor\[2, 3"),
        ("lazy", ["logits", "score"], "returns no 'score'; it returns logits .*, note .str., hid"),
        ("lazy", ["logits", "note"], "output 'note' is str, not a tensor"),
        ("nested", ["a", "b"], r"returns 3 tensors, but outputs names 2 \(a, b\).*2\.1 \(Tensor"),
        ("text", ["y"], "the network returns str; expected a tensor"),
    ],
)
def test_outputs_that_are_not_there_are_told_with_those_that_are(kind, outputs, words):
    with pytest.raises(ExportError, match=words):
        TorchNetwork(model(kind, outputs))({"x": X})


def test_an_output_of_an_inputs_name_is_to_be_renamed():
    with pytest.raises(ExportError, match=r'such as outputs={"x_out": "x"}'):
        model("echo", ["x"])


def two_devices() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    made[1].to("meta")
    return made


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (torch.jit.script(nn.Linear(3, 3)), "it is TorchScript .Linear."),
        (nn.Sequential(torch.jit.script(nn.ReLU())), "its module '0' is TorchScript .ReLU."),
        (nn.Linear(3, 3, device="meta"), r"'weight' has no data \(device meta\)"),
        (two_devices(), r"'1.weight' has no data"),
    ],
)
def test_modules_that_cannot_be_traced_are_told_at_once(module, words):
    with pytest.raises(ExportError, match=words):
        TorchNetwork(Model(module, {"input": Input(X)}, ["y"]))


def test_an_output_may_have_the_name_of_a_weight(tmp_path):
    model = Model(torch.nn.Linear(3, 5), {"input": Input(np.ones((2, 3), np.float32))}, ["bias"])
    with export(model, tmp_path / "net") as bundle:
        assert bundle.manifest.outputs == ("bias",)
