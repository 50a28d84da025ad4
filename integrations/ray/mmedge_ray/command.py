"""``mmedge logs``: recordings, or a folder of samples, through a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["logs"]


def logs(
    bundle: Annotated[str, typer.Argument(help="A bundle: a directory or a .mmedge file.")],
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="A folder in which all recordings are run, or recordings; without --trigger a "
            "folder of .safetensors files, each of which is a sample."
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder of the Parquet files; goes on with what it has."
        ),
    ],
    trigger: Annotated[
        str | None,
        typer.Option(
            help="What a result is made for: a modality, any, or a rate in Hz. Without it samples "
            "are run singly, and no stream."
        ),
    ] = None,
    deadline: Annotated[float | None, typer.Option(help="Of a stream, in ms.", min=0.0)] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(help="stage=ms that a run takes on the simulated clock. Repeatable."),
    ] = None,
    skip_gaps: Annotated[
        bool,
        typer.Option(
            "--skip-gaps",
            help="Leave a second of each time in which a recording has no sample for over 10 s.",
        ),
    ] = False,
    part_samples: Annotated[int, typer.Option(help="Samples of one Parquet file.", min=1)] = 256,
    actors: Annotated[
        int, typer.Option(help="Processes of Ray; 0: this process, without Ray.", min=0)
    ] = 0,
    cpus: Annotated[float, typer.Option(help="CPUs of each actor.", min=0.01)] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of each actor.", min=0.0)] = 0.0,
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster; else RAY_ADDRESS, else a Ray of this machine."),
    ] = None,
    attempts: Annotated[
        int, typer.Option(help="How often a recording is begun whose worker dies.", min=1)
    ] = 3,
    placement_timeout: Annotated[
        float, typer.Option(help="Most seconds to wait for room for the actors.", min=0.0)
    ] = 60.0,
    variant: Annotated[
        str | None, typer.Option(help="Id of the variant; else the one that fits this machine.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of each stage; else the CPUs of an actor.", min=1),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of lines.")] = False,
) -> None:
    """Run recordings through a bundle on a simulated clock; one Parquet file for each.

    Fails if one of them could not be run; the others are done, and the rest is named.
    """
    # The command line loads the verbs of all installed distributions, whatever is run.
    from mmedge_ray.run import run_recordings, run_samples

    resources = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    shared: dict[str, Any] = {
        "load": {"variant": variant} | ({"threads": threads} if threads else {}),
        "actors": actors,
        "resources": resources,
        "address": address,
        "attempts": attempts,
        "placement_timeout_s": placement_timeout,
        "say": lambda line: typer.echo(line, err=True),
    }
    if trigger is None:
        if len(sources) > 1 or deadline is not None or cost or skip_gaps:
            raise typer.BadParameter(
                "--deadline, --cost, --skip-gaps and several recordings are of a stream; say what "
                "triggers its results",
                param_hint="--trigger",
            )
        summary = run_samples(bundle, sources[0], output, part_samples=part_samples, **shared)
    else:
        summary = run_recordings(
            bundle,
            sources[0] if len(sources) == 1 else sources,
            output,
            trigger=_trigger(trigger),
            deadline_ms=deadline,
            costs=dict(_cost(word) for word in cost or ()),
            skip_gaps=skip_gaps,
            **shared,
        )
    if as_json:
        document = {
            "outcomes": [asdict(outcome) for outcome in summary.outcomes],
            "wall_seconds": summary.wall_seconds,
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        for name, what in summary.errors:
            typer.echo(f"failed: {name}: {what}")
        typer.echo(str(summary))
    if summary.errors:
        raise typer.Exit(1)


def _trigger(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _cost(word: str) -> tuple[str, float]:
    stage, _, text = word.partition("=")
    try:
        return stage, float(text) / 1e3
    except ValueError as error:
        raise typer.BadParameter(
            f"expected stage=ms, such as fuse=12.5; got {word!r}", param_hint="--cost"
        ) from error
