"""``mmedge sweep``: all variants of a bundle side by side, with several numbers of threads."""

from __future__ import annotations

from dataclasses import replace

import typer

from mmedge.bench.arrivals import Load
from mmedge.bench.measure import CALLS, SESSIONS
from mmedge.bench.measure import bench as measure
from mmedge.bench.report.report import Report
from mmedge.bench.sweep import ROUNDS
from mmedge.bench.sweep import sweep as measure_all
from mmedge.cli.console import BackendOption, BundleArgument, JsonOption, ThreadsOption, phases
from mmedge.cli.measure_options import (
    CallsOption,
    DeadlineOption,
    HtmlOption,
    OutputOption,
    ProfileOption,
    SessionsOption,
    TraceOption,
    WarmupOption,
    check_files,
    tell_report,
    warmup_calls,
)
from mmedge.errors import MMEdgeError

__all__ = ["sweep"]


def sweep(
    bundle: BundleArgument,
    *,
    output: OutputOption = None,
    html: HtmlOption = None,
    trace: TraceOption = None,
    calls: CallsOption = None,
    warmup: WarmupOption = "auto",
    deadline: DeadlineOption = None,
    sessions: SessionsOption = None,
    profile: ProfileOption = True,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time all variants that run here side by side, with several thread counts, and advise one.

    The variant that a load takes is measured first, as mmedge bench does. Then all are timed in a
    closed loop, in turn.
    """
    before = warmup_calls(warmup)
    check_files(output, html, trace)
    count = calls or CALLS
    least = max(sessions or 1, ROUNDS)
    if count < least:
        raise typer.BadParameter(f"--calls: expected {least} or more, got {count}")
    kept: list[Report] = []
    failed: MMEdgeError | None = None
    with phases() as tell:
        try:
            measure(
                bundle, backend, load=Load(calls=count), threads=threads, warmup=before,
                sessions=sessions or min(SESSIONS, count), deadline_ms=deadline, profiled=profile,
                trace=trace, measured=kept.append, progress=tell,
            )  # fmt: skip
            rows, best = measure_all(
                bundle,
                threads=None if threads is None else [threads],
                calls=count,
                deadline_ms=deadline,
                backend=backend,
                progress=lambda phase, done, total: tell(f"all: {phase}", done, total),
            )
            kept.append(replace(kept[0], variants=rows, recommended=best))
        except MMEdgeError as error:
            if not kept:
                raise
            failed = error
    tell_report(kept[-1], output, html, as_json=as_json)
    if failed is not None:
        raise failed
