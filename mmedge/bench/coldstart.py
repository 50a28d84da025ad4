"""A fresh process that loads a bundle and answers once: cold start, first call, peak memory.

The process is cold, the machine is not: the bundle and the libraries were read a moment ago, so
their files are in the operating system's cache, which they are not after a boot.

The child prints one JSON object. Its clock and the parent's are the same one (CLOCK_MONOTONIC), so
times taken in both can be subtracted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge.bench.machine.host import peak_memory_bytes
from mmedge.errors import BackendError
from mmedge.loader import load

if TYPE_CHECKING:
    from mmedge.bench.loop_calls import LoopCalls
    from mmedge.spec import PlanName

__all__ = ["ColdStart", "child", "measure"]

#: The clock is read before mmedge is imported, so that the import is a part of its own.
PROGRAM = (
    "import time; started = time.monotonic_ns(); "
    "from mmedge.bench.coldstart import child; child(started)"
)


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What a fresh process took. Times in milliseconds.

    ``parts`` splits ``total``: ``interpreter`` (process start to the first line of Python),
    ``import`` (of mmedge), ``load`` (bundle checks, import of the backend, sessions), ``samples``
    (reading the input) and ``first_call``; of a loop, ``first_token`` or ``first_step`` and
    ``further_steps`` in place of ``first_call``. ``peak_memory_bytes`` is resident memory at its
    highest, after ``calls`` calls.
    """

    total: float
    parts: dict[str, float]
    peak_memory_bytes: int


def measure(
    path: str,
    *,
    variant: str,
    plan: PlanName,
    threads: int | None,
    calls: int,
    loop: LoopCalls | None = None,
) -> ColdStart:
    """Start a process that loads ``path`` and runs ``calls`` golden samples.

    Args:
        path: the bundle.
        variant: id of the variant to load.
        plan: of it, to load.
        threads: as for :func:`mmedge.load`.
        calls: calls to make before peak memory is read.
        loop: how calls are made, where there is a loop; None: as the bundle says.

    Raises:
        BackendError: the process failed; the message holds its last line.
    """
    # -P: a module of the same name in the working directory must not be imported for the library's.
    command = [sys.executable, "-P", "-c", PROGRAM]
    settings = {"path": path, "variant": variant, "plan": plan, "threads": threads}
    options = None if loop is None else loop.options
    request = json.dumps({**settings, "calls": calls, "options": options})
    start = time.monotonic_ns()
    # Fixed program, our own module, no shell.
    process = subprocess.run(  # noqa: S603
        command, input=request, capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        raise BackendError(
            f"the cold-start process failed with exit code {process.returncode}: "
            f"{(process.stderr.strip().splitlines() or ['it said nothing'])[-1][-2000:]}"
        )
    marks = json.loads(process.stdout.splitlines()[-1])
    names = ["interpreter", "import", "load", "samples", "first_call"]
    if loop is not None:
        names[-1:] = [loop.first_name, "further_steps"]
    times = [start, *marks["times"]]
    parts = {
        name: (after - before) / 1e6
        for name, before, after in zip(names, times[:-1], times[1:], strict=True)
    }
    return ColdStart((times[-1] - start) / 1e6, parts, marks["peak_memory_bytes"])


def child(started: int) -> None:
    """Body of the child process; ``started`` is its clock before mmedge was imported, in ns."""
    times = [started, time.monotonic_ns()]
    request = json.load(sys.stdin)
    # Else loading checks an unproven variant with the golden samples: its first call is made, and
    # counted as a part of loading.
    pipe = load(
        request["path"],
        request["variant"],
        plan=request["plan"],
        threads=request["threads"],
        allow_unverified=True,
    )
    times.append(time.monotonic_ns())
    samples = pipe.bundle.samples()
    times.append(time.monotonic_ns())
    options = request["options"]
    if options is None:
        options = {}
        pipe.run(samples[0].inputs)
    else:
        with pipe.iterate(samples[0].inputs, **options) as run:
            run.advance()
            times.append(time.monotonic_ns())
            while run.advance():
                pass
            run.result()
    times.append(time.monotonic_ns())
    for call in range(1, request["calls"]):
        pipe.run(samples[call % len(samples)].inputs, **options)
    print(json.dumps({"times": times, "peak_memory_bytes": peak_memory_bytes()}))  # noqa: T201
