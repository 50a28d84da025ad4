"""Which way to compute attention over segments, by what was measured and never by guess.

``dispatch.json`` beside this file is made from the results in ``benchmarks/results`` by
``benchmarks/dispatch.py``: for each device and shape, how many times as long the standard operators
took as the kernel. A device without measurements gets the standard operators.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache, lru_cache

__all__ = ["KernelChoice", "KernelMeasurement", "choose", "measurements"]


@dataclass(frozen=True, slots=True)
class KernelMeasurement:
    """One measurement: ``speedup`` is the standard operators' time over the kernel's.

    ``framework`` is whose standard operators they were, ``onnxruntime`` or ``torch``. ``device`` is
    ``cpu`` with the kernel's instruction set, such as ``cpu-avx512``, or a GPU's architecture, such
    as ``sm_90``. ``keys`` are those of all segments together.
    """

    framework: str
    device: str
    dtype: str
    dim: int
    rows: int
    keys: int
    speedup: float


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """Whether to use the kernel, and why."""

    kernel: bool
    reason: str


@cache
def measurements() -> tuple[KernelMeasurement, ...]:
    """All measurements, as this version was shipped with."""
    from importlib.resources import files  # slow to import

    text = (files("mmedge.native") / "dispatch.json").read_text(encoding="utf-8")
    return tuple(KernelMeasurement(**row) for row in json.loads(text)["rows"])


@lru_cache(maxsize=1024)  # operators ask in every call
def choose(
    framework: str,
    device: str,
    dtype: str = "float32",
    *,
    rows: int | None = None,
    keys: int | None = None,
    dim: int | None = None,
) -> KernelChoice:
    """The kernel where it was measured to be no slower, at the nearest shape that was measured.

    Args:
        framework: as :class:`KernelMeasurement` has it.
        device: the same.
        dtype: of queries, keys and values.
        rows: queries; None: not known, and the least favourable of those measured counts.
        keys: the same.
        dim: the same.
    """
    key = framework, device, dtype
    candidates = [row for row in measurements() if (row.framework, row.device, row.dtype) == key]
    if not candidates:
        return KernelChoice(kernel=False, reason=f"not measured on {device} with {dtype}")
    for name, value in (("dim", dim), ("rows", rows), ("keys", keys)):
        if value is not None:
            distances = [
                abs(math.log(max(value, 1) / max(getattr(row, name), 1))) for row in candidates
            ]
            nearest = min(distances)
            candidates = [
                row for row, far in zip(candidates, distances, strict=True) if far == nearest
            ]
    worst = min(candidates, key=lambda row: row.speedup)
    times = f"{worst.speedup:.2f} times as fast as standard operators"
    where = f"{worst.rows} x {worst.keys}, heads of {worst.dim}"
    return KernelChoice(
        kernel=worst.speedup >= 1.0, reason=f"measured on {device}: {times} at {where}"
    )
