"""``mmedge export``: a trained network becomes a bundle."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mmedge.cli.console import JsonOption, emit_json, number, stderr, table
from mmedge_export.golden import SAMPLES
from mmedge_export.install import installed

__all__ = ["export"]

SourceArgument = Annotated[
    str, typer.Argument(help="file.py:factory, package.module:factory, zoo:NAME or model.onnx.")
]
OutputOption = Annotated[
    Path,
    typer.Option("--output", "-o", help="The bundle: a directory, or one file NAME.mmedge."),
]
ModalityOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=INPUT,...", help="Inputs that form one modality; repeatable."),
]
SizeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="DIM=N", help="Example size of an ONNX file's dimension; repeatable."),
]
OpsetOption = Annotated[
    int | None, typer.Option(help="Version of the ONNX operators; default 20.", min=1)
]
SamplesOption = Annotated[int, typer.Option(help="Golden samples in the bundle.", min=1)]
RtolOption = Annotated[
    float | None,
    typer.Option(help="Largest difference, as a share of an output's largest value.", min=0),
]
SplitOption = Annotated[
    bool | None,
    typer.Option(
        "--split/--no-split",
        help="Cut by modality, or keep one stage; default: cut unless it slows single calls.",
    ),
]
NameOption = Annotated[str | None, typer.Option(help="Name of the bundle.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an older bundle.")]


def export(
    source: SourceArgument,
    output: OutputOption,
    *,
    modality: ModalityOption = None,
    size: SizeOption = None,
    opset: OpsetOption = None,
    samples: SamplesOption = SAMPLES,
    rtol: RtolOption = None,
    split: SplitOption = None,
    name: NameOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Trace a network, check the graph against it, and write a bundle."""
    groups = {key: value.split(",") for key, value in _pairs("--modality", modality or ())}
    sizes = {key: _whole("--size", value) for key, value in _pairs("--size", size or ())}
    with installed("exporting"):
        from mmedge_export.assemble import export as export_bundle

    console = stderr()
    # What the user's own code prints must not mix with the result.
    with contextlib.redirect_stdout(sys.stderr):
        bundle = export_bundle(
            source,
            output,
            opset=opset,
            samples_limit=samples,
            overwrite=overwrite,
            rtol=rtol,
            modality=groups,
            sizes=sizes,
            split=split,
            name=name,
            progress=lambda line: console.print(line, style="dim", markup=False, soft_wrap=True),
        )
    with bundle:
        manifest = bundle.manifest
        total = sum(len(bundle.read(file)) for file in manifest.files)
    parity = manifest.variants[0].metrics.get("parity")  # an ONNX file has none
    if as_json:
        emit_json(
            {
                "path": str(output),
                "name": manifest.name,
                "bytes": total,
                "inputs": {name: str(spec) for name, spec in manifest.inputs().items()},
                "outputs": list(manifest.outputs),
                "modalities": {m.name: list(m.inputs) for m in manifest.modalities},
                "stages": [stage.name for stage in manifest.stages],
                "variants": [variant.id for variant in manifest.variants],
                "samples": manifest.samples,
                "parity": parity,
                "provenance": dict(manifest.provenance),
            }
        )
        return
    table(
        f"{manifest.name}: {output} ({total / 2**20:.2f} MiB)",
        ("what", "value"),
        [
            *(
                (f"modality {m.name}", "; ".join(str(manifest.inputs()[n]) for n in m.inputs))
                for m in manifest.modalities
            ),
            *(
                (f"output {spec.name}", str(spec))
                for stage in manifest.stages
                for spec in stage.outputs
                if spec.name in manifest.outputs
            ),
            ("stages", ", ".join(stage.name for stage in manifest.stages)),
            ("variants", ", ".join(variant.id for variant in manifest.variants)),
            ("golden samples", str(manifest.samples)),
            (
                "largest difference from the network",
                "the file itself is the reference" if parity is None else number(parity),
            ),
        ],
    )


def _pairs(option: str, words: Sequence[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals or not value:
            raise typer.BadParameter(f"{option} {word!r}: expected NAME=VALUE")
        if key in (known for known, _ in pairs):
            raise typer.BadParameter(f"{option} {key!r} is given twice")
        pairs.append((key, value))
    return pairs


def _whole(option: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"{option}: expected a size from 1 on, got {text!r}")
    return int(text)
