"""What tells a file from another in its place, or from itself before it was written to."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["BLOCK", "Identity", "has_hole", "identity_of"]

#: Bytes of a block in what ``stat`` says, whatever the file system's own are.
BLOCK = 512


class Identity(NamedTuple):
    """A file that was exchanged or written to has another one; ``size`` is in bytes, times in ns.

    The change time is set by the kernel alone, so restoring the modification time hides nothing.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def identity_of(status: os.stat_result) -> Identity:
    """The identity that a call of ``stat`` found."""
    return Identity(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def has_hole(fd: int, status: os.stat_result) -> bool:
    """Whether an open file claims more bytes than are stored: reading it would cost its claim.

    Compressed file systems store fewer blocks too, so the file is asked where its first hole is.
    """
    if status.st_blocks * BLOCK >= status.st_size or not hasattr(os, "SEEK_HOLE"):
        return False
    try:
        hole_at = os.lseek(fd, 0, os.SEEK_HOLE)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:  # the file system does not say
        return False
    return hole_at < status.st_size
