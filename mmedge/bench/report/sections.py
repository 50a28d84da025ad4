"""The sections of a report: which keys each has, in which unit, and within which limits.

``report.schema.json`` beside this module is generated from these types and from
:class:`mmedge.bench.report.report.Report` by ``python docs/generate.py``: descriptions are those of
the docstrings, limits those of the annotations. A key is never renamed or removed within one
version of the report; one that is added is ``NotRequired``, since older reports lack it.

It is long, since the keys of one file format stand in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

__all__ = [
    "FURTHER_KEYS",
    "AccuracySection",
    "BundleSection",
    "ConfidenceSection",
    "CopiedTensor",
    "DeadlineSection",
    "DeviceSection",
    "EnergySection",
    "Figure",
    "JitterSection",
    "JsonLimits",
    "LoadSection",
    "MachineSample",
    "MachineState",
    "MetricSection",
    "OperatorTime",
    "OperatorTotals",
    "Recommendation",
    "ResultsSection",
    "SeriesSection",
    "Summary",
    "UnexplainedSection",
    "VariantFigures",
    "WarmupSection",
]


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """What a type of Python does not say of a value, by the names of JSON Schema.

    Attributes:
        minimum: least number.
        maximum: largest number.
        pattern: regular expression that a text has a match of.
        min_items: fewest items of a list.
        max_items: most items of a list.
    """

    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    min_items: int | None = None
    max_items: int | None = None


Count = Annotated[int, JsonLimits(minimum=0)]
PositiveCount = Annotated[int, JsonLimits(minimum=1)]
Amount = Annotated[float, JsonLimits(minimum=0)]
Share = Annotated[float, JsonLimits(minimum=0, maximum=1)]
Digest = Annotated[str, JsonLimits(pattern="^[0-9a-f]{64}$")]
Interval = Annotated[list[float], JsonLimits(min_items=2, max_items=2)]


class Summary(TypedDict):
    """Summary of one quantity in milliseconds.

    A percentile is the nearest rank, which is an observed value; None where the count cannot carry
    it: below 2, 10, 100 and 1,000.

    Attributes:
        count: how many values.
        mean: arithmetic mean, ms.
        std: standard deviation of the values, ms.
        min: least value, ms.
        p50: 50th percentile, ms; None where the count cannot carry it.
        p90: 90th percentile, ms; None where the count cannot carry it.
        p99: 99th percentile, ms; None where the count cannot carry it.
        p99_9: 99.9th percentile, ms; None where the count cannot carry it.
        max: greatest value, ms.
    """

    count: PositiveCount
    mean: float
    std: Amount
    min: float
    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float


class MachineState(TypedDict):
    """State of the machine at one moment, as far as it could be read; None for what could not.

    Further keys end in their unit, as these do.

    Attributes:
        governors: governors of the cores, each once.
        frequency_mhz: frequency by core, MHz.
        frequency_source: file that it is from; 'cpuinfo (nominal)' never moves.
        temperature_c: temperature by zone, degrees Celsius.
        cooling: by cooling device that slows something down, how far it is on; 0 is not at all.
        load_average: the operating system's 1, 5 and 15 minute averages.
        threads: threads of the measuring process.
        memory_available_bytes: memory that is free to use, bytes.
        swap_used_bytes: swap in use, bytes.
        cgroup_throttled: periods and seconds in which a quota stopped the control group, since its
            start.
        thermal_throttle: thermal events of cores and packages since boot.
        gpus: state of each GPU.
        jetson: state of a Jetson module.
        cpu_share: after a run: whose the cores' time was during it, 0 to 1: busy, own, others,
            steal.
    """

    governors: NotRequired[list[Any] | None]
    frequency_mhz: NotRequired[list[Any] | None]
    frequency_source: NotRequired[str | None]
    temperature_c: NotRequired[dict[str, float | None] | None]
    cooling: NotRequired[dict[str, Any] | None]
    load_average: NotRequired[list[Any] | None]
    threads: NotRequired[int | None]
    memory_available_bytes: NotRequired[int | None]
    swap_used_bytes: NotRequired[int | None]
    cgroup_throttled: NotRequired[dict[str, Any] | None]
    thermal_throttle: NotRequired[dict[str, Any] | None]
    gpus: NotRequired[list[Any] | None]
    jetson: NotRequired[dict[str, Any] | None]
    cpu_share: NotRequired[dict[str, float | None] | None]


class BundleSection(TypedDict):
    """The bundle that was measured.

    Attributes:
        name: its name, from its manifest.
        manifest_sha256: SHA-256 of its manifest.json, 64 hexadecimal digits.
    """

    name: str
    manifest_sha256: Digest


class LoadSection(TypedDict):
    """How calls were made.

    Attributes:
        kind: ``closed``: the next call begins when the last one ends. rate: calls arrive at a fixed
            rate, whether or not the last one has ended. gap: a pause after each call. replay: a
            recording's samples at their own times.
        mode: ``one-shot``: calls of the pipeline. stream: samples pushed to a stream, which gives
            results.
        calls: timed calls; in stream runs fresh results.
        seconds: length asked for, s; None where a number of calls was.
        plan: the plan that ran: ``whole`` (one graph) or ``cut`` (by modality).
        threads: intra-operator threads on the CPU; None for the backend's default.
        inputs: what went in, in words.
        rate_hz: rate of arrivals, Hz; None for other kinds.
        gap_ms: pause after each call, ms; None for other kinds.
        recording: name of the recording; None where there was none.
        interference: second load that ran on purpose, in words; None where there was none.
        beside: name that this run shares with the one whose calls took turns with its own; None
            where it ran alone.
    """

    kind: Literal["closed", "rate", "gap", "replay"]
    mode: Literal["one-shot", "stream"]
    calls: PositiveCount
    seconds: Amount | None
    plan: NotRequired[Literal["cut", "whole"]]
    threads: PositiveCount | None
    inputs: str
    rate_hz: Amount | None
    gap_ms: Amount | None
    recording: str | None
    interference: str | None
    beside: NotRequired[str | None]


class WarmupSection(TypedDict):
    """Calls before the timed ones.

    Attributes:
        calls: how many.
        settled: whether latency had settled by the rule.
        rule: when latency counts as settled, in words.
    """

    calls: Count
    settled: bool
    rule: str


class ConfidenceSection(TypedDict):
    """95 % confidence intervals, ms: lower and upper end.

    None where the figure itself is None or carries no interval.

    Attributes:
        p50: of the 50th percentile, ms.
        p90: of the 90th percentile, ms.
        p99: of the 99th percentile, ms.
        p99_9: of the 99.9th percentile, ms.
        mean: of the mean, ms.
    """

    p50: Interval | None
    p90: Interval | None
    p99: Interval | None
    p99_9: Interval | None
    mean: Interval | None


class JitterSection(TypedDict):
    """How much latency varies, ms.

    Attributes:
        std: standard deviation, ms.
        mean_step: mean of |x[i+1] - x[i]| over calls in a row, ms.
        p99_less_p50: 99th percentile less the 50th, ms; None where either is.
    """

    std: Amount
    mean_step: Amount
    p99_less_p50: Amount | None


class DeadlineSection(TypedDict):
    """Verdict against a deadline.

    Attributes:
        ms: the deadline, ms.
        missed: calls that took longer; in stream runs results that came later or were stale or
            empty.
        rate: their share of all calls, 0 to 1; in stream runs of all triggers, superseded ones and
            those under way included.
        longest_run: most calls in a row that took longer.
    """

    ms: Amount
    missed: Count
    rate: Share
    longest_run: Count


class SeriesSection(TypedDict):
    """Every call, or an even choice of them where there were more than 20,000.

    Attributes:
        start_s: start of each call (scheduled arrival in an open loop) from the first, s; where
            calls took turns with another run's, of the time of this run's own.
        latency_ms: its latency, ms.
        kept: calls in these lists.
        of: calls that were timed.
        part: number of the fresh session that each call belongs to, where there were several.
    """

    start_s: list[float]
    latency_ms: list[float]
    kept: Count
    of: Count
    part: NotRequired[list[int]]


class OperatorTime(TypedDict):
    """All nodes of one operator in one module of one stage.

    Attributes:
        stage: name of the stage.
        module: qualified name of the module in the original network.
        op: operator, as the backend runs it.
        calls: nodes of this kind in one run.
        ms: time of them together in one run, median over runs, ms.
        share: of the time of all operators of the stage, 0 to 1.
    """

    stage: str
    module: str
    op: str
    calls: Count
    ms: Amount
    share: Share


class OperatorTotals(TypedDict):
    """Operators against the stage that they are a part of.

    Attributes:
        profiled_ms: the medians of the stage's operators together, ms.
        stage_ms: time of the stage without a profiler, median over as many calls before the
            profiled ones and as many after, ms.
    """

    profiled_ms: Amount
    stage_ms: Amount


class UnexplainedSection(TypedDict):
    """What the profile of operators does not see.

    Attributes:
        words: in words, or why there is no profile.
        stages: by stage, its operators against the whole of it.
    """

    words: str | None
    stages: dict[str, OperatorTotals]


class CopiedTensor(TypedDict):
    """One kind of tensor, and how it passes.

    Attributes:
        what: the tensors, in words.
        bytes: bytes that a call copies; 0 where they pass by reference.
        why: the reason, or what makes a copy needless, in words.
    """

    what: str
    bytes: Count
    why: str


class AccuracySection(TypedDict):
    """Worst differences of outputs against the golden samples.

    Attributes:
        ok: whether all outputs lie within tolerance.
        samples: golden samples.
        rows: by stage and output: ``max_abs``, ``max_rel``, ``limit_used`` (the largest share of
            the tolerance that an element took), ``scale`` (what that element is held against) and
            ``where`` (what has that scale; empty for the whole tensor). None stands for a number
            that is not finite.
    """

    ok: bool
    samples: NotRequired[PositiveCount]
    rows: NotRequired[list[dict[str, Any]]]


class MetricSection(TypedDict):
    """Metric of the task as the bundle states it for this variant.

    Attributes:
        value: its value for the variant.
        name: what it is, in words.
        drop: how far it fell from the full-precision network's, in its own unit.
        drop_bound: upper 95 % confidence bound of that drop.
    """

    value: float
    name: str
    drop: float | None
    drop_bound: float | None


class ResultsSection(TypedDict):
    """What became of triggers.

    Attributes:
        triggers: how many triggers came.
        results: results that came of them.
        fresh: results that were computed for their trigger.
        stale: results that deliver the last good outputs again, because a new result was expected
            to miss the deadline or could not be made.
        empty: results without outputs.
        deadline_misses: triggers without a fresh result in time: the same as missed of deadline; 0
            without one.
        superseded: triggers that a later one overtook.
    """

    triggers: Count
    results: Count
    fresh: Count
    stale: Count
    empty: Count
    deadline_misses: Count
    superseded: Count


class MachineSample(TypedDict):
    """One sample of the machine during the run.

    Attributes:
        at_s: time from the start of the run, s.
        frequency_mhz: mean, min and max over the cores, MHz.
        temperature_c: temperature by zone, degrees Celsius.
        power_w: power by package, rail and GPU, W.
        load: shares of all cores' time since the sample before, 0 to 1: busy, own, others, steal.
        gpu: state by GPU.
        cooling: cooling devices that slowed something down, and how far they were on.
    """

    at_s: Amount
    frequency_mhz: NotRequired[dict[str, float | None] | None]
    temperature_c: NotRequired[dict[str, float | None] | None]
    power_w: NotRequired[dict[str, float | None] | None]
    load: NotRequired[dict[str, float | None] | None]
    gpu: NotRequired[dict[str, Any] | None]
    cooling: NotRequired[dict[str, Any] | None]


class DeviceSection(TypedDict):
    """What the machine was.

    Further keys hold what else could be read, and end in their unit; None for what could not.

    Attributes:
        name: the device.
        cpu: model of the processor.
        cores: cores that the measuring process may use.
        memory_bytes: memory of the machine, bytes.
        system: kernel and its release.
        virtual: whether a hypervisor runs the machine.
        libraries: version by library that a result may depend on.
        governor: the first core's frequency governor.
        boost: whether the processor may exceed its nominal frequency.
        commit: commit of the checkout that mmedge ran from; None for an installed package.
        sampling: period of the samples (s), how many were taken and kept, the share of one core
            that they took, and what throttling was judged from.
        before: state before the run.
        during: samples during the run.
        after: state after the run; cpu_share: whose the processor's time was in between, 0 to 1; of
            several sessions the mean by their length.
        wake_up_late_ms: how late the system woke the measuring process for arrivals that it waited
            for, ms; None where there were none.
        throttled: what slowed the device down, in words; None where nothing did; begins with
            'unknown' where nothing could tell.
    """

    name: str
    cpu: str
    cores: NotRequired[int | None]
    memory_bytes: NotRequired[int | None]
    system: NotRequired[str | None]
    virtual: NotRequired[bool | None]
    libraries: NotRequired[dict[str, Any] | None]
    governor: NotRequired[str | None]
    boost: NotRequired[bool | None]
    commit: NotRequired[str | None]
    sampling: NotRequired[dict[str, Any] | None]
    before: MachineState
    during: list[MachineSample]
    after: MachineState
    wake_up_late_ms: NotRequired[Summary | None]
    throttled: str | None


class EnergySection(TypedDict):
    """Energy of the run.

    Attributes:
        joules_per_result: energy for each result, J; None where it could not be read.
        watts: mean power of the run, W; None where it could not be read.
        source: what the figures are of, in words.
        missing: what could not be read, why, and what helps, in words.
    """

    joules_per_result: Amount | None
    watts: Amount | None
    source: str | None
    missing: str | None


class VariantFigures(TypedDict):
    """One plan of a variant with one number of threads.

    Attributes:
        variant: its id.
        plan: of it.
        threads: intra-operator threads; None for the default.
        p50_ms: median latency, ms.
        p50_low_ms: lower end of its 95 % interval, ms.
        p50_high_ms: upper end, ms.
        p99_ms: 99th percentile of latency, ms.
        throughput_hz: results per second, Hz.
        peak_memory_bytes: peak resident memory, bytes.
        size_bytes: size of its files, bytes.
        metric: metric of the task; None where the bundle states none.
        cold_start_ms: cold start, ms.
        pareto: whether no other row is at least as good in latency, metric and size and better in
            one.
    """

    variant: str
    plan: NotRequired[Literal["cut", "whole"]]
    threads: PositiveCount | None
    p50_ms: Amount | None
    p50_low_ms: Amount | None
    p50_high_ms: Amount | None
    p99_ms: Amount | None
    throughput_hz: Amount
    peak_memory_bytes: Count | None
    size_bytes: Count | None
    metric: float | None
    cold_start_ms: Amount | None
    pareto: bool


class Recommendation(TypedDict):
    """The row of variants to use.

    Attributes:
        variant: its id; None where none can be recommended, and why says so.
        plan: of it; None like it.
        threads: intra-operator threads; None for the default.
        why: the reason, in words.
    """

    variant: str | None
    plan: NotRequired[str | None]
    threads: PositiveCount | None
    why: str


#: Keys of a summary that hold a figure.
Figure = Literal["mean", "std", "min", "p50", "p90", "p99", "p99_9", "max"]

#: Sections that hold further keys: whatever a machine tells beside what every machine has.
FURTHER_KEYS = (AccuracySection, DeviceSection, MachineSample, MachineState)
