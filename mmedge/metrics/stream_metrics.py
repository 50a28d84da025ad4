"""What is counted of one stream while it runs, beside what its ``health()`` counts itself."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from mmedge.metrics.family import Family, Histogram
from mmedge.stream.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmedge.stream import Health, Result
    from mmedge.stream.network_id import NetworkId

__all__ = ["StreamMetrics", "stream_families"]

#: A reason begins with its name or its words (``no sample yet``); figures follow after a mark, and
#: would make a label of endless values.
REASON = re.compile(r"[a-zA-Z_]+(?: [a-zA-Z_]+)*")
#: By modality: metric, kind, attribute of its health, description.
MODALITY_FIGURES: Final[tuple[tuple[str, Literal["counter", "gauge"], str, str], ...]] = (
    ("samples", "counter", "pushed", "Samples pushed."),
    ("samples_used", "counter", "used", "Samples that went into a result."),
    ("samples_pending", "gauge", "pending", "Samples still held."),
    ("modality_present", "gauge", "present", "1 if a result now would use the modality."),
    ("encodes", "counter", "encodes", "Runs of the encoder."),
    ("encodes_skipped", "counter", "encodes_skipped", "Encodings saved: the same content."),
    ("encoder_errors", "counter", "errors", "Encoder runs that failed."),
    ("source_clock_jumps", "counter", "clock_jumps", "How often a source's clock was set back."),
)


class StreamMetrics(Observer):
    """Latencies, ages and absences of one stream's results.

    Args:
        latency_bounds: of the histogram of latencies, in seconds.
        age_bounds: of the histogram of ages, in seconds.
        record: is given each latency and, by modality, each age in seconds, for an exporter that
            keeps its own histograms.
    """

    def __init__(
        self,
        latency_bounds: Sequence[float],
        age_bounds: Sequence[float],
        record: Callable[[Result], None] | None = None,
    ) -> None:
        self.latency = Histogram(latency_bounds)
        self.ages: dict[str, Histogram] = {}
        self.absences: Counter[tuple[str, ...]] = Counter()
        #: What made the newest outputs; None before the first.
        self.network: NetworkId | None = None
        self._age_bounds = age_bounds
        self._record = record

    def on_result(self, result: Result) -> None:
        """Count it."""
        if result.outputs is not None:
            self.network = result.network
        if result.fresh:
            # Outputs that are repeated were never late: they were not computed.
            self.latency.observe(result.latency)
        for name, age in result.ages.items():
            if age is not None:
                histogram = self.ages.get(name)
                if histogram is None:
                    histogram = self.ages[name] = Histogram(self._age_bounds)
                histogram.observe(age)
        for name, reason in result.absent.items():
            found = REASON.match(reason)
            self.absences[name, found[0].replace(" ", "_") if found else "other"] += 1
        if self._record is not None:
            self._record(result)


def stream_families(name: str, health: Health, metrics: StreamMetrics) -> list[Family]:
    """What one stream's health and results come to; ``name`` is the value of label ``stream``."""
    fresh = health.results - health.stale - health.empty
    ends: dict[tuple[str, ...], float] = {
        ("superseded",): health.triggers_superseded,
        ("closed",): health.triggers_closed,
    }
    families = [
        Family(
            "mmedge_results", "counter", "Results, by what they hold.", ("outcome",),
            {("fresh",): fresh, ("stale",): health.stale, ("empty",): health.empty},
        ),
        Family("mmedge_triggers", "counter", "Triggers that came.", (), {(): health.triggers}),
        Family(
            "mmedge_triggers_dropped", "counter", "Triggers without a result.", ("reason",), ends
        ),
        Family(
            "mmedge_events", "counter", "Events of the stream, by kind.", ("kind",),
            {(kind,): count for kind, count in health.events.items()},
        ),
        Family(
            "mmedge_stream_failed", "gauge", "1 if the stream ended by itself.", (),
            {(): bool(health.failure)},
        ),
    ]  # fmt: skip
    families += [
        Family(f"mmedge_{metric}", "counter", description, (), {(): getattr(health, attribute)})
        for metric, attribute, description in (
            ("deadline_misses", "deadline_misses", "Fresh results later than the deadline."),
            ("results_unread", "results_dropped", "Results that nobody fetched."),
            ("clock_jumps", "clock_jumps", "How often the stream's clock was set."),
            ("clock_glitches", "clock_glitches", "Readings of the clock that were not used."),
        )
    ]
    families += _modality_families(health)
    absences: dict[tuple[str, ...], float] = dict(metrics.absences)
    families.append(
        Family(
            "mmedge_modality_absences", "counter", "Results without the modality, by reason.",
            ("modality", "reason"), absences,
        )
    )  # fmt: skip
    network = metrics.network
    families.append(
        Family(
            "mmedge_network", "gauge", "1 of the network that made the newest outputs.",
            ("number", "digest", "variant"),
            {} if network is None else {tuple(map(str, network)): 1.0},
        )
    )  # fmt: skip
    for family in families:
        family.labels = ("stream", *family.labels)
        family.values = {(name, *key): float(value) for key, value in family.values.items()}
    return families


def _modality_families(health: Health) -> list[Family]:
    """What is counted by modality."""
    modalities = health.modalities.items()
    families = [
        Family(
            f"mmedge_{metric}", kind, description, ("modality",),
            {(name,): getattr(state, attribute) for name, state in modalities},
        )
        for metric, kind, attribute, description in MODALITY_FIGURES
    ]  # fmt: skip
    drops: dict[tuple[str, ...], float] = {
        (name, why): n for name, state in modalities for why, n in state.dropped.items()
    }
    families.append(
        Family(
            "mmedge_samples_dropped", "counter", "Samples not used, by reason.",
            ("modality", "reason"), drops,
        )
    )  # fmt: skip
    scores: dict[tuple[str, ...], float] = {
        (name,): state.drift for name, state in modalities if state.drift is not None
    }
    families.append(
        Family(
            "mmedge_drift_score", "gauge",
            "How far a modality is from what is normal for it: 1 and above is an alarm.",
            ("modality",), scores,
        )
    )  # fmt: skip
    return families
