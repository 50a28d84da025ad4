"""Places of tokens that stand for features: which feature each takes, and where it stands.

A network counts positions of a picture's tokens in rows and columns where it knows its grid. For
one picture size that is a table, read off the network's own positions for an example.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "FeaturesInPlace",
    "PositionTable",
    "place_mask",
    "positions_of",
    "read_positions",
    "traceable",
]


class FeaturesInPlace(TorchFunctionMode):
    """What a network puts where a mask is true has the size of the whole already.

    How many places a mask chooses depends on values, which no graph can follow. Here a tensor that
    is chosen from stays whole, and what is put into it counts where the mask is true.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, but for choices of places by a mask."""
        name = getattr(func, "__name__", "")
        if name == "unfold" and isinstance(args[0], Tensor):
            # Windows lie over each other; how far depends on sizes, on which no graph branches.
            return func(*args, **(kwargs or {})).contiguous()
        if name in ("masked_scatter", "masked_scatter_"):
            whole, mask, source = args
            if source.numel() == whole.numel():
                return torch.where(mask, source.reshape(whole.shape), whole)
        if name in ("__getitem__", "__setitem__") and (mask := place_mask(args[1])) is not None:
            whole = args[0]
            if mask.ndim == whole.ndim == 3 and name == "__getitem__":
                return whole.flatten()
            if mask.ndim == 2 < whole.ndim:
                if name == "__getitem__":
                    return whole
                mask = mask.reshape(*mask.shape, *[1] * (whole.ndim - mask.ndim))
                value = args[2]
                if isinstance(value, Tensor) and value.numel() == whole.numel():
                    value = value.reshape(whole.shape)
                whole.copy_(torch.where(mask, value, whole))
                return None
        return func(*args, **(kwargs or {}))


def place_mask(index: Any) -> Tensor | None:  # noqa: ANN401
    """The mask [rows, tokens] or [rows, tokens, width] that an index is."""
    first = index[0] if isinstance(index, tuple) and index else index
    rest = index[1:] if isinstance(index, tuple) else ()
    is_mask = isinstance(first, Tensor) and first.dtype == torch.bool and first.ndim in (2, 3)
    return first if is_mask and all(part == slice(None) for part in rest) else None


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Let transformers count no tokens against features, and make masks without ``vmap``."""
    from transformers import masking_utils

    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"
    before, expand = os.environ.get(name), masking_utils._vmap_expansion_sdpa  # noqa: SLF001
    os.environ[name] = "1"
    masking_utils._vmap_expansion_sdpa = _broadcast_mask  # noqa: SLF001
    try:
        yield
    finally:
        masking_utils._vmap_expansion_sdpa = expand  # noqa: SLF001
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _broadcast_mask(allows: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A mask [rows, heads, queries, keys] of a function of an index of each."""

    def expand(*indices: Tensor) -> Tensor:
        sizes = [index.shape[0] for index in indices]  # len() would be a constant
        axes = [
            index.reshape([-1 if axis == at else 1 for at in range(len(indices))])
            for axis, index in enumerate(indices)
        ]
        return allows(*axes).expand(sizes)

    return expand


class PositionTable(nn.Module):
    """Positions of tokens, some of which stand for a picture of one size.

    Args:
        offsets: [tokens] or [axes, tokens], of a picture's tokens from where it begins.
        advance: how far the text after a picture is from where the picture begins.
        first: position of the first token.
    """

    def __init__(self, offsets: Tensor, advance: int, first: int) -> None:
        super().__init__()
        self.offsets: Tensor
        self.register_buffer("offsets", offsets.clone(), persistent=False)
        self._advance, self._first = advance, first

    def forward(self, stands: Tensor, order: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Positions ([axes,] rows, tokens), and where the next token stands.

        Args:
            stands: whether a token stands for a feature, [rows, tokens].
            order: of the feature.
            start: where the first of these tokens stands, [rows].
        """
        count = self.offsets.shape[-1]
        within = order.clamp(min=0) % count
        ends = torch.where(within == count - 1, self._advance, 0)
        steps = torch.where(stands, ends, 1)
        begin = start[:, None] + steps.cumsum(1) - steps
        offsets = torch.where(stands, self.offsets[..., within], 0)
        return begin + offsets + self._first, start + steps.sum(1)


def read_positions(positions: Tensor, begin: int, count: int) -> PositionTable | None:
    """The table of a network's positions ([axes,] rows, tokens) for one picture; None: no such.

    Args:
        positions: of text, a picture, and text of at least two tokens.
        begin: index of the picture's first token.
        count: of the picture's tokens.
    """
    row = positions[..., 0, :]
    flat = row.reshape(-1, row.shape[-1])
    first = int(flat[0, 0])
    start = begin + first
    offsets = flat[:, begin : begin + count] - start
    advance = int(flat[0, begin + count]) - start
    table = PositionTable(offsets.reshape(*row.shape[:-1], count), advance, first)
    stands = torch.zeros(1, row.shape[-1], dtype=torch.bool)
    stands[:, begin : begin + count] = True
    again, _ = table(stands, stands.long().cumsum(1) - 1, torch.zeros(1, dtype=torch.int64))
    return table if torch.equal(again[..., 0, :].reshape(flat.shape), flat) else None


def positions_of(
    network: Any,  # noqa: ANN401
    tokens: Tensor,
    run: Callable[[], Any],
) -> tuple[Any, list[Tensor]]:
    """The result of a call, and positions that parts of the network were given in it.

    Args:
        network: that ``run`` calls.
        tokens: [rows, tokens].
        run: calls it.
    """
    seen: list[Tensor] = []

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ANN401, ARG001
        value = kwargs.get("position_ids")
        if (
            isinstance(value, Tensor)
            and value.ndim in (2, 3)
            and value.shape[-1] == tokens.shape[1]
            and value.shape[-2] in (1, tokens.shape[0])
            and not any(torch.equal(value, other) for other in seen)
        ):
            seen.append(value.clone())

    hooks = [part.register_forward_pre_hook(note, with_kwargs=True) for part in network.modules()]
    try:
        result = run()
    finally:
        for hook in hooks:
            hook.remove()
    return result, seen
