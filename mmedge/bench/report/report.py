"""The report of one measurement: plain data, JSON in and out, and a page to read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, Self

from mmedge.bench.machine.energy import no_energy
from mmedge.bench.report.schema import check_report
from mmedge.errors import InputError
from mmedge.schema.read import Misfit, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["REPORT_VERSION", "Report"]

#: Version of the report's JSON. A key is never renamed or removed within one version; one that is
#: added gets a default here, and a reader passes over keys that it does not know.
REPORT_VERSION = 2

#: Bytes of a report that is read: a thousand times what one has.
MAX_REPORT_BYTES = 64 << 20


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _no_series() -> dict[str, Any]:
    return {"start_s": [], "latency_ms": [], "kept": 0, "of": 0}


def _no_profile() -> dict[str, Any]:
    return {"words": None, "stages": {}}


def _no_energy() -> dict[str, Any]:
    return no_energy("not measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured, on what, and how.

    Keys end in their unit: ``_ms`` (milliseconds), ``_s`` (seconds), ``_hz``, ``_bytes``. A
    *summary* is ``count``, ``mean``, ``std``, ``min``, ``p50``, ``p90``, ``p99``, ``p99_9`` and
    ``max`` of one quantity; a percentile is None where the count cannot carry it (see
    :func:`mmedge.bench.stats.summary.percentile`). ``report.schema.json`` beside this module
    describes every key of every part.

    Attributes:
        report_version: version of the format.
        created: when it was made, in UTC (ISO 8601).
        command: the command line, as it was typed; None where a program made it.
        bundle: ``name``, and ``manifest_sha256``, the digest of the manifest.
        variant: id of the variant that ran, such as ``ort-int8-cpu``.
        load: how calls were made: ``kind`` (``closed``, ``rate``, ``gap`` or ``replay``), ``mode``
            (``one-shot`` or ``stream``), ``calls``, ``seconds`` asked for, ``threads``, ``inputs``
            in words, ``rate_hz``, ``gap_ms``, ``recording``, ``interference``, and ``beside``, the
            name that it shares with a run whose calls took turns with its own.
        warmup: calls before the timed ones: ``calls``, whether latency ``settled``, by what
            ``rule``.
        latency_ms: summary of the end-to-end latency of a call.
        confidence_ms: 95 % interval ``[low, high]`` of ``p50``, ``p90``, ``p99``, ``p99_9`` and
            ``mean``, None where the percentile is or where too few calls lie beyond it: from 5
            sessions on with whole sessions as blocks and Student's t, else by a moving-block
            bootstrap.
        jitter_ms: ``std``, ``mean_step`` (mean of ``|x[i+1] - x[i]|``), ``p99_less_p50``.
        deadline: ``ms``, calls ``missed``, their share as ``rate``, ``longest_run`` of missed ones
            in a row; None where no deadline was given.
        throughput_hz: results per second of the whole run, with what the loop itself takes; of
            calls that took turns with another's, per second of its own.
        series: ``start_s`` of each call from the first (scheduled arrival in an open loop) and its
            ``latency_ms``; ``kept`` of ``of`` calls, evenly thinned; ``part``, the number of the
            fresh session that a call belongs to, where there were several.
        cold_start_ms: start of a fresh process to its first result, with its files in the
            operating system's cache.
        cold_start_parts_ms: its parts (see :class:`mmedge.bench.coldstart.ColdStart`).
        first_call_ms: latency of the first call after loading.
        peak_memory_bytes: the fresh process's peak resident memory after its calls.
        stages: summary by part of a call: ``inputs``, each stage, ``outputs``, ``residual`` (what
            the other parts leave unexplained).
        operators: largest first: ``stage``, ``module``, ``op``, ``calls`` a run, median ``ms`` a
            run, ``share`` of the stage's operator time.
        operators_unexplained: what the profile does not see, in ``words``, and by stage in
            ``stages`` the ``profiled_ms`` of the operators and the ``stage_ms`` of all of it.
        copies: ``what`` was copied, ``bytes`` a call, and ``why``.
        attention: by stage with attention over segments, what ran it, in words.
        accuracy: worst differences against the golden samples, checked before timing.
        metric: ``value`` of the task metric, its ``name``, the ``drop`` from the full-precision
            network and the ``drop_bound``, as the bundle states them; None where it does not.
        not_checked: what the bundle's proof, and the variant's, leaves open, a line each.
        size_bytes: of the variant's files.
        ages_ms: summary by modality of the age of what a result used (stream runs).
        drops: by modality, how many samples were dropped for which reason (stream runs).
        results: ``triggers``, ``results``, ``fresh``, ``stale``, ``empty``, ``superseded``,
            ``deadline_misses`` (the same as ``missed`` of ``deadline``; 0 without one); of stream
            runs, else None.
        device: what the machine was: ``name``, ``cpu``, ...; ``before``, ``during`` (with
            ``at_s``) and ``after`` the run; ``throttled`` in words or None.
        energy: ``joules_per_result``, mean ``watts``, their ``source``, or why they are
            ``missing``.
        variants: one row for each variant that was compared; empty for a single measurement.
        recommended: ``variant``, ``threads`` and ``why``; None for a single measurement.
    """

    report_version: int = REPORT_VERSION
    created: str = field(default_factory=_now)
    command: str | None = None
    bundle: Mapping[str, Any]
    variant: str
    load: Mapping[str, Any]
    warmup: Mapping[str, Any] = field(default_factory=dict)
    latency_ms: Mapping[str, Any]
    confidence_ms: Mapping[str, Any] = field(default_factory=dict)
    jitter_ms: Mapping[str, Any] = field(default_factory=dict)
    deadline: Mapping[str, Any] | None = None
    throughput_hz: float
    series: Mapping[str, Any] = field(default_factory=_no_series)
    cold_start_ms: float
    cold_start_parts_ms: Mapping[str, float]
    first_call_ms: float
    peak_memory_bytes: int
    stages: Mapping[str, Mapping[str, Any]]
    operators: Sequence[Mapping[str, Any]] = field(default_factory=list)
    operators_unexplained: Mapping[str, Any] = field(default_factory=_no_profile)
    copies: Sequence[Mapping[str, Any]] = field(default_factory=list)
    attention: Mapping[str, str] = field(default_factory=dict)
    accuracy: Mapping[str, Any]
    metric: Mapping[str, Any] | None = None
    not_checked: Sequence[str] = field(default_factory=list)
    size_bytes: int | None = None
    ages_ms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    drops: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    results: Mapping[str, int] | None = None
    device: Mapping[str, Any]
    energy: Mapping[str, Any] = field(default_factory=_no_energy)
    variants: Sequence[Mapping[str, Any]] = field(default_factory=list)
    recommended: Mapping[str, Any] | None = None

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON text, also written to ``path`` (UTF-8) when one is given.

        Raises:
            ValueError: a number in it is not finite.
        """
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
        where = os.fspath(path)
        try:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_REPORT_BYTES + 1)
            if len(raw) > MAX_REPORT_BYTES:
                raise InputError(
                    f"{where}: more than {MAX_REPORT_BYTES} bytes, which no report has"
                )
            data = json.loads(raw.decode("utf-8"), parse_constant=_not_finite)
        except FileNotFoundError as error:
            raise InputError(f"{where}: no such file; mmedge bench -o writes a report") from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{where}: cannot be read as a report: {error}") from error
        found = data.get("report_version") if isinstance(data, dict) else data
        if type(found) is not int or found != REPORT_VERSION:
            raise InputError(
                f"{where}: expected a report of version {REPORT_VERSION}, got {show(found)}; "
                "run mmedge bench again with this version"
            )
        try:
            check_report(data)
        except Misfit as error:
            raise InputError(f"{where}: not a whole report: {error}; run mmedge bench again") from (
                error
            )
        known = {own.name: data[own.name] for own in fields(cls) if own.name in data}
        known.setdefault("created", "")  # of an older mmedge: not known, and not now
        try:
            return cls(**known)
        except TypeError as error:
            raise InputError(
                f"{where}: not a whole report: {error}; run mmedge bench again"
            ) from error


def _not_finite(word: str) -> Never:
    raise ValueError(f"{word} is not a finite number")
