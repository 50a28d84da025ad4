"""Options that the verbs which measure share, and what becomes of their report."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge.bench.machine.background_load import Interference
from mmedge.bench.measure import CALLS, SESSIONS
from mmedge.bench.report.page import render
from mmedge.cli.bench_tables import show
from mmedge.cli.console import (
    BackendOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    emit,
    settings,
    write_file,
)
from mmedge.cli.output import check_file, finite, misuse
from mmedge.errors import MMEdgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
TokensOption = Annotated[
    int | None,
    typer.Option(
        help="Of a bundle that generates: tokens of each call, whatever would stop it; its limit "
        "or 64, whichever is less.",
        min=1,
    ),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        help="Count calls that take longer than this. Of a stream: results that come later count "
        "as missed, and it may repeat old outputs to keep the time.",
        min=0.001,
        callback=finite,
        metavar="MS",
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
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the report as JSON.")
]
HtmlOption = Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")]
TraceOption = Annotated[
    Path | None, typer.Option(help="Write the timed calls for Perfetto or chrome://tracing.")
]


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options of every verb that measures."""

    output: OutputOption = None
    html: HtmlOption = None
    warmup: WarmupOption = "auto"
    deadline: DeadlineOption = None
    profile: ProfileOption = True
    backend: BackendOption = "auto"
    threads: ThreadsOption = None
    as_json: JsonOption = False

    def check_files(self, trace: Path | None = None) -> None:
        """Refuse what cannot be written before anything is measured."""
        files = {"--output": self.output, "--html": self.html, "--trace": trace}
        for option, path in files.items():
            check_file(path, option)

    def warmup_calls(self) -> int | None:
        """What --warmup says: a number of calls, or None for auto."""
        if self.warmup == "auto":
            return None
        if not self.warmup.isdecimal():
            raise typer.BadParameter(
                f"--warmup: expected a number of calls or auto, got {self.warmup!r}"
            )
        return int(self.warmup)

    @contextmanager
    def reporting(self) -> Iterator[Callable[[Report], None]]:
        """Take reports, and print and write the last one at the end.

        A measurement is not lost where what follows it fails: the report comes first, then the
        error.
        """
        reports: list[Report] = []
        failure: MMEdgeError | None = None
        try:
            yield reports.append
        except MMEdgeError as error:
            if not reports:
                raise
            failure = error
        self._emit(replace(reports[-1], command=settings.command))
        if failure is not None:
            raise failure

    def _emit(self, report: Report) -> None:
        if self.as_json:
            emit(report.to_json())
        else:
            show(report)
        # Printed first: a measurement is not lost when the disk refuses.
        if self.output is not None:
            write_file(self.output, report.to_json().encode())
        if self.html is not None:
            write_file(self.html, render(report).encode(), "--html")


@dataclass(frozen=True, kw_only=True)
class VariantOptions(MeasureOptions):
    """Options of the verbs that measure one variant."""

    interference: InterferenceOption = None
    precision: PrecisionOption = None
    device: DeviceOption = None

    def background_load(self) -> Interference | None:
        """What --interference says.

        Raises:
            BadParameter: it cannot be started.
        """
        if self.interference is None:
            return None
        with misuse("--interference"):
            return Interference(self.interference)
