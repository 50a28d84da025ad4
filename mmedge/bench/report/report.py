"""The report of one measurement: plain data, JSON in and out, and a page to read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Never, Self

from mmedge.bench.machine.energy import no_energy
from mmedge.bench.report.schema import check_report
from mmedge.errors import InputError
from mmedge.schema.read import Misfit, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.bench.report.loop_sections import LoopSection, StreamLoopSection
    from mmedge.bench.report.sections import (
        AccuracySection,
        Amount,
        BundleSection,
        ConfidenceSection,
        CopiedTensor,
        Count,
        DeadlineSection,
        DeviceSection,
        EnergySection,
        JitterSection,
        LoadSection,
        MetricSection,
        OperatorTime,
        Recommendation,
        ResultsSection,
        SeriesSection,
        Summary,
        UnexplainedSection,
        VariantFigures,
        WarmupSection,
    )

__all__ = ["OPTIONAL", "REPORT_VERSION", "Report"]

#: Version of the report's JSON. A key is never renamed or removed within one version; one that is
#: added gets a default here, and a reader passes over keys that it does not know.
REPORT_VERSION: Final = 2

#: Keys that are left out where they do not apply.
OPTIONAL: Final = ("loop", "stream_loop")

#: Bytes of a report that is read: a thousand times what one has.
MAX_REPORT_BYTES = 64 << 20


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _no_series() -> SeriesSection:
    return {"start_s": [], "latency_ms": [], "kept": 0, "of": 0}


def _no_profile() -> UnexplainedSection:
    return {"words": None, "stages": {}}


def _no_energy() -> EnergySection:
    return no_energy("not measured")


def _no_section() -> Any:  # noqa: ANN401
    """Of a report whose writer did not know the section."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One measurement of one bundle on one machine.

    Every key but ``loop`` and ``stream_loop`` is always there; None or empty where it does not
    apply. Keys end in their unit: ``_ms`` (milliseconds), ``_s`` (seconds), ``_hz``, ``_bytes``.
    All numbers are finite.

    Attributes:
        report_version: version of this format.
        created: when it was made, in UTC (ISO 8601); empty where that is not known.
        command: the command line, as it was typed; None where a program made it.
        bundle: the bundle that was measured.
        variant: id of the variant that ran, such as ort-int8-cpu.
        load: how calls were made.
        warmup: calls before the timed ones.
        latency_ms: latency of a call from end to end, ms: inputs on the host to outputs on the
            host; in an open loop from the scheduled arrival; in stream runs from a trigger to its
            fresh result.
        confidence_ms: 95 % confidence intervals, ms, by a bootstrap of blocks, since calls in a row
            depend on each other: from 5 fresh sessions on (part of series) whole sessions are the
            blocks, with Student's t; else a moving-block bootstrap.
        jitter_ms: how much the latency varies, ms.
        deadline: verdict against a deadline; None where none was given.
        throughput_hz: results per second of the whole run, Hz, with what the loop itself takes;
            where calls took turns with another run's, per second of this run's own.
        series: every call, or an even choice of them where there were more than 20,000.
        cold_start_ms: start of a fresh process to its first result, ms, with its files in the
            operating system's cache.
        cold_start_parts_ms: its parts, ms, which add up to it: interpreter, import, load, samples,
            first_call; with a loop, first_token or first_step and further_steps in place of
            first_call.
        first_call_ms: latency of the first call after loading, ms.
        peak_memory_bytes: peak resident memory of the fresh process after its calls, bytes.
        stages: time by part of a call, ms: inputs, each stage by its name, outputs, residual (what
            the parts leave unexplained; the means add up to that of latency_ms). With a loop that
            generates, prefill is the run of the first tokens, and its stage all further steps.
        loop: steps of the bundle's loop; left out without one, and of stream runs.
        stream_loop: of stream runs, runs of the bundle's loop; left out without one.
        operators: time by operator and module in one-shot calls, largest first; of a loop's stage,
            in the step that the first golden sample has. Empty where the backend has no profile.
        operators_unexplained: what the profile of operators does not see.
        copies: copies of inputs and outputs that a one-shot call makes; with a loop, before it.
        attention: by stage with attention over segments, what ran it, in words.
        large_pages: how much of what loading took lies in large pages of memory, in words.
        accuracy: worst differences of outputs against the golden samples, checked before timing.
        metric: metric of the task as the bundle states it for this variant; None where it states
            none.
        not_checked: what the proof of the bundle and of its variant leaves open, in words.
        size_bytes: size of the variant's files, bytes; None where not known.
        ages_ms: by modality, age of the input that went into each result, ms (stream runs; else
            empty).
        drops: by modality and reason, how many samples were dropped (stream runs; else empty).
        results: what became of triggers (stream runs; else None).
        device: what the machine was. Beside the keys here it holds whatever else could be read,
            named by its unit as in state; None for what could not be read.
        energy: energy of the run.
        variants: variants side by side (mmedge sweep; else empty).
        recommended: the row of variants to use (mmedge sweep; else None).
    """

    report_version: Literal[2] = REPORT_VERSION
    created: str = field(default_factory=_now)
    command: str | None = None
    bundle: BundleSection
    variant: str
    load: LoadSection
    warmup: WarmupSection = field(default_factory=_no_section)
    latency_ms: Summary
    confidence_ms: ConfidenceSection = field(default_factory=_no_section)
    jitter_ms: JitterSection = field(default_factory=_no_section)
    deadline: DeadlineSection | None = None
    throughput_hz: Amount
    series: SeriesSection = field(default_factory=_no_series)
    cold_start_ms: Amount
    cold_start_parts_ms: Mapping[str, Amount]
    first_call_ms: Amount
    peak_memory_bytes: Count
    stages: Mapping[str, Summary]
    loop: LoopSection | None = None
    stream_loop: StreamLoopSection | None = None
    operators: Sequence[OperatorTime] = field(default_factory=list)
    operators_unexplained: UnexplainedSection = field(default_factory=_no_profile)
    copies: Sequence[CopiedTensor] = field(default_factory=list)
    attention: Mapping[str, str] = field(default_factory=dict)
    large_pages: str = "not known"
    accuracy: AccuracySection
    metric: MetricSection | None = None
    not_checked: Sequence[str] = field(default_factory=list)
    size_bytes: Count | None = None
    ages_ms: Mapping[str, Summary] = field(default_factory=dict)
    drops: Mapping[str, Mapping[str, Count]] = field(default_factory=dict)
    results: ResultsSection | None = None
    device: DeviceSection
    energy: EnergySection = field(default_factory=_no_energy)
    variants: Sequence[VariantFigures] = field(default_factory=list)
    recommended: Recommendation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        for key in OPTIONAL:
            if data[key] is None:
                del data[key]
        return data

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON text, also written to ``path`` (UTF-8) when one is given.

        Raises:
            ValueError: a number in it is not finite.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
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
        version = data.get("report_version") if isinstance(data, dict) else data
        if type(version) is not int or version != REPORT_VERSION:
            raise InputError(
                f"{where}: expected a report of version {REPORT_VERSION}, got {show(version)}; "
                "run mmedge bench again with this version"
            )
        try:
            check_report(data)
        except Misfit as error:
            raise InputError(f"{where}: not a whole report: {error}; run mmedge bench again") from (
                error
            )
        sections = {key.name: data[key.name] for key in fields(cls) if key.name in data}
        sections.setdefault("created", "")  # of an older mmedge: not known, and not now
        try:
            return cls(**sections)
        except TypeError as error:
            raise InputError(
                f"{where}: not a whole report: {error}; run mmedge bench again"
            ) from error


def _not_finite(word: str) -> Never:
    raise ValueError(f"{word} is not a finite number")
