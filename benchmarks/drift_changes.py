"""The changes that ``benchmarks/drift.py`` plants: of cameras, microphone, lidar and state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from drift_sensors import Change

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Effect = Callable[[Floats, np.random.Generator], Floats]

__all__ = ["CHANGES"]


def _gain(factor: float) -> Effect:
    return lambda value, _: value * np.float32(factor)


def _contrast(factor: float) -> Effect:
    return lambda value, _: (value - value.mean()) * np.float32(factor) + value.mean()


def _blur(sigma: float) -> Effect:
    reach = int(3.0 * sigma) + 1
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)

    def effect(value: Floats, _: np.random.Generator) -> Floats:
        for axis in (0, 1):
            pad = [(0, 0)] * 3
            pad[axis] = (reach, reach)
            padded = np.pad(value, pad, mode="edge")
            parts = [
                tap * np.take(padded, range(k, k + value.shape[axis]), axis)
                for k, tap in enumerate(taps)
            ]
            value = np.sum(parts, axis=0, dtype=np.float32)
        return value

    return effect


def _noise(sigma: float) -> Effect:
    return lambda value, rng: (
        value + np.float32(sigma) * rng.standard_normal(value.shape, np.float32)
    )


def _patch(share: float, level: float, seed: int = 3) -> Effect:
    """Something opaque over a square of this share of the picture."""
    side = round(64 * share**0.5)
    top, left = np.random.default_rng(seed).integers(0, 64 - side + 1, 2)

    def effect(value: Floats, _: np.random.Generator) -> Floats:
        covered = value.copy()
        covered[top : top + side, left : left + side] = level
        return covered

    return effect


def _dirt(share: float) -> Effect:
    """Blurred spots on the lens that scatter light: of this share of the picture together."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:64, :64]
    cover = np.zeros((64, 64), np.float32)
    while cover.mean() < share:
        y, x, radius = rng.uniform(0, 64), rng.uniform(0, 64), rng.uniform(3, 8)
        spot = np.exp(-((((rows - y) ** 2 + (columns - x) ** 2) / radius**2) ** 2))
        cover = np.maximum(cover, spot.astype(np.float32))

    def effect(value: Floats, _: np.random.Generator) -> Floats:
        mean = value.mean(axis=(0, 1))
        opacity = np.float32(0.7) * cover[..., None]
        dirty: Floats = value * (np.float32(1.0) - opacity) + mean * np.float32(0.8) * opacity
        return dirty

    return effect


def _dead(share: float) -> Effect:
    """Pixels that are black or white for ever."""
    rng = np.random.default_rng(7)
    places = rng.random((64, 64)) < share
    levels = np.where(rng.random((64, 64)) < 0.5, 0.0, 255.0)[places]

    def effect(value: Floats, _: np.random.Generator) -> Floats:
        value = value.copy()
        value[places] = levels[:, None]
        return value

    return effect


def _filter(response: Callable[[Floats], Floats]) -> Effect:
    """A microphone of another frequency response: gain by frequency in Hz, linear phase."""
    grid = np.fft.rfftfreq(128, 1.0 / 16_000).astype(np.float32)
    taps = np.roll(np.fft.irfft(response(grid)), 64)[:128] * np.hanning(128)
    taps = taps.astype(np.float32)

    def effect(value: Floats, _: np.random.Generator) -> Floats:
        return np.convolve(value, taps, "same").astype(np.float32)

    return effect


def _tilt(decibels: float) -> Effect:
    """So many dB an octave, about 1 kHz."""
    return _filter(
        lambda hz: (np.maximum(hz, 60.0) / 1000.0).astype(np.float32) ** np.float32(decibels / 6.02)
    )


def _hum(level: float) -> Effect:
    def effect(value: Floats, rng: np.random.Generator) -> Floats:
        t = np.arange(len(value)) / 16_000 + rng.random()
        wave = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 2, 3, 5))
        return value + np.float32(level) * np.asarray(wave, np.float32)

    return effect


def _clip(level: float) -> Effect:
    return lambda value, _: np.clip(value, -level, level)


def _element(index: int, effect: Callable[[Floats], Floats]) -> Effect:
    def on_one(value: Floats, _: np.random.Generator) -> Floats:
        value = value.copy()
        value[index] = effect(value[index])
        return value

    return on_one


def _times(factor: float) -> Callable[[Floats], Floats]:
    return lambda value: value * np.float32(factor)


def _plus(offset: float) -> Callable[[Floats], Floats]:
    return lambda value: value + np.float32(offset)


def _swap(one: int, other: int) -> Effect:
    def effect(value: Floats, _: np.random.Generator) -> Floats:
        value = value.copy()
        value[[one, other]] = value[[other, one]]
        return value

    return effect


def _sector(share: float, meters: float) -> Effect:
    """Something close in front of a share of the scan."""

    def effect(value: Floats, _: np.random.Generator) -> Floats:
        value = value.copy()
        value[: round(share * len(value))] = meters
        return value

    return effect


def _of_camera(name: str) -> list[Change]:
    changes = [
        Change(name, "brightness", f"x {factor:g}", optics=_gain(factor))
        for factor in (0.25, 0.5, 0.7, 0.85, 1.15, 1.3, 1.5)
    ]
    changes += [Change(name, "contrast", f"x {f:g}", optics=_contrast(f)) for f in (0.3, 0.5, 0.75)]
    changes += [
        Change(name, "blur", f"{s:g} pixels", optics=_blur(s)) for s in (0.7, 1.0, 2.0, 4.0)
    ]
    changes += [
        Change(name, "noise", f"{s:g} levels more", output=_noise(s)) for s in (2.0, 4.0, 8.0, 16.0)
    ]
    changes += [
        Change(name, "covered, black", f"{s:.0%}", optics=_patch(s, 0.0)) for s in (0.05, 0.1, 0.25)
    ]
    changes += [Change(name, "dirt", f"{s:.0%}", optics=_dirt(s)) for s in (0.1, 0.25, 0.5)]
    changes += [
        Change(name, "dead pixels", f"{s:.1%}", output=_dead(s)) for s in (0.002, 0.01, 0.05)
    ]
    return changes


def _band(low: float, high: float) -> Effect:
    return _filter(lambda hz: ((hz >= low) & (hz <= high)).astype(np.float32))


_RESONANCE = _filter(
    lambda hz: (1.0 + 2.2 * np.exp(-0.5 * ((hz - 2500.0) / 500.0) ** 2)).astype(np.float32)
)

_MICROPHONE = [
    *(Change("audio", "gain", f"{d:+g} dB", output=_gain(10 ** (d / 20)))
      for d in (-20.0, -12.0, -6.0, 6.0, 12.0)),
    Change("audio", "other microphone", "telephone, 300 to 3400 Hz", optics=_band(300.0, 3400.0)),
    Change("audio", "other microphone", "nothing above 5 kHz", optics=_band(0.0, 5000.0)),
    *(Change("audio", "other microphone", f"{d:+g} dB an octave", optics=_tilt(d))
      for d in (-6.0, -3.0, 3.0)),
    Change("audio", "other microphone", "10 dB more about 2.5 kHz", optics=_RESONANCE),
    *(Change("audio", "noise", f"{20 * np.log10(s):.0f} dB of full scale", output=_noise(s))
      for s in (0.001, 0.003, 0.01)),
    *(Change("audio", "hum, 50 Hz", f"{20 * np.log10(s):.0f} dB of full scale", output=_hum(s))
      for s in (0.003, 0.01, 0.03)),
    *(Change("audio", "clipping", f"at {20 * np.log10(s):.0f} dB of full scale", output=_clip(s))
      for s in (0.3, 0.1, 0.03)),
    Change("audio", "dead", "zeros", output=_gain(0.0)),
]  # fmt: skip

_STATE = [
    *(Change("state", "scale", f"gyro x {f:g}", output=_element(2, _times(f)))
      for f in (0.5, 0.8, 1.5)),
    *(Change("state", "offset", f"gyro {o:+g} rad/s", output=_element(2, _plus(o)))
      for o in (0.2, 0.5, 1.0)),
    *(Change("state", "offset", f"acceleration {o:+g} m/s2",
             output=_element(3, _plus(o))) for o in (0.3, 1.0)),
    Change("state", "swapped axes", "gyro and acceleration", output=_swap(2, 3)),
    Change("state", "swapped axes", "the two accelerations", output=_swap(3, 4)),
    Change("state", "swapped axes", "left and right wheel", output=_swap(0, 1)),
    Change("state", "sign", "gyro", output=_element(2, lambda v: -v)),
    *(Change("state", "noise", f"{s:g} more", output=_noise(s)) for s in (0.05, 0.2)),
    Change("state", "stuck", "gyro at 0", output=_element(2, lambda v: v * 0)),
]  # fmt: skip

_LIDAR = [
    *(Change("lidar", "covered", f"{s:.0%} at 0.3 m", optics=_sector(s, 0.3))
      for s in (0.05, 0.1, 0.25)),
    *(Change("lidar", "scale", f"x {f:g}", output=_gain(f)) for f in (0.8, 0.95, 1.2)),
    *(Change("lidar", "noise", f"{s:g} m more", output=_noise(s)) for s in (0.02, 0.05, 0.2)),
    Change("lidar", "mounted the other way", "scan reversed",
           output=lambda value, _: value[::-1].copy()),
]  # fmt: skip

#: Every change that is planted.
CHANGES = [
    *_of_camera("image"),
    *_of_camera("camera"),
    Change("image", "swapped sensors", "the robot's camera in its place", swap="camera"),
    Change("camera", "swapped sensors", "the pictures' camera in its place", swap="image"),
    Change("camera", "swapped sensors", "a second camera of the same make", swap="camera"),
    *_MICROPHONE,
    *_STATE,
    *_LIDAR,
]
