"""Writing a bundle: staged beside its place, checked as a reader would, then renamed into it."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmedge.bundle.load import CheckedBundle, load, manifest_digest
from mmedge.bundle.place import caches, exclusive, put, staging
from mmedge.errors import BundleError
from mmedge.schema import DIGEST, MANIFEST, SIGNATURE, manifest_to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmedge.bundle.archive import Archive
    from mmedge.spec import Manifest

__all__ = [
    "SUFFIX",
    "Source",
    "add_file",
    "keep_modes",
    "move_bundle",
    "write_bundle",
    "write_signature",
]

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
    signature: bytes | None = None,
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
        signature: bytes of a ``manifest.sig``. Where it is of another manifest than the one that is
            written, it is left out with a UserWarning.

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
            with _adding(staged, zipped=zipped) as add:
                is_signed = _add_all(add, manifest, sources, signature)
            load(staged, digests=False).archive.close()
            keep_modes(path, staged)
            with exclusive(path.parent):
                _check_free(path, overwrite=overwrite)  # another process may have been faster
                if before_move is not None:
                    before_move()
                put(staged, path)
                contents = load(path)
    except OSError as error:
        raise BundleError(f"{path}: the bundle cannot be written: {error}") from error
    if signature is not None and not is_signed:
        warnings.warn(
            f"{path}: its signature was removed: the bundle is no longer what was signed; sign it "
            "again (mmedge sign)",
            UserWarning,
            stacklevel=2,
        )
    return contents


def write_signature(archive: Archive, signature: bytes) -> None:
    """Put ``manifest.sig`` into a bundle in one step; all other bytes of its files stay.

    Args:
        archive: of the bundle, open.
        signature: the file's bytes; they replace those that are there.

    Raises:
        BundleError: the bundle was changed since it was opened, or the disk refused.
    """
    path = archive.path
    try:
        with staging(path) as folder:
            staged = folder / path.name
            if archive.zipped:
                own = (MANIFEST, DIGEST)
                names = [*sorted(archive.sizes.keys() - {*own, SIGNATURE}), *own]
                with _adding(staged, zipped=True) as add:
                    for name in names:
                        if name in archive.sizes:  # the oldest have no digest
                            add(name, archive.read(name))
                    add(SIGNATURE, signature)
                load(staged, digests=False).archive.close()
                keep_modes(path, staged)
            else:
                # Of a folder the one file is exchanged, so no one sees it half written.
                add_file(folder, path.name, signature)
                staged.chmod(stat.S_IMODE((path / MANIFEST).stat().st_mode))
            with exclusive(path.parent):
                archive.check_unchanged()
                if not archive.zipped:
                    _check_no_other(archive)
                put(staged, path if archive.zipped else path / SIGNATURE)
    except OSError as error:
        raise BundleError(f"{path}: the signature cannot be written: {error}") from error


def _check_no_other(archive: Archive) -> None:
    """Refuse to replace a signature that came after the bundle was opened."""
    if SIGNATURE not in archive.sizes and os.path.lexists(archive.path / SIGNATURE):
        raise BundleError(
            f"{archive.path}: signed by another process since the bundle was opened; sign it again"
        )


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


@contextmanager
def _adding(staged: Path, *, zipped: bool) -> Iterator[Callable[[str, Source], str]]:
    """What writes a file of a new bundle by its name, and gives its SHA-256."""
    if not zipped:
        yield partial(add_file, staged)
        return
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

            yield add
        file.flush()
        os.fsync(file.fileno())


def _add_all(
    add: Callable[[str, Source], str],
    manifest: Manifest,
    sources: Mapping[str, Source],
    signature: bytes | None,
) -> bool:
    """Write all files; whether a signature is among them."""
    digests = {name: add(name, sources[name]) for name in sorted(sources)}
    text = manifest_to_json(replace(manifest, files=digests)).encode()
    add(MANIFEST, text)
    add(DIGEST, manifest_digest(text))
    if signature is None or not _is_of(signature, text):
        return False
    add(SIGNATURE, signature)
    return True


def _is_of(signature: bytes, manifest: bytes) -> bool:
    """Whether a signature that was read before is one of these bytes."""
    from mmedge.schema.release import envelope_from_bytes, release_from_bytes

    payload = envelope_from_bytes(signature, source=SIGNATURE).payload
    signed = release_from_bytes(payload, source=SIGNATURE).manifest
    return signed == hashlib.sha256(manifest).hexdigest()


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
