"""The state of the machine around a measurement, from what the operating system tells."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from mmedge.device import cpu_model, probe

__all__ = ["peak_memory_bytes", "state"]


def state() -> dict[str, Any]:
    """Processor, cores, frequency, governor, limits, load and library versions, now.

    What cannot be read is None, never guessed.
    """
    device = probe()
    memory = _cgroup("memory.max")
    return {
        "name": device.name,
        "cpu": cpu_model(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": device.cores,
        "memory_bytes": device.memory_bytes,
        "cgroup_memory_bytes": int(memory) if memory and memory.isdigit() else None,
        "cgroup_cpu_max": _cgroup("cpu.max"),
        "frequency_khz": _number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "gpus": list(device.gpus),
        "libraries": dict(device.libraries),
    }


def peak_memory_bytes() -> int:
    """Peak resident memory of this process in bytes.

    Linux's VmHWM starts anew with the program, where getrusage's figure still holds what the
    parent used before it.
    """
    for line in (_text("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _number(path: str) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdigit() else None


def _cgroup(name: str) -> str | None:
    return _text(f"/sys/fs/cgroup/{name}")
