"""A stream's health as diagnostics: one status for the stream, one for each modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.stream import Health, ModalityHealth, Result
    from mmedge_ros.inlet import Inlet

__all__ = ["Counts", "modality_status", "status", "stream_status"]

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Counts:
    """Counters as they were at the diagnostics before: what has grown since is worth a warning."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def grown(self, name: str, counts: Mapping[str, int]) -> list[str]:
        """What grew since the last call with this name, in words."""
        words = []
        for what, count in counts.items():
            key = f"{name}.{what}"
            more = count - self._before.get(key, 0)
            self._before[key] = count
            if more > 0:
                words.append(f"{more} {what}")
        return words


def status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    """One status; values are written as Python prints them, None as nothing."""
    pairs = [
        KeyValue(key=key, value="" if value is None else _text(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(level=level, name=name, message=message, values=pairs)


def stream_status(
    name: str, health: Health, counts: Counts, fixed: Mapping[str, Any], errors: Mapping[str, int]
) -> DiagnosticStatus:
    """The stream as a whole: results, misses, its clock, why it failed."""
    grown = counts.grown(
        name,
        {
            "deadline misses": health.deadline_misses,
            "results not fetched": health.results_dropped,
            "results without outputs": health.empty,
            "clock jumps": health.clock_jumps,
            "errors": sum(errors.values()),
        },
    )
    level, message = (WARN, ", ".join(grown)) if grown else (OK, "running")
    if health.failure:
        level, message = ERROR, health.failure
    values = {
        **fixed,
        "triggers": health.triggers,
        "triggers_superseded": health.triggers_superseded,
        "results": health.results,
        "stale": health.stale,
        "empty": health.empty,
        "deadline_misses": health.deadline_misses,
        "results_dropped": health.results_dropped,
        "latency_p95_ms": None if health.latency_p95 is None else 1e3 * health.latency_p95,
        "clock_jumps": health.clock_jumps,
        "clock_glitches": health.clock_glitches,
        "failure": health.failure,
        **{f"errors: {error}": count for error, count in errors.items()},
    }
    return status(name, level, message, values)


def modality_status(
    name: str,
    inlet: Inlet,
    health: ModalityHealth,
    counts: Counts,
    *,
    required: bool,
    now: float,
    last: Result | None,
) -> DiagnosticStatus:
    """One modality: what came on its topic, and what became of it."""
    modality = inlet.modality
    dropped = sum(health.dropped.values())
    unfit, errors = inlet.unfit.total(), inlet.errors.total()
    grown = counts.grown(
        name,
        {
            "lost": inlet.lost,
            "unfit": unfit,
            "errors": errors,
            "encoder errors": health.errors,
            "publishers of another QoS": inlet.incompatible,
        },
    )
    level, message = (WARN, ", ".join(grown)) if grown else (OK, "present")
    if not health.present:
        level = ERROR if required else WARN
        message = "; ".join([f"absent: {health.reason}", *grown])
    age = None if last is None else last.ages.get(modality)
    values = {
        "topic": inlet.name,
        "type": inlet.converter.kind,
        "publishers": inlet.publishers,
        "present": health.present,
        "reason": health.reason,
        "age_ms": None if age is None else 1e3 * age,
        "since_last_ms": None if inlet.last is None else 1e3 * (now - inlet.last),
        "received": inlet.received,
        "lost": f"at least {inlet.lost}" if inlet.untold else inlet.lost,
        "first_number": inlet.first,
        "unfit": unfit,
        "errors": errors,
        "pushed": health.pushed,
        "used": health.used,
        "dropped": dropped,
        "pending": health.pending,
        "incompatible_qos": inlet.incompatible,
        "encoder_errors": health.errors,
        "last_error": health.last_error,
        **{f"dropped: {reason}": count for reason, count in sorted(health.dropped.items())},
        **{f"unfit: {fault}": count for fault, count in inlet.unfit.items()},
        **{f"errors: {fault}": count for fault, count in inlet.errors.items()},
        **{f"changed {number}": note for number, note in enumerate(inlet.converter.notes)},
    }
    return status(name, level, message, values)


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
