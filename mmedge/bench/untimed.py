"""What a report says beside its timed calls: the first call, its proof, a cold start, operators."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Self, TypedDict, cast

from mmedge.backends.profile import NOT_PROFILED, Profile
from mmedge.bench import coldstart
from mmedge.bench.operators import try_profile
from mmedge.errors import BundleError
from mmedge.execution.verify import verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bench.loop_calls import LoopCalls
    from mmedge.bench.progress import Progress
    from mmedge.bench.report.sections import AccuracySection, BundleSection, MetricSection
    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array, PlanName, Variant

__all__ = ["BundleKeys", "ColdKeys", "FirstCall", "run_fresh"]


class BundleKeys(TypedDict):
    """Keys of a report that are known once a bundle is loaded and verified."""

    bundle: BundleSection
    variant: str
    attention: Mapping[str, str]
    large_pages: str
    metric: MetricSection | None
    not_checked: list[str]
    size_bytes: int
    accuracy: AccuracySection
    first_call_ms: float


class ColdKeys(TypedDict):
    """Keys of a report that a fresh process tells."""

    cold_start_ms: float
    cold_start_parts_ms: Mapping[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class FirstCall:
    """The first pipeline that a measurement loads, called once and verified.

    Attributes:
        variant: which one ran.
        plan: of it, which ran.
        threads: of each stage.
        inputs: the golden samples'.
        step: what else stages with state and of a loop took in the first sample.
        remark: what is to be said of calls that begin with a new state; else empty.
        keys: what the report says of it.
    """

    variant: Variant
    plan: PlanName
    threads: int | None
    inputs: list[Mapping[str, Array]]
    step: Mapping[str, Array]
    remark: str
    keys: BundleKeys

    @classmethod
    def of(cls, pipe: Pipeline, path: str, tell: Progress) -> Self:
        """Time a call, and verify the outputs of all samples after it.

        Raises:
            AccuracyError: the variant does not reproduce the golden samples.
            BundleError: there are none.
        """
        samples = pipe.bundle.samples()
        if not samples:
            raise BundleError(f"{path}: no golden samples to call it with; export it again")
        inputs = [sample.inputs for sample in samples]
        start = perf_counter_ns()
        pipe.run(inputs[0], cached=False)
        took_ns = perf_counter_ns() - start
        verification = verify(pipe, progress=lambda step: tell("verify", step, len(inputs)))
        verification.check()
        bundle, variant = pipe.bundle, pipe.variant
        keys: BundleKeys = {
            "bundle": {"name": bundle.manifest.name, "manifest_sha256": bundle.digest},
            "variant": variant.id,
            "attention": {stage: str(words) for stage, words in pipe.attention.items()},
            "large_pages": pipe.large_pages,
            "metric": _metric(variant),
            "not_checked": list(bundle.manifest.open_questions(variant)),
            "size_bytes": bundle.size(variant),
            "accuracy": cast("AccuracySection", verification.to_dict()),
            "first_call_ms": took_ns / 1e6,
        }
        manifest = bundle.manifest
        is_stateful = bool(manifest.states) and manifest.loop is None
        remark = "; each call begins with a new state" if is_stateful else ""
        return cls(variant, pipe.plan, pipe.threads, inputs, samples[0].step, remark, keys)


def run_fresh(
    path: str,
    first: FirstCall,
    *,
    threads: int | None,
    calls: int,
    profiled: bool,
    tell: Progress,
    loop: LoopCalls | None = None,
) -> tuple[ColdKeys, Profile]:
    """A cold start in a process of its own, and the operators where ``profiled``.

    Args:
        path: the bundle.
        first: what was found when it was loaded.
        threads: as for :func:`mmedge.load`.
        calls: calls of the fresh process before its peak memory is read.
        profiled: whether to run the stages once more for their operators.
        tell: told of the progress.
        loop: how calls are made, where there is a loop and calls are of a fixed length.

    Raises:
        MMEdgeError: whatever loading raises.
    """
    tell("cold start", 0, 1)
    cold = coldstart.measure(
        path, variant=first.variant.id, plan=first.plan, threads=threads, calls=calls, loop=loop
    )
    tell("cold start", 1, 1)
    profile = NOT_PROFILED
    if profiled:
        tell("profile", 0, 1)
        profile = try_profile(
            path, first.variant, first.inputs[0], first.step, plan=first.plan, threads=threads
        )
        tell("profile", 1, 1)
    keys: ColdKeys = {
        "cold_start_ms": cold.total,
        "cold_start_parts_ms": cold.parts,
        "peak_memory_bytes": cold.peak_memory_bytes,
    }
    return keys, profile


def _metric(variant: Variant) -> MetricSection | None:
    """The task metric that was measured when the variant was made."""
    metrics = variant.metrics
    if "metric" not in metrics:
        return None
    return {
        "value": metrics["metric"],
        "name": "task metric, when the variant was made",
        "drop": metrics.get("metric_drop"),
        "drop_bound": metrics.get("metric_drop_bound"),
    }
