"""Writing a bundle: staged beside its place, checked as a reader would, then renamed into it."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmedge.bundle.load import CheckedBundle, load, manifest_digest
from mmedge.bundle.place import caches, exclusive, put, staging
from mmedge.errors import BundleError
from mmedge.schema import DIGEST, MANIFEST, manifest_to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Manifest

__all__ = ["SUFFIX", "Source", "add_file", "keep_modes", "move_bundle", "write_bundle"]

#: Suffix of a bundle that is one zip.
SUFFIX = ".mmedge"

#: What a file is made of: its bytes, or another file to copy.
Source = bytes | memoryview | Path

_CHUNK = 1 << 20


def write_bundle(
    path: Path,
    manifest: Manifest,
    sources: Mapping[str, Source],
    *,
    zipped: bool,
    overwrite: bool,
    before_move: Callable[[], None] | None = None,
) -> CheckedBundle:
    """Write ``manifest`` and the files of ``sources`` to ``path``, and open what was written.

    ``manifest.files`` is replaced by the digests of what was written. Equal content gives equal
    bytes. What is at ``path`` is replaced in one step (:func:`mmedge.bundle.place.put`); processes
    that write to the same place take turns.

    Args:
        path: where.
        manifest: what the bundle says about itself.
        sources: every other file by its path in the bundle.
        zipped: whether to write one zip.
        overwrite: replace the bundle at ``path``.
        before_move: called when all is staged, just before anything at ``path`` is touched; what it
            raises leaves the old bundle in place.

    Raises:
        BundleError: the bundle would not be valid, something is there already, or the disk refused.
    """
    # Faults of the manifest are found before gigabytes are copied.
    manifest_to_json(replace(manifest, files=dict.fromkeys(sources, "0" * 64)))
    path = path.absolute()
    _check_free(path, overwrite=overwrite)
    try:
        with staging(path) as folder:
            staged = folder / path.name
            (_write_zip if zipped else _write_directory)(staged, manifest, sources)
            load(staged, digests=False).archive.close()
            keep_modes(path, staged)
            with exclusive(path.parent):
                _check_free(path, overwrite=overwrite)  # another process may have been faster
                if before_move is not None:
                    before_move()
                put(staged, path)
                return load(path)
    except OSError as error:
        raise BundleError(f"{path}: the bundle cannot be written: {error}") from error


def move_bundle(staged: Path, path: Path, *, overwrite: bool) -> None:
    """Move a bundle that was written in a staging folder of ``path`` to it, and its cache.

    Raises:
        BundleError: something is there already, or the disk refused.
    """
    try:
        with exclusive(path.parent):
            _check_free(path, overwrite=overwrite)
            keep_modes(path, staged)
            put(staged, path)
            if caches(staged).is_dir():
                import shutil  # slow to import

                shutil.rmtree(caches(path), ignore_errors=True)
                shutil.move(caches(staged), caches(path))
    except OSError as error:
        raise BundleError(f"{path}: the bundle cannot be written: {error}") from error


def keep_modes(path: Path, staged: Path) -> None:
    """Give a bundle the permissions of the one that it replaces or is a copy of.

    New files get the manifest's, and of the other form all do: who may read one may enter a folder.
    """
    if not path.exists():
        return
    file_mode = stat.S_IMODE((path / MANIFEST if path.is_dir() else path).stat().st_mode)
    folder_mode = file_mode | (file_mode & 0o444) >> 2
    same_form = path.is_dir() == staged.is_dir()
    # Last the folder itself: one that may not be written to can be filled no more.
    for new_path in [*(staged.rglob("*") if staged.is_dir() else ()), staged]:
        old_path = path / new_path.relative_to(staged)
        if same_form and old_path.exists():
            mode = stat.S_IMODE(old_path.stat().st_mode)
        else:
            mode = folder_mode if new_path.is_dir() else file_mode
        new_path.chmod(mode)


def _check_free(path: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise BundleError(f"{path}: already exists; choose another path or pass overwrite=True")
    if path.is_symlink():
        raise BundleError(f"{path}: refusing to overwrite a link; name the bundle itself")
    try:
        load(path, digests=False).archive.close()
    except BundleError as error:
        raise BundleError(
            f"{path}: refusing to overwrite what is not a bundle of this version: {error}; choose "
            "another path, or move away what is there"
        ) from error


def add_file(folder: Path, name: str, source: Source) -> str:
    """Write a file under ``folder``, through to the disk; its SHA-256."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        digest = _copy(source, file.write)
        file.flush()
        os.fsync(file.fileno())
    return digest


def _write_directory(staged: Path, manifest: Manifest, sources: Mapping[str, Source]) -> None:
    _add_all(partial(add_file, staged), manifest, sources)


def _write_zip(staged: Path, manifest: Manifest, sources: Mapping[str, Source]) -> None:
    import zipfile

    with staged.open("xb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

            def add(name: str, source: Source) -> str:
                # The time is fixed, so that equal content gives equal bytes.
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.create_system = 3  # Unix, which external_attr is in terms of
                info.external_attr = 0o100644 << 16
                info.file_size = _size(source)  # decides whether the header has 64-bit sizes
                with archive.open(info, "w") as entry:
                    return _copy(source, entry.write)

            _add_all(add, manifest, sources)
        file.flush()
        os.fsync(file.fileno())


def _add_all(
    add: Callable[[str, Source], str], manifest: Manifest, sources: Mapping[str, Source]
) -> None:
    digests = {name: add(name, sources[name]) for name in sorted(sources)}
    text = manifest_to_json(replace(manifest, files=digests)).encode()
    add(MANIFEST, text)
    add(DIGEST, manifest_digest(text))


def _copy(source: Source, write: Callable[[bytes | memoryview], object]) -> str:
    """Hand the source's bytes to ``write``; their SHA-256."""
    if not isinstance(source, Path):
        write(source)
        return hashlib.sha256(source).hexdigest()
    digest = hashlib.sha256()
    file: BinaryIO
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            write(chunk)
    return digest.hexdigest()


def _size(source: Source) -> int:
    return source.stat().st_size if isinstance(source, Path) else len(source)
