"""All variants of a bundle that run here, with several thread counts: measured, ranked, advised.

Each combination is measured in :data:`ROUNDS` blocks of calls. A round holds one block of every
combination, in random order, so that a machine that gets slower meanwhile does so for all alike.
Every block has a fresh session: what differs between sessions is in the intervals (see
:mod:`mmedge.bench.stats.resample`), and no more than one variant is in memory at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired

from mmedge.backends.registry import probe
from mmedge.bench import arrivals, coldstart
from mmedge.bench.arrivals import Load
from mmedge.bench.loop_calls import LoopCalls, loop_options, make_caller
from mmedge.bench.progress import silent
from mmedge.bench.report.sections import VariantFigures
from mmedge.bench.stats.block_timer import turns
from mmedge.bench.stats.resample import LEAST_PARTS, half_width, spreads
from mmedge.bench.stats.summary import LEAST_BLOCKS, percentile
from mmedge.bench.tune import thread_counts
from mmedge.bundle import Bundle
from mmedge.errors import BundleError, MMEdgeError, NoVariantError
from mmedge.execution.verify import verify
from mmedge.loader import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.bench.progress import Progress
    from mmedge.bench.report.sections import Recommendation, SeriesSection
    from mmedge.spec import Manifest, PlanName, Variant

__all__ = ["ROUNDS", "pareto", "recommend", "sweep"]

#: Blocks of each combination: one more than sessions must be to be resampled.
ROUNDS = LEAST_PARTS + 1
#: Untimed calls at the start of a block: the first calls of a session allocate.
WARMUP = 10


class _Ranked(VariantFigures):
    """A row of the report, and the upper end of its p99's 95 % interval, which ``why`` states."""

    p99_high_ms: NotRequired[float | None]


@dataclass(slots=True)
class _Combination:
    """A plan of a variant with a thread count, and the blocks measured so far.

    ``loop`` says how calls are made, where there is one.
    """

    variant: Variant
    plan: PlanName
    threads: int | None
    loop: LoopCalls | None = None
    start_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    part: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def series(self) -> SeriesSection:
        """As in a report."""
        count = len(self.latency_ms)
        return {
            "start_s": self.start_s,
            "latency_ms": self.latency_ms,
            "part": self.part,
            "kept": count,
            "of": count,
        }


def sweep(
    path: str,
    *,
    threads: Sequence[int] | None = None,
    calls: int = 1000,
    tokens: int | None = None,
    deadline_ms: float | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> tuple[Sequence[VariantFigures], Recommendation]:
    """Measure every variant of the bundle at ``path`` that can run here, cut and whole.

    Every variant first reproduces the golden samples. One that does not, or fails to load, is left
    out, and ``recommended`` says so. Calls are made as :func:`mmedge.bench.measure.bench` makes
    them: in a closed loop, the golden samples in turn, encoders one after another.

    Args:
        path: the bundle.
        threads: intra-op threads of each stage to try for variants on the CPU; None: 1, 2, 4, ...
            and all cores.
        calls: timed calls of each combination, at least :data:`ROUNDS`, in equal blocks.
        tokens: of a call of a loop that generates, as for :func:`mmedge.bench.measure.bench`.
        deadline_ms: limit to the p99 of a call for the recommendation, in milliseconds.
        backend: as for :func:`mmedge.load`.
        progress: called with the phase's name, blocks done and blocks in all.

    Returns:
        The rows of a report's ``variants``, in the manifest's order, and its ``recommended``.

    Raises:
        BundleError: there are no golden samples.
        InputError: ``tokens`` does not fit the bundle's loop.
        NoVariantError: no variant can run here.
        ValueError: ``calls`` or a thread count is too small.
        MMEdgeError: the first variant's error, where none works.
    """
    if calls < ROUNDS or any(count < 1 for count in threads or ()):
        raise ValueError(f"calls must be >= {ROUNDS} and threads >= 1, got {calls} and {threads}")
    tell = progress or silent
    manifest, sizes, cores = _choose(path, backend)
    loop_options(manifest, tokens)  # what does not fit is refused at once
    variants = [variant for variant in manifest.variants if variant.id in sizes]
    combinations: list[_Combination] = []
    left_out: list[str] = []
    first_error: MMEdgeError | None = None
    loop: LoopCalls | None = None
    for index, variant in enumerate(variants):
        tell("verify", index, len(variants))
        counts = (threads or thread_counts(cores)) if variant.target == "cpu" else (None,)
        for plan in manifest.plan_names(variant):
            try:
                _check(path, variant, plan)
                if loop is None and manifest.loop is not None:  # of the first, for all
                    loop = _loop_of(path, variant, plan, tokens)
            except MMEdgeError as error:
                first_error = first_error or error
                left_out.append(f"{variant.id}, {plan} ({error})")
            else:
                combinations += [_Combination(variant, plan, count, loop) for count in counts]
    if not combinations and first_error is not None:
        raise first_error
    tell("verify", len(variants), len(variants))

    total = ROUNDS * len(combinations)
    for place, (part, combination) in enumerate(turns(combinations, ROUNDS)):
        tell("measure", place, total)
        _block(path, combination, part, calls // ROUNDS + (part < calls % ROUNDS))
    tell("measure", total, total)

    rows = []
    for index, combination in enumerate(combinations):
        tell("cold start", index, len(combinations))
        variant = combination.variant
        rows.append(_row(path, combination, sizes[variant.id], _metric(variant, manifest)))
    tell("cold start", len(combinations), len(combinations))
    advice = recommend(rows, deadline_ms)
    for row, on_front in zip(rows, pareto(rows), strict=True):
        row["pareto"] = on_front
        del row["p99_high_ms"]
    if left_out:
        advice["why"] += f"; left out: {'; '.join(left_out)}"
    return rows, advice


def pareto(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether each row is on the Pareto front of latency, metric and size.

    A row is off the front when another is at least as good in all three and better in one. Latency
    is p99, or p50 where a row has no p99; smaller is better, as with ``size_bytes``; a metric
    is better when larger, and one that is not stated counts as the worst.
    """
    key = _latency_key(rows)
    points = [(row[key], -_metric_or_worst(row["metric"]), row["size_bytes"]) for row in rows]
    return [
        not any(
            other != point and all(x <= y for x, y in zip(other, point, strict=True))
            for other in points
        )
        for point in points
    ]


def recommend(rows: Sequence[Mapping[str, Any]], deadline_ms: float | None) -> Recommendation:
    """The most accurate combination that meets the deadline, and why.

    It meets the deadline when the upper end of the 95 % interval of its p99 (``p99_high_ms``) is no
    later; a row without one cannot be said to meet it. Among equally accurate ones the lowest
    p99 wins, then the lowest peak memory. One that states no metric counts as the least accurate,
    and where none does all count as equally accurate.

    Returns:
        All but ``why`` is None where none meets the deadline.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("nothing was measured, so nothing can be recommended")
    key = _latency_key(rows)
    meeting = list(rows)
    if deadline_ms is not None:
        meeting = [row for row in rows if _worst(row) <= deadline_ms]
        if not meeting:
            nearest = min(rows, key=lambda row: (_worst(row), row[key]))
            what = (
                f"the nearest, {_name(nearest)}, has a p99 of up to {_worst(nearest):.4g} ms"
                if math.isfinite(_worst(nearest))
                else f"too few calls for the interval of a p99; make {LEAST_BLOCKS * 100} or more"
            )
            why = f"none meets {deadline_ms:g} ms at p99 with 95 % confidence: {what}"
            return {"variant": None, "plan": None, "threads": None, "why": why}
    best = min(
        meeting,
        key=lambda row: (-_metric_or_worst(row["metric"]), row[key], row["peak_memory_bytes"]),
    )
    with_metric = [row["metric"] is not None for row in meeting]
    why, meets = "no variant states a metric: the fastest", " that meets"
    if any(with_metric):
        why = "the most accurate"
        if not all(with_metric):
            why, meets = f"{why} of those that state a metric", ", and meets"
    elif any(row["metric"] is not None for row in rows):
        why = "none that states a metric meets the deadline: the fastest"
    if deadline_ms is not None:
        why += f"{meets} {deadline_ms:g} ms at p99 (up to {_worst(best):.4g} ms)"
    if best["metric"] is not None:
        alike = sum(row["metric"] == best["metric"] for row in meeting)
        why += f", metric {best['metric']:.4g}"
        why += f", the fastest of {alike} as accurate" if alike > 1 else ""
    return {
        "variant": best["variant"],
        "plan": best["plan"],
        "threads": best["threads"],
        "why": why,
    }


def _choose(path: str, backend: str) -> tuple[Manifest, dict[str, int], int]:
    """The manifest, bytes of each variant that can run here by its id, and the number of cores."""
    device = probe()
    with Bundle.open(path) as bundle:
        manifest = bundle.on(device)
        decisions = bundle.decisions(device, backend=backend.replace("-", "_"))
        if not manifest.samples:
            raise BundleError(f"{path}: no golden samples to call it with; export it again")
        accepted = {decision.variant for decision in decisions if decision.accepted}
        sizes = {v.id: bundle.size(v) for v in manifest.variants if v.id in accepted}
    if not accepted:
        reasons = "; ".join(f"{decision.variant}: {decision.reason}" for decision in decisions)
        raise NoVariantError(f"{path}: no variant can run on {device.name}: {reasons}", decisions)
    return manifest, sizes, device.cores


def _check(path: str, variant: Variant, plan: PlanName) -> None:
    with load(path, variant.id, plan=plan, allow_unverified=True) as pipe:
        verify(pipe).check()


def _loop_of(path: str, variant: Variant, plan: PlanName, tokens: int | None) -> LoopCalls | None:
    with load(path, variant.id, plan=plan, allow_unverified=True) as pipe:
        return LoopCalls.of(pipe, [sample.inputs for sample in pipe.bundle.samples()], tokens)


def _metric(variant: Variant, manifest: Manifest) -> float | None:
    """The task metric as the manifest states it.

    Quantised variants state theirs, and by how much it lies below that of the full-precision
    network: both together are the metric of the bundle's own graphs.
    """
    if "metric" in variant.metrics:
        return float(variant.metrics["metric"])
    if manifest.runs_own_graphs(variant) and variant.target == "cpu":
        for other in manifest.variants:
            if {"metric", "metric_drop"} <= set(other.metrics):
                return float(other.metrics["metric"] + other.metrics["metric_drop"])
    return None


def _block(path: str, combination: _Combination, part: int, calls: int) -> None:
    """Time ``calls`` calls of a fresh session."""
    variant = combination.variant
    plan, threads = combination.plan, combination.threads
    with load(
        path, variant.id, plan=plan, threads=threads, concurrent=False, allow_unverified=True
    ) as pipe:
        inputs = [sample.inputs for sample in pipe.bundle.samples()]
        call = make_caller(pipe, inputs, combination.loop)
        for index in range(max(WARMUP, len(inputs))):
            call(index)
        series = arrivals.run(call, Load(calls=calls))
    combination.start_s += [combination.seconds + ns / 1e9 for ns in series.start_ns]
    combination.latency_ms += [ns / 1e6 for ns in series.latency_ns]
    combination.part += [part] * len(series.latency_ns)
    combination.seconds += series.elapsed_ns / 1e9


def _row(path: str, combination: _Combination, size: int, metric: float | None) -> _Ranked:
    variant = combination.variant
    cold = coldstart.measure(
        path,
        variant=variant.id,
        plan=combination.plan,
        threads=combination.threads,
        calls=WARMUP,
        loop=combination.loop,
    )
    errors = spreads(combination.series())
    p50, p99 = (percentile(combination.latency_ms, q) for q in (50.0, 99.0))
    low = high = p99_high = None
    if p50 is not None and "p50" in errors:
        half = half_width(errors["p50"])
        low, high = p50 * math.exp(-half), p50 * math.exp(half)
    # As in a report: a handful of calls beyond a percentile carries its interval, fewer do not.
    beyond = round(len(combination.latency_ms) / 100.0, 9)
    if p99 is not None and "p99" in errors and beyond >= LEAST_BLOCKS:
        p99_high = p99 * math.exp(half_width(errors["p99"]))
    return {
        "variant": variant.id,
        "plan": combination.plan,
        "threads": combination.threads,
        "p50_ms": p50,
        "p50_low_ms": low,
        "p50_high_ms": high,
        "p99_ms": p99,
        "throughput_hz": len(combination.latency_ms) / combination.seconds,
        "peak_memory_bytes": cold.peak_memory_bytes,
        "size_bytes": size,
        "metric": metric,
        "cold_start_ms": cold.total,
        "pareto": False,
        "p99_high_ms": p99_high,
    }


def _latency_key(rows: Sequence[Mapping[str, Any]]) -> str:
    return "p50_ms" if any(row["p99_ms"] is None for row in rows) else "p99_ms"


def _worst(row: Mapping[str, Any]) -> float:
    """The latest that a row's p99 may be, in ms; infinite where that is not known."""
    high = row["p99_high_ms"]
    return math.inf if row["p99_ms"] is None or high is None else float(high)


def _metric_or_worst(metric: float | None) -> float:
    return -math.inf if metric is None else metric


def _name(row: Mapping[str, Any]) -> str:
    threads = "" if row["threads"] is None else f" with {row['threads']} threads"
    return f"{row['variant']}, {row['plan']}{threads}"
