"""Values between two samples: linear, quaternions by slerp, angles the shorter way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import InputError

if TYPE_CHECKING:
    from mmedge.spec import Array

__all__ = ["blend"]

#: How far float32 or float16 may round pi.
ANGLE_SLACK = 1e-3
#: Cosine above which slerp's quotient of sines loses digits and a normalized lerp is as good.
NEARLY_EQUAL = 0.9995

Wide = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def blend(
    before: Array,
    after: Array,
    weight: float,
    quaternions: tuple[tuple[int, int], ...] = (),
    angles: tuple[tuple[int, int], ...] = (),
) -> Array:
    """``before`` at weight 0, ``after`` at weight 1; both float ``[..., n]``, of one shape.

    Computed in float64 and returned in the dtype of ``before``. Quaternions by slerp: K. Shoemake,
    Animating Rotation with Quaternion Curves, SIGGRAPH 1985.

    Raises:
        InputError: an angle that is not from -pi to pi.
    """
    a, b = before.astype(np.float64), after.astype(np.float64)
    mix = a + (b - a) * weight
    for start, stop in quaternions:
        mix[..., start:stop] = _slerp(a[..., start:stop], b[..., start:stop], weight)
    for start, stop in angles:
        part = slice(start, stop)
        largest = np.abs(np.concatenate([a[..., part], b[..., part]])).max(initial=0.0)
        if largest > np.pi + ANGLE_SLACK:
            raise InputError(
                f"elements ({start}, {stop}) are not angles in radians from -pi to pi: "
                f"{largest:.6g} is among them"
            )
        angle = a[..., part] + _wrap(b[..., part] - a[..., part]) * weight
        mix[..., part] = _wrap(angle)
    result: Array = mix.astype(before.dtype)
    return result


def _wrap(angle: Wide) -> Wide:
    """The same angle, from -pi to pi."""
    result: Wide = angle - 2.0 * np.pi * np.round(angle / (2.0 * np.pi))
    return result


def _slerp(a: Wide, b: Wide, weight: float) -> Wide:
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


def _unit(q: Wide) -> Wide:
    """``q`` normalized; zeros, which are no rotation, are left alone."""
    norm = np.sqrt(np.sum(q * q, axis=-1, keepdims=True))
    unit: Wide = q / np.where(norm > 0.0, norm, 1.0)
    return unit
