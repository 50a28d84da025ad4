"""Energy of a run, from counters and sensors of the machine itself; never an estimate.

- RAPL, through Linux's powercap class (Documentation/power/powercap/powercap.rst): a counter in
  microjoules for each CPU package, of Intel and of AMD under the same names. Only the packages are
  added: ``core`` and ``uncore`` lie within them, ``intel-rapl-mmio`` counts the same packages a
  second time, ``psys`` contains them. Memory (``dram``) is not in a package's figure.
- NVML's total energy counter of each GPU that the driver lists, whether the run used it or not.
- Jetson's rails, integrated over the samples by the trapezoidal rule.

The power that the machine takes when idle is in every figure; nothing is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge.bench.machine.host import number, read, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmedge.bench.machine.gpu_state import Gpus
    from mmedge.bench.machine.jetson import Jetson
    from mmedge.bench.report.sections import EnergySection

__all__ = ["Domain", "Energy", "consumed", "no_energy", "rapl_packages"]

#: Shortest run, with a GPU or a Jetson's rails, and with RAPL alone: a counter's steps, of 100 ms
#: (NVML) or 1 ms (RAPL), are a tenth of it, and a few samples fall into it.
MIN_GPU_SECONDS, MIN_SECONDS = 1.0, 0.01
#: Fewer readings of a rail in a run carry no average.
MIN_READINGS = 4
IDLE = "power at idle is not subtracted"
RAPL_HELP = (
    "let this user read it (sudo chmod a+r FILE) or run as root; Linux keeps it from users since "
    "CVE-2020-8694"
)
RAPL_ABSENT = (
    "the kernel offers no RAPL here: load intel_rapl_msr on a PC, use a power meter on a virtual "
    "machine or a processor without RAPL"
)


@dataclass(frozen=True, slots=True)
class Domain:
    """One CPU package's counter: its file, and the value in microjoules after which it wraps."""

    name: str
    counter: Path
    limit: int | None


def rapl_packages(root: Path) -> list[Domain]:
    """The CPU packages that powercap has below ``root``, readable or not."""
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    names = [(zone, read(zone / "name") or "") for zone in zones]
    return [
        Domain(name, zone / "energy_uj", number(zone / "max_energy_range_uj"))
        for zone, name in names
        if name.startswith("package")
    ]


def consumed(before: int, after: int, limit: int | None) -> int | None:
    """What a counter rose by between two readings with at most one wrap between them.

    Args:
        before: first reading.
        after: second reading, in the same unit.
        limit: the value after which the counter starts at 0 again; None where it is not known.

    Returns:
        The difference in the unit of the readings; None for a wrap at an unknown limit.
    """
    if after >= before:
        return after - before
    return None if limit is None else after - before + limit


class Energy:
    """Adds up energy over readings: one at the start, one with each sample, one at the end.

    A CPU package of 262 kJ range wraps once in 44 minutes at 100 W: a run that is longer needs
    readings in between.
    """

    def __init__(self, root: Path, gpus: Gpus, jetson: Jetson | None) -> None:
        self._root = root
        self._gpus = gpus
        self._jetson = jetson
        self._packages = rapl_packages(root)
        self._counters: list[int | None] = [None] * len(self._packages)
        #: Microjoules by package since the start; None once a reading failed.
        self._package_uj: list[int | None] = [0] * len(self._packages)
        self._gpu_first = self._gpu_last = gpus.joules()
        self._rail_joules: float | None = 0.0
        self._rail_watts: float | None = None
        self._readings = 0
        self._started = self._at = 0.0

    def update(self, at_s: float) -> dict[str, float]:
        """Take a reading at ``at_s`` (s, of any clock that only rises).

        Returns:
            Watts: of each package since the last reading, of each Jetson rail now. What could not
            be read is left out.
        """
        if self._readings == 0:
            self._started = at_s
        elapsed = at_s - self._at if self._readings else 0.0
        watts = {**self._read_packages(elapsed), **self._read_rails(elapsed)}
        self._at = at_s
        self._readings += 1
        return watts

    def finish(self, at_s: float) -> None:
        """Take the last reading, with the GPUs' counters."""
        self.update(at_s)
        self._gpu_last = self._gpus.joules()

    def report(self, results: int, gpu_names: Sequence[str | None]) -> EnergySection:
        """Energy of the run for each of its ``results``.

        Args:
            results: results that the run gave.
            gpu_names: names of the GPUs, for the words.

        Returns:
            ``joules_per_result`` and ``watts`` (mean of the run), or None for both; ``source``:
            what they are of, in words; ``missing``: what could not be read, why, and what helps.
        """
        seconds = self._at - self._started
        slow = bool(self._gpu_first) or self._jetson is not None
        least = MIN_GPU_SECONDS if slow else MIN_SECONDS
        if seconds < least:
            return no_energy(
                f"a run of {seconds:.2g} s: the counters need at least {least:g} s at a stretch; "
                "measure more calls in each session"
            )
        if results < 1:
            return no_energy("no results to share the energy among")
        if self._jetson is not None:
            parts, missing = self._rail_parts(self._jetson)
        else:
            parts, missing = self._package_parts()
            gpu_parts, gpu_missing = self._gpu_parts(gpu_names)
            parts, missing = parts + gpu_parts, missing + gpu_missing
        if not parts:
            return no_energy("; ".join(missing))
        joules = sum(value for _, value in parts)
        return {
            "joules_per_result": joules / results,
            "watts": joules / seconds,
            "source": f"{' + '.join(words for words, _ in parts)}; {IDLE}",
            "missing": "; ".join(missing) or None,
        }

    def _read_packages(self, elapsed: float) -> dict[str, float]:
        watts = {}
        for index, package in enumerate(self._packages):
            before, now = self._counters[index], number(package.counter)
            self._counters[index] = now
            rise = None if now is None else 0
            if now is not None and before is not None:
                rise = consumed(before, now, package.limit)
            total = self._package_uj[index]
            self._package_uj[index] = None if total is None or rise is None else total + rise
            if rise is not None and before is not None and elapsed > 0:
                watts[package.name] = rise / 1e6 / elapsed
        return watts

    def _read_rails(self, elapsed: float) -> dict[str, float]:
        if self._jetson is None or not self._jetson.rails:
            return {}
        watts = self._jetson.rails_w()
        total = [watts[rail.name] for rail in self._jetson.total]
        readings = [value for value in total if value is not None]
        now = sum(readings) if len(readings) == len(total) else None
        if now is None:
            self._rail_joules = None
        elif self._rail_joules is not None and self._rail_watts is not None:
            self._rail_joules += elapsed * (self._rail_watts + now) / 2
        self._rail_watts = now
        return {name: value for name, value in watts.items() if value is not None}

    def _rail_parts(self, jetson: Jetson) -> tuple[list[tuple[str, float]], list[str]]:
        if not jetson.rails:
            where = self._root / "sys/bus/i2c/drivers/ina3221*"
            why = f"no power monitor below {where}; use a power meter at the supply"
        elif self._rail_joules is None:
            files = [path for rail in jetson.total for path in rail.files]
            refused = "; ".join(words for words in map(refusal, files) if words)
            why = f"{refused or 'a reading gave no number'}; run as root if files are kept from you"
        elif self._readings < MIN_READINGS:
            why = (
                f"{self._readings} readings carry no average, at least {MIN_READINGS} do; measure "
                "more calls, and sample during the run"
            )
        else:
            words = f"{jetson.total_words()}, over {self._readings} readings"
            return [(words, self._rail_joules)], []
        return [], [f"Jetson rails: {why}"]

    def _package_parts(self) -> tuple[list[tuple[str, float]], list[str]]:
        if not self._packages:
            where = self._root / "sys/class/powercap/intel-rapl:*"
            return [], [f"CPU energy: {where} does not exist; {RAPL_ABSENT}"]
        microjoules = [value for value in self._package_uj if value is not None]
        if len(microjoules) < len(self._packages):
            why = [words for words in (refusal(p.counter) for p in self._packages) if words]
            return [], [f"CPU energy: {'; '.join(why) or 'a reading failed'}; {RAPL_HELP}"]
        if not all(microjoules):
            return [], ["CPU energy: a RAPL counter did not move; this machine does not count"]
        names = ", ".join(package.name for package in self._packages)
        return [(f"CPU package (RAPL {names}, memory not in it)", sum(microjoules) / 1e6)], []

    def _gpu_parts(self, names: Sequence[str | None]) -> tuple[list[tuple[str, float]], list[str]]:
        parts, missing = [], [self._gpus.missing] if self._gpus.missing else []
        for index, (name, first, last) in enumerate(
            zip(names, self._gpu_first, self._gpu_last, strict=True)
        ):
            words = f"GPU {index} {name}"
            if first is None or last is None:
                missing.append(f"{words}: NVML has no energy counter for it (it needs Volta)")
            elif last <= first:
                missing.append(f"{words}: its energy counter did not move")
            else:
                parts.append((f"{words} (NVML, the whole board)", last - first))
        return parts, missing


def no_energy(missing: str) -> EnergySection:
    """What a report says of energy that is not known, and why it is ``missing``."""
    return {"joules_per_result": None, "watts": None, "source": None, "missing": missing}
