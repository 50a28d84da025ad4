"""Options that the verbs which measure share, and what becomes of their report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge.bench.measure import CALLS, SESSIONS
from mmedge.bench.report.page import render
from mmedge.cli.bench_tables import show
from mmedge.cli.console import emit, settings, write_file
from mmedge.cli.output import check_file, finite

if TYPE_CHECKING:
    from mmedge.bench.report.report import Report

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
SkipGapsOption = Annotated[
    bool | None,
    typer.Option(
        "--skip-gaps/--no-skip-gaps",
        help="Leave a second of each time in which a recording has no sample for over 10 s, or "
        "wait for it; without either such a recording is refused.",
    ),
]
TriggerOption = Annotated[
    str, typer.Option(help="What a result is made for: a modality, any, or a rate in Hz.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the report as JSON.")
]
HtmlOption = Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")]
TraceOption = Annotated[
    Path | None, typer.Option(help="Write the timed calls for Perfetto or chrome://tracing.")
]


def check_files(output: Path | None, html: Path | None, trace: Path | None = None) -> None:
    """Refuse what cannot be written before anything is measured."""
    for option, path in (("--output", output), ("--html", html), ("--trace", trace)):
        check_file(path, option)


def warmup_calls(text: str) -> int | None:
    """What --warmup says: a number of calls, or None for auto."""
    if text == "auto":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"--warmup: expected a number of calls or auto, got {text!r}")
    return int(text)


def tell_report(report: Report, output: Path | None, html: Path | None, *, as_json: bool) -> None:
    """Print a report and write it where asked."""
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
