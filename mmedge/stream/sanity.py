"""Distrust of sensors: values that are not finite, never change, or lie far outside the known.

A stream drops such samples. A single call, which has nothing to put in their place, refuses what is
not finite (:mod:`mmedge.execution.finite`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmedge.errors import InputError
from mmedge.execution.finite import is_finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array, Manifest, Modality

__all__ = ["Checker", "Sanity", "same_content"]

#: A smaller input may well stand still (a parked robot's state); a picture or scan has noise.
MIN_ELEMENTS = 64


@dataclass(frozen=True, slots=True)
class Sanity:
    """What makes a sample of one modality unfit for use.

    Attributes:
        finite: refuse NaN and infinity in floating-point inputs.
        frozen_after: refuse a sample when it and those before it, this many in all, are bitwise the
            same. ``"auto"`` is one second of samples at the modality's nominal rate, for modalities
            with a float or uint8 input of at least 64 elements and a stated rate. It is off for
            others: a short vector or a text may well stand still, without a rate there is no
            telling how many samples are suspicious, and sound (chunks of a window, and where the
            manifest states a ``sample_rate_hz``) may be digital silence. None: off.
        range_margin: refuse finite values outside the range seen at export, widened on both sides
            by this share of its width. Only where the manifest has a range, for float, uint8 and
            int8 inputs: wider integers are mostly names of things, whose order means nothing. A
            range of width 0 says nothing and is not used. None: off.

    Raises:
        InputError: ``frozen_after`` below 2, or a negative margin.
    """

    finite: bool = True
    frozen_after: int | Literal["auto"] | None = "auto"
    range_margin: float | None = 0.5

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        after = self.frozen_after
        if after is not None and after != "auto" and not (isinstance(after, int) and after >= 2):
            raise InputError(f"frozen_after must be 2 or more samples, 'auto' or None; got {after}")
        if self.range_margin is not None and not self.range_margin >= 0.0:
            raise InputError(f"range_margin must be 0 or more, or None; got {self.range_margin}")


class Checker:
    """Checks the samples of one modality in their order. Arrays on a GPU pass unseen."""

    def __init__(
        self, sanity: Sanity, modality: Modality, manifest: Manifest, *, chunks: bool = False
    ) -> None:
        specs = manifest.inputs()
        self._finite = sanity.finite
        self._limits: dict[str, tuple[float, float]] = {}
        for name in modality.inputs:
            value_range = manifest.ranges.get(name)
            if (
                sanity.range_margin is not None
                and value_range is not None
                and value_range.max > value_range.min
                and specs[name].dtype in ("float16", "float32", "float64", "uint8", "int8")
            ):
                margin = sanity.range_margin * (value_range.max - value_range.min)
                self._limits[name] = value_range.min - margin, value_range.max + margin
        self.frozen_after = sanity.frozen_after
        if self.frozen_after == "auto":
            large = False
            for name in modality.inputs:
                sizes = (
                    manifest.dimensions[s].opt if isinstance(s, str) else s
                    for s in specs[name].shape
                )
                kind = specs[name].dtype
                enough = int(np.prod([*sizes])) >= MIN_ELEMENTS
                large = large or (enough and (kind == "uint8" or kind.startswith("float")))
            rate = modality.rate_hz
            sound = chunks or modality.sample_rate_hz is not None
            self.frozen_after = max(2, round(rate)) if rate and large and not sound else None
        self._previous: Mapping[str, Any] | None = None
        self._alike = 0

    def check(self, values: Mapping[str, Any]) -> str | None:
        """Why a sample is bad (``nan``, ``inf``, ``out_of_range``, ``frozen``); None: it is good.

        ``values`` is kept until the next call, to compare with.
        """
        frozen = self._is_frozen(values)
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.size:
                reason = self._check(name, value)
                if reason is not None:
                    return reason
        return "frozen" if frozen else None

    def forget(self) -> None:
        """Begin anew, as if no sample had come."""
        self._previous, self._alike = None, 0

    def _is_frozen(self, values: Mapping[str, Any]) -> bool:
        if self.frozen_after is None or isinstance(self.frozen_after, str):
            return False
        alike = self._previous is not None and same_content(values, self._previous)
        self._alike = self._alike + 1 if alike else 1
        self._previous = values
        return self._alike >= self.frozen_after

    def _check(self, name: str, value: Array) -> str | None:
        limits = self._limits.get(name)
        finite = True
        if value.dtype.kind == "f" and (self._finite or limits is not None):
            finite = is_finite(value)
            if not finite and self._finite:
                return "nan" if np.isnan(value).any() else "inf"
        if limits is not None:
            finite_values = value if finite else value[np.isfinite(value)]
            if finite_values.size and (
                finite_values.min() < limits[0] or finite_values.max() > limits[1]
            ):
                return "out_of_range"
        return None


def same_content(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the arrays are bitwise equal; never, of arrays on a GPU, which are not read."""
    return all(_same(one[name], other[name]) for name in one)


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False  # even of one buffer: it may hold another frame by now
    if one is other:
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.size:
        return True
    # As bytes: NaN equals itself, and 0.0 is not -0.0.
    return bool((one.reshape(-1).view(np.uint8) == other.reshape(-1).view(np.uint8)).all())
