"""The two forms of a bundle behind one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mmedge.bundle.directory import Directory
from mmedge.bundle.place import left_behind
from mmedge.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

__all__ = ["Archive", "open_archive"]


class Archive(Protocol):
    """Named files that were listed, and whose names were checked, when it was opened.

    Attributes:
        path: the directory or zip.
        sizes: bytes of each file by name.
        zipped: True for a zip.
    """

    path: Path
    sizes: Mapping[str, int]
    zipped: bool

    def read(self, name: str) -> memoryview:
        """The file's bytes, mapped and not copied; valid as long as the view is kept.

        Raises:
            BundleError: the file changed since it was listed, or the archive is closed.
        """

    def digester(self, name: str) -> Callable[[], str]:
        """Open the file; what is returned computes its SHA-256 in lower-case hex, in any thread.

        Both raise as :meth:`read`.
        """

    def place(self, names: Iterable[str]) -> None:
        """Make sure that the files lie on disk under :meth:`folder`.

        Raises:
            BundleError: as :meth:`read`, or the disk refused a copy.
        """

    def folder(self) -> Path:
        """The directory in which files are found by their names once placed."""

    def release(self) -> None:
        """Remove the copies that :meth:`place` made; it makes them again when asked to."""

    def check_unchanged(self) -> None:
        """Make sure that what lies at ``path`` is still what was opened.

        Raises:
            BundleError: it was changed, replaced or removed since.
        """

    def close(self) -> None:
        """Remove temporary files and forget the rest. May be called twice."""


def open_archive(path: Path) -> Archive:
    """Open a directory or a zip, whichever lies at ``path``, and list it.

    ``path`` itself may be a link; it is resolved once, here.

    Raises:
        BundleError: nothing readable is there, or its listing breaks a rule of
            docs/reference/bundle.md.
    """
    try:
        real = path.resolve(strict=True)
        if real.is_dir():
            return Directory(real)
        if real.is_file():
            from mmedge.bundle.zipped import Zipped  # a directory has no use for it

            return Zipped(real)
    except FileNotFoundError as error:
        older = left_behind(path.absolute())
        advice = f"; what a command that was ended took from there lies at {older}: move it back"
        raise BundleError(f"{path}: no such file or folder{advice if older else ''}") from error
    except (OSError, ValueError, RuntimeError) as error:
        # ValueError: a null character in the path; RuntimeError: links in a circle, before 3.13
        raise BundleError(f"{path}: the bundle cannot be read: {error}") from error
    raise BundleError(f"{path}: a bundle is a directory or a zip file, this is neither")
