"""What a mask chooses of each row, at full length: what is chosen first, then zeros.

A network may go through its batch in Python, take from each row what a mask chooses and fill it up
to one length. How much is chosen follows from values, which no graph can. Here the batch is taken
as one row, and what is chosen stays as long as the whole, as it is after filling up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmedge_export.sources.huggingface.example_prompt import NEAR, first_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ChosenRows", "has_chosen_rows"]

#: Stand for the number of rows and for that of what is chosen: Python code can have these as
#: integers alone, and no tensor has such a size.
_ROWS, _CHOSEN = 1_000_000_007, 1_000_000_009


class _Count:
    """How many places of each row are chosen."""

    def __init__(self, mask: Tensor) -> None:
        self.places, self.count = mask.shape[1], mask.long().sum(1, keepdim=True)

    def ones(self, **options: Any) -> Tensor:  # noqa: ANN401
        """One for each that is chosen, then zeros."""
        is_chosen = torch.arange(self.places)[None] < self.count
        return is_chosen.to(options.get("dtype") or torch.float32)


class ChosenRows(TorchFunctionMode):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        #: Whether anything was chosen so.
        self.has_chosen = False
        self._rows: Tensor | None = None
        self._is_batch = False
        #: Tensors that stand for a list of rows, with what was chosen.
        self._lists: list[tuple[Tensor, _Count]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, but for what goes through rows."""
        name, options = getattr(func, "__name__", ""), kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Tensor):
            is_list = any(tensor is first for tensor, _ in self._lists)
            if is_list and (result := self._of_list(name, first, args)):
                return result[0]
            if (result := self._of_rows(name, first, args)) is not None:
                return result
            if name == "__setitem__" and (index := _pair(args[1])) is not None:
                return func(first, index, args[2])
        elif name == "arange" and first == _ROWS and self._rows is not None:
            return func(self._rows.shape[0], *args[1:], **options)
        elif name == "ones" and first == _CHOSEN and self._lists:
            count = self._lists[-1][1]
            return self._note(count.ones(**options), count)
        elif name == "stack" and isinstance(first, list) and len(first) == 1:
            for at, (tensor, _) in enumerate(self._lists):
                if tensor is first[0]:
                    del self._lists[at]
                    self._is_batch = bool(self._lists)
                    return tensor
        return func(*args, **options)

    @staticmethod
    def _of_list(name: str, value: Tensor, args: tuple[Any, ...]) -> tuple[Any] | None:
        """What is asked of a list of rows as one row."""
        if name == "size" and args[1:] == (0,):
            return (_CHOSEN,)
        if name == "__get__":  # its shape
            return (value.shape[1:],)
        if name == "__getitem__" and isinstance(args[1], slice):
            return (value,)
        return None

    def _of_rows(self, name: str, value: Tensor, args: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """What goes through the rows of a batch; None: nothing of that."""
        if name == "__len__" and value.ndim == 2 and value.dtype == torch.int64:
            self._rows = value
            return _ROWS
        if name == "__len__" and value.ndim == 2 and value.dtype == torch.bool:
            self._is_batch = True
            return 1
        if name == "unbind" and value.dtype == torch.int64 and value.shape[1:] == (2,):
            return ((value[:, 0], value[:, 1]),)  # pairs, to be two lists
        if name == "__getitem__" and self._is_batch:
            if type(args[1]) is int:
                return value
            if isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
                return self._choose(value, args[1])
        return None

    def _choose(self, value: Tensor, mask: Tensor) -> Tensor:
        self.has_chosen = True
        places = torch.arange(mask.shape[1])
        order = torch.where(mask, places, places + mask.shape[1]).argsort(1)
        count = _Count(mask)
        chosen = value.gather(1, order[..., None].expand(-1, -1, value.shape[-1]))
        return self._note(chosen * count.ones(dtype=value.dtype)[..., None], count)

    def _note(self, value: Tensor, count: _Count) -> Tensor:
        self._lists.append((value, count))
        return value


def _pair(index: Any) -> tuple[Tensor, ...] | None:  # noqa: ANN401
    """The tensors of an index that is a tuple of tuples of one each."""
    if not isinstance(index, tuple) or not index:
        return None
    parts = [part[0] if isinstance(part, tuple) and len(part) == 1 else None for part in index]
    tensors = tuple(part for part in parts if isinstance(part, Tensor))
    return tensors if len(tensors) == len(index) else None


def has_chosen_rows(run: Callable[[], Any]) -> bool:
    """Whether a network goes through its rows so, and gives the same where they are one."""
    with torch.no_grad():
        expected = first_tensor(run())
        try:
            with ChosenRows() as mode:
                result = first_tensor(run())
        except Exception:  # noqa: BLE001 - whatever a foreign class raises: it does something else
            return False
    scale = float(expected.abs().max())
    return mode.has_chosen and bool(torch.allclose(result, expected, rtol=NEAR, atol=NEAR * scale))
