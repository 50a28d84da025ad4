"""An array of a message, as the input of a modality takes it; what does not fit is refused by name.

Nothing is resized or rescaled unless a user says so: preprocessing is in the network. What is
changed all the same, such as float64 that is rounded, is put in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import InputError
from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.recording.ros.topics import Topic
    from mmedge.spec import Array, TensorSpec

__all__ = ["Target", "number_cast"]


@dataclass(frozen=True)
class Target:
    """The input that a topic's messages are for.

    Attributes:
        spec: of the modality's one input.
        rows: the axis of which a value may have any number of rows (a chunk of a window); None:
            every size is checked.
        topic: what the user says of the topic.
    """

    spec: TensorSpec
    rows: int | None
    topic: Topic

    def fit(self, array: Array, what: str) -> Array:
        """``array`` with the leading axes of size 1 that the input has and a message lacks.

        Args:
            array: of a message.
            what: it is, for the error.

        Raises:
            InputError: another rank or size than the input has.
        """
        sizes = self.spec.shape
        missing = len(sizes) - array.ndim
        if missing > 0 and all(self._may_be_one(axis) for axis in range(missing)):
            array = array.reshape((1,) * missing + array.shape)
        if array.ndim != len(sizes) or any(
            isinstance(size, int) and size != got and axis != self.rows
            for axis, (size, got) in enumerate(zip(sizes, array.shape, strict=False))
        ):
            raise self.error(f"{what} is {list(array.shape)}")
        return array

    def error(self, what: str, fix: str = "") -> InputError:
        """The error for a message that does not fit: ``what`` it is, and the input."""
        return InputError(f"{what}; input {self.spec} takes no such message{'; ' * bool(fix)}{fix}")

    def _may_be_one(self, axis: int) -> bool:
        return (
            axis == self.rows
            or isinstance(self.spec.shape[axis], str)
            or (self.spec.shape[axis] == 1)
        )


def number_cast(target: Target, kind: str, what: str) -> tuple[Callable[[Array], Array], str]:
    """How numbers of dtype ``kind`` become the input's, and what is changed, in words.

    The same dtype stays as it is, and a float of other bits is rounded. Whole numbers become floats
    only with a scale: a value of another unit would be read without a word.

    Raises:
        InputError: the input is of another dtype.
    """
    wanted = DTYPES[target.spec.dtype]
    scale = target.topic.scale
    if scale:
        if wanted.kind != "f":
            raise target.error(f"{what} times scale {scale:g} is a float")
        factor = wanted.type(scale)

        def scaled(array: Array) -> Array:
            with np.errstate(over="ignore"):  # sanity refuses infinite values by name
                return np.multiply(array, factor, dtype=wanted)

        return scaled, f"{kind} times {scale:g} as {wanted}"
    source = np.dtype(kind)
    if source == wanted:
        return _native, ""
    if source.kind == wanted.kind == "f":
        change = "rounded to" if source.itemsize > wanted.itemsize else "taken as"

        def rounded(array: Array) -> Array:
            with np.errstate(over="ignore"):
                return array.astype(wanted)

        return rounded, f"{kind} is {change} {wanted}"
    raise target.error(
        f"{what} is {kind}",
        "put the conversion into the network"
        + (f", or set scale (1.0 casts {kind} as it is)" if wanted.kind == "f" else ""),
    )


def _native(array: Array) -> Array:
    """The array in this machine's byte order."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
