"""Encoders of one call: one after another, or at once in threads where that was measured faster.

Whether two encoders gain from running at once depends on the machine: each of them may fill all
cores by itself, or wait for a GPU. So the first calls try both and the medians decide, once.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Schedule", "Scheduler", "serially"]

T = TypeVar("T")

#: Calls before any is timed: first runs allocate, and threads start.
WARMUP = 4
#: Timed calls of each way.
TRIALS = 12
#: At once is taken when its median is at most this share of the other: at least 5 % faster.
FASTER = 0.95


class Schedule(NamedTuple):
    """How encoders that must run in the same call are run.

    ``concurrent`` is None while undecided. ``ratio`` is the median time of concurrent runs over
    that of serial ones (below 1: concurrent is faster), ``calls`` the timed calls behind it; None
    and 0 where nothing was measured: it was asked for, or there are no two encoders, which leaves
    ``concurrent`` False.
    """

    concurrent: bool | None
    ratio: float | None = None
    calls: int = 0


class Scheduler:
    """Runs independent tasks and learns how. Safe to call from threads.

    While undecided, calls with the same tasks are compared with one another only, and the first set
    of tasks that has been timed often enough decides for all.

    Args:
        most: most tasks of one call.
        concurrent: True or False decides now; None lets the first calls decide.
        begin: what each thread does first; None: nothing.
    """

    def __init__(
        self,
        *,
        most: int,
        concurrent: bool | None,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._begin = begin
        self._schedule = Schedule(concurrent if most > 1 else False)
        self._workers = most - 1  # the calling thread works too
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._begun: dict[frozenset[str], int] = defaultdict(int)
        self._times: dict[tuple[frozenset[str], bool], list[int]] = defaultdict(list)

    @property
    def schedule(self) -> Schedule:
        """What has been decided."""
        return self._schedule

    def run(self, tasks: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """Result of each task by name.

        Raises:
            BackendError: the scheduler is closed.
            Exception: whatever a task raised; of several, the first in the order of ``tasks``. At
                once, it is raised after all have ended.
        """
        if len(tasks) < 2:
            return serially(tasks)
        concurrent = self._schedule.concurrent
        if concurrent is None:
            return self._try(tasks)
        return self._at_once(tasks) if concurrent else serially(tasks)

    def _try(self, tasks: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """Run one way or the other, timed."""
        names = frozenset(tasks)
        with self._lock:
            turn = self._begun[names]
            self._begun[names] += 1
        # Serial, at once, at once, serial: callers who alternate two kinds of call give each way
        # as many of both kinds.
        concurrent = turn % 4 in (1, 2)
        start = perf_counter_ns()
        results = self._at_once(tasks) if concurrent else serially(tasks)
        took = perf_counter_ns() - start
        if turn >= WARMUP:
            with self._lock:
                self._record(names, took, concurrent=concurrent)
        return results

    def _record(self, names: frozenset[str], elapsed_ns: int, *, concurrent: bool) -> None:
        if self._schedule.concurrent is not None:  # by another thread, during this run
            return
        self._times[names, concurrent].append(elapsed_ns)
        concurrent_times, serial_times = self._times[names, True], self._times[names, False]
        if min(len(concurrent_times), len(serial_times)) < TRIALS:
            return
        from statistics import median  # slow to import, and used once

        ratio = median(concurrent_times) / median(serial_times)
        self._schedule = Schedule(ratio <= FASTER, ratio, len(concurrent_times) + len(serial_times))
        self._times.clear()
        self._begun.clear()

    def _at_once(self, tasks: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        other_futures = self._submit(list(tasks.values())[1:])
        futures: list[Future[T] | None] = [None, *other_futures]
        results: dict[str, T] = {}
        failed: Exception | None = None
        for (name, task), future in zip(tasks.items(), futures, strict=True):
            try:
                # What the pool has not begun, busy with other callers' tasks, is done here.
                if future is None or future.cancel():
                    results[name] = task()
                else:
                    results[name] = future.result()
            except Exception as error:  # noqa: BLE001 - raised below, when all have ended
                failed = failed or error
        if failed is not None:
            raise failed
        return results

    def _submit(self, tasks: list[Callable[[], T]]) -> list[Future[T]]:
        with self._lock:
            if self._closed:
                raise BackendError("the pipeline is closed; load the bundle again")
            if self._pool is None:
                # Slow to import, and of use to several encoders alone.
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(
                    self._workers, thread_name_prefix="mmedge-encoder", initializer=self._begin
                )
            return [self._pool.submit(task) for task in tasks]

    def close(self) -> None:
        """End the threads, after what they are doing. May be called twice."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def serially(tasks: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Result of each task by name, in turn; the first error ends it."""
    return {name: task() for name, task in tasks.items()}
