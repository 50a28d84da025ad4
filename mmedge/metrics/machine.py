"""Metrics of the machine: what the operating system tells cheaply."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from mmedge.machine import SensorFiles, resident_bytes
from mmedge.metrics.family import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["machine_families"]


@cache
def _sensors() -> SensorFiles:
    """Found once: which sensors there are does not change."""
    return SensorFiles.find()


def machine_families() -> list[Family]:
    """What can be read of temperatures, clocks of the cores and the memory of this process."""
    sensors = _sensors()
    figures: list[tuple[str, str, str, Mapping[str, float]]] = [
        ("temperature_celsius", "sensor", "Temperature.", sensors.temperatures()),
        ("cooling_state", "device", "How far a device slows down to cool; 0: not.",
         sensors.cooling_states()),
        ("core_frequency_hertz", "core", "Clock of a core.",
         {str(core): mhz * 1e6 for core, mhz in enumerate(sensors.frequencies() or ())}),
    ]  # fmt: skip
    families = [
        Family(
            f"mmedge_{name}", "gauge", description, (label,), {(k,): v for k, v in values.items()}
        )
        for name, label, description, values in figures
        if values
    ]
    size = resident_bytes()
    if size is None:
        return families
    memory = Family(
        "mmedge_process_memory_bytes", "gauge", "Resident memory of this process.", (), {(): size}
    )
    return [*families, memory]
