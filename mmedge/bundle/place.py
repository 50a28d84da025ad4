"""Putting a bundle in its place: staged beside it, then exchanged with what is there in one step.

Processes that write to the same place take turns: the folder that holds it is locked (``flock``)
while one of them moves, and each staging folder is locked by its process as long as it is in use,
so that one which a killed process left is told from the others and removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["caches", "exclusive", "left_behind", "put", "staging"]

# renameat2(2): relative to the working directory; both names change places.
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2

#: File of a staging folder that is locked as long as a process uses it.
_LOCK: Final = ".lock"

#: What a kernel or file system answers that cannot exchange.
_CANNOT_EXCHANGE: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Whoever else asks for the same folder waits; a file system without locks lets all through."""
    fd = _lock(folder, wait=True)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A private folder beside ``path``, on the same file system, which is removed at the end.

    Folders that killed processes left for the same ``path`` are removed first. What was there
    before stays as ``<name>.old`` in the folder as long as nothing stands at ``path``.

    Raises:
        OSError: the disk refused.
    """
    import secrets  # a runtime that only reads bundles never needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    # Named before it is made: Ctrl-C may come at any point, and leaves nothing behind.
    folder = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    fd = None
    try:
        with exclusive(path.parent):
            _sweep(path)
            folder.mkdir(mode=0o700)
            (folder / _LOCK).touch()
            fd = _lock(folder / _LOCK, wait=False)
        yield folder
    finally:
        if os.path.lexists(path) or not os.path.lexists(_aside_path(folder, path)):
            # All is done: what cannot be removed is no failure, and is swept by the next writer.
            with contextlib.suppress(OSError):
                _remove(folder)
        if fd is not None:
            os.close(fd)


def put(staged: Path, path: Path) -> None:
    """Move ``staged``, which lies in a folder of :func:`staging`, to ``path``.

    What is at ``path`` takes its place there, in one step where the file system can exchange two
    names (Linux: nearly all). Where it cannot, there is nothing at ``path`` for a moment between
    two renames: an exception there, Ctrl-C too, puts the old one back; where that fails, or the
    process is killed, the old one is left as ``.<name>.*/<name>.old`` beside.

    Raises:
        OSError: the disk refused.
    """
    aside = _aside_path(staged.parent, path)
    if path.is_dir() or (path.exists() and staged.is_dir()):
        if not _exchange(staged, path):
            try:
                path.rename(aside)
                staged.rename(path)
            except BaseException:  # Ctrl-C may come at any point, also around both renames
                if not os.path.lexists(path):
                    aside.rename(path)
                raise
    else:
        staged.replace(path)
    folder = os.open(path.parent, os.O_DIRECTORY)
    try:
        os.fsync(folder)  # or the rename may be lost with the power
    finally:
        os.close(folder)


def caches(path: Path) -> Path:
    """The folder beside the bundle at ``path`` that holds what devices found out of it."""
    path = path.absolute()
    return path.parent / f"{path.name}.cache"


def left_behind(path: Path) -> Path | None:
    """What a killed process moved away from ``path`` and did not replace; None: nothing."""
    leftovers = sorted(
        path.parent.glob(f".{_escape_glob(path.name)}.*/{_escape_glob(path.name)}.old")
    )
    return leftovers[0] if leftovers else None


def _aside_path(folder: Path, path: Path) -> Path:
    return folder / f"{path.name}.old"


def _escape_glob(name: str) -> str:
    import glob

    return glob.escape(name)


def _sweep(path: Path) -> None:
    """Remove staging folders for ``path`` that no process uses."""
    for folder in path.parent.glob(f".{_escape_glob(path.name)}.*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        with contextlib.suppress(OSError):
            aside, lock = _aside_path(folder, path), folder / _LOCK
            if not all(
                entry in {folder / path.name, caches(folder / path.name), aside, lock}
                or entry.name.startswith(f".{path.name}.")  # staged twice
                for entry in folder.iterdir()
            ):
                continue  # of something else
            if os.path.lexists(aside) and not os.path.lexists(path):
                continue  # all that is left of a bundle
            lock.touch()  # a process may have been killed before it came to that
            fd = _lock(lock, wait=False)
            if fd is not None:
                _remove(folder)
                os.close(fd)


def _remove(folder: Path) -> None:
    """Remove a folder, also where folders in it may not be written to, as those of a bundle."""
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            with contextlib.suppress(OSError):  # a link, or another's
                Path(parent, name).chmod(0o700)
    import shutil  # slow to import, and nothing is removed in most runs

    shutil.rmtree(folder)


def _lock(path: Path, *, wait: bool) -> int | None:
    """A descriptor that holds a file or folder locked until it is closed; None: it cannot be."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(fd)
        return None
    return fd


def _exchange(path: Path, other_path: Path) -> bool:
    """Let two names change places in one step; False where that is not possible here."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    arguments = (_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other_path), _RENAME_EXCHANGE)
    if renameat2(*arguments) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other_path))
