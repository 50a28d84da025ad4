"""Networks that throw padding pictures away, made to keep all: every picture of a call is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["AllPicturesAreReal"]


class _One:
    """A number of parts, as a tensor says it."""

    def item(self) -> int:
        """One."""
        return 1


def _are_counts(value: Tensor) -> bool:
    return value.dtype == torch.int64 and value.ndim == 1


class AllPicturesAreReal(TorchFunctionMode):
    """Rows that a mask chooses are all rows, and numbers of chosen rows are those of all.

    How many rows a mask chooses depends on values, which no graph can follow. Networks that take a
    list of pictures choose those that are no padding, which in a bundle's call is each of them.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Whether a mask was to choose rows.
        self.has_kept_rows = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, but for choices of rows by a mask."""
        name = getattr(func, "__name__", "")
        if name == "__getitem__":
            value, index = args
            is_row_mask = isinstance(index, Tensor) and index.dtype == torch.bool
            if is_row_mask and index.ndim < min(value.ndim, 3):
                self.has_kept_rows = True
                return value.flatten(0, index.ndim - 1)
        # What is taken apart by rows is put together again: it stays together.
        if name == "unbind" and args[1:] in ((), (0,)) and args[0].ndim > 2:
            return (args[0],)
        if name == "__len__" and args[0].ndim > 2:
            return 1
        if name == "split" and len(args) > 1 and isinstance(args[1], list):
            return (args[0],)
        if name == "tolist" and _are_counts(args[0]):
            return [1]
        if name == "unbind" and _are_counts(args[0]):  # tolist() while a graph is traced
            return (_One(),)
        return func(*args, **(kwargs or {}))
