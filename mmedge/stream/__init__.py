"""Multi-rate runs: sensors push at their own rates, fused results come out, all accounted for."""

from __future__ import annotations

from mmedge.stream.adaptive import Adaptive, hottest
from mmedge.stream.clock import SimulatedClock
from mmedge.stream.network_id import NetworkId
from mmedge.stream.observer import Event, Observer
from mmedge.stream.policies import Exact, Hold, Interpolate, Latest, Policy, Window
from mmedge.stream.result import Health, ModalityHealth, Result, Used
from mmedge.stream.result_line import result_line
from mmedge.stream.sanity import Sanity
from mmedge.stream.stream import Stream
from mmedge.stream.variant_policy import Ceiling

__all__ = [
    "Adaptive",
    "Ceiling",
    "Event",
    "Exact",
    "Health",
    "Hold",
    "Interpolate",
    "Latest",
    "ModalityHealth",
    "NetworkId",
    "Observer",
    "Policy",
    "Result",
    "Sanity",
    "SimulatedClock",
    "Stream",
    "Used",
    "Window",
    "hottest",
    "result_line",
]
