"""Learns a profile: collects the looks at normal operation, then fits a model to each modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.drift.layout import Layout, layout_of, statistics_of
from mmedge.drift.measure import Measure
from mmedge.drift.model import Model, Reduction, fit
from mmedge.drift.profile import DriftProfile, Reference, round_numbers
from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from mmedge.spec import Manifest

__all__ = ["LOOK_SECONDS", "LookLog", "fit_profile", "gap_seconds"]

#: Seconds between two looks at a modality, at least.
LOOK_SECONDS = 0.2
#: Values of which a layout is made.
FIRST_VALUES = 16
#: Windows without which nothing is learned of a modality.
LEAST_WINDOWS = 100
#: Tensors of features of one modality that are watched.
MOST_TENSORS = 4


def gap_seconds(interval: float) -> float:
    """Seconds between two looks above which a window begins anew."""
    return max(1.0, 5.0 * interval)


class LookLog:
    """Looks at the values of one modality as they come.

    Args:
        is_sound: names of the tensors whose sample rate is stated.
        is_feature: whether the values are what an encoder gave.
    """

    def __init__(self, is_sound: Collection[str] = (), *, is_feature: bool = False) -> None:
        self._is_sound, self._is_feature = is_sound, is_feature
        self._due = -np.inf
        self._last: Mapping[str, Any] = {}
        self._first: list[tuple[int, float, Mapping[str, Any], Mapping[str, Any]]] = []
        self._measures: dict[str, Measure] | None = None
        self._part = 0
        self._parts: dict[int, tuple[list[float], list[NDArray[np.float64]]]] = {}
        #: Values that came.
        self.count = 0
        #: Why tensors are not watched, by name.
        self.unwatched: dict[str, str] = {}

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Of the tensors that are watched, once some values came."""
        return tuple(measure.layout for measure in (self._measures or {}).values())

    def begin(self) -> None:
        """Begin another recording: what comes does not follow what came."""
        self._due, self._last = -np.inf, {}
        self._part += 1

    def take(self, values: Mapping[str, Any], t: float) -> None:
        """Take in what came at a time in seconds; most of it is passed over."""
        self.count += 1
        last, self._last = self._last, values
        if t < self._due:
            return
        self._due = t + 0.95 * LOOK_SECONDS
        if self._measures is not None:
            self._look(self._part, t, values, last)
            return
        self._first.append((self._part, t, values, last))
        if len(self._first) == FIRST_VALUES:
            self._settle()

    def _settle(self) -> None:
        """Decide on the layouts, and look at what has waited for that."""
        self._measures = {}
        names = list(self._first[0][2]) if self._first else []
        for name in names:
            values = [value.get(name) for _, _, value, _ in self._first]
            arrays = [value for value in values if isinstance(value, np.ndarray) and value.ndim]
            if len(arrays) < len(values):
                self.unwatched[name] = "it is text, or no array on the host"
                continue
            if self._is_feature and len(self._measures) == MOST_TENSORS:
                self.unwatched[name] = f"only the first {MOST_TENSORS} tensors are"
                continue
            layout = layout_of(
                name, arrays, is_sound=name in self._is_sound, is_feature=self._is_feature
            )
            if isinstance(layout, str):
                self.unwatched[name] = layout
            else:
                self._measures[name] = Measure(layout)
        for first in self._first:
            self._look(*first)
        self._first = []

    def _look(
        self, part: int, t: float, values: Mapping[str, Any], last: Mapping[str, Any]
    ) -> None:
        look = take_look(self._measures or {}, values, last)
        if look is not None:
            times, looks = self._parts.setdefault(part, ([], []))
            times.append(t)
            looks.append(look)

    def finish(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Of each recording the times of the looks [looks], and the looks [looks, statistics]."""
        if self._measures is None:
            self._settle()
        return [(np.array(times), np.stack(looks)) for times, looks in self._parts.values()]


def take_look(
    measures: Mapping[str, Measure], values: Mapping[str, Any], last: Mapping[str, Any]
) -> NDArray[np.float64] | None:
    """The statistics of all tensors side by side; None: they cannot be told of these values."""
    parts = []
    for name, measure in measures.items():
        value = values.get(name)
        if not measure.fits(value):
            return None
        parts.append(measure(value, last.get(name)))  # type: ignore[arg-type]
    if not parts:
        return None
    look = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return look if np.isfinite(look).all() else None


def fit_profile(
    manifest: Manifest,
    digest: str,
    logs: Mapping[tuple[str, str], LookLog],
    *,
    false_alarm_hours: float = 24.0,
    window_seconds: float = 2.5,
) -> DriftProfile:
    """A profile of what was collected.

    Args:
        manifest: of the bundle.
        digest: SHA-256 of the manifest.
        logs: by modality and source, ``inputs`` or ``features``.
        false_alarm_hours: hours in which one false alarm is expected, above 0.
        window_seconds: how long a window is, above 0; it has at least three looks.

    Raises:
        InputError: numbers that are not allowed, or too little was collected.
    """
    for name, value in (
        ("false_alarm_hours", false_alarm_hours), ("window_seconds", window_seconds),
    ):  # fmt: skip
        if not 0.0 < value < np.inf:
            raise InputError(f"{name} must be finite and above 0, got {value}")
    unwatched: dict[str, str] = {}
    prepared = []
    for (modality, source), log in logs.items():
        collected = _collect(log, window_seconds)
        unwatched |= {f"{modality} {source}: {n}": why for n, why in log.unwatched.items()}
        if isinstance(collected, str):
            unwatched[f"{modality} {source}"] = collected
        else:
            prepared.append((modality, source, collected))
    if not prepared:
        reasons = "; ".join(f"{name}: {why}" for name, why in unwatched.items()) or "no samples"
        raise InputError(
            f"nothing to learn of: {reasons}. Record some minutes of normal operation, better an "
            "hour"
        )
    references = []
    for modality, source, (layouts, interval, looks, seconds, segments) in prepared:
        share = interval / (3600.0 * false_alarm_hours * len(prepared))
        statistics = Reference(
            modality, source, layouts, interval, looks, seconds, _NO_MODEL
        ).statistics()
        model = _rounded(fit(segments, statistics, count=looks, share=share))
        references.append(Reference(modality, source, layouts, interval, looks, seconds, model))
    return DriftProfile(
        manifest.name, digest, float(false_alarm_hours), tuple(references), unwatched
    )


_Collected = tuple[tuple[Layout, ...], float, int, float, list[Any]]


def _collect(log: LookLog, window_seconds: float) -> _Collected | str:
    """The layouts, the interval, looks of a window, seconds, and the windows of each stretch."""
    parts = log.finish()
    if not parts:
        return "no value of it can be looked at" if log.count else "no value of it came"
    steps = np.concatenate([np.diff(times) for times, _ in parts])
    if not steps.size:
        return "one value is too few"
    interval = float(f"{np.median(steps):.7g}")
    if not interval > 0.0:
        return "its values come without time between them"
    looks = max(3, round(window_seconds / interval))
    reduction = Reduction([s for layout in log.layouts for s in statistics_of(layout)])
    segments, seconds = [], 0.0
    for times, rows in parts:
        gaps = np.flatnonzero(np.diff(times) > gap_seconds(interval)) + 1
        for part in np.split(rows, gaps):
            windows = reduction.windows(part, looks)
            if len(windows):
                segments.append(windows)
                seconds += len(part) * interval
    count = sum(map(len, segments))
    if count < LEAST_WINDOWS:
        return (
            f"{count} windows of {looks * interval:.3g} s are too few, {LEAST_WINDOWS} are the "
            "least"
        )
    return log.layouts, interval, looks, float(f"{seconds:.7g}"), segments


def _rounded(model: Model) -> Model:
    """The model in the digits of a file, so that learning and reading give the same."""
    (typical, distance), (level, far) = (
        round_numbers(np.array(pair)).tolist() for pair in (model.typical, model.level)
    )
    return Model(
        round_numbers(model.center),
        round_numbers(model.spread),
        round_numbers(model.lower),
        round_numbers(model.upper),
        round_numbers(model.inverse),
        (typical, distance),
        (level, far),
    )


_NONE = np.empty(0)
_NO_MODEL = Model(_NONE, _NONE, _NONE, _NONE, _NONE, (0.0, 0.0), (1.0, 1.0))
