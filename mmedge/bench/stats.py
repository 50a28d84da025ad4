"""Statistics of latency samples that claim no more than the samples carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PERCENTILES", "percentile", "summary"]

#: Key in a report -> percentile.
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


def percentile(values: Sequence[float], q: float) -> float | None:
    """The ``q``-th percentile (nearest rank), or None where ``values`` are too few to have one.

    The nearest rank is an observed value and never an interpolation between two. A tail of
    ``1 - q`` needs at least one sample beyond it: ``n >= 1 / (1 - q/100)``, which is 10 samples
    for p90, 100 for p99 and 1,000 for p99.9.
    """
    count = len(values)
    # Multiplying before dividing keeps 99.9 exact enough: 1000 * 0.1 / 100 is 1, not 0.99999...
    if count == 0 or round(count * (100.0 - q) / 100.0, 9) < 1.0:
        return None
    ordered = np.sort(np.asarray(values, np.float64))
    rank = int(np.ceil(round(count * q / 100.0, 9)))
    return float(ordered[max(rank, 1) - 1])


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation, minimum, percentiles and maximum, in the unit of ``values``.

    Raises:
        ValueError: ``values`` is empty.
    """
    if not values:
        raise ValueError("no samples to summarise; measure at least one call")
    array = np.asarray(values, np.float64)
    return {
        "mean": float(array.mean()),
        "std": float(array.std()),
        "min": float(array.min()),
        **{key: percentile(values, q) for key, q in PERCENTILES.items()},
        "max": float(array.max()),
    }
