"""A profile: what is normal for the modalities of one bundle, as a JSON file beside it.

It is learned of recordings of good operation, on the exporting machine or on the robot itself, so
it is no part of the bundle. It names the bundle's digest, and is refused with any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mmedge.drift.layout import Layout, Statistic, statistics_of
from mmedge.drift.model import Model, quantile_groups
from mmedge.errors import InputError
from mmedge.schema.names import NAME, SHA256, TENSOR_NAME
from mmedge.schema.read import (
    Misfit,
    array,
    decode,
    integer,
    nullable,
    number,
    one_of,
    record,
    table,
    text,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from dataclasses import dataclass

    from numpy.typing import NDArray
else:
    from mmedge.records import dataclass

__all__ = ["DriftProfile", "Reference"]

#: Version of the file's form. It is that of the statistics, too.
VERSION: Final = 1
#: Bytes of a file that is still read, and statistics of one reference.
MAX_BYTES, MAX_STATISTICS = 64 << 20, 1024


@dataclass(frozen=True, slots=True)
class Reference:
    """What is normal for the inputs, or for the features, of one modality.

    Attributes:
        modality: its name.
        source: ``inputs`` or ``features``.
        layouts: of its tensors that are watched.
        interval: seconds between two looks.
        looks: how many looks make a window.
        seconds: how long it was looked at when it was learned.
        model: the limits.
    """

    modality: str
    source: str
    layouts: tuple[Layout, ...]
    interval: float
    looks: int
    seconds: float
    model: Model

    def statistics(self) -> tuple[Statistic, ...]:
        """Of all tensors, with the tensor's name where there are several."""
        listed: list[Statistic] = []
        for layout in self.layouts:
            of_tensor = statistics_of(layout)
            if len(self.layouts) > 1:
                of_tensor = tuple(
                    statistic._replace(
                        name=f"{layout.tensor}: {statistic.name}",
                        group=statistic.group and f"{statistic.group} of {layout.tensor}",
                    )
                    for statistic in of_tensor
                )
            listed += of_tensor
        return tuple(listed)


@dataclass(frozen=True, slots=True)
class DriftProfile:
    """What is normal for the modalities of one bundle.

    >>> profile = DriftProfile.read("vqa.drift.json")  # doctest: +SKIP
    >>> with pipe.stream(trigger="image", drift=profile) as stream: ...  # doctest: +SKIP

    Attributes:
        bundle: name of the bundle.
        digest: SHA-256 of its manifest.
        false_alarm_hours: hours of normal operation in which one false alarm is expected, of all
            modalities together. Much of that is extrapolated: ``seconds`` of each reference is how
            long it was learned of.
        references: for each modality its inputs, and its features where it has an encoder.
        unwatched: why others are not watched: by modality and source, and tensor.
    """

    bundle: str
    digest: str
    false_alarm_hours: float
    references: tuple[Reference, ...]
    unwatched: Mapping[str, str]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that are watched."""
        return tuple(dict.fromkeys(reference.modality for reference in self.references))

    def check_bundle(self, name: str, digest: str) -> None:
        """Make sure that it was learned with a bundle.

        Raises:
            InputError: it was learned with another.
        """
        if digest != self.digest:
            raise InputError(
                f"the drift profile is of bundle {self.bundle!r} with the manifest "
                f"{self.digest[:12]}, and this is {name!r} with {digest[:12]}; learn it again: "
                "mmedge drift BUNDLE RECORDING --learn FILE"
            )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, in place of a file that is there.

        Raises:
            InputError: the disk refused.
        """
        content = {
            "version": VERSION,
            "bundle": self.bundle,
            "digest": self.digest,
            "false_alarm_hours": self.false_alarm_hours,
            "references": [_reference_to_json(reference) for reference in self.references],
            "unwatched": dict(self.unwatched),
        }
        target = Path(path)
        staged = target.with_name(f".{target.name}.part")
        try:
            staged.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
            staged.replace(target)
        except OSError as error:
            raise InputError(f"{path}: the drift profile cannot be written: {error}") from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> DriftProfile:
        """Read what :meth:`write` wrote.

        Raises:
            InputError: it cannot be read, or is no profile of this version.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path}: the drift profile cannot be read: {error}") from error
        try:
            return _read_profile(decode(data, most=MAX_BYTES), "$")
        except Misfit as fault:
            raise InputError(
                f"{path}: no drift profile of this version: {fault}; learn it again: "
                "mmedge drift BUNDLE RECORDING --learn FILE"
            ) from fault


def _reference_to_json(reference: Reference) -> dict[str, Any]:
    model = reference.model
    size = len(model.center)
    return {
        "modality": reference.modality,
        "source": reference.source,
        "layouts": [
            {name: getattr(layout, name) for name in _LAYOUT} for layout in reference.layouts
        ],
        "interval": reference.interval,
        "looks": reference.looks,
        "seconds": reference.seconds,
        "center": model.center.tolist(),
        "spread": model.spread.tolist(),
        "lower": [low if np.isfinite(low) else None for low in model.lower.tolist()],
        "upper": model.upper.tolist(),
        # It is symmetric: the upper triangle, row by row.
        "inverse": model.inverse[np.triu_indices(size)].tolist(),
        "typical": list(model.typical),
        "level": list(model.level),
    }


def _make_profile(*, version: int, references: tuple[Reference, ...], **other: Any) -> DriftProfile:  # noqa: ANN401, ARG001
    return DriftProfile(references=references, **other)


def _make_reference(
    *,
    center: tuple[float, ...],
    spread: tuple[float, ...],
    lower: tuple[float | None, ...],
    upper: tuple[float, ...],
    inverse: tuple[float, ...],
    typical: tuple[float, float],
    level: tuple[float, float],
    **other: Any,  # noqa: ANN401
) -> Reference:
    where = f"reference {other['modality']!r}"
    size = len(center)
    expected = size * (size + 1) // 2
    if len(inverse) != expected:
        raise Misfit(f"{where}: inverse", f"{expected} numbers", str(len(inverse)))
    full = np.zeros((size, size))
    full[np.triu_indices(size)] = inverse
    full += np.triu(full, 1).T
    lows = np.array([-np.inf if low is None else low for low in lower])
    model = Model(
        np.array(center), np.array(spread), lows, np.array(upper), full, typical, level
    )  # fmt: skip
    reference = Reference(model=model, **other)
    statistics = reference.statistics()
    _check(where, model, len(statistics), len(quantile_groups(statistics)))
    return reference


def _check(where: str, model: Model, statistics: int, groups: int) -> None:
    """Refuse numbers that are not of these layouts, or that nothing can be divided by."""
    sizes = {
        "center": (len(model.center), statistics),
        "spread": (len(model.spread), statistics),
        "lower": (len(model.lower), statistics + groups),
        "upper": (len(model.upper), statistics + groups),
    }
    for name, (got, wanted) in sizes.items():
        if got != wanted:
            raise Misfit(f"{where}: {name}", f"{wanted} numbers", str(got))
    center = np.concatenate([model.center, np.zeros(groups)])
    ordered = (model.lower < center) & (center < model.upper)
    if not (ordered.all() and (model.spread > 0.0).all()):
        raise Misfit(where, "limits on both sides of each center", "others")
    if not all(high > low for low, high in zip(model.typical, model.level, strict=True)):
        raise Misfit(f"{where}: level", "levels above what is typical", "others")


_LAYOUT = ("tensor", "kind", "axis", "channels", "block", "full_scale", "unit")

_numbers = array(number(), least=1, most=MAX_STATISTICS)
_pair = array(number(least=0.0), least=2, most=2)

_read_profile = record(
    _make_profile,
    version=integer(VERSION, VERSION),
    bundle=text(),
    digest=text(SHA256),
    false_alarm_hours=number(above=0.0),
    references=array(
        record(
            _make_reference,
            modality=text(NAME),
            source=one_of(("inputs", "features")),
            layouts=array(
                record(
                    Layout,
                    tensor=text(TENSOR_NAME),
                    kind=one_of(("image", "waveform", "scan", "vector", "rows")),
                    axis=integer(-3, -1),
                    channels=integer(1, 1 << 24),
                    block=integer(0, 1 << 16),
                    full_scale=number(above=0.0),
                    unit=number(above=0.0),
                ),
                least=1,
                most=16,
            ),
            interval=number(above=0.0),
            looks=integer(1, 1 << 16),
            seconds=number(least=0.0),
            center=_numbers,
            spread=_numbers,
            lower=array(nullable(number()), least=1, most=MAX_STATISTICS),
            upper=_numbers,
            inverse=array(number(), least=1, most=MAX_STATISTICS * (MAX_STATISTICS + 1) // 2),
            typical=_pair,
            level=_pair,
        ),
        most=512,
    ),
    unwatched=table(text(), text()),
)


def round_numbers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seven significant digits of each, which is what a file holds."""
    flat = [float(f"{value:.7g}") for value in values.ravel().tolist()]
    return np.array(flat, np.float64).reshape(values.shape)
