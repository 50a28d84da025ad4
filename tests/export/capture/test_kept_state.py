"""Networks that remember are refused by attribute; caches that change no answer are taken."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mmedge
from mmedge.errors import ExportError
from mmedge_export import Input, Model, export
from mmedge_export.capture.kept_state import KeptState
from mmedge_export.capture.trace import trace


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class FirstFrame(nn.Module):
    """Is the same for the same input twice: what it keeps is of the first one ever."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.first is None:
            self.first = x.mean(0, keepdim=True).clone()
        return x - self.first


class FirstBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros(1, 4))
        self.seen = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.seen:
            self.first.copy_(x[:1])
            self.seen = True
        return x - self.first


class WarmUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2 if self.calls < 9 else x * 3


class SlowMean(nn.Module):
    """Moves by less than any tolerance."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9999999).add_(x.mean(0) * 1e-7)
        return x - self.mean


class Queue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: deque[Tensor] = deque(maxlen=3)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.mean(0))
        return x + torch.stack(list(self.seen)).mean(0)


class Settings:
    def __init__(self) -> None:
        self.scale: list[float] = []


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.settings = {"inner": Settings()}

    def forward(self, x: Tensor) -> Tensor:
        kept = self.settings["inner"].scale
        if not kept:
            kept.append(float(x.abs().max()))
        return x / kept[0]


class OfClass(nn.Module):
    kept: ClassVar[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.kept:
            self.kept.append(x.mean().item())
        return x - self.kept[0]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (FirstFrame, "attribute 'first'"),
        (FirstBuffer, "buffer 'first'"),
        (WarmUp, "attribute 'calls'"),
        (SlowMean, "buffer 'mean'"),
        (Queue, "attribute 'seen'"),
        (Nested, "attribute 'settings'"),
        (OfClass, "attribute 'OfClass.kept'"),
    ],
)
def test_state_is_refused_by_name(kind, what, tmp_path):
    network = nn.Sequential(nn.Identity(), kind())
    wrapped = Wrapped(network)
    model = Model(wrapped, {"x": Input(rows(2, 4), dynamic={0: "batch"})}, ["y"])
    with pytest.raises(ExportError, match="keeps state between calls") as refused:
        export(model, tmp_path / "b")
    assert f"{what} of module 'inner.1' ({kind.__name__})" in str(refused.value)
    assert KeptState(wrapped).changes() == []
    assert not OfClass.kept  # put back


class Sign(nn.Module):
    """A first frame behind an answer that says little: yes or no, or hits that are none."""

    def __init__(self, *, hits: bool) -> None:
        super().__init__()
        self.hits = hits
        self.first = FirstFrame()
        self.scale = nn.Linear(4, 4)
        nn.init.constant_(self.scale.bias, 100.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale(self.first(x))
        return (y - 1000).relu() if self.hits else y > 0


@pytest.mark.parametrize("hits", [False, True])
def test_state_behind_a_coarse_answer_is_refused(hits, tmp_path):
    model = Model(Sign(hits=hits), {"x": Input(rows(2, 4), dynamic={0: "batch"})}, ["y"])
    with pytest.raises(ExportError, match=r"keeps state.*inside the network.*attribute 'first'"):
        export(model, tmp_path / "b")


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Grown(nn.Module):
    """A positional table that grows with the longest sequence so far."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.zeros(0, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.table.shape[0] < x.shape[1]:
            self.table = torch.arange(x.shape[1])[:, None] * torch.ones(3)
        return (x + self.table[: x.shape[1]]).mean(1)


class Observed(nn.Module):
    """Keeps its last answer for whoever asks."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.mean(1)
        return self.last * 2


@pytest.mark.parametrize(("kind", "name"), [(Grown, "table"), (Observed, "last")])
def test_a_cache_that_changes_no_answer_is_taken_and_told(kind, name, tmp_path):
    network = kind()
    before = network.table.shape if kind is Grown else None
    value = Input(rows(2, 10, 3), dynamic={0: "batch", 1: "T"})
    said: list[str] = []
    model = Model(network, {"x": value}, ["y"], dims={"T": (1, 64)})
    with export(model, tmp_path / "b", progress=said.append) as bundle:
        (told,) = [line for line in bundle.manifest.not_checked if "a call changes" in line]
    assert f"attribute {name!r} of {kind.__name__} itself" in told
    assert f"not checked: {told}" in said
    with mmedge.load(tmp_path / "b") as pipe:
        for count in (1, 7, 64):
            x = rows(1, count, 3)
            want = kind()(torch.from_numpy(x)).numpy()
            np.testing.assert_allclose(pipe(x=x)["y"], want, rtol=1e-4, atol=1e-5)
    after = network.table.shape if kind is Grown else network.last
    assert after == before  # no tensor of the trace is left in it


def test_a_program_that_writes_a_buffer_is_refused_without_running_it():
    model = Model(SlowMean().eval(), {"x": Input(rows(2, 4), dynamic={0: "batch"})}, ["y"])
    with pytest.raises(ExportError, match="a call changes buffer 'mean' of SlowMean, and answers"):
        trace(model)


def test_state_is_put_back_whatever_it_is():
    module = nn.Module()
    module.items = {"a": [1, np.arange(3)], "b": {2}, "c": Settings()}
    module.register_buffer("nan", torch.tensor([np.nan, 1.0]))
    state = KeptState(module)
    assert state.changes() == []
    module.items["a"][1][0] = 9
    module.items["b"].add(3)
    module.items["c"].scale.append(1.0)
    module.nan[1] = 2
    module.later = 5
    assert len(state.changes()) == 3
    state.restore()
    assert module.items["a"][1][0] == 0
    assert module.items["b"] == {2}
    assert module.items["c"].scale == []
    assert module.nan[1] == 1
    assert not hasattr(module, "later")
    assert state.changes() == []
