"""Where a stage's time goes, operator by operator, under the modules of the original network.

Each stage runs in a session of its own with the backend's profiler on, so that what is timed
elsewhere stays undisturbed.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from mmedge.backends import registry
from mmedge.backends.module_scopes import FUSED, NETWORK
from mmedge.backends.profile import Operator, Profile, ProfileRequest, Span
from mmedge.bench.stage_inputs import stage_inputs
from mmedge.errors import MMEdgeError
from mmedge.execution.plan import StagePlan
from mmedge.loader import load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array, PlanName, Stage, Variant

__all__ = ["profile", "try_profile"]

#: Untimed runs before those that count.
WARMUP = 3


def try_profile(
    path: str | PathLike[str],
    variant: Variant,
    inputs: Mapping[str, Any],
    step: Mapping[str, Array] | None = None,
    *,
    plan: PlanName | None = None,
    threads: int | None = None,
) -> Profile:
    """As :func:`profile`, or one that says why there is none: what was timed is not lost for it.

    Args:
        path: the bundle.
        variant: which of its variants.
        inputs: as for :meth:`mmedge.Pipeline.run`, on the host.
        step: as for :func:`profile`.
        plan: as for :func:`mmedge.load`, like ``threads``.
        threads: the same.
    """
    try:
        return profile(path, variant, inputs, step, plan=plan, threads=threads)
    except MMEdgeError as error:
        return Profile((), {}, f"no profile by operator: {error}")


def profile(
    path: str | PathLike[str],
    variant: Variant,
    inputs: Mapping[str, Any],
    step: Mapping[str, Array] | None = None,
    *,
    plan: PlanName | None = None,
    threads: int | None = None,
    calls: int = 20,
) -> Profile:
    """Run each stage of a bundle on one sample with the backend's profiler on.

    Args:
        path: the bundle.
        variant: which of its variants; ONNX Runtime's and OpenVINO's on the CPU have a profile,
            and engines.
        inputs: as for :meth:`mmedge.Pipeline.run`, on the host.
        step: what stages of a loop take in a step, such as a golden sample's; states, too.
        plan: as for :func:`mmedge.load`, like ``threads``.
        threads: the same.
        calls: profiled calls, at least 1.

    Raises:
        ValueError: ``calls`` < 1.
        MMEdgeError: whatever loading and running raise.
    """
    if calls < 1:
        raise ValueError(f"calls must be >= 1, got {calls}")
    if variant.backend == "ort" and variant.target != "cpu":
        return Profile((), {}, "no profile by operator: on a GPU ONNX Runtime times launches only")
    profiler = registry.profiler(variant.backend)
    if profiler is None:
        return Profile((), {}, f"no profile by operator: mmedge reads none of {variant.backend}")
    stage_runs: dict[str, list[list[Span]]] = {}
    plain_ms: dict[str, float] = {}
    with load(Path(path), variant.id, plan=plan, threads=threads, allow_unverified=True) as pipe:

        def measure(stage: Stage, feeds: Mapping[str, Any]) -> dict[str, Array]:
            before, outputs = _plain(pipe, stage.name, feeds, calls)
            request = ProfileRequest(
                bundle=pipe.bundle, variant=pipe.variant, stage=stage, feeds=feeds,
                threads=pipe.threads, untimed=WARMUP, calls=calls,
            )  # fmt: skip
            stage_runs[stage.name] = profiler.profile_stage(request)
            # On both sides: what slows the machine meanwhile would make a part exceed its whole.
            after, _ = _plain(pipe, stage.name, feeds, calls)
            plain_ms[stage.name] = median(before + after)
            return outputs

        manifest = pipe.bundle.manifest
        stages = manifest.in_order(pipe.plan)
        values = stage_inputs(pipe.bundle, stages, inputs)
        stages = (*stages, *manifest.loop_stages())
        runs = {stage.name: partial(measure, stage) for stage in stages}
        StagePlan(stages, runs).run({**values, **(step or {})})
    return _digest(stage_runs, plain_ms, profiler.UNSEEN)


def _plain(
    pipe: Pipeline, stage: str, feeds: Mapping[str, Any], calls: int
) -> tuple[list[float], dict[str, Array]]:
    """Milliseconds of each run of the stage as it is, and its outputs."""
    took = []
    for _ in range(WARMUP + calls):
        start = perf_counter_ns()
        outputs = pipe.run_stage(stage, feeds)
        took.append((perf_counter_ns() - start) / 1e6)
    return took[WARMUP:], outputs


def _digest(
    stage_runs: Mapping[str, list[list[Span]]], plain_ms: Mapping[str, float], unseen: str
) -> Profile:
    """Rows and totals of all stages' runs."""
    root = _common_root({s.module for runs in stage_runs.values() for run in runs for s in run})
    rows: list[Operator] = []
    stages: dict[str, dict[str, float]] = {}
    spans: dict[str, tuple[Span, ...]] = {}
    for stage, profiled in stage_runs.items():
        runs = sorted(profiled, key=lambda run: sum(span.us for span in run))
        keys = {(span.module.removeprefix(root), span.op) for run in runs for span in run}
        times = {key: [0.0] * len(runs) for key in keys}
        for index, run in enumerate(runs):
            for span in run:
                times[span.module.removeprefix(root), span.op][index] += span.us
        # Not means: a call that the system interrupted would stand for a whole module.
        took = {key: median(us) for key, us in times.items()}
        counts = Counter((span.module.removeprefix(root), span.op) for span in runs[len(runs) // 2])
        total = math.fsum(took.values())
        rows += [
            Operator(stage, module, op, counts[module, op], us / 1e3, us / total if total else 0.0)
            for (module, op), us in took.items()
        ]
        stages[stage] = {"profiled_ms": total / 1e3, "stage_ms": plain_ms[stage]}
        spans[stage] = tuple(
            replace(span, module=span.module.removeprefix(root)) for span in runs[len(runs) // 2]
        )
    rows.sort(key=lambda row: (-row.ms, row.stage, row.module, row.op))
    return Profile(tuple(rows), stages, unseen, spans)


def _common_root(modules: set[str]) -> str:
    """What all modules' names begin with, up to and with a dot; never the whole of a name."""
    paths = [name.split(".")[:-1] for name in modules - {NETWORK, FUSED}]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return "".join(f"{parts[0]}." for parts in shared)
