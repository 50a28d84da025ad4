"""``mmedge triton``: write a model for Triton Inference Server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmedge_triton.repository import write_model

__all__ = ["triton"]


def triton(
    bundle: Annotated[str, typer.Argument(help="A bundle: a directory or a .mmedge file.")],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Model repository: the folder that tritonserver is given."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the model; the bundle's by default.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Id of the variant; by default the server chooses at load.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="whole or cut; by default as mmedge run.", metavar="cut|whole"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads per stage, in each instance.", min=1)
    ] = None,
    instances: Annotated[
        int, typer.Option(help="Processes that hold the bundle and answer at once.", min=1)
    ] = 1,
    allow_non_finite: Annotated[
        bool, typer.Option("--allow-non-finite", help="Pass NaN and infinity on to the network.")
    ] = False,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            help="Public key (PEM file) that must have signed the bundle, now and at each load of "
            "the server; repeat it for several, of which one suffices."
        ),
    ] = None,
    lowest_version: Annotated[
        int | None, typer.Option(help="Lowest version of a signed release; with --key.", min=0)
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Name the bundle's path; do not copy it.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that this command wrote.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of lines.")] = False,
) -> None:
    """Write a model that serves a bundle into a model repository of Triton Inference Server.

    The server needs mmedge with a backend in its Python; docs/howto/serve.md says how.
    """
    if plan not in (None, "cut", "whole"):
        raise typer.BadParameter(f"expected cut or whole, got {plan!r}", param_hint="--plan")
    if lowest_version is not None and not key:
        raise typer.BadParameter("needs --key", param_hint="--lowest-version")
    try:
        model = write_model(
            bundle,
            output,
            name=name,
            variant=variant,
            plan=plan,
            threads=threads,
            instances=instances,
            allow_non_finite=allow_non_finite,
            trusted_keys=key or None,
            lowest_version=lowest_version,
            reference=reference,
            overwrite=overwrite,
        )
    except FileExistsError as error:
        hint = "" if overwrite else "; --overwrite replaces it"
        raise typer.BadParameter(f"{error}{hint}", param_hint="--output") from error
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--name") from error
    config = model.config
    if as_json:
        document = {
            "model": config.name,
            "path": str(model.path),
            "bundle": str(model.bundle),
            "copied": not reference,
            "instances": instances,
            "threads": threads,
            "keys": [str(one.resolve()) for one in key or ()],
            "not_served": model.not_served,
            "not_checked": model.open_questions,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(f"{model.path}: model {config.name!r}")
    for kind, tensors in (("input", config.inputs), ("output", config.outputs)):
        for one in tensors:
            optional = ", optional" if one.optional else ""
            typer.echo(f"  {kind} {one.name}: {one.data_type} {list(one.dims)}{optional}")
    where = "read where it is, and must stay there" if reference else "copied"
    typer.echo(f"  bundle: {model.bundle} ({where})")
    each = "the backend's default" if threads is None else threads
    typer.echo(f"  instances: {instances}, CPU threads of each: {each}")
    signed = "must be signed by the key of" if key else "who made the bundle is not checked: no key"
    names = ", ".join(str(one.resolve()) for one in key or ())
    if lowest_version is not None:
        names += f", with version {lowest_version} or higher"
    typer.echo(f"  at each load: digests and golden samples are checked; {signed} {names}".rstrip())
    for line in model.not_served:
        typer.echo(f"  not served: {line}")
    for line in model.open_questions:
        typer.echo(f"  not checked: {line}")
    typer.echo(f"next: tritonserver --model-repository {output}")
