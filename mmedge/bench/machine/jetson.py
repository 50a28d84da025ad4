"""NVIDIA Jetson's power mode, clocks, GPU load, power rails and over-current events, from sysfs.

Where the paths come from:

- rails: the ``hwmon`` layout is Linux's Documentation/hwmon/ina3221.rst (Jetson Linux 35 and
  later), the ``iio`` layout that of NVIDIA's ``ina3221x`` driver in Jetson Linux 28 to 32, as in
  the power monitor chapters of the Jetson Linux Developer Guide;
- power mode: the file that NVIDIA's ``nvpmodel`` leaves, and the names in its configuration;
- GPU: Linux's devfreq class (Documentation/ABI/testing/sysfs-class-devfreq); ``load``, in
  thousandths, is of NVIDIA's ``nvgpu`` driver;
- over-current events: ``soctherm_oc`` of the Developer Guide's chapter on Orin (OC1 to OC3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmedge.bench.machine.host import number, read

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Jetson", "Rail"]

#: Rails through which the whole module is fed.
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
#: A rail that another measured rail feeds: adding both would count it twice (Jetson AGX Orin, in
#: the Developer Guide's chapter "Software-Based Power Consumption Modeling", release 36.4).
FED_BY = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
#: Channels without a wire, and the chip's sum of shunt voltages, which is no power.
NO_RAIL = ("", "NC", "sum of shunt voltages")
#: devfreq's names of the GPUs: address and "gpu", or the name of the architecture.
GPU_NAME = re.compile(r"\.(gpu|gm20b|gp10b|gv11b|ga10b)$")
#: The memory controller's clock in Hz, readable by root alone; the last is Orin's.
EMC_CLOCKS = (
    "sys/kernel/debug/clk/emc/clk_rate",
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",
)
OC_EVENTS = {
    "oc1_event_cnt": "under-voltage",
    "oc2_event_cnt": "average over-current",
    "oc3_event_cnt": "instantaneous over-current",
}


@dataclass(frozen=True, slots=True)
class Rail:
    """One power rail; ``files`` is (power in mW), or (voltage in mV, current in mA)."""

    name: str
    files: tuple[Path, ...]

    def watts(self) -> float | None:
        """Power now in watts; None where the sensor gives none."""
        values = [number(path) for path in self.files]
        if None in values:
            return None
        first, *rest = (value for value in values if value is not None)
        return first * rest[0] / 1e6 if rest else first / 1e3


@dataclass(frozen=True, slots=True)
class Jetson:
    """A Jetson's files, found once. ``gpu`` is its folder in /sys/class/devfreq, or None."""

    root: Path
    rails: tuple[Rail, ...]
    gpu: Path | None
    events: tuple[tuple[str, Path], ...]

    @classmethod
    def find(cls, root: Path) -> Jetson | None:
        """The Jetson below ``root``; None where the device tree names no Tegra processor."""
        if "nvidia,tegra" not in (read(root / "proc/device-tree/compatible") or ""):
            return None
        devfreq = sorted((root / "sys/class/devfreq").glob("*"))
        gpus = [folder for folder in devfreq if GPU_NAME.search(folder.name)]
        events = tuple(
            (words, path)
            for name, words in OC_EVENTS.items()
            for path in sorted((root / "sys/class/hwmon").glob(f"hwmon*/{name}"))
        )
        return cls(root, tuple(_rails(root)), gpus[0] if gpus else None, events)

    @property
    def total(self) -> tuple[Rail, ...]:
        """The rails whose sum is the module's power: the one that feeds it, where it is measured.

        Otherwise all rails but those that another one feeds; that leaves out what no rail measures.
        """
        whole = tuple(rail for rail in self.rails if rail.name in TOTAL_RAILS)
        if whole:
            return whole[:1]
        names = {rail.name for rail in self.rails}
        return tuple(rail for rail in self.rails if FED_BY.get(rail.name) not in names)

    def total_words(self) -> str:
        """What :attr:`total` is, for a report. There must be a rail."""
        names = [rail.name for rail in self.total]
        if names[0] in TOTAL_RAILS:
            return f"Jetson rail {names[0]}, which feeds the whole module"
        others = [rail.name for rail in self.rails if rail.name not in names]
        without = f" ({', '.join(others)} is fed by one of them and not added)" if others else ""
        return f"sum of the Jetson rails {' + '.join(names)}{without}; none feeds the whole module"

    def state(self) -> dict[str, Any]:
        """Model, power mode, clocks and counters now. Frequencies in MHz, ``gpu_load`` 0 to 1.

        ``overcurrent_events`` counts since boot. What cannot be read is None.
        """
        compatible = read(self.root / "proc/device-tree/compatible") or ""
        return {
            "model": read(self.root / "proc/device-tree/model"),
            "compatible": compatible.split("\0"),
            "release": (read(self.root / "etc/nv_tegra_release") or "").split("\n")[0] or None,
            "power_mode": _power_mode(self.root),
            "emc_mhz": _emc_mhz(self.root),
            "gpu": self.gpu_state(),
            "rails_w": self.rails_w(),
            "overcurrent_events": {words: number(path) for words, path in self.events},
        }

    def gpu_state(self) -> dict[str, Any] | None:
        """Frequency in MHz, its limits, and load (0 to 1) of the GPU now."""
        if self.gpu is None:
            return None
        load = number(self.gpu / "device/load")
        return {
            "name": self.gpu.name,
            "frequency_mhz": _mhz(number(self.gpu / "cur_freq")),
            "frequency_limits_mhz": [
                _mhz(number(self.gpu / "min_freq")),
                _mhz(number(self.gpu / "max_freq")),
            ],
            "load": None if load is None else load / 1e3,
        }

    def rails_w(self) -> dict[str, float | None]:
        """Power now by rail, in watts."""
        return {rail.name: rail.watts() for rail in self.rails}


def _rails(root: Path) -> list[Rail]:
    """The rails of all monitor chips, in the order of their addresses and channels."""
    drivers = root / "sys/bus/i2c/drivers"
    hwmon = sorted(drivers.glob("ina3221*/*/hwmon/hwmon*/in[1-3]_label"))
    iio = sorted(drivers.glob("ina3221*/*/iio[:_]device*/rail_name_[0-2]"))
    rails = [
        *(
            _rail(label, f"in{label.name[2]}_input", f"curr{label.name[2]}_input")
            for label in hwmon
        ),
        *(_rail(label, f"in_power{label.name[-1]}_input") for label in iio),
    ]
    return [rail for rail in rails if rail.name not in NO_RAIL]


def _rail(label: Path, *names: str) -> Rail:
    name = read(label)
    if name is None:
        # Without its name nobody knows whether to add it; its label stands for what is missing.
        return Rail(f"unnamed {label}", (label,))
    return Rail(name, tuple(label.with_name(file) for file in names))


def _power_mode(root: Path) -> dict[str, Any] | None:
    """The mode that nvpmodel set: ``id``, ``name``, and the file that says so."""
    config = read(root / "etc/nvpmodel.conf") or ""
    names = {
        int(number_): name
        for number_, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", config)
    }
    set_ = re.search(r"pmode:(\d+)", read(root / "var/lib/nvpmodel/status") or "")
    default = re.search(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)", config)
    # nvpmodel writes no status before a mode was set by hand; the default is in force until then.
    match, source = (set_, "/var/lib/nvpmodel/status") if set_ else (default, "/etc/nvpmodel.conf")
    if match is None:
        return None
    mode = int(match[1])
    return {"id": mode, "name": names.get(mode), "source": source}


def _emc_mhz(root: Path) -> float | None:
    paths = [root / name for name in EMC_CLOCKS]
    devfreq = root / "sys/class/devfreq"
    for pattern in ("*emc*", "*external-memory-controller*"):
        paths += [folder / "cur_freq" for folder in sorted(devfreq.glob(pattern))]
    return next((_mhz(value) for value in map(number, paths) if value is not None), None)


def _mhz(hertz: int | None) -> float | None:
    return None if hertz is None else hertz / 1e6
