"""How every verb speaks: tables or JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from mmedge.backends.registry import BACKENDS
from mmedge.errors import InputError
from mmedge.spec import PlanName, RuntimeName

__all__ = [
    "BackendOption",
    "BundleArgument",
    "DeviceOption",
    "JsonOption",
    "PlanOption",
    "PrecisionOption",
    "RuntimeOption",
    "ThreadsOption",
    "emit",
    "emit_json",
    "list_not_checked",
    "number",
    "phases",
    "say",
    "settings",
    "stderr",
    "stdout",
    "table",
    "visible",
    "waiting",
    "warn",
    "write_file",
]

BundleArgument = Annotated[str, typer.Argument(help="A bundle: a directory or a .mmedge file.")]


def _backend(name: str) -> str:
    names = ("auto", *BACKENDS)
    if name.replace("-", "_") not in names:
        raise typer.BadParameter(f"expected {', '.join(names)}; got {name!r}")
    return name


def _device(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"cpu|cuda|sm_[0-9]{2,3}", name):
        raise typer.BadParameter(f"expected cpu, cuda or sm_NN such as sm_87; got {name!r}")
    return name


BackendOption = Annotated[
    str,
    typer.Option(help="auto, ort, openvino, tensorrt or tensorrt_rtx.", callback=_backend),
]
PrecisionOption = Annotated[str | None, typer.Option(help="Only variants of this precision.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="Only variants for cpu, cuda or sm_NN.", callback=_device)
]


def _read_plan(value: str) -> PlanName:
    for plan in get_args(PlanName):
        if value == plan:
            return cast("PlanName", plan)
    raise typer.BadParameter(f"expected cut or whole, got {value!r}")


PlanOption = Annotated[
    PlanName | None,
    typer.Option(
        help="whole (one graph), or cut (by modality). Without it: what mmedge tune measured on "
        "this device, else whole.",
        metavar="cut|whole",
        parser=_read_plan,
    ),
]


def _read_runtime(value: str) -> RuntimeName:
    for runtime in get_args(RuntimeName):
        if value == runtime:
            return cast("RuntimeName", runtime)
    raise typer.BadParameter(f"expected python or native, got {value!r}")


RuntimeOption = Annotated[
    RuntimeName,
    typer.Option(
        help="python, or native: libmmedge, the runtime in C++.",
        metavar="python|native",
        parser=_read_runtime,
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads per stage.", min=1)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


#: Seconds after which work that says nothing says that it goes on, and between two such lines where
#: standard error is no terminal.
PATIENCE_S, LINE_S = 2.0, 5.0


@dataclass
class Settings:
    """How the command speaks: its options, and whether stdout has its JSON document yet.

    Attributes:
        verbose: say more.
        quiet: warnings and errors alone.
        debug: show tracebacks.
        json: one JSON document on stdout.
        emitted: it is there.
        command: the words as they were typed; None in a program that calls a verb.
        start: when the command began, on the monotonic clock.
    """

    verbose: bool = False
    quiet: bool = False
    debug: bool = False
    json: bool = False
    emitted: bool = False
    command: str | None = None
    start: float = field(default_factory=monotonic)

    def reset(self) -> None:
        """A new command begins."""
        self.__init__()  # type: ignore[misc]

    def take(self, *, verbose: bool, quiet: bool, debug: bool) -> None:
        """Add the options that stand before or behind the verb."""
        self.verbose |= verbose
        self.quiet |= quiet
        self.debug |= debug
        if self.verbose and self.quiet:
            raise typer.BadParameter("--verbose and --quiet cannot be given together")


settings = Settings()


#: Characters that a terminal acts on and does not show: controls but for newline and tab, marks
#: that change the direction of writing, separators of lines, and halves of surrogate pairs.
_ACTING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """``text`` with an escape in place of each character that a terminal acts on.

    Names, paths and messages come from bundles, graphs, recordings and reports of others.
    """
    return _ACTING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class SafeConsole(Console):
    """A console that shows what it is told to print as text, whatever is in it."""

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401
        """See :meth:`rich.console.Console.print`; tables are made of visible text by the caller."""
        super().print(
            *(visible(item) if isinstance(item, str) else item for item in objects), **options
        )


def stderr() -> Console:
    """Where words go. Made anew each time, since tests and callers replace ``sys.stderr``."""
    return SafeConsole(stderr=True, highlight=False)


def stdout() -> Console:
    """Where results go, made anew each time."""
    return SafeConsole(highlight=False)


def say(line: str, console: Console | None = None) -> None:
    """Progress or a remark on stderr, unless --quiet was given."""
    if settings.quiet:
        return
    if settings.verbose:
        line = f"[{monotonic() - settings.start:7.1f} s] {line}"
    (console or stderr()).print(line, style="dim", markup=False, soft_wrap=True)


def warn(line: str, console: Console | None = None) -> None:
    """What a reader must know before believing the result: on stderr, with --quiet too."""
    (console or stderr()).print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


def emit_json(data: Any) -> None:  # noqa: ANN401
    """One JSON document on stdout."""
    emit(json.dumps(data, indent=2, allow_nan=False) + "\n")


def emit(document: str) -> None:
    """The JSON document on stdout, as text."""
    # JSON leaves this one control as it is.
    sys.stdout.write(document.replace("\x7f", "\\u007f"))
    settings.emitted = True


def write_file(path: Path, data: bytes, option: str = "--output") -> None:
    """Write what an option asked for.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written: {error}") from error
    say(f"wrote {path}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; when stdout is no terminal it is as wide as its content."""
    console = stdout()
    if not console.is_terminal:
        console.width = 200
    grid = Table(title=_cell(title), title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = bool(rows) and all(_numeric(row[index]) for row in rows)
        grid.add_column(_cell(column), justify="right" if right else "left", overflow="fold")
    for row in rows:
        # Text of a bundle is data: square brackets in it are no markup.
        grid.add_row(*(_cell(value) for value in row))
    console.print(grid)


def list_not_checked(lines: Sequence[str]) -> None:
    """What was not checked, as a list on stdout under that title; an empty one prints nothing."""
    if not lines:
        return
    console = stdout()
    console.print("Not checked", style="bold")
    for line in lines:
        console.print(f"  - {line}", markup=False, soft_wrap=True)


def number(value: float | None, unit: str = "") -> str:
    """A figure to three significant digits; ``-`` where there is none."""
    if value is None:
        return "-"
    return f"{value:.4g}{' ' + unit if unit else ''}"


@contextmanager
def phases(console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar per phase on stderr; yields ``tell(phase, done, total)``.

    Where stderr is no terminal, a line per phase, and another one every :data:`LINE_S` seconds.
    Lines that are printed meanwhile belong on the same ``console``.
    """
    console = console or stderr()
    if not console.is_terminal or settings.quiet:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    # No refresh thread: it would take the interpreter from what is being timed.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        tasks: dict[str, Any] = {}

        def tell(phase: str, step: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(visible(phase), total=total)
            progress.update(tasks[phase], completed=step, refresh=True)

        yield tell


def _lines(console: Console) -> Callable[[str, int, int], None]:
    last_line: dict[str, float] = {}

    def tell(phase: str, step: int, total: int) -> None:
        now = monotonic()
        if phase not in last_line:
            say(phase, console)
        elif now - last_line[phase] < LINE_S:
            return
        else:
            say(f"{phase}: {step} of {total}", console)
        last_line[phase] = now

    return tell


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say ``what`` is being done, on stderr, if the body takes over :data:`PATIENCE_S` seconds.

    For work that cannot tell how far it is, such as imports of large libraries; never around what
    is timed.
    """
    timer = threading.Timer(PATIENCE_S, say, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _numeric(value: object) -> bool:
    text = str(value).replace("-", "", 1)
    return isinstance(value, int | float) or text[:1].isdigit() or text == ""


def _cell(value: object) -> str:
    from rich.markup import escape

    if isinstance(value, Mapping):
        value = ", ".join(f"{key}={item}" for key, item in value.items())
    return escape(visible(str(value)))
