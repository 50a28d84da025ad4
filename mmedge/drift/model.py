"""What is normal for one modality: limits of each statistic, and a distance of all together.

Statistics of the looks of a few seconds are averaged to a *window*. Two scores are taken of it, as
is usual in monitoring of processes (T. Kourti and J. MacGregor, "Process analysis, monitoring and
diagnosis, using multivariate projection methods", Chemometrics 28, 1995): the statistic that lies
farthest from what is normal for it alone, and Mahalanobis's distance, which sees that statistics no
longer go together. The distance of histograms is Wasserstein's first, by quantiles.

How far is too far is found on parts of the recording that the limits were not made of (five blocks
in turn), so that a short recording, whose limits fit it too well, gets wider ones.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmedge.drift.tails import return_level

if TYPE_CHECKING:
    from collections.abc import Sequence
    from dataclasses import dataclass

    from numpy.typing import NDArray

    from mmedge.drift.layout import Statistic

    Floats = NDArray[np.float64]
    Groups = Sequence[NDArray[np.intp]]
else:
    from mmedge.records import dataclass

__all__ = ["Finding", "Model", "Reduction", "fit", "quantile_groups"]

#: Parts of the recording that are held out in turn, and pieces of each, spread over all of it: a
#: part that is one piece would have its own time of the day, of which the rest says nothing.
FOLDS, PIECES = 5, 12
#: Least and most share of the diagonal in the correlation matrix; 24 windows count as one.
SHRINKAGE = (0.02, 0.9)
#: An autocorrelation below this counts as none, and windows' lengths after which it is not asked.
UNCORRELATED, MOST_LENGTHS = 0.2, 10
#: Standard deviations beyond which a statistic counts no more in the distance of all together.
CLIP = 3.0
#: What a logarithm is taken of, at least.
LEAST = 1e-30
#: What limits are widened by, for what the recordings do not have: places that they come back to
#: are not independent, which no statistic of them shows.
MARGIN = 1.15
#: Level of the distance of all together, at least: one that is common.
LEAST_DISTANCE = 1.5
#: Spread of a statistic, at least, as a share of its resolution.
LEAST_SPREAD = 0.3


class Finding(NamedTuple):
    """The statistic that made a score, in the words of its unit.

    Attributes:
        name: of the statistic.
        value: of the window.
        low, high: the calibrated range; infinite where there is no limit.
        together: whether the statistics are unusual together, and this one the most of them.
    """

    name: str
    value: float
    low: float
    high: float
    together: bool

    def __str__(self) -> str:
        span = f"calibrated {_number(self.low)} to {_number(self.high)}"
        if math.isinf(self.low):
            span = f"calibrated up to {_number(self.high)}"
        words = f"{self.name}: {_number(self.value)}, {span}"
        return (
            f"statistics that do not go together, most of all {words}" if self.together else words
        )


def _number(value: float) -> str:
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Model:
    """Limits of one group of statistics.

    Attributes:
        center: their medians, [statistics].
        spread: their standard deviations, [statistics].
        lower: limits of each alone; then of the distances of histograms, [statistics + groups].
        upper: see ``lower``.
        inverse: of their shrunk correlations, [statistics, statistics].
        typical: median of the score of each alone, and of the distance of all.
        level: what these two pass at the stated rate of false alarms.
    """

    center: Floats
    spread: Floats
    lower: Floats
    upper: Floats
    inverse: Floats
    typical: tuple[float, float]
    level: tuple[float, float]

    def scores(self, windows: Floats, groups: Groups) -> Floats:
        """The score of each window: 0 as is typical or nearer, 1 at the limit; [windows].

        Args:
            windows: [windows, statistics].
            groups: of :func:`quantile_groups`.
        """
        alone = self.alone(windows, groups).max(axis=1)
        distance = self.distance(windows)
        (typical, typical_distance), (level, far) = self.typical, self.level
        scores: Floats = np.maximum(
            np.maximum(
                (alone - typical) / (level - typical),
                (distance - typical_distance) / (far - typical_distance),
            ),
            0.0,
        )
        return scores

    def alone(self, windows: Floats, groups: Groups) -> Floats:
        """How far each statistic lies on the way from its center to its limit, [windows, all]."""
        return np.abs(self.ratios(windows, groups))

    def ratios(self, windows: Floats, groups: Groups) -> Floats:
        """The same, negative on the way to the lower limit."""
        values = _with_distances(windows, self.center, groups)
        center = np.concatenate([self.center, np.zeros(len(groups))])
        off = values - center
        ratios: Floats = np.where(
            off > 0.0, off / (self.upper - center), off / (center - self.lower)
        )
        return ratios

    def distance(self, windows: Floats) -> Floats:
        """Mahalanobis's distance of each window, divided by the root of the statistics' count."""
        off = np.clip((windows - self.center) / self.spread, -CLIP, CLIP)
        squares = np.einsum("ij,ij->i", off @ self.inverse, off)
        distance: Floats = np.sqrt(np.maximum(squares, 0.0) / off.shape[1])
        return distance

    def explain(self, window: Floats, statistics: Sequence[Statistic], groups: Groups) -> Finding:
        """What a window's score comes from, [statistics]."""
        row = window[None]
        alone = self.alone(row, groups)[0]
        (typical, typical_distance), (level, far) = self.typical, self.level
        share = (alone.max() - typical) / (level - typical)
        distance = (float(self.distance(row)[0]) - typical_distance) / (far - typical_distance)
        together = bool(distance > share and share < 1.0)
        if together:
            off = np.clip((window - self.center) / self.spread, -CLIP, CLIP)
            index = int(np.argmax(np.abs(off * (self.inverse @ off))))
        else:
            index = int(np.argmax(alone))
        value = float(_with_distances(row, self.center, groups)[0, index])
        if index >= len(statistics):
            names = [statistic.group for statistic in statistics]
            group = sorted(set(filter(None, names)), key=names.index)[index - len(statistics)]
            channel = f", channel {group}" if group.isdigit() and len(groups) > 1 else ""
            name = f"distance of histograms (Wasserstein){channel}"
            return Finding(name, value, -math.inf, float(self.upper[index]) * level, together)
        center = float(self.center[index])
        low = center - (center - float(self.lower[index])) * level
        high = center + (float(self.upper[index]) - center) * level
        statistic = statistics[index]
        if statistic.is_log:
            value, low, high = (math.exp(number) for number in (value, low, high))
        return Finding(statistic.name, value, low, high, together)


def quantile_groups(statistics: Sequence[Statistic]) -> list[NDArray[np.intp]]:
    """Indices of the statistics of each distribution that is known by quantiles."""
    names = [statistic.group for statistic in statistics]
    ordered = sorted(set(filter(None, names)), key=names.index)
    return [np.flatnonzero([name == group for name in names]) for group in ordered]


class Reduction:
    """Makes windows of looks: means, or the least, and logarithms of them, as statistics say."""

    def __init__(self, statistics: Sequence[Statistic]) -> None:
        self._floors = np.flatnonzero([statistic.is_floor for statistic in statistics])
        self._logs = np.flatnonzero([statistic.is_log for statistic in statistics])

    def window(self, looks: Floats) -> Floats:
        """The window of some looks [looks, statistics]."""
        window: Floats = looks.mean(axis=0)
        if self._floors.size:
            window[self._floors] = looks[:, self._floors].min(axis=0)
        if self._logs.size:
            window[self._logs] = np.log(np.maximum(window[self._logs], LEAST))
        return window

    def windows(self, looks: Floats, count: int) -> Floats:
        """The windows of ``count`` looks that follow each other, [windows, statistics]."""
        many = len(looks) - count + 1
        if many < 1:
            return np.empty((0, looks.shape[1]))
        total = np.zeros((many, looks.shape[1]))
        for shift in range(count):
            total += looks[shift : shift + many]
        total /= count
        if self._floors.size:
            least = looks[:many, self._floors].copy()
            for shift in range(1, count):
                np.minimum(least, looks[shift : shift + many, self._floors], out=least)
            total[:, self._floors] = least
        if self._logs.size:
            total[:, self._logs] = np.log(np.maximum(total[:, self._logs], LEAST))
        return total


def _with_distances(windows: Floats, center: Floats, groups: Groups) -> Floats:
    if not groups:
        return windows
    off = np.abs(windows - center)
    return np.concatenate(
        [windows, np.stack([off[:, group].mean(axis=1) for group in groups], axis=1)], axis=1
    )


class _Rows:
    """Windows of several segments one after the other, of which parts are taken."""

    def __init__(self, segments: Sequence[Floats]) -> None:
        self.windows = np.concatenate(segments)
        self._ids = np.repeat(np.arange(len(segments)), [len(segment) for segment in segments])

    def split(self, values: Floats, rows: NDArray[np.intp]) -> list[Floats]:
        """``values`` of rows, cut where rows do not follow each other."""
        ids = self._ids[rows]
        cuts = np.flatnonzero((np.diff(rows) != 1) | (np.diff(ids) != 0)) + 1
        return np.split(values, cuts)


def fit(
    segments: Sequence[Floats],
    statistics: Sequence[Statistic],
    *,
    count: int,
    share: float,
) -> Model:
    """The model of windows in the order of time.

    Args:
        segments: windows [windows, statistics] of each stretch of time without a gap.
        statistics: what the columns are.
        count: looks of a window.
        share: alarms a window that this model may raise, when nothing has changed.
    """
    groups = quantile_groups(statistics)
    rows = _Rows(segments)
    total = len(rows.windows)
    everything = np.arange(total)
    run = _decorrelation(segments, count)
    pieces = max(1, min(PIECES, total // (FOLDS * 4 * run)))
    part_of = everything * FOLDS * pieces // total % FOLDS
    ratios: list[Floats] = []
    distance: list[Floats] = []
    for fold in range(FOLDS):
        held = everything[part_of == fold]
        # What lies next to it is like it.
        before = part_of[np.maximum(everything - run, 0)]
        after = part_of[np.minimum(everything + run, total - 1)]
        rest = everything[(part_of != fold) & (before != fold) & (after != fold)]
        part = _limits(rows.windows[rest], statistics, groups)
        windows = rows.windows[held]
        ratios += rows.split(part.ratios(windows, groups), held)
        distance += rows.split(part.distance(windows), held)
    seen = _limits(rows.windows, statistics, groups)
    # Half of the alarms by any statistic alone, up or down, and half by all together.
    each = share / 2.0 / (2.0 * len(seen.upper))
    lower, upper = seen.lower.copy(), seen.upper.copy()
    center = np.concatenate([seen.center, np.zeros(len(groups))])
    for index in range(len(upper)):
        columns = [part[:, index] for part in ratios]
        upper[index] += (_far(columns, each, run) - 1.0) * (upper[index] - center[index])
        if index >= len(seen.center):
            continue  # a distance has no lower limit
        columns = [-column for column in columns]
        lower[index] += (_far(columns, each, run) - 1.0) * (lower[index] - center[index])
    final = Model(seen.center, seen.spread, lower, upper, seen.inverse, (0.0, 0.0), (1.0, 1.0))
    alone = final.alone(rows.windows, groups).max(axis=1)
    middle = float(np.median(np.concatenate(distance)))
    far = max(
        _far(distance, share / 2.0, run, least=LEAST_DISTANCE),
        1.001 * float(final.distance(rows.windows).max()),
    )
    typical = float(np.median(alone)), middle
    level = max(MARGIN, 1.001 * float(alone.max())), max(MARGIN * far, 1.05 * middle)
    return Model(final.center, final.spread, lower, upper, final.inverse, typical, level)


def _far(segments: Sequence[Floats], share: float, run: int, *, least: float = 1.0) -> float:
    """How far a normal value lies at a stated rate, at least ``least``.

    A normal variable's square has about an exponential tail, chi-squared's, and so have most others
    that a sensor gives.
    """
    squares = [np.square(np.maximum(segment, 0.0)) for segment in segments]
    return max(math.sqrt(return_level(squares, share, run)), least)


def _limits(windows: Floats, statistics: Sequence[Statistic], groups: Groups) -> Model:
    """Centers, spreads and correlations, and as limits what was the least and the most."""
    small = np.array([statistic.resolution for statistic in statistics])
    center = np.median(windows, axis=0)
    spread = np.maximum(windows.std(axis=0), LEAST_SPREAD * small)
    values = _with_distances(windows, center, groups)
    small = np.concatenate([small, [small[group].mean() for group in groups]])
    middle = np.concatenate([center, np.zeros(len(groups))])
    upper = np.maximum(values.max(axis=0), middle + small)
    lower = np.minimum(values.min(axis=0), middle - small)
    lower[len(center) :] = -math.inf
    off = np.clip((windows - center) / spread, -CLIP, CLIP)
    correlation = off.T @ off / len(off)
    shrinkage = float(np.clip(off.shape[1] / (off.shape[1] + len(off) / 24.0), *SHRINKAGE))
    diagonal = np.diag(np.maximum(np.diag(correlation), 1e-3))
    inverse = np.linalg.inv((1.0 - shrinkage) * correlation + shrinkage * diagonal)
    return Model(
        center, spread, lower, upper, 0.5 * (inverse + inverse.T), (0.0, 0.0), (1.0, 1.0)
    )  # fmt: skip


def _decorrelation(segments: Sequence[Floats], count: int) -> int:
    """Windows after which the next is as good as independent, by the mean autocorrelation.

    The mean of each segment is taken off: the light of a day is alike for hours.
    """
    centered = [segment - segment.mean(axis=0) for segment in segments]
    spread = np.sqrt(np.mean([np.mean(part**2, axis=0) for part in centered], axis=0))
    used = spread > 0.0
    if not used.any():
        return count
    scaled = [part[:, used] / spread[used] for part in centered]
    lag = count
    while lag < MOST_LENGTHS * count:
        pairs = [(part[:-lag] * part[lag:]).mean() for part in scaled if len(part) > 2 * lag]
        if not pairs or float(np.mean(pairs)) < UNCORRELATED:
            return lag
        lag = lag * 3 // 2
    return MOST_LENGTHS * count
