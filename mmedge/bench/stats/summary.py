"""Statistics of latency samples that claim no more than the samples carry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.bench.stats.student import student_t

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mmedge.bench.report.sections import (
        ConfidenceSection,
        DeadlineSection,
        JitterSection,
        SeriesSection,
        Summary,
    )

    Values = Sequence[float] | NDArray[Any]

__all__ = [
    "LEAST_BLOCKS",
    "PERCENTILES",
    "block_length",
    "confidence",
    "deadline",
    "jitter",
    "percentile",
    "resamples",
    "summary",
    "thin",
]

#: Key in a report -> percentile.
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
#: Bootstrap resamples of an interval, of this many values and fewer; more values get fewer, down
#: to LEAST_RESAMPLES, so that a soak's report takes seconds.
RESAMPLES, LEAST_RESAMPLES, FULL_RESAMPLES = 1000, 200, 20_000
#: Fewest blocks with a value beyond a percentile that carry its interval.
LEAST_BLOCKS = 5
#: Points of a series that a report keeps.
MOST_POINTS = 20_000


def percentile(values: Values, q: float) -> float | None:
    """The ``q``-th percentile (nearest rank), or None where ``values`` are too few to have one.

    The nearest rank is an observed value and never an interpolation between two. A tail of
    ``1 - q`` needs at least one sample beyond it: ``n >= 1 / (1 - q/100)``, which is 10 samples
    for p90, 100 for p99 and 1,000 for p99.9.
    """
    count = len(values)
    # Multiplying before dividing keeps 99.9 exact enough: 1000 * 0.1 / 100 is 1, not 0.99999...
    if count == 0 or round(count * (100.0 - q) / 100.0, 9) < 1.0:
        return None
    return float(np.partition(np.asarray(values, np.float64), _rank(count, q))[_rank(count, q)])


def summary(values: Values) -> Summary:
    """Count, mean, standard deviation, minimum, percentiles and maximum, in ``values``'s unit.

    Raises:
        ValueError: ``values`` is empty.
    """
    if len(values) == 0:
        raise ValueError("no samples to summarise; measure at least one call")
    array = np.asarray(values, np.float64)
    return {
        "count": len(array),
        "mean": float(array.mean()),
        "std": float(array.std()),
        "min": float(array.min()),
        "p50": percentile(array, 50.0),
        "p90": percentile(array, 90.0),
        "p99": percentile(array, 99.0),
        "p99_9": percentile(array, 99.9),
        "max": float(array.max()),
    }


def confidence(values: Values, seed: int = 0) -> ConfidenceSection:
    """95 % intervals of the percentiles and the mean, from values in the order of their calls.

    Calls in a row are not independent (clock frequency, caches, other programs), so blocks of
    :func:`block_length` calls are drawn with replacement and not single ones: the moving-block
    bootstrap of Kuensch 1989 ("The Jackknife and the Bootstrap for General Stationary
    Observations"). The interval is between the 2.5 and 97.5 % points of the resamples' figures.

    What lies beyond a percentile, and not the number of calls, is what its interval rests on, and
    values of one slow spell are one event. So ``k``, the number of blocks with a value beyond it,
    must be 5, or the interval is None: at least some 20 values for p50, 60 for p90, 600 for p99
    and 6,000 for p99.9, and more where slow calls come together. The two points are moved outwards
    as Student's t with ``k - 1`` degrees of freedom is wider than the normal distribution.

    The run is taken as one stationary series: two runs differ by more than that, as placement and
    temperature change between them. In simulation (400 series of 1,000 log-normal values) the
    intervals hold the true figure in 92 to 96 % of independent series, and in 88 to 94 % of series
    whose neighbours correlate by 0.5 or 0.8.
    """
    array = np.asarray(values, np.float64)
    count = len(array)
    if count < LEAST_BLOCKS:
        return {"p50": None, "p90": None, "p99": None, "p99_9": None, "mean": None}
    length = block_length(array)
    order = np.argsort(array, kind="stable")
    ordered = array[order]
    # Ranks in place of values: small integers are ordered several times as fast.
    ranks: NDArray[np.integer] = np.empty(count, np.uint16 if count <= 2**16 else np.uint32)
    ranks[order] = np.arange(count)
    blocks = np.arange(count) // length
    percentile_ranks = [_rank(count, q) for q in PERCENTILES.values()]
    support = [len(np.unique(blocks[ranks > rank])) for rank in percentile_ranks]
    support.append(int(blocks[-1]) + 1)  # of the mean: all blocks
    figures: list[NDArray[Any]] = []
    for index in resamples(array, seed=seed):
        places = ranks[index]
        places.sort(axis=1)
        mean = array[index].mean(axis=1, keepdims=True)
        figures.append(np.hstack((ordered[places[:, percentile_ranks]], mean)))
    p50, p90, p99, p99_9, mean_interval = (
        _interval(figure, blocks_beyond)
        for figure, blocks_beyond in zip(np.concatenate(figures).T, support, strict=True)
    )
    return {"p50": p50, "p90": p90, "p99": p99, "p99_9": p99_9, "mean": mean_interval}


def _interval(figures: NDArray[Any], blocks: int) -> list[float] | None:
    """95 % of the figures of resamples; None where too few blocks carry them."""
    if blocks < LEAST_BLOCKS:
        return None
    tail = _tail(blocks - 1)
    low, high = np.quantile(figures, (tail, 1.0 - tail), method="nearest")
    return [float(low), float(high)]


def resamples(values: Values, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Indices of moving-block resamples of ``values``, int64 [some, n], a few rows at a time."""
    count, length = len(values), block_length(values)
    rng = np.random.default_rng(seed)
    blocks = math.ceil(count / length)
    draws = min(RESAMPLES, max(LEAST_RESAMPLES, RESAMPLES * FULL_RESAMPLES // count))
    rows = max(1, 500_000 // count)
    for first in range(0, draws, rows):
        shape = (min(rows, draws - first), blocks, 1)
        starts = rng.integers(0, count - length + 1, size=shape)
        yield (starts + np.arange(length)).reshape(shape[0], -1)[:, :count]


def block_length(values: Values) -> int:
    """Length of the blocks that hold what dependence there is between neighbours.

    The automatic choice of Politis and White 2004, as corrected by Patton, Politis and White 2009:
    the length that makes the error of a block bootstrap's variance least, from the series' own
    autocorrelation. It is taken of the ranks, since one outlier hides all correlation of raw
    latencies, and is never less than n**(1/3), the order that is right when little is known: slow
    spells that are rare leave no mark in the autocorrelation.
    """
    array = np.asarray(values, np.float64)
    count = len(array)
    least = max(1, round(math.cbrt(count)))
    ranks = np.argsort(np.argsort(array, kind="stable"), kind="stable").astype(np.float64)
    if count < 10 or array.min() == array.max():
        return min(least, max(1, count // 3))
    ranks -= ranks.mean()
    # Autocovariance at all lags through the spectrum; padded, so that it does not wrap around.
    spectrum = np.fft.rfft(ranks, 2 ** math.ceil(math.log2(2 * count)))
    covariance = np.fft.irfft(np.abs(spectrum) ** 2)[:count] / count
    correlation = np.abs(covariance / covariance[0])
    window = max(5, math.ceil(math.sqrt(math.log10(count))))
    most_lag = min(math.ceil(math.sqrt(count)) + window, count - 1)
    small = correlation < 2.0 * math.sqrt(math.log10(count) / count)
    # The last lag that counts: after it, `run` of them in a row are indistinguishable from 0.
    last = next(
        (lag for lag in range(most_lag) if small[lag + 1 : lag + 1 + window].all()),
        most_lag,
    )
    lags = np.arange(1, min(2 * max(last, 1), most_lag) + 1)
    weights = np.minimum(1.0, 2.0 * (1.0 - lags / lags[-1]))  # Politis and Romano's flat top
    spread = 2.0 * float((weights * lags * covariance[lags]).sum())
    level = float(covariance[0] + 2.0 * (weights * covariance[lags]).sum())
    best = math.cbrt(1.5 * (spread / level) ** 2 * count) if level > 0 else 0.0
    most = math.ceil(min(3.0 * math.sqrt(count), count / 3))
    return min(max(least, math.ceil(best)), most)


def jitter(values: Values) -> JitterSection:
    """How unsteady latency is: standard deviation, mean step between calls, and p99 less p50.

    ``mean_step`` is the mean of ``|x[i+1] - x[i]|``, 0 for a single value.

    Raises:
        ValueError: ``values`` is empty.
    """
    if len(values) == 0:
        raise ValueError("no samples to take the jitter of; measure at least one call")
    array = np.asarray(values, np.float64)
    p50, p99 = percentile(array, 50.0), percentile(array, 99.0)
    return {
        "std": float(array.std()),
        "mean_step": float(np.abs(np.diff(array)).mean()) if len(array) > 1 else 0.0,
        "p99_less_p50": None if p50 is None or p99 is None else p99 - p50,
    }


def deadline(values: Values, ms: float) -> DeadlineSection:
    """Calls of ``values`` (ms) over a deadline of ``ms``: how many, their share, and in a row.

    A call that takes exactly the deadline has met it. ``longest_run`` is the most misses in a row,
    which is how long a controller went without a result in time.

    Raises:
        ValueError: ``values`` is empty, or ``ms`` is not above 0.
    """
    if len(values) == 0 or not 0.0 < ms < math.inf:
        raise ValueError(f"a deadline needs calls and a time > 0, got {len(values)} and {ms} ms")
    late = np.asarray(values, np.float64) > ms
    # Where a run of misses begins and ends: the steps of the padded series.
    edges = np.flatnonzero(np.diff(np.concatenate(([0], late.astype(np.int8), [0]))))
    runs = edges[1::2] - edges[0::2]
    return {
        "ms": ms,
        "missed": int(late.sum()),
        "rate": float(late.mean()),
        "longest_run": int(runs.max(initial=0)),
    }


def thin(start_s: Values, latency_ms: Values, most: int = MOST_POINTS) -> SeriesSection:
    """The series of a report: each call's start (s) and latency (ms), evenly thinned to ``most``.

    Raises:
        ValueError: the two differ in length, or ``most`` < 1.
    """
    count = len(start_s)
    if count != len(latency_ms) or most < 1:
        raise ValueError(
            f"expected as many starts as latencies and most >= 1, got {count}, "
            f"{len(latency_ms)} and {most}"
        )
    points = np.arange(count) if count <= most else np.arange(most) * count // most
    return {
        "start_s": np.asarray(start_s, np.float64)[points].tolist(),
        "latency_ms": np.asarray(latency_ms, np.float64)[points].tolist(),
        "kept": len(points),
        "of": count,
    }


def _rank(count: int, q: float) -> int:
    """Index of the ``q``-th percentile (nearest rank) among ``count`` ordered values."""
    return max(math.ceil(round(count * q / 100.0, 9)), 1) - 1


def _tail(degrees: int) -> float:
    """Normal probability beyond Student's t at 97.5 %, for ``degrees`` >= 4 of freedom."""
    return math.erfc(student_t(0.975, degrees) / math.sqrt(2.0)) / 2.0
