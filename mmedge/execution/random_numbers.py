"""Random numbers that are the same bits on every machine, for sampled tokens and first noise.

docs/reference/bundle.md ("Random numbers") specifies them, so that another runtime draws the same.
A seed has many independent streams, and a number depends on its seed, stream and index alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check_seed", "normal", "uniform"]

#: 2**64 divided by the golden ratio, odd: the step of SplitMix64.
STEP = 0x9E3779B97F4A7C15
#: Multipliers of its mixing, after Stafford.
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK = 2**64 - 1


def uniform(seed: int, stream: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers from 0 to below 1, each a multiple of 2**-53.

    Args:
        seed: from 0 to 2**64 - 1.
        stream: which of the seed's streams, from 0.
        count: how many; fewer are the beginning of more.

    Raises:
        InputError: a seed that is none.
    """
    integers = _integers(seed, stream, count)
    integers >>= np.uint64(11)
    # Below 2**53 the conversion is exact, and so is the product.
    return integers.astype(np.float64) * 2.0**-53


def normal(seed: int, stream: int, count: int) -> NDArray[np.float32]:
    """``count`` normal numbers of mean 0 and variance 1; see :func:`uniform`."""
    numbers = uniform(seed, stream, count + count % 2)
    radius = np.sqrt(-2.0 * np.log(1.0 - numbers[0::2]))
    angle = 2.0 * np.pi * numbers[1::2]
    normals = np.empty(numbers.shape, np.float32)
    normals[0::2] = radius * np.cos(angle)
    normals[1::2] = radius * np.sin(angle)
    return normals[:count]


def check_seed(seed: object) -> int:
    """``seed`` as a plain integer.

    Raises:
        InputError: it is no whole number from 0 to 2**64 - 1.
    """
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and 0 <= seed <= MASK:
        return int(seed)
    raise InputError(f"seed: expected a whole number from 0 to 2**64 - 1, got {seed!r:.80}")


def _integers(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """The integers that the numbers are made of, equally likely from 0 to 2**64 - 1."""
    # Of a single number NumPy warns when it wraps around; of arrays it does not.
    start = np.array([(check_seed(seed) + (stream + 1) * STEP) & MASK], np.uint64)
    states = np.arange(1, count + 1, dtype=np.uint64)
    states *= np.uint64(STEP)
    states += _mix(start)
    return _mix(states)


def _mix(states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each state mixed so that one bit changes all others; in place."""
    states ^= states >> np.uint64(30)
    states *= np.uint64(FIRST)
    states ^= states >> np.uint64(27)
    states *= np.uint64(SECOND)
    states ^= states >> np.uint64(31)
    return states
