"""``mmedge build``: variants for other backends: engines, or what OpenVINO runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from mmedge.bench.tune import tune
from mmedge.bundle import Bundle
from mmedge.cli.console import BundleArgument, JsonOption, emit_json, number, stderr, table
from mmedge.errors import InputError
from mmedge_export.engine import PRECISIONS, build_all
from mmedge_export.engine_builder import CURRENT
from mmedge_export.profiles import parse_profiles

__all__ = ["build"]


def build(
    bundle: BundleArgument,
    *,
    backend: Annotated[
        str,
        typer.Option(help="tensorrt-rtx (needs no GPU to build), tensorrt, or openvino (the CPU)."),
    ] = "tensorrt-rtx",
    target: Annotated[
        list[str] | None,
        typer.Option(help="sm_NN, or current for this machine's GPU. May be repeated."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(PRECISIONS)}. int8 and fp8 are calibrated on the golden samples; fp8 "
            "needs sm_89 or later. May be repeated."
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Sizes of a dynamic dimension, as NAME=MIN:OPT:MAX. May be repeated."),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(help="MiB of GPU memory a layer may use as scratch.", min=1)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build engines of every stage and add them to the bundle; for openvino, its variant."""
    if backend == "openvino":
        for option, value in (("--target", target), ("--precision", precision),
                              ("--profile", profile), ("--workspace", workspace)):  # fmt: skip
            if value:
                raise InputError(
                    f"{option} is for engines; openvino runs the float32 graphs on this CPU, and "
                    "mmedge quantize --backend openvino adds lower precision"
                )
        _build_openvino(bundle, as_json=as_json)
        return
    console = stderr()
    with _stdout_on_stderr():
        built, made = build_all(
            bundle,
            backend=backend,
            targets=target or [CURRENT],
            precisions=precision or ["fp32"],
            profile=parse_profiles(profile or ()),
            workspace=None if workspace is None else workspace << 20,
            progress=lambda line: console.print(line, markup=False),
        )
    built.close()
    if as_json:
        emit_json(
            {
                "bundle": bundle,
                "variants": [{"id": variant.id, **asdict(variant)} for variant in made],
            }
        )
        return
    table(
        f"{bundle}: engines built",
        ("variant", "stages", "MB", "build s", "max rel", "requires"),
        [
            (
                variant.id,
                len(variant.files),
                f"{variant.metrics['engine_bytes'] / 1e6:.1f}",
                number(variant.metrics["build_s"]),
                number(variant.metrics.get(f"{variant.precision}_max_rel")),
                ", ".join(f"{name} {version}" for name, version in variant.requires.items()),
            )
            for variant in made
        ],
    )


def _build_openvino(path: str, *, as_json: bool) -> None:
    """Add the variant, and time it beside the others."""
    from mmedge_export.openvino import add_openvino

    made, variant = add_openvino(Bundle.open(path))
    found: dict[str, tuple[float, int]] = {}
    if made.manifest.samples:
        made, found = tune(made, tell=lambda line: stderr().print(line, markup=False))
    made.close()
    if as_json:
        measured = {
            "latency_ms": {name: ms for name, (ms, _) in found.items()},
            "threads": {name: count for name, (_, count) in found.items()},
        }
        emit_json({"bundle": path, "variant": variant.id, **measured})
        return
    rows = [(name, number(ms), str(count)) for name, (ms, count) in found.items()]
    table(f"{path}: {variant.id} added", ("variant", "ms a call here", "threads"), rows)


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Send what the libraries' own code prints to stderr: stdout carries data alone.

    TensorRT-RTX writes some warnings past its logger, to file descriptor 1.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
