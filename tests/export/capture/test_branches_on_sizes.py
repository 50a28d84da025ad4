"""A network that branches on a size: the bundle answers as torch does, or refuses the size."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mmedge
from mmedge.errors import ExportError, InputError
from mmedge.execution.verify import verify
from mmedge.spec import Tolerance
from mmedge_export import Input, Model, export
from mmedge_export.capture.run_size import RunSize
from mmedge_export.capture.try_sizes import try_sizes

if TYPE_CHECKING:
    from pathlib import Path


def rows(batch: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(batch * 100 + count)
    return rng.normal(size=(batch, count, 3)).astype(np.float32)


class DropOdd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] % 2:
            x = x[:, :-1]
        return x.mean(1)


class PadOdd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] % 2:
            x = F.pad(x, (0, 0, 0, 1))
        return x.reshape(x.shape[0], x.shape[1] // 2, 2, 3).amax(2).mean(1)


class Thirds(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax(1) if x.shape[1] % 3 else x.mean(1)


class Large(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1) if x.shape[0] * x.shape[1] > 1000 else x.amax(1)


class Single(nn.Module):
    """Another answer for a batch of one, which torch would take for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1) * 2 if x.shape[0] == 1 else x.mean(1)


class Alike(nn.Module):
    """A shortcut for a batch of one, with the same answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1) if x.shape[0] == 1 else x.sum(1) / x.shape[1]


class Pairs(nn.Module):
    """Asks nothing itself: what needs an even size is inside torch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], -1, 6).mean(1)


class Even(nn.Module):
    """No branch at all, only arithmetic with a size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : x.shape[1] // 2 * 2].mean(1)


class Shorter(nn.Module):
    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > z.shape[1]:
            x, z = z, x
        return x.mean(1) * 2 + z.amax(1)


def model(network: nn.Module, count: int = 10, batch: int = 2, **options: object) -> Model:
    value = Input(rows(batch, count), dynamic={0: "batch", 1: "T"})
    return Model(network, {"x": value}, ["y"], **options)  # type: ignore[arg-type]


def check(made: Model, path: Path, sizes: list[tuple[int, int]]) -> list[bool]:
    """Whether the bundle takes each of ``sizes``; where it does, it answers as torch does."""
    taken = []
    with mmedge.load(path) as pipe:
        assert verify(pipe).ok
        for batch, count in sizes:
            x = rows(batch, count)
            try:
                got = pipe(x=x)["y"]
            except InputError:
                taken.append(False)
                continue
            taken.append(True)
            want = made.module(torch.from_numpy(x)).numpy()
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    return taken


@pytest.mark.parametrize(
    ("network", "limit", "fix", "sizes", "taken"),
    [
        (DropOdd(), "T % 2 == 0", '"T": (2, None, 2)', [(1, 2), (1, 7), (3, 8)], [1, 0, 1]),
        (PadOdd(), "T % 2 == 0", '"T": (2, None, 2)', [(1, 2), (1, 7), (3, 8)], [1, 0, 1]),
        (Thirds(), "T % 3 != 0", "", [(1, 4), (1, 9), (2, 11)], [1, 0, 1]),
        (Large(), "T * batch <= 1000", "", [(10, 100), (10, 101)], [1, 0]),
        (Single(), "batch != 1", '"batch": (2, None)', [(1, 4), (2, 4)], [0, 1]),
        (Pairs(), "3 * T * batch % (6 * batch) == 0", '"T": (2, None, 2)', [(1, 3)], [0]),
    ],
)  # fmt: skip
def test_a_branch_on_a_size_is_refused_or_a_limit(network, limit, fix, sizes, taken, tmp_path):
    made = model(network, dims={"T": (2, None)})
    with pytest.raises(ExportError) as refused:
        export(made, tmp_path / "a")
    assert f"this one needs {limit} (not so at " in str(refused.value)
    assert f"because of {type(network).__name__} itself, {__file__} line " in str(refused.value)
    assert f"Model(constraints=({limit!r},))" in str(refused.value)
    assert (
        f"state dims={{{fix}}}" in str(refused.value) if fix else "dims=" not in str(refused.value)
    )
    made = replace(made, constraints=(limit,))
    with export(made, tmp_path / "b") as bundle:
        (stated,) = bundle.manifest.constraints
        assert stated.expression == limit
        assert stated.source.startswith("test_branches_on_sizes.py:")
        assert bundle.manifest.samples > 1  # all of which keep it
    assert check(made, tmp_path / "b", sizes) == [bool(each) for each in taken]


@pytest.mark.parametrize(
    ("network", "least", "sizes"),
    [
        # A shortcut with the same answer; arithmetic without a branch.
        (Alike(), 1, [(1, 4), (1, 1), (3, 5)]),
        (Even(), 2, [(1, 4), (3, 5), (1, 2)]),
    ],
)
def test_what_makes_no_difference_is_no_limit(network, least, sizes, tmp_path):
    made = model(network, dims={"T": (least, None)})
    with export(made, tmp_path / "b") as bundle:
        assert bundle.manifest.constraints == ()
    assert all(check(made, tmp_path / "b", sizes))


def test_a_broken_limit_names_the_line(tmp_path):
    export(model(DropOdd(), constraints=["T % 2 == 0"]), tmp_path / "b").close()
    with mmedge.load(tmp_path / "b") as pipe:
        for _ in range(2):
            with pytest.raises(
                InputError,
                match=r"sizes T=7: .*takes only T % 2 == 0, because of "
                r"test_branches_on_sizes.py:\d+: if x.shape\[1\] % 2:",
            ):
                pipe(x=rows(1, 7))
        assert pipe(x=rows(1, 8))["y"].shape == (1, 3)


def test_two_dimensions_are_compared(tmp_path):
    inputs = {
        "x": Input(rows(2, 10), dynamic={0: "batch", 1: "T"}),
        "z": Input(rows(2, 12), dynamic={0: "batch", 1: "S"}, required=False),
    }
    network = Shorter()
    made = Model(network, inputs, ["y"])
    with pytest.raises(ExportError, match=r"needs T <= S \(not so at S=\d+, T=\d+\)"):
        export(made, tmp_path / "a")
    export(replace(made, constraints=["T <= S"]), tmp_path / "b").close()
    with mmedge.load(tmp_path / "b") as pipe:
        x, z = rows(1, 9), rows(1, 9)
        want = network(torch.from_numpy(x), torch.from_numpy(z)).numpy()
        np.testing.assert_allclose(pipe(x=x, z=z)["y"], want, rtol=1e-4, atol=1e-5)
        with pytest.raises(InputError, match="S=9, T=10: this bundle takes only T <= S"):
            pipe(x=rows(1, 10), z=z)
        # What stands in for z has the smallest size at which the graph is the network.
        zeros = torch.zeros(1, 9, 3)
        want = network(torch.from_numpy(x), zeros).numpy()
        np.testing.assert_allclose(pipe(x=x)["y"], want, rtol=1e-4, atol=1e-5)


def test_what_sizes_are_multiples_of_is_kept_and_checked(tmp_path):
    made = model(PadOdd(), dims={"T": (2, 64, 2)})
    with export(made, tmp_path / "b") as bundle:
        assert bundle.manifest.constraints == ()
        assert bundle.manifest.dimensions["T"].multiple == 2
        assert {s.inputs["x"].shape[1] % 2 for s in bundle.samples()} == {0}
    assert check(made, tmp_path / "b", [(1, 2), (2, 64), (1, 7)]) == [True, True, False]
    with (
        mmedge.load(tmp_path / "b") as pipe,
        pytest.raises(InputError, match="'T' may be 2 to 64 in multiples of 2 .*got 7"),
    ):
        pipe(x=rows(1, 7))


def test_a_smallest_size_of_zero_is_tried_and_taken(tmp_path):
    made = model(Even(), dims={"T": (2, 64), "batch": (0, 4)})
    with export(made, tmp_path / "b") as bundle:
        assert bundle.manifest.dimensions["batch"].min == 0
    assert check(made, tmp_path / "b", [(0, 4), (1, 5), (4, 2)]) == [True, True, True]


class Empty(nn.Module):
    """Of no rows it makes a one; ``shape == 0`` leaves no trace in torch's record of sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] == 0:
            return torch.ones(x.shape[0], 3)
        return x.sum(1)


def test_a_branch_for_none_at_all_is_found(tmp_path):
    with pytest.raises(ExportError, match="T=0"):
        export(model(Empty(), dims={"T": (0, 64)}), tmp_path / "b")
    made = model(Empty(), dims={"T": (1, 64)})
    export(made, tmp_path / "b").close()
    assert check(made, tmp_path / "b", [(1, 0), (1, 1)]) == [False, True]


def test_an_example_of_one_that_takes_another_branch_is_refused(tmp_path):
    with pytest.raises(
        ExportError, match=r"at batch=1, as in the example, .*because of Single itself, .*line \d+"
    ):
        export(model(Single(), batch=1), tmp_path / "b")


class Pooled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool1d(x.transpose(1, 2), 5).amax(2)


def test_a_dimension_that_is_left_one_size_is_refused(tmp_path):
    # torch decomposes the pooling for the example's size.
    with pytest.raises(ExportError, match=r"needs T % 5 == 0 .*because of Pooled itself"):
        export(model(Pooled()), tmp_path / "b")
    with pytest.raises(ExportError, match=r"take 'T' out of Input.dynamic \(this line fixes it"):
        export(model(Pooled(), constraints=["T % 5 == 0"]), tmp_path / "b")


def test_samples_outside_a_limit_are_told(tmp_path):
    samples = [({"x": rows(1, n)}, None) for n in (4, 7)]
    with pytest.raises(ExportError, match=r"sample 1: sizes T=7: .*takes only T % 2 == 0"):
        export(model(DropOdd(), samples=samples, constraints=["T % 2 == 0"]), tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("T %", "constraints: 'T %': expected a number or a dimension, got the end"),
        ("W > 1", "constraints: 'W > 1' names 'W', but no input has .*batch, T"),
        ("T % 2 == 1", "constraints: the example has T=10, which breaks 'T % 2 == 1'"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_at_once(text, words):
    with pytest.raises(ExportError, match=words):
        model(DropOdd(), constraints=[text])


def test_limits_of_dimensions_are_checked_at_once():
    with pytest.raises(ExportError, match=r"\(2, 64, 4\): expected .* example \(10\) to be mult"):
        model(DropOdd(), dims={"T": (2, 64, 4)})
    with pytest.raises(ExportError, match=r"is \(-1, 4\): expected \(smallest, largest\)"):
        model(DropOdd(), dims={"T": (-1, 4)})


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(32, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.table[: x.shape[1]]).mean(1)


class Fours(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] % 4 == 0
        torch._check(x.shape[1] < 50)
        return x.mean(1)


class Layered(nn.Module):
    """A layer asks of the size first, and by itself; the branch is what limits it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        if x.shape[1] > 20:
            y = y * 2
        return y.mean(1)


def test_the_line_that_branches_is_named_before_a_layer(tmp_path):
    with pytest.raises(ExportError, match=r"line \d+: if x\.shape\[1\] > 20:"):
        export(model(Layered()), tmp_path / "a")


class Sum(nn.Module):
    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return x.mean(1) + (x + z).amax(1)


def test_torch_is_quoted_and_translated(tmp_path):
    with pytest.raises(ExportError, match=r"(?s)torch suggests: T = Dim\('T', max=32\).*\(1, 32\)"):
        export(model(Table()), tmp_path / "a")
    with pytest.raises(ExportError, match=r'dims={"T": \(4, 48, 4\)}'):
        export(model(Fours(), 12), tmp_path / "b")
    inputs = {
        name: Input(rows(2, 10), dynamic={0: "batch", 1: axis})
        for name, axis in {"x": "T", "z": "S"}.items()
    }
    with pytest.raises(ExportError, match="give both axes the name 'T'"):
        export(Model(Sum(), inputs, ["y"]), tmp_path / "c")
    with export(model(Fours(), 12, dims={"T": (4, 48, 4)}), tmp_path / "d") as bundle:
        assert bundle.manifest.constraints == ()


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1.0003, [
            "the graph is near the network and not equal at the example at b=", "n=",
            "times what the tolerance allows (rtol=0.0001, atol=1e-06), and may be rounding",
            "--rtol 0.001, or rtol=0.001 of export()", "If it is no rounding: this one needs n",
        ]),
        (1.3, ["the graph is not the network at the example at b=", ": this one needs n"]),
    ],
)  # fmt: skip
def test_a_difference_that_may_be_rounding_names_the_tolerance_first(factor, words) -> None:
    model = Model(Alike().eval(), {"x": Input(rows(2, 5), dynamic={0: "b", 1: "n"})}, ["y"])

    def run(inputs):
        return {"y": inputs["x"].mean(1)}

    def graph(inputs):
        return {"y": inputs["x"].mean(1) * np.float32(factor if inputs["x"].shape[1] > 5 else 1)}

    limits = SimpleNamespace(
        domain=model.domain(),
        witnesses=lambda _tried: [],
        reason=lambda *_: "this one needs n <= 5, because of an operator",
    )
    size = RunSize(model, {}, {})
    with pytest.raises(ExportError) as raised:
        try_sizes(
            model,
            limits,
            run,
            graph,
            Tolerance(1e-4, 1e-6),
            print,
            size=size,
            varied=False,
            least=0,
            note=lambda *_: None,
        )
    for each in words:
        assert each in str(raised.value)
