"""The checks that every bundle passes, in order, before anything else is read of it.

1. the listing: plain files with safe names, nothing else (:mod:`mmedge.bundle.archive`);
2. the manifest: size, JSON, schema, references (:mod:`mmedge.schema`);
3. the listing against the manifest: nothing missing, nothing extra;
4. the SHA-256 of every file;
5. the graphs: known operator domains, weights inside the bundle (:mod:`mmedge.bundle.onnxfile`);
6. the tokenizers: known components and patterns of bounded time (:mod:`mmedge.schema.tokenizer`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge.bundle.archive import Archive, open_archive
from mmedge.bundle.onnxfile import GraphFile, check_graph
from mmedge.errors import BundleError
from mmedge.schema import MANIFEST, MAX_MANIFEST_BYTES, manifest_from_json
from mmedge.schema.tokenizer import MAX_TOKENIZER_BYTES, check_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge.spec import Manifest

__all__ = ["Checked", "check_digests", "load", "read_manifest"]

#: Backends whose files are ONNX graphs. Files of others are engines, opaque to mmedge.
GRAPH_BACKENDS = frozenset({"openvino", "ort"})


@dataclass(frozen=True, slots=True)
class Checked:
    """A bundle that passed; ``graphs`` says what each graph reaches for."""

    archive: Archive
    manifest: Manifest
    graphs: Mapping[str, GraphFile]


def load(path: Path, *, digests: bool = True) -> Checked:
    """Open and check the bundle at ``path``; ``digests`` False leaves out step 4 alone.

    Raises:
        BundleError: a check failed. The message names the bundle, the file and the rule.
    """
    archive = open_archive(path)
    try:
        manifest = _read_manifest(archive)
        _check_listing(archive, manifest)
        if digests:
            check_digests(archive, manifest)
        graphs = _check_graphs(archive, manifest)
        _check_tokenizers(archive, manifest)
        return Checked(archive, manifest, graphs)
    except BaseException:
        archive.close()
        raise


def read_manifest(path: Path) -> Manifest:
    """What the bundle at ``path`` says about itself, before its other files are looked at.

    Raises:
        BundleError: as :func:`load`, of the listing and the manifest.
    """
    archive = open_archive(path)
    try:
        return _read_manifest(archive)
    finally:
        archive.close()


def _read_manifest(archive: Archive) -> Manifest:
    size = archive.sizes.get(MANIFEST)
    if size is None:
        raise BundleError(f"{archive.path}: no {MANIFEST}, so this is no bundle")
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{archive.path}: {MANIFEST} of {size} bytes, expected at most {MAX_MANIFEST_BYTES}"
        )
    source = f"{archive.path}: {MANIFEST}"
    return manifest_from_json(bytes(archive.read(MANIFEST)), source=source)


def _check_listing(archive: Archive, manifest: Manifest) -> None:
    present = archive.sizes.keys() - {MANIFEST}
    for fault, names in (
        ("missing file", manifest.files.keys() - present),
        ("extra file, not listed in the manifest:", present - manifest.files.keys()),
    ):
        if names:
            rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise BundleError(
                f"{archive.path}: {fault} {min(names)}{rest}; copy or export the bundle again"
            )


def check_digests(archive: Archive, manifest: Manifest) -> None:
    """Compare the SHA-256 of every file with the manifest's, several files at a time.

    Raises:
        BundleError: a file is altered.
    """
    from concurrent.futures import ThreadPoolExecutor  # slow to import, like logging below it

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for name, digest in zip(
            manifest.files, pool.map(archive.digest, manifest.files), strict=True
        ):
            if digest != manifest.files[name]:
                raise BundleError(
                    f"{archive.path}: {name} is altered: expected SHA-256 "
                    f"{manifest.files[name]}, got {digest}; copy or export the bundle again"
                )


def _check_graphs(archive: Archive, manifest: Manifest) -> dict[str, GraphFile]:
    graphs = {stage.graph for stage in manifest.stages}
    graphs |= {name for name in manifest.files if name.endswith(".onnx")}
    for variant in manifest.variants:
        if variant.backend in GRAPH_BACKENDS:
            graphs.update(variant.files.values())
    return {
        name: check_graph(archive.read(name), name, archive.sizes, f"{archive.path}: {name}")
        for name in sorted(graphs)
    }


def _check_tokenizers(archive: Archive, manifest: Manifest) -> None:
    for name in sorted({m.tokenizer.file for m in manifest.modalities if m.tokenizer}):
        source = f"{archive.path}: {name}"
        if archive.sizes[name] > MAX_TOKENIZER_BYTES:
            raise BundleError(
                f"{source}: {archive.sizes[name]} bytes, expected at most {MAX_TOKENIZER_BYTES}"
            )
        check_tokenizer(bytes(archive.read(name)), source)
