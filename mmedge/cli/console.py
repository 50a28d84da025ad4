"""How every verb speaks: tables or JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from mmedge.errors import InputError

__all__ = [
    "BackendOption",
    "BundleArgument",
    "DeviceOption",
    "JsonOption",
    "PrecisionOption",
    "ThreadsOption",
    "emit_json",
    "number",
    "phases",
    "stderr",
    "table",
    "write_file",
]

BundleArgument = Annotated[str, typer.Argument(help="A bundle: a directory or a .mmedge file.")]
BackendOption = Annotated[str, typer.Option(help="auto, ort, openvino, tensorrt or tensorrt_rtx.")]
PrecisionOption = Annotated[str | None, typer.Option(help="Only variants of this precision.")]
DeviceOption = Annotated[str | None, typer.Option(help="Only variants for cpu, cuda or sm_NN.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads per stage.", min=1)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def stderr() -> Console:
    """Where words go. Made anew each time, since tests and callers replace ``sys.stderr``."""
    return Console(stderr=True, highlight=False)


def emit_json(data: Any) -> None:  # noqa: ANN401
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_file(path: Path, data: bytes) -> None:
    """Write what ``--output`` asked for.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"--output {path}: cannot be written: {error}") from error
    stderr().print(f"wrote {path}", markup=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; when stdout is no terminal it is as wide as its content."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    grid = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = bool(rows) and all(_numeric(row[index]) for row in rows)
        grid.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        # Text of a bundle is data: square brackets in it are no markup.
        grid.add_row(*(_cell(value) for value in row))
    console.print(grid)


def number(value: float | None, unit: str = "") -> str:
    """A figure to three significant digits; ``-`` where there is none."""
    if value is None:
        return "-"
    return f"{value:.4g}{' ' + unit if unit else ''}"


@contextmanager
def phases(console: Console | None = None) -> Iterator[Any]:
    """A progress bar per phase on stderr; yields ``tell(phase, done, total)``.

    Lines that are printed meanwhile belong on the same ``console``.
    """
    console = console or stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # No refresh thread: it would take the interpreter from what is being timed.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, auto_refresh=False
    ) as progress:
        tasks: dict[str, Any] = {}

        def tell(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total)
            progress.update(tasks[phase], completed=done, refresh=True)

        yield tell


def _numeric(value: object) -> bool:
    text = str(value).replace("-", "", 1)
    return isinstance(value, int | float) or text[:1].isdigit() or text == ""


def _cell(value: object) -> str:
    from rich.markup import escape

    if isinstance(value, Mapping):
        value = ", ".join(f"{key}={item}" for key, item in value.items())
    return escape(str(value))
