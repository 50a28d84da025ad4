"""One input of a network, as a user hands it over."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmedge.errors import ExportError
from mmedge.schema.names import MAX_RANK
from mmedge.spec import DTYPES, Absent, Array

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Input", "Limits", "as_array", "check_input"]

#: Smallest and largest size (None: no limit) of a dimension, and what sizes are multiples of.
Limits = tuple[int, int | None] | tuple[int, int | None, int]


#: Names of dynamic dimensions: what both a bundle and torch.export.Dim allow.
_DIMENSION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Input:
    """One named input of a network.

    ``example`` has the shape and dtype that the network takes (a NumPy array; a torch tensor is
    converted); ``dynamic`` maps an axis to the name of its dynamic dimension. The rest is the
    contract of the input's modality (see :class:`mmedge.spec.Modality`): inputs that share a
    ``modality`` must agree on it. ``modality`` None gives the input a modality of its own name.

    ``absent_token`` is the tensor that stands in when ``absent`` is ``"token"``; it must broadcast
    to the input's shape, with size 1 along dynamic axes. ``tokenizer`` is the path of a file of the
    ``tokenizers`` library; it belongs on the input that takes token ids (the first one, where
    several inputs of a modality carry it). The other input of that modality, if there is one, takes
    the attention mask. ``variation`` is how export makes up further values: ``"range"`` is anything
    between the example's smallest and largest value, ``"parts"`` is parts of the example along its
    dynamic axes, for values that have to fit each other, such as the corners of a box.
    """

    example: Array
    modality: str | None = None
    dynamic: Mapping[int, str] = field(default_factory=dict)
    required: bool = True
    rate_hz: float | None = None
    max_age_ms: float | None = None
    absent: Absent = "zeros"
    tokenizer: str | Path | None = None
    absent_token: Array | None = None
    sample_rate_hz: int | None = None
    variation: Literal["range", "parts"] = "range"

    def __post_init__(self) -> None:
        example = as_array(self.example)
        object.__setattr__(self, "example", example)
        if self.absent_token is not None:
            object.__setattr__(self, "absent_token", as_array(self.absent_token))
        rank = np.ndim(example)
        axes = {a + rank if -rank <= a < 0 else a: name for a, name in self.dynamic.items()}
        object.__setattr__(self, "dynamic", axes)

    def shape(self) -> tuple[int | str, ...]:
        """Shape with the names of dynamic dimensions in place of their sizes."""
        return tuple(self.dynamic.get(axis, size) for axis, size in enumerate(self.example.shape))


def as_array(value: Any) -> Array:  # noqa: ANN401
    """``value`` as a NumPy array when it is a torch tensor; anything else as it is.

    A tensor of a dtype that NumPy lacks (bfloat16) comes back unchanged and is refused by
    :class:`Model`, which knows the name of the input.
    """
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        try:
            array: Array = value.detach().cpu().numpy()
        except TypeError:
            return value  # type: ignore[no-any-return]
        return array
    return value  # type: ignore[no-any-return]


def check_input(name: str, value: Any, *, empty: bool) -> None:  # noqa: ANN401
    """Refuse what is wrong with an input by itself.

    Args:
        name: of the input.
        value: what the user gave.
        empty: whether the network may be made for tensors that never hold anything.

    Raises:
        ExportError: it is no input, or one that no bundle can have.
    """
    if not isinstance(value, Input):
        raise ExportError(
            f"input {name!r}: expected an Input, got {type(value).__name__}; write "
            f"Input(example=...)"
        )
    example: Any = value.example
    if not isinstance(example, np.ndarray):
        what = f"{type(example).__name__} {getattr(example, 'dtype', '')}".strip()
        raise ExportError(
            f"input {name!r}: the example must be a NumPy array or a tensor that becomes one, got "
            f"{what}"
        )
    if isinstance(example, np.ma.MaskedArray):
        raise ExportError(
            f"input {name!r}: the example is a masked array, whose mask would be lost; give "
            "example.filled(...)"
        )
    if example.dtype.name not in DTYPES:
        raise ExportError(
            f"input {name!r}: dtype {example.dtype} is not supported; use one of "
            f"{', '.join(DTYPES)}; convert it inside the network"
        )
    if example.ndim > MAX_RANK:
        raise ExportError(f"input {name!r}: rank {example.ndim}, a bundle holds up to {MAX_RANK}")
    if example.size == 0 and not empty:
        raise ExportError(f"input {name!r}: the example is empty {list(example.shape)}")
    for axis, symbol in value.dynamic.items():
        if not 0 <= axis < example.ndim:
            raise ExportError(
                f"input {name!r}: dynamic axis {axis} ({symbol!r}) is out of range for an example "
                f"of rank {example.ndim} {list(example.shape)}"
            )
        if not isinstance(symbol, str) or not _DIMENSION.fullmatch(symbol):
            raise ExportError(
                f"input {name!r}: the dynamic dimension of axis {axis} needs a name of the "
                f"form {_DIMENSION.pattern}, got {symbol!r}"
            )
    if value.absent not in ("zeros", "token", "last"):
        raise ExportError(
            f"input {name!r}: absent must be zeros, token or last, got {value.absent!r}"
        )
    if value.variation not in ("range", "parts"):
        raise ExportError(
            f"input {name!r}: variation must be range or parts, got {value.variation!r}"
        )
    if (value.absent == "token") != (value.absent_token is not None):
        raise ExportError(
            f'input {name!r}: absent="token" and absent_token belong together; give the tensor '
            f"that stands in as absent_token (absent is {value.absent!r}, absent_token is "
            f"{'missing' if value.absent_token is None else 'given'})"
        )
    if value.absent_token is not None:
        _check_token(name, value, value.absent_token)


def _check_token(name: str, value: Input, token: Array) -> None:
    fits = tuple(1 if axis in value.dynamic else n for axis, n in enumerate(value.example.shape))
    token_shape = getattr(token, "shape", None)
    try:
        broadcasts = token_shape is not None and np.broadcast_shapes(token_shape, fits) == fits
    except ValueError:
        broadcasts = False
    if not broadcasts or token.dtype != value.example.dtype:
        raise ExportError(
            f"input {name!r}: absent_token must be {value.example.dtype} and broadcast to "
            f"{list(fits)}, got {getattr(token, 'dtype', type(token).__name__)} "
            f"{list(token_shape or ())}"
        )
