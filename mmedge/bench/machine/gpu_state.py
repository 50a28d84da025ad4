"""State, power and energy of discrete NVIDIA GPUs, through NVML (the package nvidia-ml-py).

The package is optional and imported only where a driver is present. Units and meanings are those of
the NVML API reference: power in mW, energy in mJ since the driver was loaded, clocks in MHz.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

__all__ = ["SLOWING", "Gpus"]

#: Files that are there where an NVIDIA driver is: on a desktop or server, and in WSL.
DRIVER = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg")
#: Bits of nvmlDeviceGetCurrentClocksEventReasons, from nvml.h (nvmlClocksEventReasons).
REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability voltage",
}
#: Those that mean the GPU could not keep the clock that it was asked for.
SLOWING = frozenset(REASONS[bit] for bit in (0x004, 0x008, 0x020, 0x040, 0x080, 0x200))


class Gpus:
    """The GPUs that NVML lists, held open between ``open`` and ``close``.

    ``missing`` says why there are none to ask, or is None.
    """

    def __init__(self, nvml: ModuleType | None, missing: str | None) -> None:
        self._nvml = nvml
        self.missing = missing
        self._handles: list[Any] = []
        if nvml is not None:
            count = self._ask("nvmlDeviceGetCount") or 0
            handles = (self._ask("nvmlDeviceGetHandleByIndex", index) for index in range(count))
            self._handles = [handle for handle in handles if handle is not None]

    @classmethod
    def open(cls, root: Path) -> Gpus:
        """Start NVML if the machine below ``root`` has an NVIDIA driver."""
        if not any((root / name).exists() for name in DRIVER):
            return cls(None, None)
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return cls(None, "GPU energy: nvidia-ml-py is not installed; pip install nvidia-ml-py")
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return cls(None, f"GPU energy: NVML does not start: {error}; check the driver")
        return cls(nvml, None)

    def close(self) -> None:
        """Stop NVML."""
        if self._nvml is not None:
            self._ask("nvmlShutdown")
            self._nvml, self._handles = None, []

    def state(self) -> list[dict[str, Any]]:
        """Name, driver, limits and clocks of each GPU now; None for what it does not tell."""
        driver = self._ask("nvmlSystemGetDriverVersion")
        return [
            {
                "name": _words(self._ask("nvmlDeviceGetName", handle)),
                "driver": _words(driver),
                "persistence": _flag(self._ask("nvmlDeviceGetPersistenceMode", handle)),
                "power_limit_w": _thousandth(self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
                "sm_max_mhz": self._clock("nvmlDeviceGetMaxClockInfo", handle, "NVML_CLOCK_SM"),
                "mem_max_mhz": self._clock("nvmlDeviceGetMaxClockInfo", handle, "NVML_CLOCK_MEM"),
                "energy_j": _thousandth(self._ask("nvmlDeviceGetTotalEnergyConsumption", handle)),
                **sample,
            }
            for handle, sample in zip(self._handles, self.sample(), strict=True)
        ]

    def sample(self) -> list[dict[str, Any]]:
        """Clocks, power, temperature, reasons, use and performance state of each GPU now.

        ``reasons`` are words for what sets the clocks; ``utilisation`` is 0 to 1, over the driver's
        own window of up to a second.
        """
        return [self._sample(handle) for handle in self._handles]

    def joules(self) -> list[float | None]:
        """Energy of each GPU since its driver was loaded; None before the Volta architecture."""
        return [
            _thousandth(self._ask("nvmlDeviceGetTotalEnergyConsumption", handle))
            for handle in self._handles
        ]

    def _sample(self, handle: object) -> dict[str, Any]:
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:  # the same bits under the name that drivers before 535 know
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        use = self._ask("nvmlDeviceGetUtilizationRates", handle)
        sensor = getattr(self._nvml, "NVML_TEMPERATURE_GPU", 0)
        return {
            "sm_mhz": self._clock("nvmlDeviceGetClockInfo", handle, "NVML_CLOCK_SM"),
            "mem_mhz": self._clock("nvmlDeviceGetClockInfo", handle, "NVML_CLOCK_MEM"),
            "power_w": _thousandth(self._ask("nvmlDeviceGetPowerUsage", handle)),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", handle, sensor),
            "reasons": None if reasons is None else _decode(reasons),
            "utilisation": None if use is None else use.gpu / 100,
            "performance_state": self._ask("nvmlDeviceGetPerformanceState", handle),
        }

    def _clock(self, function: str, handle: object, kind: str) -> int | None:
        value: int | None = self._ask(function, handle, getattr(self._nvml, kind, None))
        return value

    def _ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 - NVML's own types
        """NVML's answer; None where this GPU, driver or version of the package has none."""
        call = getattr(self._nvml, function, None)
        if call is None or self._nvml is None:
            return None
        try:
            return call(*arguments)
        except self._nvml.NVMLError:
            return None


def _decode(bits: int) -> list[str]:
    """Words for the bits; a bit that nvml.h did not have is named by its value."""
    reasons = [words for bit, words in REASONS.items() if bits & bit]
    rest = bits & ~sum(REASONS)
    return [*reasons, f"unknown reason 0x{rest:x}"] if rest else reasons


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1e3


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _words(value: str | bytes | None) -> str | None:
    """Older versions of the package answer with bytes."""
    return value.decode() if isinstance(value, bytes) else value
