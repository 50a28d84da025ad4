"""Signals that stop a command: it cleans up, and its exit code tells which one came."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

__all__ = ["Stop", "stop"]

#: Seconds within which a second signal counts as the first one pressed twice: what cleans up after
#: the first must not be cut short.
TWICE_S = 2.0
#: Seconds until an interruption that Python dropped is raised once more.
AGAIN_S = 0.01
#: Seconds after which it is looked whether somebody took an interruption for an error and went on.
SWALLOWED_S = 0.05


class Interruption(KeyboardInterrupt):
    """What a signal raises.

    KeyboardInterrupt itself would do, but where it leaves an exec of text, as in what dataclasses
    and namedtuple make of a class, Python notes it as one that nobody handled, and ends the process
    by SIGINT whatever the exit code.
    """


class Stop:
    """Turns SIGINT, SIGTERM and SIGHUP into an :class:`Interruption`, so that everything cleans up.

    Attributes:
        number: of the signal that came; None: none did.
        settled: the command's work has ended, by itself or by an interruption: nothing is raised
            any more. An attribute and no method: Python handles signals when a function is called,
            and one between the end of the work and this would be raised where nobody handles it.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.settled = False
        self._at = 0.0
        self._signals: list[int] = []

    def watch(self) -> None:
        """From now on signals are taken."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and jobs of a script
                signal.signal(number, self._come)
                self._signals.append(number)
        sys.unraisablehook = self._ignored

    def _come(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is not None and now - self._at < TWICE_S:
            return
        if self.settled:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number, self._at = number, now
        self._raise_again(SWALLOWED_S)
        raise Interruption

    def _ignored(self, args: Any) -> None:  # noqa: ANN401 - a type of typeshed alone
        """Python drops what is raised in a finalizer: an interruption there is raised once more."""
        if self.number is None:
            sys.__unraisablehook__(args)
        elif issubclass(args.exc_type, KeyboardInterrupt):
            self._raise_again(AGAIN_S)

    def _raise_again(self, seconds: float) -> None:
        signal.signal(signal.SIGALRM, self._again)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        """Raise the interruption once more, unless it is on its way and things clean up.

        A library that is interrupted while it is imported says that it cannot be; whoever can do
        without it would go on.
        """
        if self.settled:
            return
        self._raise_again(SWALLOWED_S)
        if not _is_interruption(sys.exc_info()[1]):
            raise Interruption

    def release(self) -> None:
        """From now on a signal ends the process at once: nothing is left to clean up."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in self._signals:
            signal.signal(number, signal.SIG_DFL)


def _is_interruption(error: BaseException | None) -> bool:
    """Whether an error that is being handled is an interruption, or was made of one."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        if isinstance(error, KeyboardInterrupt):
            return True
        visited.add(id(error))
        error = error.__cause__ or error.__context__
    return False


#: Of this process.
stop = Stop()
