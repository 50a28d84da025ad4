"""What a process that was forked inherits of mmedge, and must leave alone.

A fork copies memory and not threads: an engine's session in the child waits for threads that are
not there, at a run or when it is freed, a lock that another thread held stays locked, and what a
child removes from a disk is gone for its parent. So whatever has threads, locks or files of its own
registers here, and is told when it wakes up in a child.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

__all__ = ["ADVICE", "Inherited", "keep_for_ever", "watch"]

#: How an error ends that a child gets.
ADVICE = (
    "a forked process cannot use what its parent loaded or opened: do so in the child, or spawn"
)


class Inherited(Protocol):
    """What is told that it is in a forked child."""

    def disown(self) -> None:
        """Refuse all work from now on, and free nothing, without taking a lock."""


_watched: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(thing: Inherited) -> None:
    """Have ``thing`` told when it wakes up in a forked child; it is not kept alive."""
    _watched.add(thing)


def keep_for_ever(thing: object) -> None:
    """Never free ``thing``, not even when the interpreter ends."""
    import ctypes  # of use in forked children alone

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _disown() -> None:
    for thing in list(_watched):
        thing.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)
