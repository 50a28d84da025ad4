"""What a report says of the steps of a loop: the sections ``loop`` and ``stream_loop``."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.bench.loop_calls import CachedTimes
from mmedge.bench.stats import summary
from mmedge.bench.stats.resample import LEAST_PARTS, half_width, session_intervals, step_spreads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmedge.bench.loop_calls import LoopCalls
    from mmedge.bench.report.loop_sections import (
        LoopIntervals,
        LoopSection,
        StepFigures,
        StreamLoopSection,
    )
    from mmedge.bench.report.sections import Summary
    from mmedge.bench.stream_run import LoopTimes
    from mmedge.bench.timed_calls import StepTimes
    from mmedge.loop_spec import DenoiseLoop, GenerateLoop

__all__ = ["NO_CACHED_TIMES", "loop_section", "stream_loop_section"]

#: Points of the picture of steps.
MOST_STEPS = 512
#: Why calls of two bundles in turn have no times with a full cache.
NO_CACHED_TIMES = (
    "time to the first step with inputs in the cache: calls of two bundles took turns; mmedge "
    "bench each"
)


def loop_section(
    calls: LoopCalls,
    times: Sequence[StepTimes],
    series: Mapping[str, Any],
    latency_ms: NDArray[np.float64],
    wait_ms: NDArray[np.float64],
    cached: CachedTimes | None,
) -> LoopSection:
    """Figures of the steps of all sessions' calls.

    Args:
        calls: how they were made.
        times: of each session.
        series: of the report; says which calls are kept, and of which session each is.
        latency_ms: of each call.
        wait_ms: its part before the call began.
        cached: times with inputs in the cache; None: not measured.
    """
    before = np.concatenate([np.asarray(each.before) for each in times]) / 1e6 + wait_ms
    first = np.concatenate([np.asarray(each.first) for each in times]) / 1e6 + wait_ms
    steps = np.concatenate([np.asarray(each.steps) for each in times]).reshape(len(first), -1) / 1e6
    served_ms = latency_ms - wait_ms
    has_steps = steps.shape[1] > 0
    kept = np.arange(series["kept"]) * series["of"] // series["kept"]
    of_first = {**series, "latency_ms": first[kept].tolist()}
    first_summary = summary.summary(first)
    many = len(set(series.get("part") or ())) >= LEAST_PARTS
    # As those of latencies.
    intervals: Mapping[str, Any] = (
        session_intervals(of_first, first_summary) if many else summary.confidence(first)
    )
    not_measured = []
    if not has_steps:
        not_measured.append("time of a step: a call has one token")
    if calls.seconds is None:
        not_measured.append("real-time factor: no input is sound with a rate of samples")
    if cached is None:
        not_measured.append(NO_CACHED_TIMES)
    cached = cached or CachedTimes()
    not_measured += [f"{name} in the cache: {why}" for name, why in cached.left_out.items()]
    section: LoopSection = {
        "kind": calls.kind,
        "stage": calls.stage,
        "steps": calls.steps,
        "rows": calls.rows,
        "first_ms": first_summary,
        "first_confidence_ms": {"p50": intervals["p50"], "p99": intervals["p99"]},
        "encoders_ms": summary.summary(before),
        "prefill_ms": summary.summary(first - before) if calls.kind == "generate" else None,
        "first_cached_ms": _summary(cached.all),
        "first_cached_by_modality_ms": {
            name: summary.summary(np.asarray(times) / 1e6)
            for name, times in cached.by_modality.items()
        },
        "step_ms": summary.summary(steps.ravel()) if has_steps else None,
        "step_confidence_ms": _step_intervals(steps, series, kept),
        "steps_per_s": 1e3 / float(steps.mean()) if has_steps else None,
        "state_bytes": calls.state_bytes,
        "real_time_factor": None
        if calls.seconds is None
        else float(served_ms.mean()) / 1e3 / calls.seconds,
        "by_step": _by_step(steps, calls.kind),
        "series": {
            "first_ms": of_first["latency_ms"],
            "step_ms": np.median(steps[kept], axis=1).tolist() if has_steps else [],
            "steps_ms": steps[kept].sum(axis=1).tolist() if has_steps else [],
        },
        "blocks": "whole sessions" if many else "stretches of calls",
        "not_measured": not_measured,
    }
    return section


def stream_loop_section(
    runs: Sequence[LoopTimes], loop: GenerateLoop | DenoiseLoop
) -> StreamLoopSection:
    """Figures of the runs of a loop in a stream, which may differ in length.

    Args:
        runs: in their order.
        loop: the bundle's.
    """
    first = [run.first_ms for run in runs if run.first_ms is not None]
    between = [ms for run in runs for ms in run.between_ms]
    counts = [len(run.between_ms) + (run.first_ms is not None) for run in runs]
    intervals = summary.confidence(between)
    return {
        "kind": loop.kind,
        "stage": loop.stage,
        "runs": len(runs),
        "steps": sum(counts),
        "fewest_steps": min(counts, default=0),
        "most_steps": max(counts, default=0),
        "finish": dict(Counter(run.finish for run in runs)),
        "first_ms": summary.summary(first) if first else None,
        "between_ms": summary.summary(between) if between else None,
        "between_confidence_ms": {"p50": intervals["p50"], "p99": intervals["p99"]},
        "steps_per_s": 1e3 / float(np.mean(between)) if between else None,
    }


def _summary(times_ns: Sequence[int]) -> Summary | None:
    return summary.summary(np.asarray(times_ns) / 1e6) if times_ns else None


def _step_intervals(
    steps: NDArray[np.float64], series: Mapping[str, Any], kept: NDArray[np.int64]
) -> LoopIntervals:
    """Intervals of all steps together, for which whole calls are drawn."""
    intervals: LoopIntervals = {"p50": None, "p99": None}
    if not steps.shape[1]:
        return intervals
    errors = step_spreads(steps[kept], series)
    for key, q in (("p50", 50.0), ("p99", 99.0)):
        figure = summary.percentile(steps.ravel(), q)
        # Slow steps of one call are one event.
        beyond = 0 if figure is None else int((steps > figure).any(axis=1).sum())
        intervals[key] = _ends(figure, errors.get(key), beyond)  # type: ignore[literal-required]
    return intervals


def _ends(figure: float | None, error: Any, beyond: float) -> list[float] | None:  # noqa: ANN401
    """The 95 % interval, where enough calls lie beyond the figure to carry it."""
    if figure is None or error is None or beyond < summary.LEAST_BLOCKS:
        return None
    half = half_width(error)
    return [figure * math.exp(-half), figure * math.exp(half)]


def _by_step(steps: NDArray[np.float64], kind: str) -> StepFigures:
    """Each step over all calls, and in the slowest; of many steps, stretches of them."""
    count = steps.shape[1]
    points = min(count, MOST_STEPS)
    edges = np.arange(points + 1) * count // max(points, 1)
    stretches = list(pairwise(edges.tolist()))
    slowest = steps[int(steps.sum(axis=1).argmax())]
    pooled = [steps[:, a:b].ravel() for a, b in stretches]
    offset = 1 if kind == "generate" else 0  # the first token is none of these steps
    return {
        "step": [a + offset for a, _ in stretches],
        "p50_ms": [float(np.median(values)) for values in pooled],
        "p99_ms": [summary.percentile(values, 99.0) for values in pooled],
        "max_ms": [float(values.max()) for values in pooled],
        "slowest_call_ms": [float(slowest[a:b].max()) for a, b in stretches],
    }
