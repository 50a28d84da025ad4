"""Handles of a network that libmmedge has loaded: each call has one of its own."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from mmedge.errors import BackendError, InputError
from mmedge.forks import ADVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmedge.native import runtime

__all__ = ["Handles", "refuse"]


class Handles:
    """Handles on one loaded network. Each has one call at a time; a further thread gets a clone.

    Args:
        origin: is cloned, and has no call itself.
        title: of the pipeline in messages.
    """

    def __init__(self, origin: runtime.NativePipeline, title: str) -> None:
        self._origin, self._title = origin, title
        self._idle: list[runtime.NativePipeline] = []
        # Steps of a loop that are collected give their handle back, also within one of these calls.
        self._lock = threading.RLock()
        self._closed = self._disowned = False

    def take(self) -> runtime.NativePipeline:
        """A handle for one call; :meth:`give_back` takes it back.

        Raises:
            BackendError: the pipeline is closed, or belongs to the parent of this process.
        """
        self.check_open()  # before the lock, which a thread of the parent may hold for ever
        with self._lock:
            self.check_open()
            return self._idle.pop() if self._idle else self._origin.clone()

    def give_back(self, handle: runtime.NativePipeline, *, reuse: bool = True) -> None:
        """End a call. ``reuse`` False: what the handle began is given up with it."""
        if self._disowned:
            return
        with self._lock:
            reuse = reuse and not self._closed
            if reuse:
                self._idle.append(handle)
        if not reuse:
            handle.close()

    @property
    def is_disowned(self) -> bool:
        """Whether this is a forked child of the process that loaded the network."""
        return self._disowned

    @contextmanager
    def use(self) -> Iterator[runtime.NativePipeline]:
        """A handle for a block."""
        handle = self.take()
        try:
            yield handle
        finally:
            self.give_back(handle)

    def check_open(self) -> None:
        """Raise BackendError where it is closed, or belongs to the parent of this process."""
        if self._disowned:
            raise BackendError(f"{self._title}: {ADVICE}")
        if self._closed:
            raise BackendError(f"{self._title} is closed; load the bundle again")

    def disown(self) -> None:
        """Use and free nothing any more: what there is has threads of the parent."""
        self._disowned = True

    def close(self) -> None:
        """Free what has no call, and the rest when its call ends. May be called twice."""
        if self._disowned:
            return
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for handle in (*idle, self._origin):
            handle.close()


def refuse(what: str) -> NoReturn:
    """Raise InputError: libmmedge does not do this."""
    raise InputError(f'libmmedge does not {what} yet; leave runtime="native" out')
