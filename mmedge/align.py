"""Policies: which samples of a modality stand for it at a given time, and how they are mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import InputError
from mmedge.spec import Dimension

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array, Modality, TensorSpec

__all__ = ["Exact", "Hold", "Interpolate", "Latest", "Policy", "Window", "blend", "check_policy"]

#: Cosine above which slerp's quotient of sines loses digits and a normalised lerp is as good.
NEARLY_EQUAL = 0.9995


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest sample, while it is not older than the manifest's ``max_age_ms``."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The newest sample, while it is not older than ``max_age_ms``."""

    max_age_ms: float

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _positive("max_age_ms", self.max_age_ms)


@dataclass(frozen=True, slots=True)
class Exact:
    """The sample whose stamp is nearest to the trigger's time, within ``tolerance_ms``.

    Of two that are equally near, the newer. The manifest's ``max_age_ms`` holds as well.
    """

    tolerance_ms: float

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _positive("tolerance_ms", self.tolerance_ms, zero=True)


@dataclass(frozen=True, slots=True)
class Interpolate:
    """The value at the trigger's time, between the two samples around it; float inputs only.

    Linear along the last axis; ``quaternions`` names slices ``(start, stop)`` of length 4 of the
    last axis that are slerped instead, the shorter way round, and normalised. A neighbour farther
    from the trigger's time than the maximum age is not used. Where only one is left it is held as
    it is, and so is the nearer of two with different shapes: nothing is extrapolated.
    ``max_age_ms`` None: the manifest's.
    """

    quaternions: tuple[tuple[int, int], ...] = ()
    max_age_ms: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.max_age_ms is not None:
            _positive("max_age_ms", self.max_age_ms)
        for start, stop in self.quaternions:
            if start < 0 or stop - start != 4:
                raise InputError(f"a quaternion is 4 elements (start, stop), got ({start}, {stop})")


@dataclass(frozen=True, slots=True)
class Window:
    """The last ``length`` rows of the chunks that were pushed, anew every ``hop`` rows.

    For PCM and inertial data. A push brings a chunk of any number of rows along ``axis`` (None: the
    first dynamic axis after axis 0, else axis 1), stamped with the time of its last row. Windows
    end at multiples of ``hop`` rows; a window's stamp is that of the chunk it ends in.
    """

    length: int
    hop: int = 1
    axis: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _positive("length", self.length)
        _positive("hop", self.hop)

    def axis_of(self, spec: TensorSpec) -> int:
        """The axis of the rows in an input.

        Raises:
            InputError: the input has no such axis.
        """
        axis = self.axis
        if axis is None:
            dynamic = [i for i, size in enumerate(spec.shape) if i and isinstance(size, str)]
            axis = dynamic[0] if dynamic else 1
        if not 0 <= axis < len(spec.shape):
            raise InputError(f"a window along axis {axis} does not fit input {spec}; set its axis")
        return axis


Policy = Latest | Hold | Exact | Interpolate | Window


def check_policy(
    policy: Policy,
    modality: Modality,
    specs: Mapping[str, TensorSpec],
    dimensions: Mapping[str, Dimension],
) -> None:
    """Raise InputError where ``policy`` cannot serve ``modality``."""
    for name in modality.inputs:
        spec = specs[name]
        where = f"modality {modality.name!r}, input {spec}"
        if isinstance(policy, Interpolate):
            if not spec.dtype.startswith("float"):
                raise InputError(f"{where}: only float inputs are interpolated; use Exact or Hold")
            last = spec.shape[-1] if spec.shape else 0
            for start, stop in policy.quaternions:
                if isinstance(last, int) and stop > last:
                    raise InputError(f"{where}: no elements ({start}, {stop}) on the last axis")
        elif isinstance(policy, Window):
            size = spec.shape[policy.axis_of(spec)]
            limit = dimensions[size] if isinstance(size, str) else Dimension(size, 1, size)
            if policy.length < limit.min or (limit.max is not None and policy.length > limit.max):
                most = "any" if limit.max is None else limit.max
                raise InputError(
                    f"{where}: takes {limit.min} to {most} rows, but the window's length is "
                    f"{policy.length}"
                )


def blend(
    before: Array, after: Array, weight: float, quaternions: tuple[tuple[int, int], ...] = ()
) -> Array:
    """``before`` at weight 0, ``after`` at weight 1; both float ``[..., n]``, of one shape.

    Computed in float64 and returned in the dtype of ``before``. Quaternions by slerp: K. Shoemake,
    Animating Rotation with Quaternion Curves, SIGGRAPH 1985.
    """
    a, b = before.astype(np.float64), after.astype(np.float64)
    mixed = a + (b - a) * weight
    for start, stop in quaternions:
        mixed[..., start:stop] = _slerp(a[..., start:stop], b[..., start:stop], weight)
    result: Array = mixed.astype(before.dtype)
    return result


def _slerp(
    a: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    b: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    weight: float,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    a, b = _unit(a), _unit(b)
    cosine = np.sum(a * b, axis=-1, keepdims=True)
    # q and -q are the same rotation: take the one on the near side.
    b = np.where(cosine < 0.0, -b, b)
    cosine = np.minimum(np.abs(cosine), 1.0)
    near = cosine > NEARLY_EQUAL
    angle = np.arccos(np.where(near, 0.0, cosine))
    sine = np.sin(angle)
    first = np.where(near, 1.0 - weight, np.sin((1.0 - weight) * angle) / sine)
    second = np.where(near, weight, np.sin(weight * angle) / sine)
    return _unit(first * a + second * b)


def _unit(
    q: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """``q`` normalised; zeros, which are no rotation, are left alone."""
    norm = np.sqrt(np.sum(q * q, axis=-1, keepdims=True))
    unit: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = q / np.where(norm > 0.0, norm, 1.0)
    return unit


def _positive(name: str, value: float, *, zero: bool = False) -> None:
    if not (value > 0 or (zero and value == 0)):
        raise InputError(f"{name} must be {'0 or more' if zero else 'above 0'}, got {value}")
