"""Operators of torch that ONNX lacks, and checks of values that no graph makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mmedge
from mmedge.errors import ExportError
from mmedge_export import Input, Model, export

X = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
MASK = np.array([[1, 0, 2, 1, 1], [1, 1, 1, 0, 3]])


class Checked(nn.Module):
    """As transformers checks that placeholders and features are as many."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        torch._assert_async(torch.ops.aten._is_all_true(mask >= 0), "no negative mask")
        return x * mask[..., None]


class AllTrue(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * torch.ops.aten._is_all_true(mask > 0)


class Inverted(nn.Module):
    """A mask of whole numbers, turned into what is added to scores."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (
            (1.0 - mask)[..., None] * -1e4
            + (2 - mask.to(torch.int32))[..., None]
            + torch.rsub(x, 2, alpha=3)
            + torch.erfinv(x.tanh())
        )


class Clamped(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        parts = x.new_empty(x.shape)
        parts[..., :1], parts[..., 1:] = x[..., :1], torch.empty_like(x[..., 1:]).fill_(2)
        x = parts + torch.empty(3).zero_()
        limits = mask.clamp(0, 0.999) + mask.clamp(min=0.5) + mask.clamp_max(1.5) + mask.clamp(0, 2)
        return x.clamp(0, 0.5) * limits[..., None]


class Running(nn.Module):
    """The delimiter before and after each token, rows for each token, and how many there are."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        at = torch.arange(mask.shape[1]).expand(mask.shape)
        is_end = torch.isin(mask, torch.tensor([0, 3]))
        before = torch.where(is_end, at, -1).cummax(1)[0]
        after = torch.where(is_end, at, mask.shape[1]).flip(1).cummin(1)[0].flip(1)
        peak, place = x.cummax(1)
        rows = x.repeat_interleave(mask.shape[1], dim=0).unflatten(0, mask.shape)
        return peak + place + (before + 10 * after)[..., None] + len(x) + rows[:, 0]


@pytest.mark.parametrize("kind", [Checked, AllTrue, Inverted, Clamped, Running])
def test_the_bundle_answers_as_torch_does(kind, tmp_path):
    axes = {0: "batch", 1: "T"}
    inputs = {"x": Input(X, dynamic=axes), "mask": Input(MASK, dynamic=axes)}
    with export(Model(kind(), inputs, ["y"]), tmp_path / "b") as bundle:
        left = [line for line in bundle.manifest.not_checked if "checks of values" in line]
    assert len(left) == (kind is Checked)
    if left:
        assert "test_standard_operators.py:" in left[0]
    with mmedge.load(tmp_path / "b") as pipe:
        for values in (MASK, MASK[:1, :3], MASK * 0 + 1):
            x = X[: values.shape[0], : values.shape[1]]
            want = kind()(torch.from_numpy(x), torch.from_numpy(values)).numpy()
            np.testing.assert_allclose(pipe(x=x, mask=values)["y"], want, rtol=1e-5, atol=1e-6)


class Asserted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.sum() > -1e9, "finite")
        return x


def test_an_assertion_on_values_gets_advice_for_control_flow(tmp_path):
    with pytest.raises(ExportError, match=r"(?s)_assert\(x.sum.*control flow reads a tensor's"):
        export(Model(Asserted(), {"x": Input(X)}, ["y"]), tmp_path / "b")


@pytest.mark.parametrize("required", [True, False])
def test_an_input_of_rank_zero_stays_one(required, tmp_path):
    class Scaled(nn.Module):
        def forward(self, x: Tensor, gain: Tensor) -> Tensor:
            return x * gain + gain.reshape(1, 1, 1)

    gain = np.array(2.5, np.float32)
    absent = {} if required else {"absent": "token", "absent_token": np.array(1.0, np.float32)}
    inputs = {
        "x": Input(X, dynamic={0: "batch"}),
        "gain": Input(gain, required=required, **absent),
    }
    with export(Model(Scaled(), inputs, ["y"]), tmp_path / "b") as bundle:
        assert all(sample.inputs["gain"].shape == () for sample in bundle.samples())
    with mmedge.load(tmp_path / "b") as pipe:
        np.testing.assert_allclose(pipe(x=X, gain=gain)["y"], X * 2.5 + 2.5, rtol=1e-5)
        if not required:
            np.testing.assert_allclose(pipe(x=X)["y"], X + 1, rtol=1e-5)


class Divided(nn.Module):
    """Whole numbers divided towards zero."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (
            torch.div(x, 7, rounding_mode="trunc"),
            torch.div(x, -5, rounding_mode="trunc"),
            torch.div(x, y, rounding_mode="trunc"),
            torch.div(x.float(), 3, rounding_mode="trunc"),
        )


def test_whole_numbers_are_divided_as_such(tmp_path):
    numbers = [0, 1, -1, 6, -6, 7, -7, 8, -8, 2**24 + 1, -(2**24) - 1, 2**53 + 1, -(2**63)]
    x = np.array([numbers, numbers[::-1]])
    y = np.where(np.arange(x.size).reshape(x.shape) % 2, 3, -2)
    batch = {0: "batch"}
    model = Model(
        Divided(),
        {"x": Input(x % 100, dynamic=batch), "y": Input(y, dynamic=batch)},
        ["a", "b", "c", "d"],
    )
    export(model, tmp_path / "b").close()
    with mmedge.load(tmp_path / "b") as pipe:
        got = pipe(x=x, y=y)
    for name, wanted in zip("abcd", model.module(torch.tensor(x), torch.tensor(y)), strict=True):
        np.testing.assert_array_equal(got[name], wanted.numpy())
