"""The checks that every bundle passes, in order, before anything else is read of it.

1. the listing: plain files with safe names, nothing else (:mod:`mmedge.bundle.archive`);
2. the manifest: size, its own digest, its signature (:mod:`mmedge.bundle.signature`), JSON,
   schema, references (:mod:`mmedge.schema`);
3. the listing against the manifest: nothing missing, nothing extra;
4. the SHA-256 of every file (:mod:`mmedge.bundle.digests`);
5. the graphs: known operator domains, weights inside the bundle (:mod:`mmedge.bundle.onnxfile`);
6. the tokenizers: known components and patterns of bounded time (:mod:`mmedge.schema.tokenizer`).

Files are hashed while graphs are checked; where both find something, an altered file is named.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from mmedge.bundle.archive import Archive, open_archive
from mmedge.bundle.digests import DigestCheck
from mmedge.bundle.onnxfile import SUFFIX, GraphFile, check_graph
from mmedge.bundle.onnxgraph import KnownParts
from mmedge.errors import BundleError
from mmedge.schema import (
    DIGEST,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_TEXT,
    SIGNATURE,
    manifest_from_json,
    stated_version,
)
from mmedge.schema.upgrade import OLDEST
from mmedge.spec import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge.bundle.signature import Signature, TrustedKeys
    from mmedge.spec import Manifest

__all__ = ["ENGINE_BACKENDS", "CheckedBundle", "load", "read_manifest"]

#: Backends whose files are engines, opaque to mmedge. Files of all others are ONNX graphs.
ENGINE_BACKENDS = frozenset({"tensorrt", "tensorrt_rtx"})


class CheckedBundle(NamedTuple):
    """A bundle that passed; ``graphs`` says what each graph reaches for.

    ``signature`` is None where it has none.
    """

    archive: Archive
    manifest: Manifest
    graphs: Mapping[str, GraphFile]
    signature: Signature | None


def load(
    path: Path,
    *,
    digests: bool = True,
    trusted: TrustedKeys | None = None,
    manifest_digest: str | None = None,
) -> CheckedBundle:
    """Open and check the bundle at ``path``; ``digests`` False leaves out step 4 alone.

    Args:
        path: of the bundle.
        digests: whether files are hashed.
        trusted: keys of which one has to have signed it; None: no signature is verified.
        manifest_digest: SHA-256 of the manifest that was verified before; another one is not
            parsed. None: it may be any.

    Raises:
        BundleError: a check failed. The message names the bundle, the file and the rule.
    """
    archive = open_archive(path)
    try:
        manifest, signature = _read_manifest(archive, trusted, manifest_digest)
        _check_listing(archive, manifest)
        digest_check = DigestCheck(archive, manifest) if digests else None
        try:
            graphs = _check_graphs(archive, manifest)
            _check_tokenizers(archive, manifest)
        finally:
            if digest_check is not None:
                digest_check.finish()  # of an altered file it says so, whatever else was noticed
        return CheckedBundle(archive, manifest, graphs, signature)
    except BaseException:
        archive.close()
        raise


def read_manifest(path: Path, *, trusted: TrustedKeys | None = None) -> Manifest:
    """What the bundle at ``path`` says about itself, before its other files are looked at.

    Args:
        path: of the bundle.
        trusted: as for :func:`load`.

    Raises:
        BundleError: as :func:`load`, of the listing and the manifest.
    """
    archive = open_archive(path)
    try:
        return _read_manifest(archive, trusted)[0]
    finally:
        archive.close()


def _read_manifest(
    archive: Archive, trusted: TrustedKeys | None, expected: str | None = None
) -> tuple[Manifest, Signature | None]:
    size = archive.sizes.get(MANIFEST)
    if size is None:
        raise BundleError(f"{archive.path}: no {MANIFEST}, so this is no bundle")
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{archive.path}: {MANIFEST} of {size} bytes, expected at most {MAX_MANIFEST_BYTES}"
        )
    source = f"{archive.path}: {MANIFEST}"
    data = bytes(archive.read(MANIFEST))
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise BundleError(
            f"{archive.path}: changed since it was verified: its {MANIFEST} is another; open it "
            "again"
        )
    if DIGEST in archive.sizes:
        stated = bytes(archive.read(DIGEST)) if archive.sizes[DIGEST] < MAX_TEXT else b""
        if stated != manifest_digest(data):
            raise BundleError(
                f"{source} is altered: its SHA-256 is not the one in {DIGEST}; copy or export the "
                "bundle again"
            )
    signature = None
    if trusted is not None or SIGNATURE in archive.sizes:
        from mmedge.bundle.signature import check_signature  # most bundles have no use for it

        signature = check_signature(archive, data, trusted)
    # Parsed from here on. The oldest bundles had no digest.
    if DIGEST not in archive.sizes and OLDEST < (stated_version(data) or OLDEST) <= SCHEMA_VERSION:
        raise BundleError(
            f"{archive.path}: no {DIGEST}, which a bundle of this version has; copy or export the "
            "bundle again"
        )
    return manifest_from_json(data, source=source), signature


def manifest_digest(manifest: bytes) -> bytes:
    """What the file beside the manifest holds: its SHA-256 as ``sha256sum`` writes it."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _check_listing(archive: Archive, manifest: Manifest) -> None:
    file_names = archive.sizes.keys() - {MANIFEST, DIGEST, SIGNATURE}
    for fault, names in (
        ("missing file", manifest.files.keys() - file_names),
        ("extra file, not listed in the manifest:", file_names - manifest.files.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise BundleError(
                f"{archive.path}: {fault} {min(names)}{more}; copy or export the bundle again"
            )


def _check_graphs(archive: Archive, manifest: Manifest) -> dict[str, GraphFile]:
    stages = {stage.name: {stage.graph} for stage in manifest.stages}
    for variant in manifest.variants:
        if variant.backend not in ENGINE_BACKENDS:
            for name, file in variant.files.items():
                stages[name].add(file)
    files = {file for file in manifest.files if file.endswith(SUFFIX)}.union(*stages.values())
    known_parts = KnownParts()
    graphs = {
        file: check_graph(
            archive.read(file), file, archive.sizes, f"{archive.path}: {file}", known_parts
        )
        for file in sorted(files)
    }
    zero_dimensions = {name for name, limits in manifest.dimensions.items() if limits.min == 0}
    for stage in manifest.stages if zero_dimensions else ():
        sizes = {size for spec in stage.inputs for size in spec.shape if size in zero_dimensions}
        for file in sorted(stages[stage.name]) if sizes else ():
            if needs := graphs[file].needs_elements:
                raise BundleError(
                    f"{archive.path}: {file}: dimension {min(map(str, sizes))!r} may be 0, and "
                    f"{needs[0]} ends the process where there is nothing; give the dimension a "
                    "min of at least 1 and export the bundle again"
                )
    return graphs


def _check_tokenizers(archive: Archive, manifest: Manifest) -> None:
    files = {m.tokenizer.file for m in manifest.modalities if m.tokenizer}
    files |= {file for loop in manifest.loops if (file := getattr(loop, "tokenizer", None))}
    names = sorted(files)
    if not names:
        return
    # A bundle without text need not load what checks it.
    from mmedge.schema.tokenizer import MAX_TOKENIZER_BYTES, check_tokenizer

    for name in names:
        source = f"{archive.path}: {name}"
        if archive.sizes[name] > MAX_TOKENIZER_BYTES:
            raise BundleError(
                f"{source}: {archive.sizes[name]} bytes, expected at most {MAX_TOKENIZER_BYTES}"
            )
        check_tokenizer(bytes(archive.read(name)), source)
