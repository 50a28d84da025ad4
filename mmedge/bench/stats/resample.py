"""How far a figure of one run would move if the run were made again: a block bootstrap.

Calls in a row are not independent: a slow stretch is slow for many calls. Whole stretches are
therefore drawn again and not single calls (moving-block bootstrap; Kuensch, Annals of Statistics
17, 1989). Two rules make the blocks:

* A series that was taken in several fresh sessions (``part`` says which, at least
  :data:`LEAST_PARTS`) is drawn by whole sessions. Placement in memory and the state of caches stay
  as they are for the life of a session and differ in the next, so that one session, however long,
  does not show this variance (Kalibera and Jones, "Rigorous benchmarking in reasonable time",
  ISMM 2013).
* Any other series is cut into :data:`BLOCKS` blocks, far longer than the n^(1/3) calls of the usual
  rule. On simulated pairs of 1,000 calls with the autocorrelation 0.9 of neighbours, 95 % intervals
  of the ratio of medians held the truth in 79 % of pairs with n^(1/3) and in 92 % with these blocks
  (autocorrelation 0.98: 52 % and 88 %; 0.5: 95 % and 97 %). What differs from session to session
  is not in such an interval.

Few blocks say little about their own variance. The error is scaled by sqrt(m / (m - 1)) for m
blocks, and intervals use Student's t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmedge.bench.stats.student import student_t
from mmedge.bench.stats.summary import LEAST_BLOCKS, PERCENTILES, percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "BLOCKS",
    "LEAST_CALLS",
    "LEAST_PARTS",
    "Spread",
    "half_width",
    "misses",
    "pairs",
    "session_intervals",
    "spreads",
    "step_spreads",
]

Values = NDArray[np.float64]

#: Blocks of a series that was taken in one session.
BLOCKS = 10
#: Fresh sessions from which sessions are the blocks: with fewer, Student's t makes an interval so
#: wide that nothing is ever shown.
LEAST_PARTS = 5
#: Calls below which nothing is resampled: two in a block.
LEAST_CALLS = 2 * BLOCKS
#: Resamples. A standard error from 400 is itself good to 3.5 %, 1 / sqrt(2 * 400).
RESAMPLES = 400
#: Steps of loops that are resampled: of more, an even choice of calls.
MOST_STEPS = 100_000
#: Below the tick of any clock; a logarithm needs more than 0.
LEAST_MS = 1e-9


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard error of one figure, and the degrees of freedom that it was estimated with."""

    error: float
    degrees: float


def spreads(series: Mapping[str, Any], *, seed: int = 0) -> dict[str, Spread]:
    """The error of the natural logarithm of each figure that a report's series carries.

    Args:
        series: of a report: ``start_s`` and ``latency_ms``, and ``part``, the number of the fresh
            session of each call, where there were several.
        seed: of the random draws.

    Returns:
        Spread by figure: ``p50``, ``p90``, ``p99``, ``p99_9``, ``mean`` (of latency) and
        ``throughput``. A percentile that the count cannot carry is not in it; it is empty for fewer
        than :data:`LEAST_CALLS` calls.
    """
    latency = np.maximum(np.asarray(series["latency_ms"], np.float64), LEAST_MS)
    if len(latency) < LEAST_CALLS:
        return {}
    interval = _intervals(series, latency)
    percentiles = {key: q for key, q in PERCENTILES.items() if percentile(latency, q) is not None}

    def figures(rows: NDArray[np.intp]) -> list[float]:
        ordered = np.sort(latency[rows])
        ranks = (max(math.ceil(round(len(rows) * q / 100.0, 9)), 1) for q in percentiles.values())
        logs = [math.log(ordered[rank - 1]) for rank in ranks]
        return [*logs, math.log(ordered.mean()), math.log(interval[rows].mean())]

    errors, degrees = _bootstrap(figures, series, len(latency), seed)
    keys = (*percentiles, "mean", "throughput")
    return {key: Spread(error, degrees) for key, error in zip(keys, errors, strict=True)}


def misses(series: Mapping[str, Any], deadline_ms: float, *, seed: int = 0) -> Spread | None:
    """The error of the share of calls above ``deadline_ms``; None for too few calls.

    It is never below that of independent calls with two misses and two hits more than there were
    (Agresti and Coull, American Statistician 52, 1998): no miss in n calls is no proof of none.
    """
    missed = np.asarray(series["latency_ms"], np.float64) > deadline_ms
    count = len(missed)
    if count < LEAST_CALLS:
        return None
    errors, degrees = _bootstrap(lambda rows: [float(missed[rows].mean())], series, count, seed)
    share = (missed.sum() + 2.0) / (count + 4.0)
    return Spread(max(errors[0], math.sqrt(share * (1.0 - share) / (count + 4.0))), degrees)


def pairs(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[dict[str, tuple[float, Spread]], str]:
    """How two runs differ whose calls took turns, by the sessions that were side by side.

    What the machine does meanwhile happens to both sessions of a pair, and their ratio leaves it
    out. The figure is the mean over pairs of the logarithm of the sessions' ratio, with the error
    of a mean (Kalibera and Jones). Which of the two was loaded first changes from session to
    session; what that does leaves the mean and stays in the error, which is on the safe side.

    Args:
        a: series of a report, as for :func:`spreads`.
        b: the other's.

    Returns:
        By figure, of those of :func:`spreads` that every session can carry by itself, the mean
        logarithm of ``b / a`` and its spread; and why figures are missing, in words.
    """
    ours, theirs = _by_session(a), _by_session(b)
    if len(ours) != len(theirs) or len(ours) < LEAST_PARTS:
        return {}, f"{len(ours)} and {len(theirs)} sessions, {LEAST_PARTS} pairs are needed"
    changes = {}
    for key in dict.fromkeys(key for session in (*ours, *theirs) for key in session):
        if all(key in session for session in (*ours, *theirs)):
            logs = [math.log(y[key] / x[key]) for x, y in zip(ours, theirs, strict=True)]
            error = float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
            changes[key] = float(np.mean(logs)), Spread(error, len(logs) - 1.0)
    return changes, "sessions of too few calls"


def session_intervals(
    series: Mapping[str, Any], figures: Mapping[str, Any]
) -> dict[str, list[float] | None]:
    """Intervals with whole sessions as blocks, where 5 calls or more lie beyond a percentile.

    Args:
        series: as for :func:`spreads`.
        figures: the summary of all its calls.
    """
    errors = spreads(series)
    intervals: dict[str, list[float] | None] = {}
    for key in (*PERCENTILES, "mean"):
        beyond = figures["count"] * (100.0 - PERCENTILES.get(key, 0.0)) / 100.0
        intervals[key] = None
        if key in errors and round(beyond, 9) >= LEAST_BLOCKS:
            half = half_width(errors[key])
            intervals[key] = [figures[key] * math.exp(-half), figures[key] * math.exp(half)]
    return intervals


def step_spreads(steps: Values, series: Mapping[str, Any], *, seed: int = 0) -> dict[str, Spread]:
    """As :func:`spreads`, of p50 and p99 of the steps of a loop in all calls together.

    Whole calls are drawn, in the same blocks: what slows one step often slows the next.

    Args:
        steps: [calls, steps], of the calls of ``series``.
        series: of a report; ``part`` counts.
        seed: of the random draws.
    """
    most = max(LEAST_CALLS, MOST_STEPS // max(steps.shape[1], 1))
    chosen = np.arange(min(len(steps), most)) * len(steps) // min(len(steps), most)
    part = _parts(series, len(steps))[chosen].tolist()
    times = np.maximum(steps[chosen], LEAST_MS)
    if len(times) < LEAST_CALLS:
        return {}
    percentiles = {
        key: q for key, q in PERCENTILES.items()
        if key in ("p50", "p99") and percentile(times.ravel(), q) is not None
    }  # fmt: skip

    def figures(rows: NDArray[np.intp]) -> list[float]:
        values = times[rows].ravel()
        ranks = [
            max(math.ceil(round(len(values) * q / 100.0, 9)), 1) - 1 for q in percentiles.values()
        ]
        ordered = np.partition(values, ranks)
        return [math.log(ordered[rank]) for rank in ranks]

    errors, degrees = _bootstrap(figures, {"part": part}, len(times), seed)
    return {key: Spread(error, degrees) for key, error in zip(percentiles, errors, strict=True)}


def _by_session(series: Mapping[str, Any]) -> list[dict[str, float]]:
    """The figures of each session by itself."""
    latency = np.maximum(np.asarray(series["latency_ms"], np.float64), LEAST_MS)
    interval, part = _intervals(series, latency), _parts(series, len(latency))
    sessions = []
    for name in np.unique(part):
        times = latency[part == name]
        percentiles = {key: percentile(times, q) for key, q in PERCENTILES.items()}
        sessions.append(
            {key: float(value) for key, value in percentiles.items() if value is not None}
            | {
                "mean": float(times.mean()),
                "throughput": float(1.0 / interval[part == name].mean()),
            }
        )
    return sessions


def half_width(*errors: Spread) -> float:
    """Half of the 95 % interval of one figure, or of a difference of independent ones.

    Degrees of freedom of a difference are Welch's (Biometrika 34, 1947).
    """
    total = sum(spread.error**2 for spread in errors)
    if total == 0.0:
        return 0.0
    degrees = total**2 / sum(spread.error**4 / spread.degrees for spread in errors)
    return student_t(0.975, degrees) * math.sqrt(total)


def _bootstrap(
    figures: Callable[[NDArray[np.intp]], list[float]],
    series: Mapping[str, Any],
    count: int,
    seed: int,
) -> tuple[list[float], float]:
    """Standard errors of ``figures`` (of row numbers), and the degrees of freedom."""
    rng = np.random.default_rng(seed)
    part = _parts(series, count)
    names = np.unique(part)
    if len(names) >= LEAST_PARTS:
        sessions = [np.flatnonzero(part == name) for name in names]
        blocks = len(sessions)
        samples = [
            figures(np.concatenate([sessions[pick] for pick in rng.integers(0, blocks, blocks)]))
            for _ in range(RESAMPLES)
        ]
    else:
        blocks = BLOCKS
        length = count // blocks
        within = np.arange(length)
        samples = [
            figures((rng.integers(0, count - length + 1, blocks)[:, None] + within).ravel())
            for _ in range(RESAMPLES)
        ]
    scale = math.sqrt(blocks / (blocks - 1.0))
    return [scale * float(error) for error in np.std(samples, axis=0, ddof=1)], blocks - 1.0


def _parts(series: Mapping[str, Any], count: int) -> NDArray[np.intp]:
    """The session of each call; all one where the series does not say."""
    part = series.get("part") or ()
    return np.asarray(part if len(part) == count else [0] * count, np.intp)


def _intervals(series: Mapping[str, Any], latency: Values) -> Values:
    """Seconds from each call's start to the next one's, in its own session.

    The last call of a session has no next one; its latency stands in.
    """
    start = np.asarray(series["start_s"], np.float64)
    part = _parts(series, len(start))
    thinned = series["of"] / series["kept"] if series.get("kept") else 1.0
    interval = latency / 1e3 * thinned
    same = part[1:] == part[:-1]
    interval[:-1][same] = np.diff(start)[same]
    return np.maximum(interval, LEAST_MS / 1e3)
