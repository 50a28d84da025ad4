"""The module that a network is wrapped in while it is traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmedge_export.locate import ADAPTED as NAME
from mmedge_export.network import positions, tensors_in

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NAME", "Adapter"]


class Adapter(torch.nn.Module):
    """Takes tensors in the model's order and returns the named outputs as a flat tuple.

    torch.export sees the same simple signature for every network: keyword, variable keyword and
    reordered parameters, nested results and dropped outputs all stay in here.

    Args:
        network: the module to trace, in evaluation mode.
        inputs: what each tensor is passed to it as.
        outputs: names of the results, see :func:`mmedge_export.network.positions`.
    """

    def __init__(
        self, network: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.network = network
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self.train(mode=network.training)

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The named outputs, in their order."""
        result = self.network(**dict(zip(self._inputs, values, strict=True)))
        tensors = tensors_in(result)
        return tuple(tensors[at] for at in positions(result, self._outputs).values())
