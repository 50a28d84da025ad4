"""The sessions of a measurement: timed calls of each, and what they come to together."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmedge.bench import arrivals
from mmedge.bench.loop_calls import make_caller
from mmedge.bench.loop_section import loop_section
from mmedge.bench.machine.energy import no_energy
from mmedge.bench.machine.monitor import Monitor, frequency_fall, frequency_moves
from mmedge.bench.stats import summary
from mmedge.bench.stats.resample import LEAST_PARTS, session_intervals
from mmedge.bench.timed_calls import CallTimes
from mmedge.bench.warmup import WarmUp, beside, warm_up

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmedge.bench.arrivals import Load, Series
    from mmedge.bench.loop_calls import CachedTimes, LoopCalls
    from mmedge.bench.report.sections import EnergySection
    from mmedge.bench.timed_calls import StepTimes
    from mmedge.pipeline import Pipeline

__all__ = [
    "TimedSession",
    "energy",
    "figures",
    "overload",
    "record",
    "shares",
    "summarize_sessions",
    "time_in_turn",
    "time_session",
]


class TimedSession(NamedTuple):
    """The timed calls of one session.

    ``parts``: nanoseconds by part and call. ``share``: of the time that the monitor watched, where
    calls of another session took turns with these. ``steps``: of a loop, if the bundle has one.
    """

    series: Series
    parts: dict[str, array[int]]
    warmup: WarmUp
    monitor: Monitor
    share: float = 1.0
    steps: StepTimes | None = None


def figures(
    start_s: summary.Values, latency_ms: summary.Values, deadline_ms: float | None
) -> dict[str, Any]:
    """What a report says of latencies in the order of their calls, by the report's keys.

    Args:
        start_s: arrival of each call in seconds from the first.
        latency_ms: from it to the end of the call.
        deadline_ms: as for :func:`bench`.

    Raises:
        ValueError: there are no calls, or not as many starts as latencies.
    """
    return {
        "latency_ms": summary.summary(latency_ms),
        "confidence_ms": summary.confidence(latency_ms),
        "jitter_ms": summary.jitter(latency_ms),
        "deadline": None if deadline_ms is None else summary.deadline(latency_ms, deadline_ms),
        "series": summary.thin(start_s, latency_ms),
    }


def shares(load: Load, sessions: int) -> list[Load]:
    """What each session does of ``load``."""
    if sessions < 1 or (load.calls is not None and sessions > load.calls):
        raise ValueError(f"expected 1 session to as many as there are calls, got {sessions}")
    if load.calls is None:
        return [replace(load, seconds=(load.seconds or 0.0) / sessions)] * sessions
    calls_each, remainder = divmod(load.calls, sessions)
    return [replace(load, calls=calls_each + (part < remainder)) for part in range(sessions)]


def time_session(
    pipe: Pipeline,
    inputs: Sequence[Mapping[str, Any]],
    load: Load,
    warmup: int | None,
    tell: Callable[[str, int, int], None],
    loop: LoopCalls | None = None,
) -> TimedSession:
    """Warm up and make the timed calls; ``loop`` says how, where there is one."""
    call, parts = make_caller(pipe, inputs, loop), CallTimes(has_loop=loop is not None)
    warm = warm_up(call, warmup, tell=lambda count, most: tell("warm-up", count, most))
    with Monitor() as monitor:
        series = arrivals.run(
            call, load, keep=parts.add, tell=lambda count, total: tell("measure", count, total)
        )
    return TimedSession(series, parts.columns, warm, monitor, steps=parts.steps)


def time_in_turn(
    pipes: tuple[Pipeline, Pipeline],
    inputs: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]],
    calls: int,
    warmup: int,
    loops: tuple[LoopCalls | None, LoopCalls | None] = (None, None),
) -> tuple[TimedSession, TimedSession]:
    """Warm two pipelines up in turn, and time calls of both in turn.

    Their sessions share a monitor: what it saw is of both.

    Args:
        pipes: loaded.
        inputs: of the calls of each, one after another and again.
        calls: timed calls of each, at least 1.
        warmup: untimed calls of each before them.
        loops: how calls of each are made, where it has a loop.

    Raises:
        MMEdgeError: whatever a call raises.
    """
    callers = make_caller(pipes[0], inputs[0], loops[0]), make_caller(pipes[1], inputs[1], loops[1])
    first_parts, second_parts = (CallTimes(has_loop=loop is not None) for loop in loops)
    parts = first_parts, second_parts
    warm = beside(*arrivals.in_turn(callers, warmup))
    with Monitor() as monitor:
        series = arrivals.in_turn(callers, calls, keep=lambda which, part: parts[which].add(part))
    total_ns = sum(one_series.elapsed_ns for one_series in series)
    first, second = (
        TimedSession(
            one_series, part.columns, warm, monitor, one_series.elapsed_ns / total_ns, part.steps
        )
        for one_series, part in zip(series, parts, strict=True)
    )
    return first, second


def summarize_sessions(
    sessions: Sequence[TimedSession],
    deadline_ms: float | None,
    loop: LoopCalls | None = None,
    cached: CachedTimes | None = None,
) -> dict[str, Any]:
    """What a report says of the calls of all sessions, one session after the other.

    The time between sessions, which loads and warms up, is left out.

    Args:
        sessions: at least one.
        deadline_ms: as for :func:`mmedge.bench.measure.bench`.
        loop: how calls were made, where the bundle has a loop.
        cached: times with inputs in the cache; None: not measured.
    """
    offsets = [0, *accumulate(session.series.elapsed_ns for session in sessions)]
    start = _concatenate(
        [np.asarray(s.series.start_ns) + at for s, at in zip(sessions, offsets, strict=False)]
    )
    latency = _concatenate([s.series.latency_ns for s in sessions])
    wait = _concatenate([s.series.wait_ns for s in sessions])
    columns = {
        name: _concatenate([s.parts[name] for s in sessions]) / 1e6 for name in sessions[0].parts
    }
    if wait.any():
        columns = {"waiting": wait / 1e6, **columns}
    residual = latency / 1e6 - sum(columns.values())
    section = figures(start / 1e9, latency / 1e6, deadline_ms)
    if len(sessions) > 1:
        part = np.repeat(np.arange(len(sessions)), [len(s.series.latency_ns) for s in sessions])
        series = section["series"]
        count, total = series["kept"], series["of"]
        series["part"] = part[np.arange(count) * total // count].tolist()
        if len(sessions) >= LEAST_PARTS:
            section["confidence_ms"] = session_intervals(series, section["latency_ms"])
    calls = [session.warmup.calls for session in sessions]
    if loop is not None:
        times = [session.steps for session in sessions if session.steps is not None]
        section["loop"] = loop_section(
            loop, times, section["series"], latency / 1e6, wait / 1e6, cached
        )
    return {
        **section,
        "warmup": {
            "calls": sum(calls),
            "settled": all(session.warmup.settled for session in sessions),
            "rule": sessions[0].warmup.rule
            + (f"; {len(sessions)} sessions" if len(sessions) > 1 else ""),
        },
        "throughput_hz": len(latency) * 1e9 / offsets[-1],
        "stages": {
            name: summary.summary(values)
            for name, values in {**columns, "residual": residual}.items()
        },
    }


def overload(sessions: Sequence[TimedSession]) -> str:
    """What to say of arrivals that were not answered, or late; nothing where all were in time.

    A few may be left behind one slow call at the end of a run; more than 1 % are an overload. So
    are more than 1 %, and 2 at least, that still waited when the last arrival fell due: a run of a
    number of calls answers all of them in the end.
    """
    unserved = sum(session.series.unserved for session in sessions)
    served = sum(len(session.series.latency_ns) for session in sessions)
    if not unserved:
        waiting = sum(_count_behind(session.series) for session in sessions)
        if waiting < 2 or waiting <= 0.01 * served:
            return ""
        return f"; OVERLOADED: {waiting} arrivals still waited when the last fell due"
    word = "OVERLOADED: " if unserved > 0.01 * (served + unserved) else ""
    return f"; {word}{unserved} arrivals not answered when the run ended"


def _count_behind(series: Series) -> int:
    """Arrivals that still waited when the last fell due; 0 where one slow call explains them.

    What falls due during the slowest call waits behind it at any rate, and is no sign that calls
    come faster than they are served.
    """
    start, wait = np.asarray(series.start_ns), np.asarray(series.wait_ns)
    if len(start) < 2:
        return 0
    waiting = int((start + wait > start[-1])[:-1].sum())
    period = (start[-1] - start[0]) / (len(start) - 1)
    slowest = (np.asarray(series.latency_ns) - wait).max()
    return waiting if waiting * period > slowest + period else 0


def record(sessions: Sequence[TimedSession]) -> dict[str, Any]:
    """What the monitors of all sessions saw; samples at seconds of the run's own timed calls.

    ``after`` is of the last session, but its ``cpu_share`` is the mean over all sessions by their
    length, so that the parts still add up: a disturbed session counts for as much of the run as it
    was. Samples of ``sampling`` are added up, and a fall of the frequency is looked for in those of
    all sessions together as well: one session may be too short, or the fall lie between two.

    ``wake_up_late_ms`` is a summary of how late the system woke this process for arrivals that it
    waited for; None where there were none.
    """
    records = [session.monitor.record() for session in sessions]
    during, at = [], 0.0
    for session, machine in zip(sessions, records, strict=True):
        length = session.series.elapsed_ns / 1e9
        # One that was taken when the last call had ended stands at its end.
        during += [
            {**sample, "at_s": at + min(sample["at_s"] * session.share, length)}
            for sample in machine["during"]
        ]
        at += length
    late_ns = _concatenate([session.series.late_ns for session in sessions])
    all_words = [machine["throttled"] for machine in records if machine["throttled"]]
    throttle_words = [word for word in all_words if not word.startswith("unknown")]
    seconds = [session.series.elapsed_ns / 1e9 for session in sessions]
    after, sampling = records[-1]["after"], [machine["sampling"] for machine in records]
    watched_names = list(dict.fromkeys(name for part in sampling for name in part["watched"]))
    if len(sessions) > 1 and frequency_moves(records[0]["before"], during):
        if "CPU frequency" not in watched_names:
            watched_names.append("CPU frequency")
            all_words = throttle_words  # what was unknown in each session is known of all together
        if fell := frequency_fall(during):
            throttle_words.append(f"over all sessions {fell}")
    return {
        **records[-1],
        "before": records[0]["before"],
        "during": during,
        "after": {**after, "cpu_share": _mean([r["after"]["cpu_share"] for r in records], seconds)},
        "sampling": {
            **sampling[-1],
            "taken": sum(part["taken"] for part in sampling),
            "kept": sum(part["kept"] for part in sampling),
            **(_mean([{"cpu_share": part["cpu_share"]} for part in sampling], seconds) or {}),
            "watched": watched_names,
        },
        "throttled": "; ".join(dict.fromkeys(throttle_words or all_words)) or None,
        "wake_up_late_ms": summary.summary(late_ns / 1e6) if len(late_ns) else None,
    }


def _mean(
    parts: Sequence[Mapping[str, float] | None], weights: Sequence[float]
) -> dict[str, float] | None:
    """Weighted mean by key of the parts that are known; None where none is."""
    known_parts = [(part, weight) for part, weight in zip(parts, weights, strict=True) if part]
    total = sum(weight for _, weight in known_parts)
    if not total:
        return None
    return {
        key: sum(part[key] * weight for part, weight in known_parts) / total
        for key in known_parts[0][0]
    }


def energy(sessions: Sequence[TimedSession]) -> EnergySection:
    """Energy of the timed calls of all sessions."""
    sections = [session.monitor.energy(len(session.series.latency_ns)) for session in sessions]
    without_energy = [section for section in sections if section["joules_per_result"] is None]
    if without_energy or len(sections) == 1:
        return (without_energy or sections)[0]
    sources = list(dict.fromkeys(str(section["source"]) for section in sections))
    if len(sources) > 1:
        why = f"sessions had different counters: {' | '.join(sources)}"
        return no_energy(why)
    counts = [len(session.series.latency_ns) for session in sessions]
    each = [section["joules_per_result"] or 0.0 for section in sections]
    joules = [value * count for value, count in zip(each, counts, strict=True)]
    watts = [section["watts"] for section in sections]
    seconds = sum(j / power for j, power in zip(joules, watts, strict=True) if power)
    return {
        **sections[0],
        "joules_per_result": sum(joules) / sum(counts),
        "watts": sum(joules) / seconds if seconds else 0.0,
    }


def _concatenate(parts: Sequence[array[int] | NDArray[np.int64]]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(part, np.float64) for part in parts])
