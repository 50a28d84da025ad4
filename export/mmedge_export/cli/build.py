"""``mmedge build``: engines, what OpenVINO runs, or loops that write their cache in place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmedge.backends.registry import probe
from mmedge.bench.tune import tune
from mmedge.bundle import Bundle
from mmedge.bundle.device_cache import Measurement, cache_folder
from mmedge.cli.console import (
    BundleArgument,
    JsonOption,
    emit_json,
    list_not_checked,
    number,
    say,
    table,
    warn,
)
from mmedge.cli.output import (
    BundleCopyOption,
    OverwriteOption,
    RemoveSignatureOption,
    WorkingBundle,
    misuse,
    rewriting,
)
from mmedge.cli.trust import TrustOptions
from mmedge.cli.tune import print_measurements
from mmedge.errors import ExportError
from mmedge_export.cli.streams import stdout_on_stderr
from mmedge_export.targets.tensorrt import CURRENT, SCHEMES
from mmedge_export.targets.tensorrt.engine import PRECISIONS, build_all
from mmedge_export.targets.tensorrt.profiles import parse_profiles

__all__ = ["ProfileOption", "TargetOption", "WorkspaceOption", "build", "check_targets"]

#: Backends that engines are built for.
ENGINES = ("tensorrt", "tensorrt_rtx")

#: Backends on the CPU for which variants are added.
_ADDED = ("openvino", "ort")

TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Of engines: sm_NN, or {CURRENT} for this machine's GPU (default). May be repeated."
    ),
]
ProfileOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Of engines: sizes of a dynamic dimension, as NAME=MIN:OPT:MAX. May be repeated."
    ),
]
WorkspaceOption = Annotated[
    int | None,
    typer.Option(help="Of engines: MiB of GPU memory a layer may use as scratch.", min=1),
]


def check_targets(words: Sequence[str]) -> None:
    """Refuse a word that names no GPU."""
    for word in words:
        if word != CURRENT and not re.fullmatch(r"sm_[0-9]{2,3}", word):
            raise typer.BadParameter(
                f"expected sm_NN, such as sm_87, or {CURRENT}; got {word!r}", param_hint="--target"
            )


def build(
    bundle: BundleArgument,
    *,
    backend: Annotated[
        str,
        typer.Option(
            help="tensorrt-rtx (needs no GPU to build), tensorrt, openvino (the CPU), or ort (the "
            "CPU, for a loop: keys and values in place)."
        ),
    ] = "tensorrt-rtx",
    target: TargetOption = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{' or '.join(PRECISIONS)}; mmedge quantize adds {' and '.join(SCHEMES)}. May be "
            "repeated."
        ),
    ] = None,
    profile: ProfileOption = None,
    workspace: WorkspaceOption = None,
    output: BundleCopyOption = None,
    overwrite: OverwriteOption = False,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Write engines for this machine's GPU into BUNDLE, and not into the cache folder "
            "of this device beside it. Those for --target sm_NN always go into BUNDLE.",
        ),
    ] = False,
    remove_signature: RemoveSignatureOption = False,
    as_json: JsonOption = False,
    trust: TrustOptions,
) -> None:
    """Build engines of every stage; for openvino, add its variant; for ort, a cache in place.

    Engines for this machine's GPU go into the cache folder of this device beside BUNDLE. Variants
    for openvino and ort, and engines for a named --target, go into BUNDLE. With ort, each variant
    whose loop makes longer keys and values in every step gets one beside it that writes them in
    place.
    """
    if backend.replace("-", "_") not in (*ENGINES, *_ADDED):
        raise typer.BadParameter(
            f"expected tensorrt-rtx, tensorrt, openvino or ort; got {backend!r}",
            param_hint="--backend",
        )
    check_targets(target or ())
    for word in precision or ():
        if word in SCHEMES:
            raise typer.BadParameter(
                f"{word} is judged by a task: mmedge quantize BUNDLE --backend {backend} "
                f"--precision {word} --target {(target or [CURRENT])[0]} --task FILE.py:FACTORY",
                param_hint="--precision",
            )
        if word not in PRECISIONS:
            raise typer.BadParameter(
                f"expected {', '.join(PRECISIONS)}; got {word!r}", param_hint="--precision"
            )
    with misuse("--profile"):
        sizes = parse_profiles(profile or ())
    if backend in _ADDED:
        for option, value in (("--target", target), ("--precision", precision),
                              ("--profile", profile), ("--workspace", workspace)):  # fmt: skip
            if value:
                raise typer.BadParameter(
                    f"{option} is for engines; {backend} runs the bundle's graphs on this CPU, and "
                    f"mmedge quantize --backend {backend} adds lower precision"
                )
        trust.check(bundle)
        with rewriting(
            bundle, output, overwrite=overwrite, remove_signature=remove_signature
        ) as place:
            _add_variants(place, backend, as_json=as_json)
        return
    trust.check(bundle)
    targets = target or [CURRENT]
    beside = output is None and not in_place and set(targets) == {CURRENT}
    with (
        _beside(bundle, overwrite=overwrite)
        if beside
        else rewriting(
            bundle, output, overwrite=overwrite, remove_signature=remove_signature
        ) as place,
        stdout_on_stderr(),
    ):
        new_bundle, variants = build_all(
            place.path,
            backend=backend,
            targets=targets,
            precisions=precision or ["fp32"],
            profile=sizes,
            workspace=None if workspace is None else workspace << 20,
            in_place=not beside,
            progress=say,
        )
        open_questions = new_bundle.manifest.open_questions(*variants)
        new_bundle.close()
    if as_json:
        emit_json(
            {
                "bundle": place.shown_path,
                "variants": [{"id": variant.id, **asdict(variant)} for variant in variants],
                "not_checked": open_questions,
            }
        )
        return
    table(
        f"{place.shown_path}: engines built",
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
            for variant in variants
        ],
    )
    list_not_checked(open_questions)


@contextmanager
def _beside(bundle: str, *, overwrite: bool) -> Iterator[WorkingBundle]:
    """As :func:`mmedge.cli.output.rewriting` where the bundle itself stays as it is."""
    if overwrite:
        raise typer.BadParameter("--overwrite says nothing without --output")
    yield WorkingBundle(Path(bundle), bundle)
    with Bundle.open(bundle) as opened:
        say(f"kept in {cache_folder(opened.path, opened.digest, probe())}")


def _add_variants(place: WorkingBundle, backend: str, *, as_json: bool) -> None:
    """Add what a backend on the CPU runs, and time it beside the others."""
    bundle = Bundle.open(place.path)
    if backend == "openvino":
        from mmedge_export.targets.openvino.variant import add_openvino

        new_bundle, variant = add_openvino(bundle)
        variants = [variant]
    else:
        from mmedge_export.targets.onnxruntime.in_place import add_in_place

        new_bundle, variants = add_in_place(bundle, say)
        if not variants:
            new_bundle.close()
            raise ExportError(f"{place.shown_path}: no variant was added; the lines above say why")
    open_questions = new_bundle.manifest.open_questions(*variants)
    measured: Mapping[str, Measurement] = {}
    if new_bundle.manifest.samples:
        new_bundle, measured = tune(new_bundle, tell=say, warn=warn)
    new_bundle.close()
    if as_json:
        emit_json(
            {
                "bundle": place.shown_path,
                "variants": [variant.id for variant in variants],
                "measured": {name: asdict(one) for name, one in measured.items()},
                "not_checked": open_questions,
            }
        )
        return
    names = ", ".join(variant.id for variant in variants)
    print_measurements(f"{place.shown_path}: {names} added", measured)
    list_not_checked(open_questions)
