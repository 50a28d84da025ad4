"""Lower precision where the task holds and it pays."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmedge_export.quantize.options import QuantizeOptions
    from mmedge_export.quantize.quantize_bundle import quantize
    from mmedge_export.quantize.report import QuantizationReport, StageReport
    from mmedge_export.quantize.task import Task

__all__ = ["QuantizationReport", "QuantizeOptions", "StageReport", "Task", "quantize"]

_HOMES = {
    "QuantizationReport": "report",
    "QuantizeOptions": "options",
    "StageReport": "report",
    "Task": "task",
    "quantize": "quantize_bundle",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562): the command line asks for limits alone."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
