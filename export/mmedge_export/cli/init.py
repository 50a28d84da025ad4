"""``mmedge init``: write a factory for a network, with what is to be filled in marked."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmedge.cli.console import JsonOption, emit_json, say, waiting, write_file
from mmedge.cli.output import check_new
from mmedge.errors import ExportError
from mmedge_export.install import installed

__all__ = ["init"]


def init(
    source: Annotated[
        str,
        typer.Argument(
            help="model.onnx, or file.py:NAME or package.module:NAME of a torch module's class, of "
            "a function that gives a module, or of a module."
        ),
    ],
    *,
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
    from mmedge_export.scaffold.text import write_draft

    with contextlib.redirect_stdout(sys.stderr), waiting(f"loading {source}"):
        if source.lower().endswith(".onnx"):
            if not Path(source).is_file():
                raise ExportError(f"no such file: {source}; give the path of an .onnx file")
            with installed("reading an ONNX file"):
                from mmedge_export.scaffold.onnx_draft import draft_onnx
            draft = draft_onnx(source, output)
        else:
            with installed("looking at a torch module"):
                from mmedge_export.scaffold.torch_draft import draft_torch
            draft = draft_torch(source, output)
    missing = draft.missing()
    write_file(output, write_draft(draft, output).encode())
    if as_json:
        emit_json(
            {
                "path": str(output),
                "inputs": {
                    entry.name: None
                    if entry.example is None
                    else f"{entry.example.dtype}{list(entry.example.shape)}"
                    for entry in draft.inputs
                },
                "outputs": list(draft.outputs),
                "fill_in": missing,
            }
        )
        return
    for line in missing:
        say(f"fill in {line}")
    if not missing:
        say(f"mmedge export {output}:factory -o BUNDLE takes it as it stands")
