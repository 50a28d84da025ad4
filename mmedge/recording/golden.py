"""Samples as sensors at constant rates would bring them, made of a bundle's golden samples."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import BundleError, InputError
from mmedge.recording.sample import Recorded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmedge.bundle import Bundle
    from mmedge.spec import Array, Manifest, Modality, Range, Sample

__all__ = ["ASSUMED_HZ", "Golden"]

#: Rate of a modality for which neither the manifest nor the caller states one.
ASSUMED_HZ = 10.0


#: Smallest normal number by dtype.
_TINY = {
    "float16": float(np.finfo(np.float16).tiny),
    "float32": float(np.finfo(np.float32).tiny),
    "float64": float(np.finfo(np.float64).tiny),
}


class Golden:
    """A :class:`mmedge.recording.sample.Recording` in memory, made of a bundle's golden samples.

    Each modality comes at ``k / rate`` seconds for k = 0, 1, ..., with the golden samples in turn,
    and is measured when it arrives. Of samples at the same time the slower modality's comes first,
    and that of ``last`` at the end. So the first trigger has all the others.

    A sensor has noise, and content that comes again is not encoded again. So in every second sample
    the first element of each float or uint8 input differs by the smallest step.

    Args:
        bundle: gives the samples and the nominal rates. Modalities may share dimensions. Only
            samples are used whose sizes of these dimensions are those of the first sample.
        seconds: how long, above 0.
        rates: rates in Hz by modality, in place of the manifest's ``rate_hz``.
        last: see above.

    Attributes:
        rates: in Hz by modality.
        assumed: modalities without a stated rate; they come at 10 Hz.

    Raises:
        BundleError: no golden samples.
        InputError: an unknown modality, or a number that is not allowed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        seconds: float,
        rates: Mapping[str, float] | None = None,
        last: str | None = None,
    ) -> None:
        manifest = bundle.manifest
        rates = rates or {}
        names = tuple(modality.name for modality in manifest.modalities)
        for name, rate in rates.items():
            if name not in names:
                raise InputError(
                    f"rate of {name!r}: unknown modality; this bundle has {', '.join(names)}"
                )
            if not 0.0 < rate < float("inf"):
                raise InputError(f"rate of {name!r} must be above 0 Hz, got {rate}")
        if not 0.0 < seconds < float("inf"):
            raise InputError(f"seconds must be above 0, got {seconds}")
        samples = _of_one_size(manifest, bundle.samples())
        if not samples:
            raise BundleError(f"{bundle.path}: no golden samples to push; export it again")
        self.name = "golden samples"
        self.bundle = manifest.name
        self.modalities = names
        self.missing = ""
        self.rates = {
            modality.name: rates.get(modality.name, modality.rate_hz or ASSUMED_HZ)
            for modality in manifest.modalities
        }
        self.assumed = frozenset(
            m.name for m in manifest.modalities if m.rate_hz is None and m.name not in rates
        )
        self._last, self._seconds = last, seconds
        self._values = {
            modality.name: [
                [_value(modality, sample, manifest.ranges, shift=shift) for sample in samples]
                for shift in (False, True)
            ]
            for modality in manifest.modalities
        }

    def __iter__(self) -> Iterator[Recorded]:
        """The samples in time."""
        order = sorted(self.rates, key=lambda name: (name == self._last, self.rates[name]))
        due = [(0.0, rank, 0) for rank in range(len(order))]
        heapq.heapify(due)
        while due:
            t, rank, k = due[0]
            name = order[rank]
            values = self._values[name][k % 2]
            yield Recorded(name, t, t, values[k % len(values)])
            after = (k + 1) / self.rates[name]
            if after < self._seconds:
                heapq.heapreplace(due, (after, rank, k + 1))
            else:
                heapq.heappop(due)


def _of_one_size(manifest: Manifest, samples: tuple[Sample, ...]) -> list[Sample]:
    specs = manifest.inputs()
    users: dict[str, set[str]] = {}
    for modality in manifest.modalities:
        for name in modality.inputs:
            for size in specs[name].shape:
                if isinstance(size, str):
                    users.setdefault(size, set()).add(modality.name)

    def shared_sizes(sample: Sample) -> dict[str, int]:
        return {
            symbol: size
            for name, spec in specs.items()
            for symbol, size in zip(spec.shape, sample.inputs[name].shape, strict=True)
            if isinstance(symbol, str) and len(users[symbol]) > 1
        }

    return [sample for sample in samples if shared_sizes(sample) == shared_sizes(samples[0])]


def _value(
    modality: Modality, sample: Sample, ranges: Mapping[str, Range], *, shift: bool
) -> Array | dict[str, Array]:
    arrays = {
        name: _shift(sample.inputs[name], ranges.get(name)) if shift else sample.inputs[name]
        for name in modality.inputs
    }
    return arrays if len(arrays) > 1 else arrays[modality.inputs[0]]


def _shift(array: Array, value_range: Range | None) -> Array:
    """The array with its first element moved by the least step, to the middle of its range."""
    if not array.size or (array.dtype != np.uint8 and array.dtype.kind != "f"):
        return array
    copy = array.copy()
    first = copy.reshape(-1)
    value = float(first[0])
    middle = 0.5 * (value_range.min + value_range.max) if value_range is not None else 0.0
    up = value < middle or (value == middle and value <= 0.0)
    if copy.dtype == np.uint8:
        first[0] = value + 1 if up else value - 1
    elif abs(value) < (tiny := _TINY[copy.dtype.name]):
        first[0] = tiny if up else -tiny  # the next number would be subnormal, and slow
    else:
        first[0] = np.nextafter(first[0], first.dtype.type(np.inf if up else -np.inf))
    return copy
