"""``mmedge compare``: what differs between two reports, and whether it may."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmedge.bench.compare import Comparison, Row
from mmedge.bench.compare import compare as set_against
from mmedge.bench.gates import parse_gate
from mmedge.bench.report import Report
from mmedge.cli.console import JsonOption, emit_json, number, stderr, table
from mmedge.errors import InputError

__all__ = ["compare"]


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="The baseline's report.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="The report to compare with it.")],
    *,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit 1 when a figure is shown to be worse by more than this, such as p99=5%, "
            "p50=0.2ms or metric=0.005. May be given several times."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two reports of mmedge bench, with confidence, and hold gates against them."""
    try:
        gates = [parse_gate(text) for text in gate or ()]
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--gate") from error
    found = set_against(Report.from_json(a), Report.from_json(b), gates)
    if as_json:
        emit_json(found.to_dict())
    else:
        _show(a, b, found)
    if not found.ok:
        raise typer.Exit(1)


def _show(a: Path, b: Path, found: Comparison) -> None:
    rows = [_cells(row) for row in found.rows if row.a is not None or row.b is not None]
    columns = ("figure", "A", "B", "difference", "B / A", "95 % interval", "verdict")
    table(f"A: {a}, B: {b}", columns, rows)
    if found.explanations:
        table("what may explain it", ("of the device",), [(line,) for line in found.explanations])
    if found.gates:
        table(
            "gates",
            ("gate", "verdict", "why"),
            [
                (outcome.gate.text, "BROKEN" if outcome.broken else "kept", outcome.why)
                for outcome in found.gates
            ],
        )
    for remark in found.remarks:
        stderr().print(remark, markup=False, soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
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
