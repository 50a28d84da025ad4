"""Builds the command line from this package's verbs and those that join by entry point."""

from __future__ import annotations

import sys
from importlib import metadata

import typer

from mmedge.cli.bench import bench
from mmedge.cli.compare import compare
from mmedge.cli.console import stderr
from mmedge.cli.env import env
from mmedge.cli.inspect import inspect
from mmedge.cli.record import record
from mmedge.cli.run import run
from mmedge.cli.tune import tune
from mmedge.cli.verify import verify
from mmedge.errors import MMEdgeError

__all__ = ["build_app", "main"]

#: Entry points of this group are functions that become verbs of their own name.
GROUP = "mmedge.commands"


def build_app() -> typer.Typer:
    """The application with every verb that is installed."""
    app = typer.Typer(
        name="mmedge",
        help="Deploy trained multimodal fusion networks: one verified bundle, honest latency.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for verb in (bench, compare, env, inspect, record, run, tune, verify):
        app.command(verb.__name__)(verb)
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        app.command(entry.name)(entry.load())
    return app


def main() -> None:
    """Run the command line; exit 1 with a message on an error that mmedge raises on purpose."""
    try:
        build_app()()
    except MMEdgeError as error:
        stderr().print(
            f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
