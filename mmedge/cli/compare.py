"""``mmedge compare``: what differs between two reports, and whether it may."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mmedge.bench.interleaved import CALLS, SESSIONS, bench_pair
from mmedge.bench.report.compare import Comparison
from mmedge.bench.report.compare import compare as set_against
from mmedge.bench.report.compared_figure import ComparedFigure
from mmedge.bench.report.gates import parse_gate
from mmedge.bench.report.report import Report
from mmedge.bench.stats.resample import LEAST_PARTS
from mmedge.bundle.write import SUFFIX
from mmedge.cli.bench_tables import busy_remarks
from mmedge.cli.console import (
    BackendOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    emit_json,
    number,
    phases,
    settings,
    table,
    warn,
    write_file,
)
from mmedge.cli.measure_options import TokensOption
from mmedge.cli.output import misuse
from mmedge.errors import InputError

__all__ = ["compare"]


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The baseline: a report or a bundle.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it: the same.")],
    *,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit 1 when a figure is shown to be worse by more than this, such as p99=5%, "
            "p50=0.2ms or metric=0.005. May be given several times."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Of two bundles: folder for their reports, a.json and b.json."
        ),
    ] = None,
    calls: Annotated[
        int | None, typer.Option(help=f"Of two bundles: timed calls of each; {CALLS}.", min=1)
    ] = None,
    sessions: Annotated[
        int | None,
        typer.Option(
            help=f"Of two bundles: how often each is loaded anew; {SESSIONS}.", min=LEAST_PARTS
        ),
    ] = None,
    tokens: TokensOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two reports of mmedge bench, or measure two bundles in turn and compare them.

    Calls of two bundles take turns, and sessions side by side are compared: so a machine whose
    speed drifts tells them apart as well. Gates are held against what was found, with confidence.
    """
    with misuse("--gate"):
        gates = [parse_gate(text) for text in gate or ()]
    bundles = [path.is_dir() or path.suffix == SUFFIX for path in (a, b)]
    if bundles[0] != bundles[1]:
        raise typer.BadParameter(f"expected two reports or two bundles, got {a} and {b}")
    if bundles[0]:
        total = calls or (sessions or SESSIONS) * (CALLS // SESSIONS)
        if total < (sessions or SESSIONS):
            raise typer.BadParameter(
                f"--calls: expected {sessions or SESSIONS} or more, one a session, got {total}"
            )
        if never := [one.text for one in gates if one.name in ("energy", "deadline")]:
            raise typer.BadParameter(
                f"--gate {never[0]}: two bundles measured in turn have no energy and no deadline; "
                "compare reports of mmedge bench for it"
            )
        if output is not None:
            _check_folder(output)
        with phases() as tell:
            reports = bench_pair(
                (str(a), str(b)), backend, precision, device,
                threads=threads, calls=total, sessions=sessions or SESSIONS, tokens=tokens,
                progress=tell,
            )  # fmt: skip
        reports = (
            replace(reports[0], command=settings.command),
            replace(reports[1], command=settings.command),
        )
        for remark in busy_remarks(reports[0]):  # they took turns: it holds of both
            warn(remark)
    else:
        bundle_options: dict[str, object] = {
            "output": output,
            "calls": calls,
            "sessions": sessions,
            "tokens": tokens,
            "threads": threads,
        }
        bundle_options |= {"precision": precision, "device": device}
        bundle_options["backend"] = None if backend == "auto" else backend
        if options := [name for name, value in bundle_options.items() if value is not None]:
            names = ", ".join(f"--{name}" for name in options)
            raise typer.BadParameter(f"{names}: of two bundles, and these are reports")
        reports = Report.from_json(a), Report.from_json(b)
    refused: InputError | None = None
    try:
        comparison = set_against(*reports, gates)
    except InputError as error:  # of a gate: the measurement is not lost for it
        comparison, refused = set_against(*reports), error
    if as_json:
        emit_json(comparison.to_dict())
    else:
        _show(a, b, comparison)
    # Printed first: nor when the disk refuses.
    if output is not None:
        _make_folder(output)
        for name, report in zip("ab", reports, strict=True):
            write_file(output / f"{name}.json", report.to_json().encode())
    if refused is not None:
        raise refused
    if not comparison.ok:
        raise typer.Exit(1)


def _check_folder(path: Path) -> None:
    """Refuse before the work what could not be made after it. Nothing is made yet."""
    place = path.absolute()
    there = next(one for one in (place, *place.parents) if os.path.lexists(one))
    if not there.is_dir():
        raise typer.BadParameter(f"{there} is no folder", param_hint="--output")
    if not os.access(there, os.W_OK):
        raise typer.BadParameter(f"{there} cannot be written to", param_hint="--output")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {path}: cannot be made: {error}") from error


def _show(a: Path, b: Path, comparison: Comparison) -> None:
    rows = [_cells(row) for row in comparison.rows if row.a is not None or row.b is not None]
    columns = ("figure", "A", "B", "difference", "B / A", "95 % interval", "verdict")
    table(f"A: {a}, B: {b}", columns, rows)
    if comparison.explanations:
        table(
            "what may explain it", ("of the device",), [(line,) for line in comparison.explanations]
        )
    if comparison.gates:
        table(
            "gates",
            ("gate", "verdict", "why"),
            [
                (outcome.gate.text, "BROKEN" if outcome.broken else "kept", outcome.why)
                for outcome in comparison.gates
            ],
        )
    for remark in comparison.remarks:
        warn(remark)


def _cells(row: ComparedFigure) -> tuple[str, ...]:
    interval = ""
    if row.ratio_95 is not None:
        interval = f"{row.ratio_95[0]:.4f} to {row.ratio_95[1]:.4f}"
    elif row.difference_95 is not None:
        interval = f"B - A: {row.difference_95[0]:.4g} to {row.difference_95[1]:.4g}"
    return (
        row.name,
        _amount(row.a, row.unit),
        _amount(row.b, row.unit),
        _amount(row.difference, row.unit),
        "-" if row.ratio is None else f"{row.ratio:.4f}",
        interval,
        f"{row.verdict}: {row.note}" if row.note else row.verdict,
    )


def _amount(value: float | None, unit: str) -> str:
    if unit == "bytes" and value is not None:
        return number(value / 2**20, "MiB")
    return number(value, "" if unit == "share" else unit)
