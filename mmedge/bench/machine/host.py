"""The state of the machine around a measurement, from what the operating system tells.

Everything is read below ``root``, so that a recorded tree of ``/sys`` and ``/proc`` stands for the
machine that it was recorded on. Paths, where no other source is named: Linux's
Documentation/admin-guide/pm/cpufreq.rst, cgroup-v2.rst, cgroup-v1/memory.rst,
scheduler/sched-bwc.rst, filesystems/proc.rst, driver-api/thermal/sysfs-api.rst.

It is long, since each figure has its own file and its own fallback.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmedge.backends.registry import probe
from mmedge.machine import CPUS, ROOT, SensorFiles, core_files, number, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmedge.bench.report.sections import DeviceSection

__all__ = [
    "ROOT",
    "SensorFiles",
    "changing",
    "describe",
    "number",
    "peak_memory_bytes",
    "read",
    "refusal",
    "state",
]

#: cgroup v1 says "no memory limit" with the largest multiple of the page size in 64 bits.
NO_LIMIT = 2**62


def refusal(path: Path) -> str | None:
    """Why a file cannot be read, in words; None where it can."""
    try:
        path.read_bytes()
    except FileNotFoundError:
        return f"{path} does not exist"
    except PermissionError:
        return f"{path} cannot be read by this user (permission denied)"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None


def describe(state: Mapping[str, Any], record: Mapping[str, Any]) -> DeviceSection:
    """What a report says of the machine.

    Args:
        state: from :func:`state`, before the run.
        record: what the monitor of the run saw.
    """
    # Which keys a machine tells is known when it runs; the schema holds the report against them.
    return cast("DeviceSection", {**state, **record})


def state(root: Path = ROOT) -> dict[str, Any]:
    """What the machine is and its state now, as plain data for JSON.

    What cannot be read is None, never guessed. Sizes end in ``_bytes``, frequencies in ``_khz`` or
    ``_mhz``, temperatures in ``_c`` (degrees Celsius). ``cores`` are those that this process may
    use, ``affinity`` names them; ``cgroup_cpus`` is the tightest quota above this process in cores.
    ``commit`` is that of the checkout which mmedge runs from, and says nothing of what is not
    committed; it is None for an installed package. ``virtual`` is what x86's ``hypervisor`` flag
    says. Holds what :func:`changing` holds, too.
    """
    device = probe()
    info = read(root / "proc/cpuinfo") or ""
    status = _fields(root / "proc/self/status")
    memory = _fields(root / "proc/meminfo")
    frequency = root / CPUS / "cpu0/cpufreq"
    limits = _limits(root)
    cpu = _model(info)
    return {
        "name": device.name if device.gpus or root == ROOT else cpu,
        "cpu": cpu,
        "board": _board(root),
        "machine": platform.machine(),
        "system": f"{platform.system()} {_kernel(root)}",
        "realtime_kernel": _realtime(root),
        "virtual": " hypervisor" in info if "\nflags" in info else None,
        "container": _container(root),
        "python": platform.python_version(),
        "cores": device.cores,
        "affinity": status.get("Cpus_allowed_list"),
        "memory_bytes": _kilobytes(memory, "MemTotal"),
        "swap_bytes": _kilobytes(memory, "SwapTotal"),
        **limits,
        "frequency_khz": number(frequency / "scaling_cur_freq"),
        "frequency_limits_khz": [
            number(frequency / "scaling_min_freq"),
            number(frequency / "scaling_max_freq"),
        ],
        "frequency_hardware_khz": [
            number(frequency / "cpuinfo_min_freq"),
            number(frequency / "cpuinfo_max_freq"),
        ],
        "governor": read(frequency / "scaling_governor"),
        "boost": _boost(root),
        "gpus": list(device.gpus),
        "libraries": dict(device.libraries),
        "commit": _commit(Path(__file__).resolve().parents[3] / ".git"),
        **changing(root),
    }


def changing(root: Path = ROOT) -> dict[str, Any]:
    """The part of the state that a run can change, now; None where it cannot be read.

    ``frequency_mhz`` is by core in the kernel's order, ``frequency_source`` the file it is from.
    ``cgroup_throttled`` counts the periods in which a quota stopped this process's group, and the
    time; ``thermal_throttle`` the events since boot of x86 cores and packages (Linux's
    arch/x86/kernel/cpu/mce/therm_throt.c). Both only rise: a run is judged by the difference.
    """
    sensors = SensorFiles.find(root)
    memory = _fields(root / "proc/meminfo")
    average = read(root / "proc/loadavg")
    total, free = _kilobytes(memory, "SwapTotal"), _kilobytes(memory, "SwapFree")
    status = _fields(root / "proc/self/status")
    return {
        "governors": sorted(
            {read(path) or "" for path in core_files(root, "cpufreq/scaling_governor")}
        ),
        "frequency_mhz": sensors.frequencies(),
        "frequency_source": sensors.frequency_source,
        "temperature_c": sensors.temperatures(),
        "cooling": sensors.cooling_states(),
        "load_average": [float(word) for word in average.split()[:3]] if average else None,
        "threads": int(status["Threads"]) if "Threads" in status else None,
        "memory_available_bytes": _kilobytes(memory, "MemAvailable"),
        "swap_used_bytes": None if total is None or free is None else total - free,
        "cgroup_throttled": _cgroup_throttled(root),
        "thermal_throttle": _thermal_throttle(root),
    }


def peak_memory_bytes() -> int:
    """Peak resident memory of this process in bytes.

    Linux's VmHWM starts anew with the program, where getrusage's figure still holds what the
    parent used before it.
    """
    peak = _kilobytes(_fields(Path("/proc/self/status")), "VmHWM")
    if peak is not None:
        return peak
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _fields(path: Path) -> dict[str, str]:
    """The ``key: value`` lines of a file."""
    lines = (line.partition(":") for line in (read(path) or "").splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _kilobytes(fields: dict[str, str], key: str) -> int | None:
    return int(fields[key].split()[0]) * 1024 if key in fields else None


def _model(info: str) -> str:
    """The processor's marketing name, or the machine's architecture where none is told."""
    for key in ("model name", "Model", "Hardware"):
        for line in info.splitlines():
            if line.startswith(key) and ":" in line:
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _board(root: Path) -> str | None:
    return read(root / "proc/device-tree/model") or read(root / "sys/class/dmi/id/board_name")


def _kernel(root: Path) -> str:
    return read(root / "proc/sys/kernel/osrelease") or platform.release()


def _realtime(root: Path) -> bool | None:
    """Whether the kernel was built with PREEMPT_RT, which its version names."""
    version = read(root / "proc/version")
    return None if version is None else "PREEMPT_RT" in version or "PREEMPT RT" in version


def _boost(root: Path) -> bool | None:
    """Whether the processor may exceed its base frequency."""
    no_turbo = number(root / CPUS / "intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == 0
    boost = number(root / CPUS / "cpufreq/boost")
    return None if boost is None else boost == 1


def _container(root: Path) -> str | None:
    """What says that this is a container, or None."""
    for mark in (".dockerenv", "run/.containerenv"):
        if (root / mark).exists():
            return f"/{mark} exists"
    groups = read(root / "proc/self/cgroup") or ""
    for word in ("docker", "kubepods", "containerd", "lxc", "libpod"):
        if word in groups:
            return f"{word} in /proc/self/cgroup"
    return None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups above this process that hold ``controller``, innermost first.

    A container often sees only its own group, at the mount, and not the path that its cgroup file
    tells; folders that are not there are passed over.
    """
    mount = root / "sys/fs/cgroup"
    unified = (mount / "cgroup.controllers").exists()
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        if unified != (not names) or (names and controller not in names.split(",")):
            continue
        top = mount / names if names else mount
        if names and not top.exists():
            top = mount / controller
        inner = top / path.strip("/")
        yield from (f for f in (inner, *inner.parents) if f.is_relative_to(top) and f.is_dir())
        return
    if unified:
        yield mount


def _limits(root: Path) -> dict[str, Any]:
    """The tightest limits of memory and processor time of the control groups."""
    memory: list[int] = []
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = number(group / name)
            if limit is not None and limit < NO_LIMIT:
                memory.append(limit)
    tightest: tuple[float, str] | None = None
    for group in _groups(root, "cpu"):
        text = read(group / "cpu.max")
        quota, period = (
            text.split()
            if text
            else (f"{number(group / 'cpu.cfs_quota_us')}", f"{number(group / 'cpu.cfs_period_us')}")
        )
        if quota.isdigit() and period.isdigit():
            cores = int(quota) / int(period)
            if tightest is None or cores < tightest[0]:
                tightest = cores, f"{quota} {period}"
    return {
        "cgroup_memory_bytes": min(memory, default=None),
        "cgroup_cpu_max": tightest[1] if tightest else None,
        "cgroup_cpus": tightest[0] if tightest else None,
    }


def _cgroup_throttled(root: Path) -> dict[str, float] | None:
    """Periods throttled and seconds, of all the groups above this process together."""
    counters = [
        dict(line.split() for line in text.splitlines())
        for text in (read(group / "cpu.stat") for group in _groups(root, "cpu"))
        if text and "nr_throttled" in text
    ]
    if not counters:
        return None
    # cgroup v2 counts microseconds, v1 nanoseconds.
    seconds = sum(
        int(f.get("throttled_usec", 0)) / 1e6 + int(f.get("throttled_time", 0)) / 1e9
        for f in counters
    )
    return {"periods": sum(int(f["nr_throttled"]) for f in counters), "seconds": seconds}


def _thermal_throttle(root: Path) -> dict[str, int] | None:
    """Events of all cores, and of all packages, each package counted once."""
    cores = [number(path) for path in core_files(root, "thermal_throttle/core_throttle_count")]
    if not any(value is not None for value in cores):
        return None
    packages: dict[str | None, int] = {}
    for path in core_files(root, "thermal_throttle/package_throttle_count"):
        package = read(path.parents[1] / "topology/physical_package_id")
        packages[package] = max(packages.get(package, 0), number(path) or 0)
    return {"core": sum(v for v in cores if v is not None), "package": sum(packages.values())}


def _commit(git: Path) -> str | None:
    """The commit that a checkout is at, from the files of git; None where there is no checkout."""
    link = read(git) if git.is_file() else None
    if link is not None:  # a linked work tree: the file says where its folder is
        git = git.parent / link.removeprefix("gitdir:").strip()
    head = read(git / "HEAD")
    if head is None or not head.startswith("ref:"):
        return head
    name = head.removeprefix("ref:").strip()
    common = git / (read(git / "commondir") or "")
    commit = read(git / name) or read(common / name)
    if commit is not None:
        return commit
    for line in (read(common / "packed-refs") or "").splitlines():
        if line.endswith(f" {name}"):
            return line.split()[0]
    return None
