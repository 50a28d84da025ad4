"""Engines that a device built of a bundle: variants of that device, in its cache folder.

``<bundle>.cache/<manifest>-<device>/engines/`` holds the engines and ``manifest.json``, which says
what the variants are and has the SHA-256 of each file. Everything there is checked as it is in a
bundle: names, listing, digests, and that the variants fit the bundle's stages.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mmedge.bundle.device_cache import cache_folder, describe
from mmedge.bundle.directory import Directory
from mmedge.bundle.load import ENGINE_BACKENDS
from mmedge.bundle.place import put, staging
from mmedge.bundle.write import add_file
from mmedge.errors import BundleError
from mmedge.schema import MANIFEST, plain, read_variant
from mmedge.schema.names import MAX_FILES, MAX_MANIFEST_BYTES, MAX_VARIANTS, NAME, SHA256
from mmedge.schema.read import Misfit, array, decode, integer, path, record, table, text
from mmedge.schema.rules import check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Device, Manifest, Variant

__all__ = ["DeviceEngines", "read_engines", "write_engines"]

#: What is said of an engine of a signed bundle.
UNSIGNED: Final = (
    "who made the engine: it lies in this device's cache folder, which no signature covers"
)

#: Version of the form of ``manifest.json`` there.
VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class _EnginesManifest:
    version: int
    manifest: str
    device: Mapping[str, str]
    variants: tuple[Variant, ...]
    files: Mapping[str, str]


_read_manifest = record(
    _EnginesManifest,
    version=integer(VERSION, VERSION),
    manifest=text(SHA256),
    device=table(text(NAME), text()),
    variants=array(read_variant, least=1, most=MAX_VARIANTS),
    files=table(path, text(SHA256), most=MAX_FILES),
)


@dataclass(frozen=True, slots=True)
class DeviceEngines:
    """What was read: the folder, open, and the bundle's manifest with the variants in it."""

    archive: Directory
    variants: tuple[Variant, ...]
    manifest: Manifest


def read_engines(
    bundle: Path, digest: str, manifest: Manifest, device: Device, *, signed: bool = False
) -> DeviceEngines | None:
    """The engines that ``device`` built of a bundle; None where it built none.

    What is damaged, or does not fit the bundle, counts for nothing, with a UserWarning.

    Args:
        bundle: its path.
        digest: of its manifest.
        manifest: what it says about itself.
        device: this one.
        signed: whether the bundle is; then its manifest with the engines says that they are not.
    """
    folder = cache_folder(bundle, digest, device) / "engines"
    if not folder.is_dir():
        return None
    try:
        return _read(folder, digest, manifest, device, signed=signed)
    except (BundleError, Misfit, OSError) as fault:
        warnings.warn(
            f"{folder}: {fault}; its engines are not used: build them again",
            UserWarning,
            stacklevel=2,
        )
        return None


def _read(
    folder: Path, digest: str, manifest: Manifest, device: Device, *, signed: bool
) -> DeviceEngines:
    archive = Directory(folder)
    engines_manifest = _read_manifest(
        decode(bytes(archive.read(MANIFEST)), most=MAX_MANIFEST_BYTES), "$"
    )
    if engines_manifest.manifest != digest or dict(engines_manifest.device) != describe(device):
        raise Misfit("$", "the manifest and the device of its folder's name", "others")
    for variant in engines_manifest.variants:
        if variant.backend not in ENGINE_BACKENDS:
            raise Misfit("$.variants", "engines", f"a variant for {variant.backend}")
    if engines_manifest.files.keys() & manifest.files.keys():
        raise Misfit("$.files", "files that the bundle has not", "some of the bundle's")
    if archive.sizes.keys() - {MANIFEST} != engines_manifest.files.keys():
        raise Misfit("$.files", "the files that are there", "others")
    for name, expected in engines_manifest.files.items():
        if archive.digester(name)() != expected:
            raise BundleError(f"{name} is altered: its SHA-256 is not the one that is stated")
    ids = {variant.id for variant in engines_manifest.variants}
    remarks = (UNSIGNED,) if signed else ()
    built = (
        replace(variant, not_checked=(*variant.not_checked, *remarks))
        for variant in engines_manifest.variants
    )
    full_manifest = replace(
        manifest,
        variants=(*(v for v in manifest.variants if v.id not in ids), *built),
        files={**manifest.files, **engines_manifest.files},
    )
    check(full_manifest)
    return DeviceEngines(archive, engines_manifest.variants, full_manifest)


def write_engines(
    bundle: Path,
    digest: str,
    device: Device,
    built: Sequence[tuple[Variant, Mapping[str, bytes | Path]]],
    before: DeviceEngines | None,
) -> Path:
    """Keep engines that ``device`` built of a bundle, beside those that it built before.

    Args:
        bundle: its path.
        digest: of its manifest.
        device: this one.
        built: variants, and their files by path in the bundle.
        before: what is there; a variant of the same id is replaced.

    Returns:
        The folder.

    Raises:
        BundleError: the disk refused.
    """
    folder = cache_folder(bundle, digest, device) / "engines"
    variants = {} if before is None else {variant.id: variant for variant in before.variants}
    variants |= {variant.id: variant for variant, _ in built}
    sources: dict[str, bytes | memoryview | Path] = {}
    for variant in variants.values():
        for name in variant.files.values():
            if before is not None and name in before.archive.sizes:
                sources[name] = before.archive.read(name)
    for _, files in built:
        sources |= files
    try:
        with staging(folder) as temporary:
            staged = temporary / folder.name
            staged.mkdir()
            digests = {name: add_file(staged, name, source) for name, source in sources.items()}
            engines_manifest = _EnginesManifest(
                VERSION, digest, describe(device), tuple(variants.values()), digests
            )
            content = json.dumps(plain(engines_manifest), indent=2, ensure_ascii=False) + "\n"
            add_file(staged, MANIFEST, content.encode())
            put(staged, folder)
    except OSError as error:
        raise BundleError(
            f"{folder}: engines cannot be kept there: {error}; copy the bundle to a folder that "
            "can be written to"
        ) from error
    return folder
