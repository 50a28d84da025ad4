"""The trace of timed calls that ``mmedge bench --trace`` writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.bench.report.trace import write as write_trace
from mmedge.errors import InputError

if TYPE_CHECKING:
    from mmedge.backends.profile import Profile
    from mmedge.bench.report.report import Report
    from mmedge.bench.sessions import TimedSession

__all__ = ["claim_file", "draw_calls"]

#: Calls that a trace draws; more make a file that no viewer opens.
TRACE_CALLS = 10_000


def claim_file(path: str | os.PathLike[str]) -> None:
    """See that the trace can be written, before what it shows is measured.

    What the file holds stays: the measurement may yet fail.

    Raises:
        InputError: it cannot be written.
    """
    try:
        Path(path).open("ab").close()
    except OSError as error:
        raise InputError(f"trace {os.fspath(path)}: cannot be written: {error}") from error


def draw_calls(
    path: str | os.PathLike[str], report: Report, session: TimedSession, operators: Profile
) -> None:
    """Draw a session's timed calls, the operators, and what was sampled of the machine.

    Args:
        path: of the trace.
        report: of the measurement.
        session: whose calls are drawn, the first of them.
        operators: of one call.

    Raises:
        InputError: it cannot be written.
    """
    series, names = session.series, list(session.parts)
    count = min(len(series.start_ns), TRACE_CALLS)
    calls = [
        (start, start + latency, {name: session.parts[name][index] for name in names})
        for index, (start, latency) in enumerate(
            zip(series.start_ns[:count], series.latency_ns[:count], strict=True)
        )
    ]
    until = calls[-1][1]
    counters: dict[str, list[tuple[int, float | None]]] = {}
    for sample in report.device["during"]:
        at = round(sample["at_s"] * 1e9)
        if at > until:
            break
        frequency, temperature = sample.get("frequency_mhz"), sample.get("temperature_c")
        values = {f"temperature {zone} C": value for zone, value in (temperature or {}).items()}
        values["fastest core MHz"] = frequency["max"] if frequency else None
        for name, value in values.items():
            counters.setdefault(name, []).append((at, value))
    try:
        write_trace(
            path,
            calls,
            name=f"{report.bundle['name']} {report.variant}",
            operators=operators.spans,
            counters=counters,
            about={"calls drawn": count, "calls timed": len(series.start_ns)},
        )
    except OSError as error:
        raise InputError(f"trace {os.fspath(path)}: cannot be written: {error}") from error
