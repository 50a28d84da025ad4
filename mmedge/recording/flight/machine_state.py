"""Samples the state of the machine in a thread of its own, once a second, for a flight recorder."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from mmedge.machine import ROOT, SensorFiles, cpu_times, read, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["MachineSampler"]

#: Most of one core's time that sampling may take: the period grows where reading is dear.
BUDGET = 0.002


class MachineSampler:
    """Calls ``take`` with the state of the machine in each period, until it is closed.

    The state holds ``unix_ns``, ``temperature_c`` by zone, ``frequency_mhz`` (of the slowest, the
    mean and the fastest core), ``cooling`` (devices that slow something down), ``load`` (shares of
    all cores' time since the state before, :meth:`mmedge.machine.CpuTimes.since`), ``load_average``
    and ``resident_bytes`` (of this process). What cannot be read is None or left out.

    Args:
        take: is called in the thread.
        period_s: seconds from one sample to the next, or longer where reading is dear.
        root: where ``/sys`` and ``/proc`` are.
    """

    def __init__(
        self, take: Callable[[dict[str, Any]], None], period_s: float, root: Path = ROOT
    ) -> None:
        self._take, self._period, self._root = take, period_s, root
        self._sensors = SensorFiles.find(root)
        self._times = cpu_times(root)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mmedge-flight-machine", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            begun = time.thread_time()
            self._take(self._state())
            pause = max(self._period, (time.thread_time() - begun) / BUDGET)

    def _state(self) -> dict[str, Any]:
        frequencies = self._sensors.frequencies()
        earlier, self._times = self._times, cpu_times(self._root)
        average = (read(self._root / "proc/loadavg") or "").split()
        return {
            "unix_ns": time.time_ns(),
            "temperature_c": self._sensors.temperatures(),
            "frequency_mhz": None
            if not frequencies
            else {
                "min": min(frequencies),
                "mean": sum(frequencies) / len(frequencies),
                "max": max(frequencies),
            },
            "cooling": {k: v for k, v in self._sensors.cooling_states().items() if v},
            "load": self._times.since(earlier) if self._times and earlier else None,
            "load_average": [float(word) for word in average[:3]] if len(average) >= 3 else None,
            "resident_bytes": resident_bytes(self._root),
        }

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
