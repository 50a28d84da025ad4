"""What the operating system tells of the machine: clocks, temperatures, whose the cores' time is.

Everything is read below ``root``, so that a recorded tree of ``/sys`` and ``/proc`` stands for the
machine that it was recorded on. Paths: Linux's Documentation/admin-guide/pm/cpufreq.rst,
driver-api/thermal/sysfs-api.rst, and proc(5). Where nothing can be read, nothing is guessed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ROOT",
    "CpuTimes",
    "SensorFiles",
    "core_files",
    "cpu_times",
    "number",
    "read",
    "resident_bytes",
]

ROOT = Path("/")
CPUS = "sys/devices/system/cpu"
#: Drivers in /sys/class/hwmon whose first temperature is the processor's; AMD's has no zone.
CPU_HWMON = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
#: Cooling devices that slow a processor down, by how their type begins or what is in it. Fans are
#: none of them. cpufreq and devfreq are the kernel's names, the others those of Jetson Linux.
SLOWING = ("cpufreq", "devfreq", "throttle", "balanced", "alert")


def read(path: Path) -> str | None:
    """Text of a small file of the kernel without the blanks and NULs around it; None if unread."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n\t")
    except OSError:
        return None


def number(path: Path) -> int | None:
    """The whole number in a file; None where there is none."""
    try:
        return int(read(path) or "")
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class SensorFiles:
    """Files of frequency, temperature and cooling, found once and then only read.

    ``frequency_source`` is ``scaling_cur_freq``; ``cpuinfo``, where the kernel has no cpufreq;
    ``cpuinfo (nominal)`` under a hypervisor, which shows a number that never moves; or None.
    """

    cpuinfo: Path
    frequency: tuple[Path, ...]
    frequency_source: str | None
    temperature: tuple[tuple[str, Path], ...]
    cooling: tuple[tuple[str, Path], ...]

    @classmethod
    def find(cls, root: Path = ROOT) -> SensorFiles:
        """Look for them below ``root``."""
        files = tuple(
            p for p in core_files(root, "cpufreq/scaling_cur_freq") if number(p) is not None
        )
        info = read(root / "proc/cpuinfo") or ""
        source = "scaling_cur_freq" if files else None
        if not files and "cpu MHz" in info:
            source = "cpuinfo (nominal)" if " hypervisor" in info else "cpuinfo"
        zones = [
            (f"{read(zone / 'type')}", zone / "temp")
            for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=_natural)
        ]
        zones += [
            (f"{read(chip / 'name')}", chip / "temp1_input")
            for chip in sorted((root / "sys/class/hwmon").glob("hwmon*"), key=_natural)
            if read(chip / "name") in CPU_HWMON
        ]
        cooling = [
            (f"{read(device / 'type')}", device / "cur_state")
            for device in sorted((root / "sys/class/thermal").glob("cooling_device*"), key=_natural)
            if any(word in (read(device / "type") or "").lower() for word in SLOWING)
        ]
        return cls(root / "proc/cpuinfo", files, source, _distinct(zones), _distinct(cooling))

    def frequencies(self) -> list[float] | None:
        """Frequency of every core now, in MHz."""
        if self.frequency:
            values = [number(path) for path in self.frequency]
            return [value / 1e3 for value in values if value is not None] or None
        if self.frequency_source is None:
            return None
        lines = (read(self.cpuinfo) or "").splitlines()
        return [float(ln.split(":")[1]) for ln in lines if ln.startswith("cpu MHz")] or None

    def temperatures(self) -> dict[str, float]:
        """Temperature by zone, in degrees Celsius; zones that give none now are left out."""
        readings = ((name, number(path)) for name, path in self.temperature)
        return {name: value / 1e3 for name, value in readings if value is not None}

    def cooling_states(self) -> dict[str, int]:
        """How far each cooling device that slows something down is on; 0 is not at all."""
        readings = ((name, number(path)) for name, path in self.cooling)
        return {name: value for name, value in readings if value is not None}


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Clock ticks since boot of all cores together, and ``own``: of this process's threads."""

    total: int
    busy: int
    steal: int
    own: int

    def since(self, earlier: CpuTimes) -> dict[str, float] | None:
        """Shares (0 to 1) of all cores' time from ``earlier`` to now; None within one tick.

        ``busy`` is everything that ran here, ``own`` this process, ``others`` the difference,
        ``steal`` what a hypervisor gave to other machines.
        """
        total = self.total - earlier.total
        if total <= 0:
            return None
        busy_ticks, own_ticks = self.busy - earlier.busy, self.own - earlier.own
        return {
            "busy": busy_ticks / total,
            "own": own_ticks / total,
            "others": max(0, busy_ticks - own_ticks) / total,
            "steal": (self.steal - earlier.steal) / total,
        }


def cpu_times(root: Path = ROOT) -> CpuTimes | None:
    """The times now, from /proc/stat and /proc/self/stat (proc(5)); None where either is missing.

    Children of this process count as others.
    """
    machine, process = read(root / "proc/stat"), read(root / "proc/self/stat")
    if not machine or not process:
        return None
    # user nice system idle iowait irq softirq steal; guest time is already part of user.
    ticks = [int(word) for word in machine.split("\n", 1)[0].split()[1:9]]
    # The name in parentheses may hold blanks; utime and stime are fields 14 and 15 of the line.
    after_name = process.rsplit(")", 1)[1].split()
    idle, steal = ticks[3] + ticks[4], ticks[7]
    return CpuTimes(
        sum(ticks), sum(ticks) - idle - steal, steal, int(after_name[11]) + int(after_name[12])
    )


def resident_bytes(root: Path = ROOT) -> int | None:
    """Memory of this process that is in RAM, in bytes, from /proc/self/statm (proc(5)); or None."""
    words = (read(root / "proc/self/statm") or "").split()
    if len(words) < 2 or not words[1].isdigit():
        return None
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE")


def _natural(path: Path) -> tuple[int, str]:
    """Order of names that end in a number: 2 before 10."""
    digits = path.name[len(path.name.rstrip("0123456789")) :]
    return int(digits or 0), path.name


def core_files(root: Path, name: str) -> list[Path]:
    """This file of every core that has it."""
    cores = sorted((root / CPUS).glob("cpu[0-9]*"), key=_natural)
    return [core / name for core in cores if (core / name).exists()]


def _distinct(sensors: list[tuple[str, Path]]) -> tuple[tuple[str, Path], ...]:
    """The same with a number behind names that come again."""
    names = [name for name, _ in sensors]
    return tuple(
        (f"{name} {names[:index].count(name) + 1}" if name in names[:index] else name, path)
        for index, (name, path) in enumerate(sensors)
    )
