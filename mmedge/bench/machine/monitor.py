"""Watch the machine while something is measured: state before and after, samples in between.

A thread of its own reads a few small files in each period. It holds the interpreter only between
two reads, and lengthens its period where reading is dear, so that it takes less than
:data:`BUDGET` of one core. Where even that is too much (some kernels wake an idle core to tell its
frequency), ``period_s=None`` reads nothing while the block runs.
"""

from __future__ import annotations

import threading
from collections import Counter
from statistics import fmean, median
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Self

from mmedge.bench.machine import gpu_state, host
from mmedge.bench.machine.energy import Energy
from mmedge.bench.machine.gpu_state import Gpus
from mmedge.bench.machine.jetson import Jetson
from mmedge.machine import ROOT, CpuTimes, SensorFiles, cpu_times

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from mmedge.bench.report.sections import EnergySection

__all__ = [
    "BUDGET",
    "CpuTimes",
    "Monitor",
    "cpu_times",
    "frequency_fall",
    "frequency_moves",
]

#: Most of one core's time that sampling may take.
BUDGET = 0.005
#: Samples kept at least, once there are as many; twice as many are thinned to every second one.
KEEP = 1000
#: A fall of the frequency from the first to the last quarter of the samples that is throttling.
FALL = 0.10
#: Fewer samples with a frequency cannot show a fall.
FEWEST = 4


class Monitor:
    """Context manager around what is measured, and nothing else: its energy is that of the block.

    One is for one block.

    Args:
        root: where ``/sys`` and ``/proc`` are.
        period_s: seconds between two samples, or longer where sampling is dear; None samples
            before and after alone, and starts no thread.

    Raises:
        ValueError: ``period_s`` is not positive.
    """

    def __init__(self, root: Path = ROOT, period_s: float | None = 0.5) -> None:
        if period_s is not None and period_s <= 0:
            raise ValueError(f"period_s must be > 0 or None, got {period_s}")
        self._root = root
        self._period = period_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[dict[str, Any]] = []
        self._stride = 1
        self._taken = 0
        self._cost = 0.0
        self._slowed: Counter[str] = Counter()
        self._after: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        self._gpus = Gpus.open(self._root)
        self._jetson = Jetson.find(self._root)
        self._sensors = SensorFiles.find(self._root)
        self._before = self._state()
        self._energy = Energy(self._root, self._gpus, self._jetson)
        self._times = self._start_times = cpu_times(self._root)
        self._start = perf_counter()
        self._energy.update(self._start)
        if self._period is not None:
            self._thread = threading.Thread(
                target=self._run, args=(self._period,), name="mmedge-monitor", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        now = perf_counter()
        self._energy.finish(now)
        self._seconds = now - self._start
        self._after = {**self._state(), "cpu_share": self._share(self._start_times)}
        self._gpus.close()

    def record(self) -> dict[str, Any]:
        """What was seen, as plain data for JSON.

        Returns:
            ``before`` and ``after``: as :func:`mmedge.bench.machine.host.changing`, with ``gpus``
            and ``jetson``; ``after`` also has ``cpu_share``: whose the cores' time was in the block
            (see :meth:`CpuTimes.since`). ``during``: samples, each with ``at_s`` (s from the start
            of the block), ``frequency_mhz`` (mean, min and max over the cores), ``temperature_c``
            by zone, ``power_w`` by package, rail and GPU, ``load`` (shares since the sample
            before), ``gpu`` by name, ``cooling`` (devices that slow something down). ``throttled``:
            what slowed the machine, in words; None where nothing did; ``unknown: ...`` where no
            frequency, counter or reason could be read. ``sampling``: period, samples taken and
            kept, the share of one core that they took, and ``watched``: what ``throttled`` is from.

        Raises:
            RuntimeError: the block has not ended.
        """
        after = self._ended()
        watched = self._watched()
        return {
            "before": self._before,
            "during": self._samples,
            "after": after,
            "throttled": self._throttled(after, watched),
            "sampling": {
                "period_s": self._period,
                "taken": self._taken,
                "kept": len(self._samples),
                "cpu_share": self._cost / self._seconds,
                "watched": watched,
            },
        }

    def energy(self, results: int) -> EnergySection:
        """Energy of the block for each of its ``results`` (see :meth:`Energy.report`).

        Raises:
            RuntimeError: the block has not ended.
        """
        names = [gpu["name"] for gpu in self._ended()["gpus"]]
        return self._energy.report(results, names)

    def _ended(self) -> dict[str, Any]:
        if self._after is None:
            raise RuntimeError("the monitored block has not ended; ask after the with statement")
        return self._after

    def _state(self) -> dict[str, Any]:
        return {
            **host.changing(self._root),
            "gpus": self._gpus.state(),
            "jetson": self._jetson.state() if self._jetson else None,
        }

    def _run(self, period: float) -> None:
        pause = period
        while not self._stop.wait(pause):
            begun = thread_time()
            sample = self._sample()
            if self._taken % self._stride == 0:
                self._samples.append(sample)
            self._taken += 1
            if len(self._samples) >= 2 * KEEP:
                self._samples = self._samples[::2]
                self._stride *= 2
            self._cost += thread_time() - begun
            pause = max(period, self._cost / self._taken / BUDGET)

    def _sample(self) -> dict[str, Any]:
        now = perf_counter()
        power = self._energy.update(now)  # first: its time is the one just read
        frequencies = self._sensors.frequencies()
        cooling = {name: value for name, value in self._sensors.cooling_states().items() if value}
        gpu: dict[str, Any] = {f"gpu{i}": state for i, state in enumerate(self._gpus.sample())}
        for name, state in gpu.items():
            if state["power_w"] is not None:
                power[name] = state["power_w"]
            slowing = gpu_state.SLOWING.intersection(state["reasons"] or ())
            self._slowed.update(f"{name}: {reason}" for reason in slowing)
        self._slowed.update(
            f"cooling device {name}" for name, value in cooling.items() if value > 0
        )
        integrated = self._jetson.gpu_state() if self._jetson else None
        if integrated:
            gpu[integrated.pop("name")] = integrated
        earlier, self._times = self._times, cpu_times(self._root)
        return {
            "at_s": now - self._start,
            "frequency_mhz": _spread(frequencies),
            "temperature_c": self._sensors.temperatures(),
            "power_w": power,
            "load": self._times.since(earlier) if self._times and earlier else None,
            "gpu": gpu,
            "cooling": cooling,
        }

    def _share(self, earlier: CpuTimes | None) -> dict[str, float] | None:
        now = cpu_times(self._root)
        return now.since(earlier) if now and earlier else None

    def _watched(self) -> list[str]:
        """What can show throttling here and could be read."""
        before = self._before
        sources = []
        if before["cgroup_throttled"] is not None:
            sources.append("cgroup quota")
        if before["thermal_throttle"] is not None:
            sources.append("x86 thermal events")
        if frequency_moves({"frequency_source": self._sensors.frequency_source}, self._samples):
            sources.append("CPU frequency")
        if self._sensors.cooling and self._taken:
            sources.append("cooling devices")
        if self._taken and any(gpu["reasons"] is not None for gpu in before["gpus"]):
            sources.append("GPU clock reasons")
        if before["jetson"] and any(
            value is not None for value in before["jetson"]["overcurrent_events"].values()
        ):
            sources.append("Jetson over-current events")
        return sources

    def _throttled(self, after: dict[str, Any], watched: list[str]) -> str | None:
        before = self._before
        words = []
        quota = _rise(before["cgroup_throttled"], after["cgroup_throttled"])
        if quota.get("periods"):
            words.append(
                f"the cgroup's CPU quota stopped it in {quota['periods']} periods, "
                f"{quota.get('seconds', 0.0):.3f} s in all"
            )
        for part, events in _rise(before["thermal_throttle"], after["thermal_throttle"]).items():
            words.append(f"thermal events of a CPU {part}: {events}")
        for reason, count in sorted(self._slowed.items()):
            words.append(f"{reason} in {count} of {self._taken} samples")
        if before["jetson"] and after["jetson"]:
            key = "overcurrent_events"
            for name, events in _rise(before["jetson"][key], after["jetson"][key]).items():
                words.append(f"{name} events of the module: {events}")
        if "CPU frequency" in watched and (fell := frequency_fall(self._samples)):
            words.append(fell)
        if words:
            return "; ".join(words)
        if set(watched) <= {"cgroup quota"}:
            # A quota says nothing of what heat or a power limit did to the clock.
            quiet = "; the cgroup's quota did not stop it" if watched else ""
            return (
                "unknown: no CPU frequency that moves, thermal counter or GPU clock reason can be "
                f"read here in {FEWEST} samples or more{quiet}"
            )
        return None


def frequency_moves(state: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> bool:
    """Whether samples, on a machine in ``state``, can show a fall of the CPU's frequency."""
    moves = state["frequency_source"] in ("scaling_cur_freq", "cpuinfo")
    return moves and bool(_frequencies(samples))


def frequency_fall(samples: Sequence[Mapping[str, Any]]) -> str | None:
    """How far the frequency fell from the first to the last quarter of samples; None if not."""
    fastest = _frequencies(samples)
    if not fastest:
        return None
    quarter = len(fastest) // FEWEST
    first, last = median(fastest[:quarter]), median(fastest[-quarter:])
    if last >= (1 - FALL) * first:
        return None
    return f"the CPU's frequency fell from {first:.0f} to {last:.0f} MHz"


def _frequencies(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """The fastest core's frequency in each sample, in MHz, if they are enough to compare.

    The fastest, since cores without work clock down on their own.
    """
    fastest = [s["frequency_mhz"]["max"] for s in samples if s["frequency_mhz"]]
    return fastest if len(fastest) >= FEWEST else []


def _spread(values: list[float] | None) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": fmean(values), "min": min(values), "max": max(values)}


def _rise(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    """What counters rose by, without those that did not rise or could not be read."""
    if not before or not after:
        return {}
    pairs = ((key, before[key], after.get(key)) for key in before)
    return {k: b - a for k, a, b in pairs if a is not None and b is not None and b > a}
