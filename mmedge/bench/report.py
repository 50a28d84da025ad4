"""The report of one measurement: plain data, JSON in and out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["REPORT_VERSION", "Report"]

#: Version of the report's JSON. A key is never renamed or removed within one version; one that is
#: added gets a default here, and a reader passes over keys that it does not know.
REPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured, on what, and how.

    Times end in ``_ms`` (milliseconds), sizes in ``_bytes``. A percentile is None where the number
    of calls cannot carry it (see :func:`mmedge.bench.stats.percentile`).

    Attributes:
        bundle: name, and digest of the manifest.
        variant: id of the variant that ran.
        load: how calls were made: ``kind`` (``closed`` loop), ``calls``, ``warmup``, ``threads``,
            ``inputs``.
        latency_ms: end-to-end latency of a call: mean, std, min, p50, p90, p99, p99_9, max.
        throughput_hz: calls per second of the loop, with what the loop itself takes.
        cold_start_ms: start of a fresh process to its first result, with its files in the
            operating system's cache.
        cold_start_parts_ms: its parts (see :class:`mmedge.bench.coldstart.ColdStart`).
        first_call_ms: latency of the first call after loading.
        peak_memory_bytes: the fresh process's peak resident memory after its calls.
        stages: per part of a call (``inputs``, each stage, ``residual``): the same statistics.
        attention: by stage with attention over segments, what ran it, in words.
        accuracy: worst differences against the golden samples, checked before timing.
        device: what the machine was.
    """

    bundle: Mapping[str, Any]
    variant: str
    load: Mapping[str, Any]
    latency_ms: Mapping[str, float | None]
    throughput_hz: float
    cold_start_ms: float
    cold_start_parts_ms: Mapping[str, float]
    first_call_ms: float
    peak_memory_bytes: int
    stages: Mapping[str, Mapping[str, float | None]]
    accuracy: Mapping[str, Any]
    device: Mapping[str, Any]
    attention: Mapping[str, str] = field(default_factory=dict)
    report_version: int = REPORT_VERSION

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON text, also written to ``path`` when one is given."""
        text = json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a report.

        Raises:
            InputError: the file is no report, or one of another version.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{os.fspath(path)}: cannot be read as a report: {error}") from error
        if not isinstance(data, dict) or data.get("report_version") != REPORT_VERSION:
            found = data.get("report_version") if isinstance(data, dict) else type(data).__name__
            raise InputError(
                f"{os.fspath(path)}: expected a report of version {REPORT_VERSION}, got {found}; "
                "run mmedge bench again with this version"
            )
        known = {own.name: data[own.name] for own in fields(cls) if own.name in data}
        try:
            return cls(**known)
        except TypeError as error:
            raise InputError(
                f"{os.fspath(path)}: not a whole report: {error}; run mmedge bench again"
            ) from error
