"""What a device found out of a bundle, kept beside it: ``<bundle>.cache/<manifest>-<device>/``.

The folder is named by the first digits of the manifest's digest and of a digest of what the device
is, so that neither another bundle in the same place nor another device takes it for its own. The
bundle stays as it was exported. ``measured.json`` holds what :func:`mmedge.bench.tune.tune`
measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from mmedge.bundle.place import caches, exclusive
from mmedge.errors import BundleError
from mmedge.schema.names import MAX_LATENCY_MS, NAME, SHA256
from mmedge.schema.read import (
    Misfit,
    decode,
    integer,
    nullable,
    number,
    one_of,
    record,
    table,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge.spec import Device, PlanName, Variant

__all__ = [
    "Measurement",
    "cache_folder",
    "describe",
    "measured_variant",
    "read_measurements",
    "write_measurements",
]

FILE: Final = "measured.json"

#: Version of the file's form.
VERSION: Final = 1

#: Hexadecimal digits of each digest in the folder's name.
DIGITS: Final = 16

#: Bytes of a file that is still read: 64 variants take some 10 kB.
MAX_BYTES: Final = 1 << 18

#: Libraries whose version has no part in what was measured.
_INDIFFERENT: Final = frozenset({"torch", "onnx", "safetensors", "numpy"})


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of a variant on a device.

    Attributes:
        latency_ms: milliseconds of a call, with the next two.
        threads: most intra-op threads of a stage; None: not all numbers were tried.
        plan: the plan of single calls; None: as ``threads``.
    """

    latency_ms: float
    threads: int | None
    plan: PlanName | None


@dataclass(frozen=True, slots=True)
class _File:
    version: int
    manifest: str
    device: Mapping[str, str]
    variants: Mapping[str, Measurement]


_read_file = record(
    _File,
    version=integer(VERSION, VERSION),
    manifest=text(SHA256),
    device=table(text(NAME), text()),
    variants=table(
        text(NAME),
        record(
            Measurement,
            latency_ms=number(above=0, most=MAX_LATENCY_MS),
            threads=nullable(integer(1, 1 << 16)),
            plan=nullable(one_of(("cut", "whole"))),
        ),
    ),
)


def cache_folder(path: Path, digest: str, device: Device) -> Path:
    """Where a device keeps what it found out of the bundle at ``path`` with that manifest."""
    words = json.dumps(describe(device), sort_keys=True)
    key = hashlib.sha256(words.encode()).hexdigest()
    return caches(path) / f"{digest[:DIGITS]}-{key[:DIGITS]}"


def describe(device: Device) -> dict[str, str]:
    """What measurements on a device depend on."""
    libraries = {
        name: version for name, version in device.libraries.items() if name not in _INDIFFERENT
    }
    return {
        "name": device.name,
        "cores": str(device.cores),
        "gpus": ", ".join(device.gpus),
        "targets": ", ".join(device.targets),
        **libraries,
    }


def read_measurements(path: Path, digest: str, device: Device) -> Mapping[str, Measurement]:
    """What was measured on ``device``, by the variant's id; empty where nothing was.

    A file that is damaged counts for nothing, with a UserWarning.
    """
    file = cache_folder(path, digest, device) / FILE
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError:
        return {}
    try:
        content = _read_file(decode(data, most=MAX_BYTES), "$")
        if content.manifest != digest or dict(content.device) != describe(device):
            raise Misfit("$", "the manifest and the device of its folder's name", "others")
    except Misfit as fault:
        warnings.warn(
            f"{file}: {fault}; these measurements are not used: run mmedge tune again",
            UserWarning,
            stacklevel=2,
        )
        return {}
    return content.variants


def write_measurements(
    path: Path, digest: str, device: Device, variants: Mapping[str, Measurement]
) -> Path:
    """Keep what was measured on ``device``; folders of other manifests at ``path`` are removed.

    Returns:
        The folder.

    Raises:
        BundleError: the disk refused.
    """
    folder = cache_folder(path, digest, device)
    content = asdict(_File(VERSION, digest, describe(device), dict(variants)))
    try:
        with exclusive(folder.parent.parent):
            folder.mkdir(parents=True, exist_ok=True)
            for other_folder in folder.parent.iterdir():
                if (
                    not other_folder.name.startswith(f"{digest[:DIGITS]}-")
                    and not other_folder.is_symlink()
                ):
                    shutil.rmtree(other_folder, ignore_errors=True)
            staged = folder / f".{FILE}.{os.getpid()}"
            staged.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            staged.replace(folder / FILE)
    except OSError as error:
        raise BundleError(
            f"{folder}: what was measured cannot be kept: {error}; copy the bundle to a folder "
            "that can be written to"
        ) from error
    return folder


def measured_variant(variant: Variant, measurement: Measurement | None, cores: int) -> Variant:
    """A variant with what was measured on a device of so many cores in place of what it says."""
    if measurement is None:
        return variant
    other_metrics = {k: v for k, v in variant.metrics.items() if k not in ("threads", "cores")}
    metrics = {**other_metrics, "latency_ms": measurement.latency_ms}
    if measurement.threads is not None:
        metrics |= {"threads": float(measurement.threads), "cores": float(cores)}
    return replace(variant, metrics=metrics, plan=measurement.plan)
