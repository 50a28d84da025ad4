"""What tells a file from another in its place, or from itself before it was written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os

__all__ = ["Identity", "identity_of"]


class Identity(NamedTuple):
    """A file that was exchanged or written to has another one; ``size`` is in bytes, times in ns.

    The change time is set by the kernel alone, so restoring the modification time hides nothing.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def identity_of(found: os.stat_result) -> Identity:
    """The identity that a call of ``stat`` found."""
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
