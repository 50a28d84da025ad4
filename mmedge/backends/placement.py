"""On which cores, and with which priority, the threads of a pipeline run. Linux alone.

Affinity, niceness and scheduling policy belong to a thread, and a thread that is started takes them
over from the one that starts it (sched(7), sched_setaffinity(2)). So an engine's threads are placed
by loading it in a thread that is placed. Everything that was set is read back.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Placement", "Priority", "read_placement"]

T = TypeVar("T")

#: A niceness from -20 (first) to 19, or ``"fifo:N"``: real time (SCHED_FIFO) of priority N.
Priority = int | str

_FIFO = re.compile(r"fifo:([0-9]{1,2})")


class Placement(NamedTuple):
    """Where threads run.

    Attributes:
        cores: numbers of the cores; empty: as whoever starts the thread.
        niceness: from -20 to 19; None: as whoever starts it.
        fifo: priority of SCHED_FIFO, from 1 to 99; None: no real time.
    """

    cores: tuple[int, ...] = ()
    niceness: int | None = None
    fifo: int | None = None

    def place(self) -> None:
        """Place the calling thread.

        Raises:
            BackendError: the system does not allow it; the message names the right that is missing.
        """
        thread = threading.get_native_id()
        try:
            if self.cores:
                os.sched_setaffinity(thread, self.cores)
            if self.niceness is not None:
                os.setpriority(os.PRIO_PROCESS, thread, self.niceness)
            if self.fifo is not None:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(self.fifo))
        except OSError as error:
            raise BackendError(f"{self}: {error.strerror}{self._right()}") from error
        there = Placement(
            tuple(sorted(os.sched_getaffinity(thread))) if self.cores else (),
            None if self.niceness is None else os.getpriority(os.PRIO_PROCESS, thread),
            None if self.fifo is None else os.sched_getparam(thread).sched_priority,
        )
        if there != self:
            raise BackendError(
                f"{self}: the system gave {there} instead; a container or a cpuset may hold it back"
            )

    def run(self, work: Callable[[], T]) -> T:
        """Do work in a thread of its own that is placed, and with it those that it starts.

        Raises:
            BackendError: as :meth:`place`; or whatever the work raises.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                self.place()
                results.append(work())
            except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
                errors.append(error)

        thread = threading.Thread(target=run, name="mmedge placement")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def _right(self) -> str:
        """Which right is missing, if one is."""
        import resource

        if self.fifo is not None:
            limit, need, name = resource.getrlimit(resource.RLIMIT_RTPRIO)[0], self.fifo, "rtprio"
        elif self.niceness is not None:
            # setpriority(2): the limit is 20 - niceness.
            need, name = 20 - self.niceness, "nice"
            limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
        else:
            return ""
        return (
            f". It takes the capability CAP_SYS_NICE, or a limit {name!r} of {need} (is {limit}; "
            "/etc/security/limits.conf, or LimitRTPRIO= and LimitNICE= of a systemd unit)"
        )

    def __str__(self) -> str:
        words = [f"cores {', '.join(map(str, self.cores))}"] if self.cores else []
        words += [f"niceness {self.niceness}"] if self.niceness is not None else []
        words += [f"SCHED_FIFO {self.fifo}"] if self.fifo is not None else []
        return "; ".join(words)


def read_placement(cores: Sequence[int] | None, priority: Priority | None) -> Placement:
    """What a caller asks for, checked and tried in a thread of its own.

    Raises:
        ValueError: no cores, one that is no whole number or that this process may not use; or a
            priority that is none.
        BackendError: this system has no such thing, or does not allow it.
    """
    fifo = _FIFO.fullmatch(priority) if isinstance(priority, str) else None
    if not (
        priority is None
        or (type(priority) is int and -20 <= priority <= 19)
        or (fifo is not None and int(fifo[1]) >= 1)
    ):
        raise ValueError(
            "priority must be a niceness from -20 to 19, or 'fifo:N' with N from 1 to 99; got "
            f"{priority!r}"
        )
    if not sys.platform.startswith("linux"):
        raise BackendError(f"cores and priority are of Linux; this is {sys.platform}")
    if cores is not None:
        allowed = os.sched_getaffinity(0)
        for core in cores:
            if type(core) is not int or core not in allowed:
                raise ValueError(
                    f"cores: {core!r} is none that this process may use: "
                    f"{', '.join(map(str, sorted(allowed)))}"
                )
        if not cores:
            raise ValueError("cores: at least one, or None for any")
    placement = Placement(
        tuple(sorted(set(cores or ()))),
        priority if isinstance(priority, int) else None,
        None if fifo is None else int(fifo[1]),
    )
    placement.run(lambda: None)
    return placement
