"""The module that a network is wrapped in while it is traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmedge_export.capture.locate import ADAPTED as NAME
from mmedge_export.capture.results import named_results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["NAME", "Adapter"]


class Adapter(torch.nn.Module):
    """Takes tensors in the model's order and returns the named outputs as a flat tuple.

    torch.export sees the same simple signature for every network: keyword, variable keyword and
    reordered parameters, nested results and dropped outputs all stay in here.

    Args:
        network: the module to trace, in evaluation mode.
        inputs: what each tensor is passed to it as.
        outputs: names of the results, see :func:`mmedge_export.capture.results.named_results`.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str] | Mapping[str, str],
    ) -> None:
        super().__init__()
        self.network = network
        self._inputs, self._outputs = tuple(inputs), outputs
        self.train(mode=network.training)

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The named outputs, in their order."""
        result = self.network(**dict(zip(self._inputs, values, strict=True)))
        return tuple(named_results(result, self._outputs).values())
