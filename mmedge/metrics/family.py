"""One metric with its values by label, as no exporter's library writes it yet."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Family", "Histogram", "HistogramFamily", "MetricsSource", "check_bounds"]


@dataclass(slots=True)
class Family:
    """A metric: its values by the values of its labels.

    Attributes:
        name: without the suffix ``_total`` of counters; ends in its unit.
        kind: ``counter`` only rises while its stream lives.
        description: one sentence.
        labels: their names.
        values: label values, in the order of ``labels`` -> number.
    """

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float] = field(default_factory=dict)


class Histogram:
    """Counts of observations by upper bound, as Prometheus has them; adding one is a bisection.

    Args:
        bounds: upper bounds, rising; a value equal to one is within it.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Add one."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """Observations up to each bound, and in all."""
        return list(accumulate(self._counts))


class HistogramFamily(NamedTuple):
    """Histograms by the values of their labels, all of the same bounds."""

    name: str
    description: str
    labels: tuple[str, ...]
    values: dict[tuple[str, ...], Histogram]
    bounds: tuple[float, ...]


class MetricsSource(Protocol):
    """What an exporter reads: :class:`mmedge.metrics.Metrics`."""

    def families(self) -> list[Family]:
        """The values now, one family a metric."""

    def catalog(self) -> list[Family]:
        """Every family that there can be, without values."""

    def histograms(self) -> list[HistogramFamily]:
        """The histograms now."""


def check_bounds(what: str, bounds: Sequence[float]) -> tuple[float, ...]:
    """Bounds as floats.

    Raises:
        InputError: none, or they do not rise.
    """
    numbers = tuple(float(bound) for bound in bounds)
    if not numbers or any(not a < b for a, b in pairwise(numbers)):
        raise InputError(f"{what}: expected rising numbers in seconds, got {list(bounds)!r:.80}")
    return numbers
