"""The values of a dump's samples as a stream had them: checked, and aligned as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.recording.flight.dump import ALIGNMENT

if TYPE_CHECKING:
    from mmedge.recording.flight.reader import DumpSample
    from mmedge.spec import Array

__all__ = ["aligned_value"]


def aligned_value(sample: DumpSample) -> Mapping[str, Array] | str:
    """A sample's value in arrays that lie as those that were pushed did, modulo 64 bytes.

    Where an array lies changes how some kernels add up: ONNX Runtime 1.32's ReduceSum on x86-64
    gives other last bits at addresses that 16 does not divide.
    """
    value = sample.value
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"sample {sample.seq} of {sample.modality!r}: expected arrays by input")
    return {name: _aligned(array, sample.alignment.get(name, 0)) for name, array in value.items()}


def _aligned(array: Array, rest: int) -> Array:
    """A copy whose address is ``rest`` modulo 64."""
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = (rest - memory.ctypes.data) % ALIGNMENT
    copy: Any = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    result: Array = copy
    return result
