"""Builds the command line from this package's verbs and those that join by entry point."""

from __future__ import annotations

import inspect as signatures
import logging
import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial, wraps
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Any, TextIO, get_type_hints

import typer

import mmedge
from mmedge.cli.console import settings, stderr, warn
from mmedge.cli.failures import READER_GONE, UsageError, tell
from mmedge.cli.signals import stop

__all__ = ["build_app", "run"]

#: The runtime's own: a function and a module of that name each.
VERBS = (
    "bench", "compare", "drift", "env", "inspect", "keygen", "record", "remove", "replay", "run",
    "sign", "sweep", "tune", "verify",
)  # fmt: skip
#: Entry points of this group are functions that become verbs of their own name.
GROUP = "mmedge.commands"
PANEL = "Every verb"
HELP = ("--help", "-h")
#: Verbs that come with another distribution: its name, and where it is in a checkout.
ELSEWHERE = {
    "logs": ("mmedge-ray", "./integrations/ray"),
    "triton": ("mmedge-triton", "./integrations/triton"),
}
#: Where the runtime's own warnings come from.
HERE = Path(mmedge.__file__).parent

#: What typer makes of KeyboardInterrupt.
INTERRUPTED = 130

VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Prefix each line with the time.", rich_help_panel=PANEL),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="No progress, no remarks: warnings and errors alone.",
        rich_help_panel=PANEL,
    ),
]  # fmt: skip
DebugOption = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=PANEL),
]


def build_app(verb: str | None = None) -> typer.Typer:
    """The application with every verb that is installed, or with one alone, if it is there.

    A verb imports what it works with, and others need not wait for that.
    """
    app = typer.Typer(
        name="mmedge",
        help="Deploy trained multimodal fusion networks: one verified bundle, honest latency.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": list(HELP)},
    )
    app.callback()(_every)
    loads = _verbs() if verb not in VERBS else {verb: partial(_own, verb)}
    for name, load in sorted(loads.items()):
        if verb not in loads or name == verb:
            app.command(name)(_with_every(load()))
    return app


def _verbs() -> dict[str, Callable[[], Callable[..., None]]]:
    """What loads each verb that is installed, by name."""
    loads: dict[str, Callable[[], Callable[..., None]]] = {
        entry.name: entry.load for entry in metadata.entry_points(group=GROUP)
    }
    return loads | {name: partial(_own, name) for name in VERBS}


def _own(name: str) -> Callable[..., None]:
    verb: Callable[..., None] = getattr(import_module(f"mmedge.cli.{name}"), name)
    return verb


def run(arguments: Sequence[str]) -> int:
    """Run one command line; an error is told, and becomes the exit code.

    Raises:
        KeyboardInterrupt: a signal came, whatever a library or typer made of it.
    """
    # What is wrong with the words is known before they are parsed to the end.
    settings.reset()
    words = list(arguments)
    words = words[: words.index("--")] if "--" in words else words
    settings.command = shlex.join(["mmedge", *arguments])
    settings.json, settings.debug = "--json" in words, "--debug" in words
    if settings.debug:
        # What was left out for an error, and only remarked on, is shown with its traceback.
        logging.basicConfig()
        logging.getLogger("mmedge_export").setLevel(logging.INFO)
    try:
        verb = _find_verb(words)
        if verb in ELSEWHERE and verb not in _verbs():
            distribution, folder = ELSEWHERE[verb]
            raise UsageError(
                f"No such command '{verb}' here: it comes with {distribution}; in a checkout: "
                f"pip install {folder}"
            )
        command = typer.main.get_command(build_app(verb))
        code = command.main(list(arguments), prog_name="mmedge", standalone_mode=False)
    except Exception as error:  # told, with its traceback under --debug
        if stop.number is not None:
            raise KeyboardInterrupt from error
        return tell(error)
    except SystemExit as error:
        # What typer and rich make of a pipe whose reader has gone.
        if isinstance(error.__context__, BrokenPipeError):
            return READER_GONE
        raise
    if code == INTERRUPTED and stop.number is not None:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _find_verb(words: Sequence[str]) -> str | None:
    """The verb among the words; None where all of them are wanted, as for their help."""
    verb = next((word for word in words if not word.startswith("-") or word in HELP), None)
    return None if verb in HELP else verb


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    if value:
        typer.echo(f"mmedge {mmedge.__version__}")
        raise typer.Exit


def _every(
    *,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    settings.verbose = settings.quiet = False
    settings.take(verbose=verbose, quiet=quiet, debug=debug)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - as warnings.showwarning is called
    line: str | None = None,
) -> None:
    """Say the runtime's own warnings as the command line says its own, without a source line."""
    if category is UserWarning and Path(filename).is_relative_to(HERE):
        warn(str(message))
    else:
        stderr().print(
            warnings.formatwarning(message, category, filename, lineno, line),
            end="", markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


def _with_every(verb: Callable[..., None]) -> Callable[..., None]:
    """``verb`` with the options that every verb has: people type them behind it.

    A parameter whose type is a dataclass stands for its fields, options that several verbs share.
    """
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    extra = {"verbose": VerboseOption, "quiet": QuietOption, "debug": DebugOption}

    @wraps(verb)
    def called(**values: Any) -> None:  # noqa: ANN401
        settings.take(**{name: values.pop(name) for name in extra})
        settings.json = bool(values.get("as_json"))
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            verb(**values)

    signature = signatures.signature(verb)
    parameters: list[signatures.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            types = get_type_hints(groups[name], include_extras=True)
            parameters += (
                _option(field.name, default=field.default, annotation=types[field.name])
                for field in fields(groups[name])
            )
        else:
            parameters.append(parameter.replace(annotation=hints[name]))
    parameters += (
        _option(name, default=False, annotation=annotation) for name, annotation in extra.items()
    )
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _option(name: str, *, default: object, annotation: Any) -> signatures.Parameter:  # noqa: ANN401
    return signatures.Parameter(
        name, signatures.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
