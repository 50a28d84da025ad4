"""Metrics as OpenTelemetry instruments, on the application's own meter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Meter

    from mmedge.metrics.family import Family, MetricsSource
    from mmedge.stream import Result

__all__ = ["add_instruments"]
#: OpenTelemetry says a unit (of UCUM) beside the name, where Prometheus has it in the name.
UNITS = {"_seconds": "s", "_celsius": "Cel", "_hertz": "Hz", "_bytes": "By"}


class _Snapshot:
    """All families, read once a collection, though each instrument asks for its own.

    A collection asks each instrument once, so one that asks again begins the next.
    """

    def __init__(self, metrics: MetricsSource) -> None:
        self._metrics = metrics
        self._families: dict[str, Family] = {}
        self._asked: set[str] = set()

    def observe(self, name: str) -> Iterable[Observation]:
        """Values of one family now."""
        if not self._asked or name in self._asked:
            self._families = {family.name: family for family in self._metrics.families()}
            self._asked.clear()
        self._asked.add(name)
        family = self._families.get(name)
        if family is None:
            return []
        return [
            Observation(value, dict(zip(family.labels, labels, strict=True)))
            for labels, value in family.values.items()
        ]


def add_instruments(metrics: MetricsSource, meter: Meter) -> Callable[[str, Result], None]:
    """Make an observable instrument of each family, and the histograms.

    Args:
        metrics: what they read.
        meter: makes them.

    Returns:
        Takes each result, with the name of its stream, for the histograms.
    """
    snapshot = _Snapshot(metrics)

    def observe(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: snapshot.observe(name)

    for family in metrics.catalog():
        name, unit = _name(family.name)
        create = (
            meter.create_observable_counter
            if family.kind == "counter"
            else meter.create_observable_gauge
        )
        create(name, [observe(family.name)], unit=unit, description=family.description)
    latency, age = (
        meter.create_histogram(
            *_name(name), description=description, explicit_bucket_boundaries_advisory=bounds
        )
        for name, description, _, _, bounds in metrics.histograms()
    )

    def record(stream: str, result: Result) -> None:
        if result.fresh:
            latency.record(result.latency, {"stream": stream})
        for modality, value in result.ages.items():
            # The API takes no values below 0: a sample newer than the trigger has no age.
            if value is not None:
                age.record(max(0.0, value), {"stream": stream, "modality": modality})

    return record


def _name(name: str) -> tuple[str, str]:
    """A Prometheus name as OpenTelemetry's, and its unit."""
    for suffix, unit in UNITS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("_", ".", 1), unit
    return name.replace("_", ".", 1), "1"
