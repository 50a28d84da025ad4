"""The native library: attention over segments of keys and values.

It is built with the package. If it was left out (``-C wheel.cmake=false``), bundles run without it,
:func:`library` says why it is missing, and everything else here raises :class:`BackendError`.
"""

from __future__ import annotations

from mmedge.native.capi import (
    BF16,
    DOMAIN,
    F16,
    F32,
    I8,
    NativeLibrary,
    SegAttn,
    cpu_calls,
    cpu_isa,
    cuda_archs,
    library,
    ort_kernels,
    use_isa,
    why_absent,
)
from mmedge.native.segattn import Prepared, prepare, segmented_attention

__all__ = [
    "BF16",
    "DOMAIN",
    "F16",
    "F32",
    "I8",
    "NativeLibrary",
    "Prepared",
    "SegAttn",
    "cpu_calls",
    "cpu_isa",
    "cuda_archs",
    "library",
    "ort_kernels",
    "prepare",
    "segmented_attention",
    "use_isa",
    "why_absent",
]
