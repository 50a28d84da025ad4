"""Networks that cannot be exported, each for its own reason; the guilty line ends in ``# here``."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from torch import Tensor, nn

from mmedge_export import Input, Model


def guilty_line(kind: type[nn.Module]) -> int:
    """Number of the line of this file that makes ``kind`` fail."""
    lines, first = inspect.getsourcelines(kind)
    (line,) = (
        number for number, text in enumerate(lines, first) if text.rstrip().endswith("# here")
    )
    return line


class Branch(nn.Module):
    """Python control flow on a value."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # here
            return x
        return -x


class Cut(nn.Module):
    """A size that depends on a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : int(x.abs().max()) + 1]  # here


class Bessel(nn.Module):
    """An operator without an ONNX form."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return torch.special.bessel_j0(y)  # here


class Recurrent(nn.Module):
    """torch unrolls it over a dynamic time axis."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x[:, :, None].expand(-1, -1, 4))[0]  # here


class Packed(nn.Module):
    """Packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = x.argmax(dim=1).cpu() + 1
        packed = nn.utils.rnn.pack_padded_sequence(
            x[:, :, None].expand(-1, -1, 4), lengths, batch_first=True, enforce_sorted=False
        )
        return self.rnn(packed)[1]  # here


class Numpy(nn.Module):
    """NumPy in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sin(x.numpy()))  # here


class Fixed(nn.Module):
    """A Python number where a shape should be."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(24, dtype=x.dtype).reshape(4, 6)  # here


class Inner(nn.Module):
    """Puts a layer in front and the failing part two modules deep."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 6), kind())

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def failing(kind: type[nn.Module]) -> Model:
    """``kind`` inside a network, with a dynamic batch and, for :class:`Recurrent`, time."""
    torch.manual_seed(0)
    example = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    if kind is Recurrent:
        dynamic = {0: "batch", 1: "time"}
        return Model(kind().eval(), {"x": Input(example, dynamic=dynamic)}, ["y"])
    return Model(Inner(kind).eval(), {"x": Input(example, dynamic={0: "batch"})}, ["y"])
