"""A bundle as a directory."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from typing import TYPE_CHECKING

from mmedge.bundle.identity import BLOCK, Identity, has_hole, identity_of
from mmedge.errors import BundleError
from mmedge.schema import MANIFEST, MAX_FILES, path_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from io import BufferedReader
    from pathlib import Path

__all__ = ["Directory"]

#: Bytes of the largest file that is hashed where it is mapped; more would raise peak memory.
AT_ONCE = 16 << 20


class Directory:
    """A directory tree of regular files (see :class:`mmedge.bundle.archive.Archive`).

    Every file is opened from the root down without following links, and must be the very file that
    was listed: same inode, size and times. So what is read is what was digested, unless a process
    with the rights of this one's user writes into a file while it is mapped. A library that is
    given a path opens it by itself a moment after the check; only file permissions guard that.
    """

    zipped = False

    def __init__(self, path: Path) -> None:
        self.path = path
        # First: whatever else lies in a folder of the user's is no fault of it.
        if not os.path.lexists(path / MANIFEST):
            raise BundleError(
                f"{path} is not a bundle: it holds no {MANIFEST}. A bundle is the folder, or the "
                "one file NAME.mmedge, that mmedge export wrote"
            )
        self._root = _place(path)
        self._known = dict(self._list())
        self.sizes: Mapping[str, int] = {
            name: identity.size for name, identity in self._known.items()
        }

    def _list(self) -> Iterable[tuple[str, Identity]]:
        count = 0
        names: dict[tuple[int, int], str] = {}
        for folder, folders, files, fd in os.fwalk(self.path, onerror=_raise):
            prefix = os.path.relpath(folder, self.path)
            for entry in sorted(folders + files):
                name = entry if prefix == "." else f"{prefix}/{entry}"
                if fault := path_fault(name):
                    raise BundleError(
                        f"{self.path}: {fault}: no bundle holds such a file, so this folder is not "
                        "a bundle, or something was added to it; copy or export the bundle again"
                    )
                status = os.stat(entry, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    continue
                _check_regular(status, f"{self.path}: {name}")
                first_name = names.setdefault((status.st_dev, status.st_ino), name)
                if first_name != name:
                    raise BundleError(
                        f"{self.path}: {name} and {first_name} are one file (hard links), which "
                        "costs more to read than to store; put a copy in the place of each"
                    )
                _check_stored(entry, fd, status, f"{self.path}: {name}")
                count += 1
                if count > MAX_FILES + 3:  # the manifest, its digest and its signature come on top
                    raise BundleError(f"{self.path}: more than {MAX_FILES} files; no bundle is")
                yield name, identity_of(status)

    def read(self, name: str) -> memoryview:
        """See :meth:`mmedge.bundle.archive.Archive.read`."""
        with self._open(name) as file:
            if not self.sizes[name]:  # an empty file cannot be mapped
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def digester(self, name: str) -> Callable[[], str]:
        """See :meth:`mmedge.bundle.archive.Archive.digester`."""
        if self.sizes[name] <= AT_ONCE:
            data = self.read(name)
            # What changes from here on is refused at its next use.
            return lambda: hashlib.sha256(data).hexdigest()
        file = self._open(name)

        def digest() -> str:
            with file:
                hexadecimal = hashlib.file_digest(file, "sha256").hexdigest()
                self._check_same(name, os.fstat(file.fileno()))
            return hexadecimal

        return digest

    def place(self, names: Iterable[str]) -> None:
        """See :meth:`mmedge.bundle.archive.Archive.place`: nothing but the check to do here."""
        for name in names:
            self._open(name).close()

    def folder(self) -> Path:
        """See :meth:`mmedge.bundle.archive.Archive.folder`."""
        return self.path

    def release(self) -> None:
        """See :meth:`mmedge.bundle.archive.Archive.release`: nothing was copied."""

    def check_unchanged(self) -> None:
        """See :meth:`mmedge.bundle.archive.Archive.check_unchanged`: of the root and each file."""
        self.place(self._known)
        if _place(self.path) != self._root:
            raise BundleError(f"{self.path}: changed since the bundle was opened; open it again")

    def close(self) -> None:
        """See :meth:`mmedge.bundle.archive.Archive.close`."""
        self._known = {}

    def _open(self, name: str) -> BufferedReader:
        if not self._known:
            raise BundleError(f"{self.path}: the bundle is closed; open it again")
        try:
            file = os.fdopen(self._descend(name), "rb")
        except OSError as error:
            raise BundleError(
                f"{self.path}: {name} changed since the bundle was opened: {error}"
            ) from error
        try:
            self._check_same(name, os.fstat(file.fileno()))
        except BundleError:
            file.close()
            raise
        return file

    def _descend(self, name: str) -> int:
        """Walk down from the root, following no link at any step, and wait for no device."""
        *folders, file_name = name.split("/")
        fd = os.open(self.path, os.O_DIRECTORY)
        for part, kind in [
            *((folder, os.O_DIRECTORY) for folder in folders),
            (file_name, os.O_RDONLY),
        ]:
            try:
                child_fd = os.open(part, kind | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
            finally:
                os.close(fd)
            fd = child_fd
        return fd

    def _check_same(self, name: str, status: os.stat_result) -> None:
        if identity_of(status) != self._known[name]:
            raise BundleError(
                f"{self.path}: {name} changed since the bundle was opened; open it again"
            )


def _place(path: Path) -> tuple[int, int]:
    """What tells a folder from another one in its place."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _check_regular(status: os.stat_result, where: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise BundleError(f"{where} is a link; a bundle holds plain files, put a copy in its place")
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{where} is a device, pipe or socket; a bundle holds plain files only")


def _check_stored(entry: str, folder: int, status: os.stat_result, where: str) -> None:
    """Refuse what costs more to read than it takes to store: holes."""
    if status.st_blocks * BLOCK < status.st_size:
        fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            if has_hole(fd, status):
                raise BundleError(
                    f"{where} is sparse: {status.st_size} bytes, of which some are not stored; "
                    "copy it with cp --sparse=never"
                )
        finally:
            os.close(fd)


def _raise(error: OSError) -> None:
    raise error
