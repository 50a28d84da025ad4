"""Metrics as Prometheus reads them, by its own client library."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client import write_to_textfile as write_textfile
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mmedge.closable import Closable

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable
    from wsgiref.simple_server import WSGIServer

    from mmedge.metrics.family import MetricsSource

__all__ = ["MetricsServer", "registry", "serve", "text", "write"]

KINDS = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class _MetricsCollector(Collector):
    """Reads the metrics when somebody asks for them."""

    def __init__(self, metrics: MetricsSource) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Nothing: which metrics there are is known once streams are watched."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All values now."""
        for family in self._metrics.families():
            metric = KINDS[family.kind](family.name, family.description, labels=family.labels)
            for labels, value in family.values.items():
                metric.add_metric(labels, value)
            yield metric
        for histograms in self._metrics.histograms():
            labels = histograms.labels
            result = HistogramMetricFamily(histograms.name, histograms.description, labels=labels)
            bounds = [*map(floatToGoString, histograms.bounds), "+Inf"]
            for key, histogram in histograms.values.items():
                counts = zip(bounds, histogram.cumulative(), strict=True)
                result.add_metric(key, [*counts], histogram.sum)
            yield result


class MetricsServer(Closable):
    """Answers until it is closed.

    Attributes:
        address: that it listens on.
        port: likewise.
    """

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server, self._thread = server, thread
        self.address, self.port = str(server.server_address[0]), int(server.server_address[1])

    def close(self) -> None:
        """Answer no more, and free the port. You may call it twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def registry(metrics: MetricsSource) -> CollectorRegistry:
    """A registry of the client library, for an application that serves its own metrics by it."""
    of_these = CollectorRegistry()
    of_these.register(_MetricsCollector(metrics))
    return of_these


def text(metrics: MetricsSource) -> str:
    """See :meth:`mmedge.metrics.Metrics.text`."""
    return generate_latest(registry(metrics)).decode()


def write(metrics: MetricsSource, path: str | os.PathLike[str]) -> None:
    """See :meth:`mmedge.metrics.Metrics.write`."""
    write_textfile(os.fspath(path), registry(metrics))


def serve(metrics: MetricsSource, port: int, address: str) -> MetricsServer:
    """See :meth:`mmedge.metrics.Metrics.serve`."""
    return MetricsServer(*start_http_server(port, addr=address, registry=registry(metrics)))
