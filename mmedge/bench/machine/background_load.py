"""A second load on the same cores while a bundle is measured: what its neighbours cost it.

Each load runs under a small supervisor process that holds a pipe to this one. When the pipe closes,
which the operating system does even where this process is killed, the supervisor ends the load and
all that it started in its process group.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mmedge.errors import InputError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Interference"]

#: Starts the command of its arguments in a group of its own, says so, and waits for the end of its
#: standard input. SIGTERM first; SIGKILL for what does not heed it.
SUPERVISOR = """
import os, signal, subprocess, sys
try:
    child = subprocess.Popen(sys.argv[1:], start_new_session=True, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
except OSError as error:
    sys.exit(str(error))
for ignored in (signal.SIGINT, signal.SIGTERM):
    signal.signal(ignored, signal.SIG_IGN)
print("started", flush=True)
sys.stdin.read()
ended = child.poll()
for number in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        break
    try:
        child.wait(2)
    except subprocess.TimeoutExpired:
        pass
print("" if ended is None else ended, flush=True)
"""
BUSY = "while True: pass"
#: Copies one array to another of the same size, both given in bytes.
STREAM = """
import sys
import numpy as np
count = int(sys.argv[1]) // 8
source, target = np.ones(count), np.zeros(count)
while True:
    np.copyto(target, source)
"""
#: Bytes of each of the two arrays where the size of the last-level cache is not known or small.
LEAST_BYTES = 64 * 2**20


class Interference:
    """Runs a second load between entry and exit, on the cores that this process may use.

    The operating system places it: as many processes as there are cores keep all of them busy.

    Args:
        what: ``"cpu:N"``: N busy processes (``"cpu"``: one). ``"memory:N"``: N processes, each
            copying between two arrays that are twice the last-level cache. Anything else is a
            command and its arguments, started without a shell.

    Attributes:
        words: what it was, for the report; after the end also whether it ended by itself before.

    Raises:
        InputError: ``what`` is empty or N is not a number from 1, and on entry: a command cannot
            be started.
    """

    def __init__(self, what: str) -> None:
        kind, _, number = what.strip().partition(":")
        self._commands: list[list[str]]
        if kind in ("cpu", "memory"):
            if number and not (number.isdecimal() and int(number) >= 1):
                raise InputError(
                    f"interference {what!r}: expected {kind}:N with N >= 1, got {number!r}"
                )
            count = int(number or 1)
            plural = "es" if count > 1 else ""
            if kind == "cpu":
                program = [sys.executable, "-I", "-c", BUSY]
                self.words = f"cpu: {count} busy process{plural}"
            else:
                size = max(LEAST_BYTES, 2 * _last_level_cache())
                program = [sys.executable, "-P", "-c", STREAM, str(size)]
                self.words = (
                    f"memory: {count} process{plural} copying between arrays of "
                    f"{size / 2**20:.0f} MiB"
                )
            self._commands = [program] * count
        else:
            try:
                words = shlex.split(what)
            except ValueError as error:
                raise InputError(f"interference {what!r}: not a command: {error}") from error
            if not words:
                raise InputError("interference: expected cpu:N, memory:N or a command, got nothing")
            self.words = f"command: {what.strip()}"
            self._commands = [words]
        self._what = self.words
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        try:
            for command in self._commands:
                # What runs is what the user asked for, without a shell.
                process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-I", "-c", SUPERVISOR, *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                self._running.append(process)
                if process.stdout is None or process.stdout.readline() != "started\n":
                    stderr = process.stderr.read().strip() if process.stderr is not None else ""
                    raise InputError(
                        f"interference {shlex.join(command)}: cannot be started: {stderr}"
                    )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        codes = [code for code in self._end() if code]
        if codes:
            self.words = (
                f"{self._what} (ended before the measurement did, with exit code {codes[0]})"
            )

    def _end(self) -> list[str]:
        """End all; the exit codes of those that had ended by themselves, as text."""
        running, self._running = self._running, []
        for process in running:
            if process.stdin is not None:
                process.stdin.close()
        codes = []
        for process in running:
            codes.append(process.stdout.read().strip() if process.stdout is not None else "")
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        return codes


def _last_level_cache() -> int:
    """Bytes of the first core's largest cache; 0 where the system does not tell."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        unit = {"K": 2**10, "M": 2**20}.get(text[-1:], 1)
        digits = text.rstrip("KM")
        sizes.append(int(digits) * unit if digits.isdecimal() else 0)
    return max(sizes)
