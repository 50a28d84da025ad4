"""``mmedge bench``: measure single calls of a bundle on this machine."""

from __future__ import annotations

import typer

from mmedge.bench.arrivals import Kind, Load
from mmedge.bench.machine.background_load import Interference
from mmedge.bench.measure import CALLS, SESSIONS
from mmedge.bench.measure import bench as measure
from mmedge.bench.report.report import Report
from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    phases,
)
from mmedge.cli.measure_options import (
    CallsOption,
    DeadlineOption,
    GapOption,
    HtmlOption,
    InterferenceOption,
    OutputOption,
    ProfileOption,
    RateOption,
    SecondsOption,
    SessionsOption,
    TraceOption,
    WarmupOption,
    check_files,
    tell_report,
    warmup_calls,
)
from mmedge.cli.output import misuse
from mmedge.errors import MMEdgeError

__all__ = ["bench"]


def bench(
    bundle: BundleArgument,
    *,
    output: OutputOption = None,
    html: HtmlOption = None,
    trace: TraceOption = None,
    calls: CallsOption = None,
    seconds: SecondsOption = None,
    rate: RateOption = None,
    gap: GapOption = None,
    warmup: WarmupOption = "auto",
    deadline: DeadlineOption = None,
    interference: InterferenceOption = None,
    sessions: SessionsOption = None,
    profile: ProfileOption = True,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time calls after checking that they compute the right thing, and say where time goes.

    Calls follow one another unless --rate or --gap says otherwise.
    """
    before = warmup_calls(warmup)
    check_files(output, html, trace)
    if interference is not None:
        with misuse("--interference"):
            Interference(interference)
    load = _load(calls, seconds, rate, gap)
    if load.calls is not None and load.calls < (sessions or 1):
        raise typer.BadParameter(f"--calls: expected {sessions} or more, got {load.calls}")
    kept: list[Report] = []
    failed: MMEdgeError | None = None
    with phases() as tell:
        try:
            measure(
                bundle, backend, precision, device, load=load, threads=threads, warmup=before,
                sessions=sessions or (1 if load.calls is None else min(SESSIONS, load.calls)),
                deadline_ms=deadline, interference=interference, profiled=profile, trace=trace,
                measured=kept.append, progress=tell,
            )  # fmt: skip
        except MMEdgeError as error:
            if not kept:
                raise
            failed = error
    tell_report(kept[-1], output, html, as_json=as_json)
    if failed is not None:
        raise failed


def _load(calls: int | None, seconds: float | None, rate: float | None, gap: float | None) -> Load:
    if calls is not None and seconds is not None:
        raise typer.BadParameter("--calls and --seconds both say when to end: give one of them")
    if rate is not None and gap is not None:
        raise typer.BadParameter("--rate and --gap both say when calls are made: give one of them")
    kind: Kind = "rate" if rate is not None else "gap" if gap is not None else "closed"
    if seconds is None:
        return Load(kind, calls or CALLS, rate_hz=rate, gap_ms=gap)
    return Load(kind, seconds=seconds, rate_hz=rate, gap_ms=gap)
