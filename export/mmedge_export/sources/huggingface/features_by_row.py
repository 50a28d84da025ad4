"""Features that a network puts in the places of tokens, row by row.

How many places a mask chooses depends on values, which no graph can follow. Here the features of a
row go to the places of that row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmedge_export.sources.huggingface.places import place_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["FeaturesByRow"]


class FeaturesByRow(TorchFunctionMode):
    """What is put where a mask is true goes row by row: the first features to the first places."""

    def __init__(self) -> None:
        super().__init__()
        #: Features of each row that were put somewhere.
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, but for places that a mask chooses."""
        name = getattr(func, "__name__", "")
        if name in ("masked_scatter", "masked_scatter_"):
            whole, mask, source = args
            if whole.ndim == 3:
                return self._placed(whole, mask.expand(whole.shape)[..., 0], source)
        if name == "__setitem__" and (places := place_mask(args[1])) is not None:
            whole, _, source = args
            if places.ndim == 2 < whole.ndim and isinstance(source, Tensor) and source.ndim == 2:
                whole.copy_(self._placed(whole, places, source))
                return None
        return func(*args, **(kwargs or {}))

    def _placed(self, whole: Tensor, places: Tensor, source: Tensor) -> Tensor:
        features = source.reshape(whole.shape[0], -1, whole.shape[-1])
        self.count = max(self.count, features.shape[1])
        order = (places.long().cumsum(1) - 1).clamp(min=0)
        index = order.clamp(max=features.shape[1] - 1)[..., None]
        placed = features.gather(1, index.expand(-1, -1, features.shape[-1]))
        is_place = places & (order < features.shape[1])
        return torch.where(is_place[..., None], placed.to(whole.dtype), whole)
