"""``mmedge bench``: measure a bundle on this machine."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmedge.bench.arrivals import Load
from mmedge.bench.machine.background_load import Interference
from mmedge.bench.measure import CALLS, SESSIONS
from mmedge.bench.measure import bench as measure
from mmedge.bench.report.page import render
from mmedge.bench.sweep import ROUNDS, bench_all
from mmedge.cli.bench_tables import show
from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    emit,
    phases,
    say,
    settings,
    write_file,
)
from mmedge.cli.output import check_file, finite, misuse
from mmedge.errors import MMEdgeError

if TYPE_CHECKING:
    from mmedge.bench.report.report import Report

__all__ = ["bench"]

CallsOption = Annotated[
    int | None, typer.Option(help=f"Timed calls; {CALLS} where --seconds is not given.", min=1)
]
SecondsOption = Annotated[
    float | None,
    typer.Option(help="Time calls for so long, in place of --calls.", min=0.001, callback=finite),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        help="Calls arrive so many times a second, whether or not the last has ended; latency "
        "counts from the arrival.",
        min=0.001,
        callback=finite,
        metavar="HZ",
    ),
]
GapOption = Annotated[
    float | None,
    typer.Option(help="Pause after each call.", min=0.001, callback=finite, metavar="MS"),
]
WarmupOption = Annotated[
    str, typer.Option(help="Untimed calls before; auto: until latency is steady.", metavar="N|auto")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        help="Count calls that take longer than this.", min=0.001, callback=finite, metavar="MS"
    ),
]
InterferenceOption = Annotated[
    str | None,
    typer.Option(
        help="A second load meanwhile: cpu:N (busy processes), memory:N (processes that copy "
        "memory), or a command.",
        metavar="LOAD",
    ),
]
ProfileOption = Annotated[
    bool, typer.Option("--profile/--no-profile", help="Run once more for the time by operator.")
]
SessionsOption = Annotated[
    int | None,
    typer.Option(
        help="Load the bundle anew so many times, each for a share of the calls, so that what "
        f"differs between loads is in the intervals; {SESSIONS}, and 1 with --seconds.",
        min=1,
    ),
]
StreamOption = Annotated[
    bool, typer.Option("--stream", help="Push golden samples to a stream at their nominal rates.")
]
ReplayOption = Annotated[
    Path | None, typer.Option(help="Push a recording to a stream as it came (mmedge record).")
]
SkipGapsOption = Annotated[
    bool | None,
    typer.Option(
        "--skip-gaps/--no-skip-gaps",
        help="Leave a second of each time in which a recording has no sample for over 10 s, or "
        "wait for it; without either such a recording is refused.",
    ),
]
TriggerOption = Annotated[
    str | None,
    typer.Option(help="What a stream's result is made for: a modality, any, or a rate in Hz."),
]
AllOption = Annotated[
    bool,
    typer.Option(
        "--all", help="Measure all variants that run here, with several thread counts, too."
    ),
]
HtmlOption = Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")]
TraceOption = Annotated[
    Path | None, typer.Option(help="Write the timed calls for Perfetto or chrome://tracing.")
]


def bench(
    bundle: BundleArgument,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the report as JSON.")
    ] = None,
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
    stream: StreamOption = False,
    replay: ReplayOption = None,
    skip_gaps: SkipGapsOption = None,
    trigger: TriggerOption = None,
    all_variants: AllOption = False,
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
    before = _warmup(warmup)
    for option, path in (("--output", output), ("--html", html), ("--trace", trace)):
        check_file(path, option)
    with misuse("--interference"):
        second = Interference(interference) if interference is not None else None
    failed: MMEdgeError | None = None
    shared: dict[str, Any] = {"threads": threads, "warmup": before, "deadline_ms": deadline}
    if stream or replay is not None:
        if trigger is None:
            raise typer.BadParameter("--stream and --replay need --trigger: a modality, any or Hz")
        _refuse_beside(
            "--stream and --replay", calls=calls, rate=rate, gap=gap, trace=trace,
            all=all_variants or None, sessions=sessions,
        )  # fmt: skip
        if replay is not None:
            _refuse_beside("--replay, which takes as long as the recording", seconds=seconds)
        else:
            _refuse_beside("--stream, which has no gaps", skip_gaps=skip_gaps)
        from mmedge.bench.replay import SECONDS, bench_stream

        with phases() as tell, second or nullcontext():
            report = bench_stream(
                bundle, backend, precision, device, trigger=_trigger(trigger), recording=replay,
                seconds=seconds or SECONDS, profiled=profile, progress=tell,
                skip_gaps=skip_gaps, say=say, **shared,
            )  # fmt: skip
        if second is not None:
            # There is no end between the stream and what follows it.
            words = f"{second.words}, and during the cold start and the profile"
            report = replace(report, load={**report.load, "interference": words})
    else:
        _refuse_beside("a run without --stream or --replay", trigger=trigger, skip_gaps=skip_gaps)
        if all_variants:
            # The variants are timed in a closed loop on the quiet machine, all of them.
            _refuse_beside(
                "--all", interference=interference, rate=rate, gap=gap, seconds=seconds,
                precision=precision, device=device,
            )  # fmt: skip
        load = _load(calls, seconds, rate, gap)
        least = max(sessions or 1, ROUNDS if all_variants else 1)
        if load.calls is not None and load.calls < least:
            raise typer.BadParameter(f"--calls: expected {least} or more, got {load.calls}")
        kept: list[Report] = []
        with phases() as tell:
            try:
                measure(
                    bundle, backend, precision, device, load=load,
                    sessions=sessions or (1 if load.calls is None else min(SESSIONS, load.calls)),
                    interference=interference, profiled=profile, trace=trace,
                    measured=kept.append, progress=tell, **shared,
                )  # fmt: skip
                if all_variants:
                    rows, best = bench_all(
                        bundle,
                        threads=None if threads is None else [threads],
                        calls=load.calls or CALLS,
                        deadline_ms=deadline,
                        backend=backend,
                        progress=lambda phase, done, total: tell(f"all: {phase}", done, total),
                    )
                    kept.append(replace(kept[0], variants=rows, recommended=best))
            except MMEdgeError as error:
                if not kept:
                    raise
                failed = error
        report = kept[-1]
    report = replace(report, command=settings.command)
    if as_json:
        emit(report.to_json())
    else:
        show(report)
    # Printed first: a measurement is not lost when the disk refuses.
    if output is not None:
        write_file(output, report.to_json().encode())
    if html is not None:
        write_file(html, render(report).encode(), "--html")
    if failed is not None:
        raise failed


def _refuse_beside(what: str, **given: object) -> None:
    """Options that would say nothing beside others are misuse."""
    given = {name.replace("_", "-"): value for name, value in given.items()}
    names = ", ".join(f"--{name}" for name, value in given.items() if value is not None)
    if names:
        raise typer.BadParameter(f"{names} cannot be given with {what}")


def _trigger(text: str) -> str | float:
    try:
        hz = float(text)
    except ValueError:
        return text
    if not 0 < hz < float("inf"):
        raise typer.BadParameter(
            f"expected a modality, any, or a rate above 0 Hz; got {text}", param_hint="--trigger"
        )
    return hz


def _load(calls: int | None, seconds: float | None, rate: float | None, gap: float | None) -> Load:
    if calls is not None and seconds is not None:
        raise typer.BadParameter("--calls and --seconds both say when to end: give one of them")
    if rate is not None and gap is not None:
        raise typer.BadParameter("--rate and --gap both say when calls are made: give one of them")
    kind = "rate" if rate is not None else "gap" if gap is not None else "closed"
    if seconds is None:
        return Load(kind, calls or CALLS, rate_hz=rate, gap_ms=gap)
    return Load(kind, seconds=seconds, rate_hz=rate, gap_ms=gap)


def _warmup(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"--warmup: expected a number of calls or auto, got {text!r}")
    return int(text)
