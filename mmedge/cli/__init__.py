"""The command line: data on stdout, words on stderr; exit 0 done, 1 failed, 2 misused.

Only what Python itself brings is imported here: from the first line on, Ctrl-C ends the command
with 130 and no traceback, also while libraries are being imported.
"""

from __future__ import annotations

import os
import signal
import sys

from mmedge.cli.signals import stop

__all__ = ["main"]


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    stop.watch()
    try:
        _open_closed()
        code = _run()
        stop.settled = True
    except BaseException as error:  # also what a library made of the interruption
        stop.settled = True
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
