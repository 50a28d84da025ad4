"""Builds the command line from this package's verbs and those that join by entry point."""

from __future__ import annotations

import inspect as signatures
import logging
import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TextIO, get_type_hints

import typer

import mmedge
from mmedge.cli.bench import bench
from mmedge.cli.compare import compare
from mmedge.cli.console import settings, stderr, warn
from mmedge.cli.drift import drift
from mmedge.cli.env import env
from mmedge.cli.failures import READER_GONE, UsageError, tell
from mmedge.cli.inspect import inspect
from mmedge.cli.keygen import keygen
from mmedge.cli.record import record
from mmedge.cli.remove import remove
from mmedge.cli.replay import replay
from mmedge.cli.run import run as run_once
from mmedge.cli.sign import sign
from mmedge.cli.signals import stop
from mmedge.cli.sweep import sweep
from mmedge.cli.tune import tune
from mmedge.cli.verify import verify

__all__ = ["build_app", "run"]

#: Entry points of this group are functions that become verbs of their own name.
GROUP = "mmedge.commands"
PANEL = "Every verb"
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


def build_app() -> typer.Typer:
    """The application with every verb that is installed."""
    app = typer.Typer(
        name="mmedge",
        help="Deploy trained multimodal fusion networks: one verified bundle, honest latency.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_every)
    runtime_verbs = (
        bench, compare, drift, env, inspect, keygen, record, remove, replay, sign, sweep, tune,
        verify,
    )  # fmt: skip
    verbs: dict[str, Callable[..., None]] = {verb.__name__: verb for verb in runtime_verbs}
    verbs["run"] = run_once
    for entry in metadata.entry_points(group=GROUP):
        verbs[entry.name] = entry.load()
    for name, verb in sorted(verbs.items()):
        app.command(name)(_with_every(verb))
    return app


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
        app = build_app()
        _check_installed(app, words)
        command = typer.main.get_command(app)
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


def _check_installed(app: typer.Typer, words: Sequence[str]) -> None:
    """Raise UsageError where a verb comes with a distribution that is not here."""
    verb = next((word for word in words if not word.startswith("-")), "")
    if verb in ELSEWHERE and all(command.name != verb for command in app.registered_commands):
        distribution, folder = ELSEWHERE[verb]
        raise UsageError(
            f"No such command '{verb}' here: it comes with {distribution}; in a checkout: "
            f"pip install {folder}"
        )


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
