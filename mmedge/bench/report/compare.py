"""Two reports side by side: what differs, whether that is shown, and what may explain it.

The first report is the baseline. A figure whose calls are in the report's series has a 95 %
interval of the ratio of the second to the first, by the block bootstrap of
:mod:`mmedge.bench.stats.resample`: each run is resampled by itself, on the scale of logarithms.
Where the calls of both took turns (:mod:`mmedge.bench.interleaved`), sessions side by side are
compared instead. A difference is *shown* when that interval does not hold 1. Sizes and metrics are
exact. Memory, cold start, energy and the medians of stages are one number a report: no confidence
can be given, and none is.

Each interval is wrong in one case of twenty by itself; of ten figures that did not change, one is
shown to differ in four comparisons of ten. A gate (:mod:`mmedge.bench.report.gates`) asks for more.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mmedge.bench.report.compared_figure import ComparedFigure, Verdict
from mmedge.bench.report.device_diff import explanations, mean
from mmedge.bench.report.gates import Outcome, check
from mmedge.bench.stats.resample import LEAST_PARTS, half_width, misses, pairs, spreads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmedge.bench.report.gates import Gate
    from mmedge.bench.report.loop_sections import LoopSection
    from mmedge.bench.report.report import Report
    from mmedge.bench.report.sections import Figure, Summary

__all__ = ["Comparison", "compare", "took_turns"]

#: Figures of latency: name in a table and a gate -> key of a summary.
LATENCY: dict[str, Figure] = {
    "p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p99_9", "mean": "mean",
}  # fmt: skip

#: How a run was made; a difference makes the comparison one of two different things.
LOAD = (
    "kind", "mode", "plan", "threads", "inputs", "rate_hz", "gap_ms", "seconds", "recording",
    "interference",
)  # fmt: skip
#: What ``inputs`` says of how a run went, after how it was made.
OUTCOME = re.compile(
    r"; (?:\d+ of \d+ pushes over 1 ms late(?:, the latest by [^ ;]+ ms)?"
    r"|(OVERLOADED: )?(\d+ arrivals (?:not answered|still waited)[^;]*))"
)
#: Share of the processor for other processes and other guests from which a machine is not quiet.
NOT_QUIET = 0.1


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        rows: the figures.
        remarks: what makes the comparison one of two different things, and other warnings.
        explanations: what differs in the device's state and may explain the figures.
        gates: what became of each gate.
    """

    rows: tuple[ComparedFigure, ...]
    remarks: tuple[str, ...]
    explanations: tuple[str, ...]
    gates: tuple[Outcome, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no gate is broken."""
        return not any(outcome.broken for outcome in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rows = [asdict(row) | {"difference": row.difference} for row in self.rows]
        return {
            "ok": self.ok,
            "rows": rows,
            "remarks": list(self.remarks),
            "explanations": list(self.explanations),
            "gates": [outcome.to_dict() for outcome in self.gates],
        }


def compare(a: Report, b: Report, gates: Sequence[Gate] = ()) -> Comparison:
    """Compare the report ``b`` with the baseline ``a``.

    Args:
        a: the baseline.
        b: what is compared with it.
        gates: limits to a worsening, from :func:`mmedge.bench.report.gates.parse_gate`.

    Raises:
        InputError: a gate is on a figure that one of the reports does not have.
    """
    rows = tuple(_rows(a, b))
    return Comparison(
        rows,
        tuple(_remarks(a, b)),
        tuple(explanations(a, b)),
        tuple(check(gate, rows) for gate in gates),
    )


def _rows(a: Report, b: Report) -> Iterator[ComparedFigure]:
    changes, why = _changes(a, b)
    for name, key in LATENCY.items():
        yield _ratio_row(
            name, "ms", a.latency_ms.get(key), b.latency_ms.get(key), changes.get(key), why
        )
    yield _ratio_row(
        "throughput",
        "Hz",
        a.throughput_hz,
        b.throughput_hz,
        changes.get("throughput"),
        why,
        higher_is_better=True,
    )
    if a.loop is not None or b.loop is not None:
        yield from _loop_rows(a, b)
    yield _deadline_row(a, b)
    once = "one number a report"
    yield _row("cold_start", "ms", a.cold_start_ms, b.cold_start_ms, note=once)
    yield _row("memory", "bytes", a.peak_memory_bytes, b.peak_memory_bytes, note=once)
    yield _exact_row("size", "bytes", a.size_bytes, b.size_bytes)
    values = [None if report.metric is None else report.metric.get("value") for report in (a, b)]
    yield _exact_row("metric", "", *values, higher_is_better=True)
    sources = [report.energy.get("source") for report in (a, b)]
    if None not in sources and sources[0] != sources[1]:
        yield ComparedFigure(
            "energy", "J", None, None, note=f"of {sources[0]} in A, of {sources[1]} in B"
        )
    else:
        joules = [report.energy.get("joules_per_result") for report in (a, b)]
        yield _row("energy", "J", *joules, note=once)
    for stage in dict.fromkeys((*a.stages, *b.stages)):
        summaries = [report.stages.get(stage) for report in (a, b)]
        medians = [None if summary is None else summary.get("p50") for summary in summaries]
        yield _row(f"stage {stage} p50", "ms", *medians, note=once)


class _Change(NamedTuple):
    """Half of the 95 % interval of a figure's logarithm; ``middle`` of it where pairs tell."""

    half: float
    middle: float | None = None


def _loop_rows(a: Report, b: Report) -> Iterator[ComparedFigure]:
    """Of a loop: time to the first step, of a step, steps a second, and bytes of state."""

    def both(read: Callable[[LoopSection], float | None]) -> tuple[float | None, float | None]:
        ours, theirs = (None if each.loop is None else read(each.loop) for each in (a, b))
        return ours, theirs

    def median(summary: Summary | None) -> float | None:
        return None if summary is None else summary.get("p50")

    medians = {
        "first_ms": both(lambda loop: median(loop["first_ms"])),
        "step_ms": both(lambda loop: median(loop["step_ms"])),
    }
    for name, values in medians.items():
        changes, why = _changes(a, b, name)
        yield _ratio_row(name, "ms", *values, changes.get("p50"), why)
    changes, why = _changes(a, b, "steps_ms")
    change = changes.get("mean")
    if change is not None and change.middle is not None:
        change = _Change(change.half, -change.middle)  # less time is a higher rate
    rates = both(lambda loop: loop["steps_per_s"])
    yield _ratio_row("steps_per_s", "Hz", *rates, change, why, higher_is_better=True)
    yield _exact_row("state_bytes", "bytes", *both(lambda loop: loop["state_bytes"]))


def _series(report: Report, name: str) -> Mapping[str, Any]:
    """The calls of a report: their latencies, or the values of that name that its loop has."""
    if not name:
        return report.series
    values = [] if report.loop is None else report.loop["series"][name]  # type: ignore[literal-required]
    if len(values) != len(report.series["start_s"]):
        return {"start_s": [], "latency_ms": []}
    return {**report.series, "latency_ms": values}


def _changes(a: Report, b: Report, name: str = "") -> tuple[dict[str, _Change], str]:
    """How far each figure of the calls can be told to differ, and why one is missing.

    ``name`` is that of values in a loop's series; empty: latencies.
    """
    a_series, b_series = _series(a, name), _series(b, name)
    if took_turns(a, b):
        ratios, why = pairs(a_series, b_series)
        return {
            key: _Change(half_width(spread), mean) for key, (mean, spread) in ratios.items()
        }, why
    # Two seeds: with one, two runs of equal length would be resampled at the same places.
    ours, theirs = spreads(a_series, seed=1), spreads(b_series, seed=2)
    both = {key: _Change(half_width(ours[key], theirs[key])) for key in ours if key in theirs}
    return both, "too few calls in a series to resample"


def took_turns(a: Report, b: Report) -> bool:
    """Whether the calls of two runs took turns."""
    return a.load.get("beside") is not None and a.load.get("beside") == b.load.get("beside")


def _row(
    name: str,
    unit: str,
    a: float | None,
    b: float | None,
    *,
    note: str = "",
    higher_is_better: bool = False,
    ratio: float | None = None,
    **rest: Any,  # noqa: ANN401
) -> ComparedFigure:
    """A row with its ratio, and with a note on which report lacks the figure."""
    lacking = [who for who, value in (("A", a), ("B", b)) if value is None]
    if lacking:
        note = f"{' and '.join(lacking)} cannot give it"
    if ratio is None and a and b is not None and math.isfinite(b / a):
        ratio = b / a
    return ComparedFigure(name, unit, a, b, higher_is_better, ratio, note=note, **rest)


def _exact_row(
    name: str, unit: str, a: float | None, b: float | None, *, higher_is_better: bool = False
) -> ComparedFigure:
    verdict: Verdict = "not shown"
    if a is not None and b is not None:
        verdict = "same" if a == b else "better" if (b > a) == higher_is_better else "worse"
    return _row(name, unit, a, b, higher_is_better=higher_is_better, verdict=verdict)


def _ratio_row(
    name: str,
    unit: str,
    a: float | None,
    b: float | None,
    change: _Change | None,
    why: str,
    *,
    higher_is_better: bool = False,
) -> ComparedFigure:
    if not a or not b or change is None or not 0.0 < b / a < math.inf:
        return _row(name, unit, a, b, note=why, higher_is_better=higher_is_better)
    middle = math.log(b / a) if change.middle is None else change.middle
    low, high = math.exp(middle - change.half), math.exp(middle + change.half)
    verdict: Verdict = "no difference shown"
    if low > 1.0 or high < 1.0:
        verdict = "faster" if (low > 1.0) == higher_is_better else "slower"
    return _row(
        name,
        unit,
        a,
        b,
        higher_is_better=higher_is_better,
        ratio=math.exp(middle),
        ratio_95=(low, high),
        verdict=verdict,
        paired=change.middle is not None,
    )


def _deadline_row(a: Report, b: Report) -> ComparedFigure:
    """Share of calls that missed the deadline, where both had the same one."""
    if a.deadline is None or b.deadline is None or a.deadline["ms"] != b.deadline["ms"]:
        limits = [None if report.deadline is None else report.deadline["ms"] for report in (a, b)]
        words = " and ".join("none" if limit is None else f"{limit:g} ms" for limit in limits)
        return ComparedFigure("deadline", "share", None, None, note=f"the deadlines are {words}")
    limit, rates = a.deadline["ms"], (a.deadline["rate"], b.deadline["rate"])
    if "stream" in (a.load.get("mode"), b.load.get("mode")):
        why = "a stream's series has fresh results alone, its deadline counts all triggers"
        return _row("deadline", "share", *rates, note=why)
    ours, theirs = misses(a.series, limit, seed=1), misses(b.series, limit, seed=2)
    if ours is None or theirs is None:
        return _row("deadline", "share", *rates, note="too few calls in a series to resample")
    half, middle = half_width(ours, theirs), rates[1] - rates[0]
    verdict: Verdict = "no difference shown"
    if abs(middle) > half:
        verdict = "worse" if middle > 0.0 else "better"
    interval = (middle - half, middle + half)
    return _row("deadline", "share", *rates, difference_95=interval, verdict=verdict)


def _remarks(a: Report, b: Report) -> Iterator[str]:
    for key in LOAD:
        ours, theirs = _made(a.load, key), _made(b.load, key)
        if ours != theirs:
            yield f"DIFFERENT LOAD: {key} is {ours} in A and {theirs} in B"
    beside = [report.load.get("beside") is not None for report in (a, b)]
    if any(beside) and not took_turns(a, b):
        turned = [who for who, paired in zip("AB", beside, strict=True) if paired]
        yield (
            f"DIFFERENT LOAD: calls of {' and '.join(turned)} took turns with those of another "
            "bundle, whose data the caches held"
        )
    for who, report in (("A", a), ("B", b)):
        for overloaded, how in OUTCOME.findall(report.load.get("inputs") or ""):
            if overloaded:
                yield f"{who} was OVERLOADED: {how}; latency grows with the length of such a run"
    if a.bundle.get("name") != b.bundle.get("name"):
        yield f"DIFFERENT BUNDLES: A is {a.bundle.get('name')}, B is {b.bundle.get('name')}"
    elif a.bundle.get("manifest_sha256") != b.bundle.get("manifest_sha256"):
        yield "DIFFERENT BUNDLES of the same name: their manifests' digests differ"
    if a.variant != b.variant:
        yield f"different variants: A is {a.variant}, B is {b.variant}"
    if a.device.get("cpu") != b.device.get("cpu") or a.device.get("name") != b.device.get("name"):
        where = " and ".join(
            f"{report.device.get('name')} ({report.device.get('cpu')})" for report in (a, b)
        )
        yield f"DIFFERENT MACHINES: {where}"
    names = [report.metric["name"] for report in (a, b) if report.metric is not None]
    if len(set(names)) > 1:
        yield f"DIFFERENT METRICS: {names[0]} and {names[1]}"
    for who, report in (("A", a), ("B", b)):
        if len(set(report.series.get("part") or ())) < LEAST_PARTS:
            yield (
                f"{who} was measured in fewer than {LEAST_PARTS} fresh sessions: what differs from "
                "session to session is not in the intervals"
            )
        others = _others(report.device)
        if others is not None and others > NOT_QUIET and not took_turns(a, b):
            yield (
                f"{who} was measured beside other work, which had {others:.0%} of the processor: "
                "runs on such a machine differ by more than their intervals"
            )
        if report.warmup.get("settled") is False:
            yield f"{who} was timed before its latency had settled"


def _made(load: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401
    """What was asked of a run; how it went is no part of it."""
    value = load.get(key)
    return OUTCOME.sub("", value) if key == "inputs" and isinstance(value, str) else value


def _others(device: Mapping[str, Any]) -> float | None:
    """Mean share of the processor that others had during the run; None where it was not sampled."""
    loads = [sample["load"] for sample in device.get("during", ()) if sample.get("load")]
    return mean([(load.get("others") or 0.0) + (load.get("steal") or 0.0) for load in loads])
