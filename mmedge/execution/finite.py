"""Whether arrays are finite, and the refusal of NaN and infinity in the inputs of a single call.

This runs in every call, and so is a module by itself: a program without streams need not load their
checks (:mod:`mmedge.stream.sanity`).
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from mmedge.errors import BundleError, InputError
from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.bundle import Bundle
    from mmedge.spec import Array

__all__ = ["FiniteInputs", "is_finite"]

#: Elements up to which a product with itself is the cheapest look; NumPy's library may use threads
#: of its own for more, which would take the cores from the network.
SMALL = 8192

# What is looked at is a plain array, so that NumPy need not ask whether another library has an own
# product, which takes a third of the time of a small one.
_product: Callable[[Any, Any], Any] = getattr(np.vdot, "__wrapped__", np.vdot)


def is_finite(value: Array) -> bool:
    """Whether each element of a floating-point array is finite."""
    if value.size <= _safe_size(value.dtype) and isfinite(_product(value, value)):
        return True
    # Large, or a square that overflowed.
    return bool(np.isfinite(value).all())


def _safe_size(dtype: np.dtype[Any]) -> int:
    """Elements up to which a square is tried; those of float16 overflow from 256 on."""
    return SMALL if dtype.itemsize > 2 else 0


class FiniteInputs:
    """Refuses NaN and infinity in the floating-point inputs of a call.

    A network turns them into answers that look like any other: a NaN in a state becomes a NaN
    torque, or the class of index 0. What a golden sample holds in the same input is taken (a mask
    of minus infinity, NaN for "not measured"): there the network's own answer was recorded. Arrays
    on a GPU pass unseen, since looking would wait for it.

    Args:
        bundle: whose inputs these are; its golden samples are read when the first value that is not
            finite comes.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        specs = bundle.manifest.inputs()
        self.names = tuple(name for name in specs if specs[name].dtype.startswith("float"))
        self._inputs = [(name, _safe_size(DTYPES[specs[name].dtype])) for name in self.names]

    def check(self, values: Mapping[str, Any]) -> None:
        """Look at every floating-point input.

        Raises:
            InputError: one holds NaN or infinity and no golden sample does there; the message says
                where.
        """
        for name, small_size in self._inputs:
            value = values[name]
            if type(value) is not ndarray:
                continue
            # As in `is_finite`, whose call would cost a third of this.
            if value.size <= small_size and isfinite(_product(value, value)):
                continue
            if not is_finite(value):
                self._refuse(name, value)

    def _refuse(self, name: str, value: Array) -> None:
        try:
            golden = [sample.inputs[name] for sample in self._bundle.samples()]
        except BundleError:  # the file went away: nothing is known to be allowed
            golden = []
        for word, test in (("NaN", np.isnan), ("infinity", np.isinf)):
            places = test(value)
            if not places.any() or any(test(sample_array).any() for sample_array in golden):
                continue
            position = [int(index) for index in np.argwhere(places)[0]]
            raise InputError(
                f"input {name!r}: {word} at {position} ({np.count_nonzero(places)} of {value.size} "
                f"values), where every golden sample is free of it: the answer would mean nothing. "
                "Leave the sample out, or pass it on: load(..., allow_non_finite=True), or "
                "--allow-non-finite on the command line"
            )
