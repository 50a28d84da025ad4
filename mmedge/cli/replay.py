"""``mmedge replay``: measure a stream of a bundle on this machine."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mmedge.bench.machine.background_load import Interference
from mmedge.bench.replay import SECONDS, bench_stream
from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    phases,
    say,
)
from mmedge.cli.measure_options import (
    DeadlineOption,
    HtmlOption,
    InterferenceOption,
    OutputOption,
    ProfileOption,
    SkipGapsOption,
    TriggerOption,
    WarmupOption,
    check_files,
    tell_report,
    warmup_calls,
)
from mmedge.cli.output import finite, misuse

__all__ = ["replay"]

RecordingArgument = Annotated[
    Path | None,
    typer.Argument(
        help="What mmedge record wrote; without it golden samples come at their nominal rates."
    ),
]
SecondsOption = Annotated[
    float | None,
    typer.Option(help=f"How long golden samples come; {SECONDS:g} s.", min=0.001, callback=finite),
]


def replay(
    bundle: BundleArgument,
    recording: RecordingArgument = None,
    *,
    trigger: TriggerOption,
    output: OutputOption = None,
    html: HtmlOption = None,
    seconds: SecondsOption = None,
    warmup: WarmupOption = "auto",
    deadline: DeadlineOption = None,
    interference: InterferenceOption = None,
    skip_gaps: SkipGapsOption = None,
    profile: ProfileOption = True,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Push a recording to a stream as it came, and measure the results: ages, drops, deadlines."""
    before = warmup_calls(warmup)
    check_files(output, html)
    with misuse("--interference"):
        second = Interference(interference) if interference is not None else None
    if recording is not None and seconds is not None:
        raise typer.BadParameter(
            "--seconds cannot be given with a recording, which takes as long as it took"
        )
    if recording is None and skip_gaps is not None:
        raise typer.BadParameter(
            "--skip-gaps cannot be given without a recording: golden samples have no gaps"
        )
    with phases() as tell, second or nullcontext():
        report = bench_stream(
            bundle, backend, precision, device, trigger=_trigger(trigger), recording=recording,
            seconds=seconds or SECONDS, deadline_ms=deadline, threads=threads, warmup=before,
            profiled=profile, progress=tell, skip_gaps=skip_gaps, say=say,
        )  # fmt: skip
    if second is not None:
        # There is no end between the stream and what follows it.
        words = f"{second.words}, and during the cold start and the profile"
        report = replace(report, load={**report.load, "interference": words})
    tell_report(report, output, html, as_json=as_json)


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
