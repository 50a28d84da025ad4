"""Metrics of streams and of the machine: Prometheus' text, OpenTelemetry's instruments."""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from mmedge.errors import BackendError, InputError
from mmedge.metrics.family import Family, HistogramFamily, check_bounds
from mmedge.metrics.machine import machine_families
from mmedge.metrics.stream_metrics import StreamMetrics, stream_families
from mmedge.stream import Health

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from mmedge.metrics.prometheus import MetricsServer
    from mmedge.stream import Result, Stream

__all__ = ["AGES", "LATENCIES", "Metrics"]

#: Upper bounds of the histogram of latencies, in seconds: 1, 2 and 5 of each decade.
LATENCIES: Final = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
#: Upper bounds of the histograms of ages, in seconds. A sample newer than its trigger is below 0.
AGES: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


#: A stream that nothing has come to, for the names of what it has.
NO_HEALTH: Final = Health(
    modalities={}, triggers=0, triggers_superseded=0, triggers_closed=0, triggers_pending=0,
    results=0, stale=0, empty=0, deadline_misses=0, results_dropped=0, latency_p95=None,
)  # fmt: skip


class Metrics:
    """Collects what streams do, to be read by a monitoring system.

    ::

        metrics = Metrics()
        metrics.watch(stream, "front")
        server = metrics.serve(9464)  # http://127.0.0.1:9464/metrics

    It opens no port and sends nothing by itself. docs/howto/metrics.md lists the metrics.

    Args:
        latencies: upper bounds of the histogram of latencies, in seconds, rising.
        ages: the same of the histograms of the ages of what results used.
        machine: whether temperatures, the load of the cores' clocks and the memory of this process
            are read at each collection.

    Raises:
        InputError: bounds that do not rise.
    """

    def __init__(
        self,
        *,
        latencies: Sequence[float] = LATENCIES,
        ages: Sequence[float] = AGES,
        machine: bool = True,
    ) -> None:
        self._latencies = check_bounds("latencies", latencies)
        self._ages = check_bounds("ages", ages)
        self._machine = machine
        self._lock = threading.Lock()
        self._watched: dict[str, tuple[weakref.ref[Stream], StreamMetrics]] = {}
        self._recorders: list[Callable[[str, Result], None]] = []

    def watch(self, stream: Stream, name: str = "stream") -> Callable[[], None]:
        """Collect what a stream does from now on; call what is returned to end that.

        Counters of samples and results go back to the stream's beginning, the histograms of
        latencies and ages to this call. A stream that is let go of ends it, too; one that is
        closed keeps its last figures until then.

        Args:
            stream: not kept alive by this.
            name: the value of the label ``stream``.

        Raises:
            InputError: another stream of this name is watched.
        """

        def record(result: Result) -> None:
            for recorder in self._recorders:
                recorder(name, result)

        watcher = StreamMetrics(self._latencies, self._ages, record)
        with self._lock:
            previous = self._watched.get(name)
            if previous is not None and previous[0]() is not None:
                raise InputError(
                    f"a stream named {name!r} is watched already; give each stream its own name"
                )
            self._watched[name] = weakref.ref(stream), watcher
        stop = stream.observe(watcher)

        def end() -> None:
            stop()
            with self._lock:
                if self._watched.get(name, (None, None))[1] is watcher:
                    del self._watched[name]

        return end

    def families(self) -> list[Family]:
        """The values now, one family a metric; histograms are in :meth:`histograms`."""
        merged: dict[str, Family] = {}
        for name, stream, watcher in self._streams():
            health = _read_health(stream)
            for family in stream_families(name, health, watcher) if health is not None else ():
                first = merged.setdefault(family.name, family)
                first.values = {**first.values, **family.values}
        families = list(merged.values())
        return [*families, *machine_families()] if self._machine else families

    def catalog(self) -> list[Family]:
        """Every family that there can be, without values."""
        watcher = StreamMetrics(self._latencies, self._ages)
        families = stream_families("", NO_HEALTH, watcher)
        return [*families, *machine_families()] if self._machine else families

    def histograms(self) -> list[HistogramFamily]:
        """Latencies and ages of every stream's results."""
        streams = self._streams()
        return [
            HistogramFamily(
                "mmedge_result_latency_seconds",
                "From a trigger's time to its fresh result.",
                ("stream",),
                {(name,): watcher.latency for name, _, watcher in streams},
                self._latencies,
            ),
            HistogramFamily(
                "mmedge_sample_age_seconds",
                "Ages of what results used, at the trigger's time.",
                ("stream", "modality"),
                {
                    (name, modality): histogram
                    for name, _, watcher in streams
                    for modality, histogram in list(watcher.ages.items())
                },
                self._ages,
            ),
        ]

    def text(self) -> str:
        """The values now, in Prometheus' text format.

        Raises:
            BackendError: prometheus-client is not installed.
        """
        with _needs_client():
            from mmedge.metrics.prometheus import text
        return text(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`text` to a file, which is there whole or not at all.

        The node exporter's textfile collector reads such files. Nothing listens.

        Raises:
            BackendError: prometheus-client is not installed.
            OSError: the file cannot be written.
        """
        with _needs_client():
            from mmedge.metrics.prometheus import write
        write(self, path)

    def serve(self, port: int, address: str = "127.0.0.1") -> MetricsServer:
        """Answer Prometheus' requests at ``http://address:port/metrics``, in a thread of its own.

        Args:
            port: 0: any that is free; see the server's ``port``.
            address: by default this machine's own alone. Who reaches another one reads all metrics:
                nothing is asked of him.

        Raises:
            BackendError: prometheus-client is not installed.
            OSError: the port is taken or not allowed.
        """
        with _needs_client():
            from mmedge.metrics.prometheus import serve
        return serve(self, port, address)

    def instrument(self, meter: Any) -> None:  # noqa: ANN401 - opentelemetry is not imported
        """Make OpenTelemetry instruments of everything that is collected.

        What becomes of their values is for the application's meter provider to say.

        Args:
            meter: an ``opentelemetry.metrics.Meter``.

        Raises:
            BackendError: opentelemetry-api is not installed.
        """
        try:
            from mmedge.metrics.opentelemetry import add_instruments
        except ImportError as error:
            raise BackendError(
                "OpenTelemetry instruments need its API: pip install 'opentelemetry-api>=1.20'"
            ) from error
        self._recorders = [*self._recorders, add_instruments(self, meter)]

    def _streams(self) -> list[tuple[str, Stream, StreamMetrics]]:
        """Those that are still there."""
        with self._lock:
            streams = [
                (name, stream, watcher)
                for name, (reference, watcher) in self._watched.items()
                if (stream := reference()) is not None
            ]
            alive = {name for name, _, _ in streams}
            self._watched = {name: self._watched[name] for name in alive}
        return sorted(streams, key=lambda entry: entry[0])


def _read_health(stream: Stream) -> Health | None:
    """A stream's counters; None in another process than that which made it.

    One stream's failure is no reason to tell nothing of the others.
    """
    for _ in range(2):
        # Where its clock fails at this moment it ends, and says so when it is asked again.
        with suppress(BackendError):
            return stream.health()
    return None


@contextmanager
def _needs_client() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise BackendError(
            "Prometheus' format needs its client: pip install 'mmedge[metrics]'"
        ) from error
