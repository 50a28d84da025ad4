"""A trace of a measurement, to be opened in Perfetto (ui.perfetto.dev) or chrome://tracing.

The file is in the JSON object form of the Trace Event Format (Google, "Trace Event Format",
docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU). These of its
events are used: ``M`` (names of processes and threads), ``X`` (complete: begins and lasts) and
``C`` (counter). Times are microseconds, here since the first event.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike

    from mmedge.backends.profile import Span

__all__ = ["Call", "write"]

#: Start and end in nanoseconds of one clock, and the nanoseconds of each part, in their order.
Call = tuple[int, int, "Mapping[str, int]"]

CALLS_PID, MACHINE_PID = 1, 2


def write(
    path: str | PathLike[str],
    calls: Sequence[Call],
    *,
    name: str,
    operators: Mapping[str, Sequence[Span]] | None = None,
    counters: Mapping[str, Sequence[tuple[int, float | None]]] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a trace.

    Parts of a call are drawn one after another up to its end; what is left before them is time that
    no part explains, in an open loop the time that the call waited. Calls that overlap are drawn on
    threads of their own.

    Args:
        path: where; what is there is replaced.
        calls: what was measured, in the order of their starts.
        name: of the bundle and variant.
        operators: nodes of one profiled call by stage, as in
            :attr:`mmedge.backends.profile.Profile.spans`. They are drawn under the stages of the
            call of median length, shifted to it, and shortened where the profiled run was longer.
        counters: by name with its unit, as ``frequency MHz``, values at nanoseconds of the calls'
            clock; None where one could not be read.
        about: further facts, kept in the file as ``otherData``.

    Raises:
        ValueError: no calls, calls out of order, or a call shorter than its parts.
        OSError: the file cannot be written.
    """
    if not calls:
        raise ValueError("no calls to draw; measure at least one")
    events = list(_events(calls, name, operators or {}, counters or {}))
    trace = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(about or {})}
    Path(path).write_text(json.dumps(trace, allow_nan=False) + "\n", encoding="utf-8")


def _events(
    calls: Sequence[Call],
    name: str,
    operators: Mapping[str, Sequence[Span]],
    counters: Mapping[str, Sequence[tuple[int, float | None]]],
) -> Iterator[dict[str, Any]]:
    times = [calls[0][0], *(at for values in counters.values() for at, _ in values)]
    origin = min(times)
    median = sorted(range(len(calls)), key=lambda i: calls[i][1] - calls[i][0])[len(calls) // 2]
    yield _named("process_name", CALLS_PID, 0, name)
    ends: list[int] = []  # of the last call on each thread
    before = calls[0][0]
    for index, (start, end, parts) in enumerate(calls):
        if start < before or end - start < sum(parts.values()):
            raise ValueError(
                f"call {index}: expected starts in order and no call shorter than its parts, got "
                f"{start} to {end} ns after one at {before} ns, parts of {sum(parts.values())} ns"
            )
        before = start
        lane = next((i for i, free in enumerate(ends) if free <= start), len(ends))
        if lane == len(ends):
            ends.append(end)
            yield _named("thread_name", CALLS_PID, lane + 1, f"calls {lane + 1}")
        ends[lane] = end
        at = end - sum(parts.values())
        yield _complete(
            "call", "call", lane, start - origin, end - start,
            {"call": index, "unexplained_us": (at - start) / 1e3},
        )  # fmt: skip
        for part, took in parts.items():
            if took:
                yield _complete(part, "part", lane, at - origin, took, {"call": index})
                if index == median:
                    yield from _nodes(operators.get(part, ()), lane, at - origin, took)
            at += took
    if any(counters.values()):
        yield _named("process_name", MACHINE_PID, 0, "machine")
    for counter, values in counters.items():
        for at, value in values:
            if value is not None:
                yield {
                    "name": counter,
                    "ph": "C",
                    "pid": MACHINE_PID,
                    "tid": 0,
                    "ts": (at - origin) / 1e3,
                    "args": {"value": value},
                }


def _nodes(spans: Sequence[Span], lane: int, start: int, took: int) -> Iterator[dict[str, Any]]:
    """Nodes inside a stage that began at ``start`` and took ``took`` nanoseconds."""
    # A node's own time ends where that of the next begins: a subgraph's nodes follow theirs.
    length = max((span.start_us + span.us for span in spans), default=0.0) * 1e3
    scale = min(1.0, took / length) if length else 1.0
    begins = [min(took, int(span.start_us * 1e3 * scale)) for span in spans]
    for span, begin, limit in zip(spans, begins, [*begins[1:], took], strict=False):
        at = min(begin + int(span.us * 1e3 * scale), limit)
        yield _complete(
            f"{span.op} {span.module}", "operator", lane, start + begin, at - begin,
            {
                "node": span.name,
                "module": span.module,
                "op": span.op,
                "measured_us": span.us,
                "drawn": f"from a profiled call, shifted to this one, times scaled by {scale:.3f}",
            },
        )  # fmt: skip


def _complete(
    name: str, category: str, lane: int, start: int, took: int, args: Mapping[str, Any]
) -> dict[str, Any]:
    """An ``X`` event on one of the calls' threads; times in nanoseconds since the origin."""
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "pid": CALLS_PID,
        "tid": lane + 1,
        "ts": start / 1e3,
        "dur": took / 1e3,
        "args": dict(args),
    }


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    """An ``M`` event that names a process or a thread."""
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "ts": 0, "args": {"name": name}}
