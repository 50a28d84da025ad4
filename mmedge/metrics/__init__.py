"""Metrics of streams and of the machine, for Prometheus and OpenTelemetry.

Nothing leaves the machine, and no port is opened, unless the application asks.
"""

from __future__ import annotations

from mmedge.metrics.metrics import Metrics

__all__ = ["Metrics"]
