"""``mmedge tune``: find the variant, plan and threads that are fastest on this device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from mmedge.backends.registry import probe
from mmedge.bench.tune import tune as measure
from mmedge.bundle import Bundle
from mmedge.bundle.device_cache import Measurement, cache_folder
from mmedge.cli.console import (
    BundleArgument,
    JsonOption,
    ThreadsOption,
    emit_json,
    number,
    say,
    table,
    warn,
)
from mmedge.cli.measure_options import TokensOption
from mmedge.cli.output import (
    BundleCopyOption,
    OverwriteOption,
    RemoveSignatureOption,
    rewriting,
)
from mmedge.cli.trust import TrustOptions
from mmedge.errors import BundleError, NoVariantError

__all__ = ["print_measurements", "tune"]

InPlaceOption = Annotated[
    bool,
    typer.Option(
        "--in-place",
        help="Write it into BUNDLE, where it counts on every machine of as many cores, and not "
        "into the cache folder of this device beside it.",
    ),
]


def tune(
    bundle: BundleArgument,
    *,
    output: BundleCopyOption = None,
    overwrite: OverwriteOption = False,
    in_place: InPlaceOption = False,
    threads: ThreadsOption = None,
    tokens: TokensOption = None,
    remove_signature: RemoveSignatureOption = False,
    as_json: JsonOption = False,
    trust: TrustOptions,
) -> None:
    """Time each variant that this CPU runs, cut and whole, with few and many threads.

    The result goes into the cache folder of this device beside BUNDLE, and loading uses it there.
    With --in-place it goes into BUNDLE.
    """
    if overwrite and output is None:
        raise typer.BadParameter("--overwrite says nothing without --output")
    if remove_signature and not in_place:
        raise typer.BadParameter("--remove-signature says nothing without --in-place")
    trust.check(bundle)
    left_out: list[str] = []
    if output is None and not in_place:
        measurements = _measure(bundle, bundle, threads, tokens, left_out, in_place=False)
        with Bundle.open(bundle) as open_bundle:
            place = str(cache_folder(open_bundle.path, open_bundle.digest, probe()))
    else:
        with rewriting(
            bundle, output, overwrite=overwrite, remove_signature=remove_signature
        ) as target:
            measurements = _measure(
                bundle, str(target.path), threads, tokens, left_out, in_place=True
            )
        place = target.shown_path
    if as_json:
        variants = {name: asdict(measurement) for name, measurement in measurements.items()}
        emit_json({"bundle": bundle, "kept": place, "variants": variants, "left_out": left_out})
        return
    print_measurements(f"{bundle}: fastest first", measurements)
    if left_out:
        table(
            "left out: computes something else here, or does not load",
            ("what",),
            [(line,) for line in left_out],
        )
    say(f"kept in {place}")


def _measure(
    shown_path: str,
    path: str,
    threads: int | None,
    tokens: int | None,
    left_out: list[str],
    *,
    in_place: bool,
) -> Mapping[str, Measurement]:
    open_bundle = Bundle.open(path)
    if not open_bundle.manifest.samples:
        open_bundle.close()
        raise BundleError(f"{shown_path}: no golden samples to call it with; export it again")
    bundle, measurements = measure(
        open_bundle,
        threads=threads,
        tokens=tokens,
        tell=say,
        leave=left_out.append,
        warn=warn,
        in_place=in_place,
    )
    bundle.close()
    if not measurements:
        why = "; ".join(left_out)
        raise NoVariantError(
            f"{shown_path}: no variant of it runs and verifies on this CPU" + (why and f": {why}")
        )
    return measurements


def print_measurements(title: str, measurements: Mapping[str, Measurement]) -> None:
    """A table of what was measured, the fastest first."""
    table(
        title,
        ("variant", "plan", "ms a call here", "threads"),
        [
            (
                name,
                measurement.plan or "-",
                number(measurement.latency_ms),
                measurement.threads or "-",
            )
            for name, measurement in sorted(
                measurements.items(), key=lambda item: item[1].latency_ms
            )
        ],
    )
