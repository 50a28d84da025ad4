"""Multi-rate runs: sensors push at their own rates, fused results come out, all accounted for."""

from __future__ import annotations

from mmedge.align import Exact, Hold, Interpolate, Latest, Policy, Window
from mmedge.clock import SimulatedClock
from mmedge.sanity import Sanity
from mmedge.stream.result import Health, ModalityHealth, Result, Used
from mmedge.stream.stream import Stream

__all__ = [
    "Exact",
    "Health",
    "Hold",
    "Interpolate",
    "Latest",
    "ModalityHealth",
    "Policy",
    "Result",
    "Sanity",
    "SimulatedClock",
    "Stream",
    "Used",
    "Window",
]
