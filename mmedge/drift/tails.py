"""The level that a score passes at a stated rate, from a recording that is shorter than that.

Peaks over threshold: what lies above a high quantile is cut into clusters, since values that follow
each other are not independent; the clusters' peaks follow a generalized Pareto distribution, and
its return level is where the stated rate lies. See S. Coles, "An Introduction to Statistical
Modeling of Extreme Values" (2001), chapters 4 and 5, and for alarms on streams A. Siffer et al.,
"Anomaly Detection in Streams with Extreme Value Theory" (KDD 2017). The distribution is fitted by
probability-weighted moments: J. Hosking and J. Wallis, "Parameter and Quantile Estimation for the
Generalized Pareto Distribution" (Technometrics 29, 1987).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["cluster_peaks", "return_level"]

#: Quantiles that are tried as threshold, and the clusters that are enough for a fit.
THRESHOLDS, CLUSTERS = (0.99, 0.98, 0.95, 0.9, 0.8), 30
#: Shapes of the tail that are believed, about an exponential one. Some tens of peaks cannot tell
#: more, and what they seem to say costs alarms on one side and blindness on the other
#: (docs/explanation/drift.md).
SHAPES = (-0.1, 0.15)
#: Resamples of the peaks, and the quantile of their levels that is taken, on the safe side.
RESAMPLES, CONFIDENCE = 200, 0.9


def cluster_peaks(
    segments: Sequence[NDArray[np.float64]], threshold: float, run: int
) -> NDArray[np.float64]:
    """The largest value of each cluster above a threshold.

    Args:
        segments: values in the order of time, each without a gap.
        threshold: see above.
        run: a cluster ends with so many values in a row that are not above it.
    """
    peaks: list[NDArray[np.float64]] = []
    for segment in segments:
        above = np.flatnonzero(segment > threshold)
        if above.size:
            begins = np.flatnonzero(np.diff(above) > run) + 1
            peaks.append(np.maximum.reduceat(segment[above], [0, *begins]))
    return np.concatenate(peaks) if peaks else np.empty(0)


def return_level(segments: Sequence[NDArray[np.float64]], share: float, run: int) -> float:
    """The level above which a cluster begins at most once in ``1 / share`` values.

    It is on the safe side with a confidence of 90 %, as far as the tail is what is assumed.

    Args:
        segments: values in the order of time, each without a gap.
        share: clusters a value: the rate of alarms times the seconds between two values.
        run: see :func:`cluster_peaks`: values after which the next is as good as independent.
    """
    values = np.concatenate(segments)
    peaks, threshold = values, float(values.max())
    for quantile in THRESHOLDS:
        threshold = float(np.quantile(values, quantile))
        peaks = cluster_peaks(segments, threshold, run)
        if len(peaks) >= CLUSTERS:
            break
    most = float(values.max())
    if len(peaks) < 5 or not peaks.max() > threshold:
        return most
    frequency = len(peaks) / values.size
    picks = np.random.default_rng(len(peaks)).integers(0, len(peaks), (RESAMPLES, len(peaks)))
    excess = np.sort((peaks - threshold)[picks], axis=1)
    level = float(np.quantile(threshold + _exceedance(excess, frequency / share), CONFIDENCE))
    return max(level, most) if share * values.size < 1.0 else level


def _exceedance(excess: NDArray[np.float64], times: float) -> NDArray[np.float64]:
    """What one in ``times`` peaks exceeds, for each row of sorted excesses over the threshold."""
    count = excess.shape[1]
    mean = excess.mean(axis=1)
    # Hosking and Wallis's a1, with plotting positions (i - 0.35) / n.
    weights = 1.0 - (np.arange(1, count + 1) - 0.35) / count
    weighted = (excess * weights).mean(axis=1)
    apart = np.maximum(mean - 2.0 * weighted, 1e-12 * np.maximum(mean, 1e-300))
    shape = np.clip(2.0 - mean / apart, *SHAPES)  # their -k
    scale = mean * (1.0 - shape)
    times = max(times, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        curved = scale / shape * (times**shape - 1.0)
    exceeded: NDArray[np.float64] = np.where(np.abs(shape) < 1e-6, scale * np.log(times), curved)
    return exceeded
