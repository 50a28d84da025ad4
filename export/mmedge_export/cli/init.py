"""``mmedge init``: write a factory for a network, with what is to be filled in marked."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmedge.cli.console import JsonOption, emit_json, say, waiting, write_file
from mmedge.cli.output import check_new
from mmedge_export.cli.source_options import SourceFlags
from mmedge_export.sources.loader import draft_source

__all__ = ["init"]


def init(
    source: Annotated[
        str,
        typer.Argument(
            help="What mmedge export takes, such as model.onnx; for torch, file.py:NAME or "
            "package.module:NAME of a module's class, of a function that gives a module, or of a "
            "module."
        ),
    ],
    *,
    flags: SourceFlags,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The Python file to write.")
    ] = Path("factory.py"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a factory for mmedge export: inputs, shapes and outputs as far as they can be told."""
    check_new(output, overwrite=overwrite)
    if output.suffix != ".py":
        raise typer.BadParameter(f"{output} is no .py file", param_hint="--output")
    if source.rpartition(":")[0] and output.exists():
        place = Path(source.rpartition(":")[0])
        if place.exists() and place.samefile(output):
            raise typer.BadParameter(f"{output} is the source itself", param_hint="--output")
    options = flags.options()
    with contextlib.redirect_stdout(sys.stderr), waiting(f"loading {source}"):
        draft = draft_source(source, options, output)
    write_file(output, draft.text.encode())
    if as_json:
        emit_json(
            {
                "path": str(output),
                "inputs": dict(draft.inputs),
                "outputs": list(draft.outputs),
                "fill_in": list(draft.fill_in),
            }
        )
        return
    for line in draft.fill_in:
        say(f"fill in {line}")
    if not draft.fill_in:
        say(f"mmedge export {output}:factory -o BUNDLE takes it as it stands")
