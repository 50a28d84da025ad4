"""Time variants of a bundle in processes of their own, in turn.

Several engines in one process share its memory and disturb each other's threads, and one process
differs from the next by where its memory lies. So every variant gets several fresh processes, and
blocks of calls of all of them come in turn, in random order.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from mmedge.bench.loop_calls import loop_options
from mmedge.bench.stats.block_timer import turns
from mmedge.errors import BackendError
from mmedge.loader import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.spec import PlanName, Variant

__all__ = ["Cell", "child", "time_apart"]

#: Fresh processes of each variant, blocks of calls of each process, and milliseconds of a block.
PROCESSES, BLOCKS, BLOCK_MS = 3, 7, 40.0
#: Untimed calls before a block, and seconds that idle threads of others get to stop spinning.
UNTIMED, PAUSE_S = 3, 0.02

_PROGRAM = "from mmedge.bench.subprocesses import child; child()"


class Cell(NamedTuple):
    """What is timed: a plan of a variant, with so many threads as :func:`mmedge.load` takes.

    ``tokens`` are those of a call, as for :meth:`mmedge.bench.loop_calls.LoopCalls.of`.
    """

    variant: Variant
    plan: PlanName | None = None
    threads: int | None = None
    tokens: int | None = None

    def __str__(self) -> str:
        count = "" if self.threads is None else f" with {self.threads} threads"
        count = " with 1 thread" if self.threads == 1 else count
        return f"{self.variant.id}{'' if self.plan is None else f', {self.plan}'}{count}"


def time_apart(path: str, cells: Sequence[Cell]) -> list[float]:
    """Milliseconds of a call of each cell: the median over processes of blocks' medians.

    Golden samples are called in turn, one at a time, with nothing from the feature cache. A call of
    a bundle with a loop is a whole run of it, of as many steps each time.

    Args:
        path: the bundle.
        cells: of variants that this machine can run.

    Raises:
        BackendError: a process failed; its own words are on standard error.
    """
    medians: list[list[float]] = [[] for _ in cells]
    for process in range(PROCESSES):
        with contextlib.ExitStack() as stack:
            timers = [stack.enter_context(_Timer(path, cell)) for cell in cells]
            blocks: list[list[float]] = [[] for _ in cells]
            for _, number in turns(range(len(cells)), BLOCKS, seed=process):
                blocks[number].append(timers[number].block())
            for times, block_times in zip(medians, blocks, strict=True):
                times.append(float(np.median(block_times)))
    return [float(np.median(times)) for times in medians]


class _Timer:
    """A process that has one plan of a variant loaded and times blocks of calls on demand."""

    def __init__(self, path: str, cell: Cell) -> None:
        self.id = cell.variant.id
        # -P: a module of the same name in the working directory must not be imported for the
        # library's. Fixed program, our own module, no shell.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal reaches a whole group: this process ends the other, quietly.
            process_group=0,
        )
        try:
            choice = {"variant": self.id, "plan": cell.plan, "threads": cell.threads}
            self._ask({"path": path, **choice, "tokens": cell.tokens})
        except BaseException:
            self._process.kill()
            self.__exit__()
            raise

    def block(self) -> float:
        """Median milliseconds of the calls of a block."""
        return float(self._ask({"ms": BLOCK_MS}))

    def _ask(self, question: dict[str, Any]) -> Any:  # noqa: ANN401
        line = ""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None and self._process.stdout is not None:
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
        if not line:
            self.__exit__()
            raise BackendError(
                f"variant {self.id}: the process that times it ended; see its words above"
            )
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        if kind is not None:  # it may be loading, and would not see that nobody asks any more
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()


def child() -> None:
    """Body of a timing process: load what the first line names, then time a block for each line."""
    line = sys.stdin.readline()
    if not line:  # who started it was interrupted
        return
    request = json.loads(line)
    with load(
        request["path"], request["variant"],
        plan=request["plan"], threads=request["threads"], allow_unverified=True,
    ) as pipe:  # fmt: skip
        samples = [sample.inputs for sample in pipe.bundle.samples()]
        options = loop_options(pipe.bundle.manifest, request["tokens"])
        for inputs in samples:
            pipe.run(inputs, cached=False, **options)
        answer: float | None = None
        at = 0
        while True:
            print(json.dumps(answer), flush=True)  # noqa: T201
            line = sys.stdin.readline()
            if not line:
                return
            block_ns = json.loads(line)["ms"] * 1e6
            sleep(PAUSE_S)
            # A slow network gets a call or two a block; every cell's go through the same samples.
            start = perf_counter_ns()
            for _ in range(UNTIMED):
                pipe.run(samples[at % len(samples)], cached=False, **options)
                if perf_counter_ns() - start > block_ns:
                    break
            times: list[int] = []
            while sum(times) < block_ns:
                start = perf_counter_ns()
                pipe.run(samples[(at + len(times)) % len(samples)], cached=False, **options)
                times.append(perf_counter_ns() - start)
            at += 1
            answer = float(np.median(times)) / 1e6
