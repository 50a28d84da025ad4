"""``mmedge sweep``: all variants of a bundle side by side, with several numbers of threads."""

from __future__ import annotations

from dataclasses import replace

import typer

from mmedge.bench.arrivals import Load
from mmedge.bench.measure import CALLS, SESSIONS
from mmedge.bench.measure import bench as measure
from mmedge.bench.sweep import ROUNDS
from mmedge.bench.sweep import sweep as measure_all
from mmedge.cli.console import BundleArgument, phases
from mmedge.cli.measure_options import (
    CallsOption,
    MeasureOptions,
    SessionsOption,
    TokensOption,
    TraceOption,
)
from mmedge.cli.trust import TrustOptions

__all__ = ["sweep"]


def sweep(
    bundle: BundleArgument,
    *,
    calls: CallsOption = None,
    sessions: SessionsOption = None,
    tokens: TokensOption = None,
    trace: TraceOption = None,
    options: MeasureOptions,
    trust: TrustOptions,
) -> None:
    """Time all variants that run here side by side, with several thread counts, and advise one.

    The variant that a load takes is measured first, as mmedge bench does. Then all are timed in a
    closed loop, in turn.
    """
    warmup = options.warmup_calls()
    options.check_files(trace)
    count = calls or CALLS
    least = max(sessions or 1, ROUNDS)
    if count < least:
        raise typer.BadParameter(f"--calls: expected {least} or more, got {count}")
    trust.check(bundle)
    with options.reporting() as keep, phases() as tell:
        report = measure(
            bundle, options.backend, load=Load(calls=count), threads=options.threads,
            warmup=warmup, sessions=sessions or min(SESSIONS, count),
            tokens=tokens, deadline_ms=options.deadline, profiled=options.profile,
            trace=trace, on_report=keep, progress=tell,
        )  # fmt: skip
        rows, best = measure_all(
            bundle,
            threads=None if options.threads is None else [options.threads],
            calls=count,
            tokens=tokens,
            deadline_ms=options.deadline,
            backend=options.backend,
            progress=lambda phase, step, total: tell(f"all: {phase}", step, total),
        )
        keep(replace(report, variants=rows, recommended=best))
