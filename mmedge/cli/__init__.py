"""The command line: data on stdout, words on stderr; exit 0 done, 1 failed, 2 misused.

Only what Python itself brings is imported here: from the first line on, Ctrl-C ends the command
with 130 and no traceback, also while libraries are being imported.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

__all__ = ["Stop", "main", "stop"]

#: Seconds within which a second signal counts as the first one pressed twice: what cleans up after
#: the first must not be cut short.
TWICE_S = 2.0
#: Seconds until an interruption that Python dropped is raised once more.
AGAIN_S = 0.01


class Stop:
    """Turns SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt, so that everything cleans up.

    Attributes:
        number: of the signal that came; None: none did.
    """

    def __init__(self) -> None:
        self.number: int | None = None
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
        self.number, self._at = number, now
        raise KeyboardInterrupt

    def _ignored(self, args: Any) -> None:  # noqa: ANN401 - a type of typeshed alone
        """Python drops what is raised in a finalizer: an interruption there is raised once more."""
        if self.number is None:
            sys.__unraisablehook__(args)
        elif issubclass(args.exc_type, KeyboardInterrupt):
            signal.signal(signal.SIGALRM, self._again)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def release(self) -> None:
        """From now on a signal ends the process at once: nothing is left to clean up."""
        for number in self._signals:
            signal.signal(number, signal.SIG_DFL)


#: Of this process.
stop = Stop()


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    stop.watch()
    try:
        _open_closed()
        code = _run()
    except BaseException as error:  # also what a library made of the interruption
        if stop.number is None:
            raise
        code = _stopped(stop.number, error)
    stop.release()
    sys.exit(_flushed(code))


def _open_closed() -> None:
    """Give streams that whoever called closed (``>&-``) a place, which takes all and keeps none.

    Else the next file that is opened would have their number, and be written over.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _run() -> int:
    from mmedge.cli.app import run

    return run(sys.argv[1:])


def _stopped(number: int, error: BaseException) -> int:
    """Say so, and give the exit code that a shell has for it."""
    words = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    try:
        from mmedge.cli.failures import tell_stopped

        tell_stopped(words, error, code=128 + number)
    except BaseException:  # noqa: BLE001 - the libraries that print may not have been imported
        os.write(2, f"{words}\n".encode())
    return 128 + number


def _flushed(code: int) -> int:
    """Write out what was printed; 141, as of SIGPIPE, where the reader has gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except OSError as error:
        os.write(2, f"what was printed cannot be written: {error}\n".encode())
        code = code or 1
    else:
        return code
    # Python flushes once more when it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code
