"""``mmedge bench``: measure single calls of a bundle on this machine."""

from __future__ import annotations

import typer

from mmedge.bench.arrivals import Kind, Load
from mmedge.bench.measure import CALLS, SESSIONS
from mmedge.bench.measure import bench as measure
from mmedge.cli.console import BundleArgument, PlanOption, phases
from mmedge.cli.measure_options import (
    CallsOption,
    GapOption,
    RateOption,
    SecondsOption,
    SessionsOption,
    TokensOption,
    TraceOption,
    VariantOptions,
)
from mmedge.cli.trust import TrustOptions

__all__ = ["bench"]


def bench(
    bundle: BundleArgument,
    *,
    calls: CallsOption = None,
    seconds: SecondsOption = None,
    rate: RateOption = None,
    gap: GapOption = None,
    sessions: SessionsOption = None,
    tokens: TokensOption = None,
    trace: TraceOption = None,
    plan: PlanOption = None,
    options: VariantOptions,
    trust: TrustOptions,
) -> None:
    """Time calls after checking that they compute the right thing, and say where time goes.

    Calls follow one another unless --rate or --gap says otherwise.
    """
    warmup = options.warmup_calls()
    options.check_files(trace)
    options.background_load()
    load = _load(calls, seconds, rate, gap)
    if load.calls is not None and load.calls < (sessions or 1):
        raise typer.BadParameter(f"--calls: expected {sessions} or more, got {load.calls}")
    trust.check(bundle)
    with options.reporting() as keep, phases() as tell:
        measure(
            bundle, options.backend, options.precision, options.device,
            plan=plan, load=load, threads=options.threads, warmup=warmup,
            tokens=tokens,
            sessions=sessions or (1 if load.calls is None else min(SESSIONS, load.calls)),
            deadline_ms=options.deadline, interference=options.interference,
            profiled=options.profile, trace=trace, on_report=keep, progress=tell,
        )  # fmt: skip


def _load(calls: int | None, seconds: float | None, rate: float | None, gap: float | None) -> Load:
    if calls is not None and seconds is not None:
        raise typer.BadParameter("--calls and --seconds both say when to end: give one of them")
    if rate is not None and gap is not None:
        raise typer.BadParameter("--rate and --gap both say when calls are made: give one of them")
    kind: Kind = "rate" if rate is not None else "gap" if gap is not None else "closed"
    if seconds is None:
        return Load(kind, calls or CALLS, rate_hz=rate, gap_ms=gap)
    return Load(kind, seconds=seconds, rate_hz=rate, gap_ms=gap)
