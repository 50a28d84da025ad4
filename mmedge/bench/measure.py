"""The measurement behind ``mmedge bench``: verify, warm up, then time calls in a closed loop."""

from __future__ import annotations

import gc
import hashlib
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from mmedge.bench import coldstart, host
from mmedge.bench.report import Report
from mmedge.bench.stats import summary
from mmedge.errors import BundleError
from mmedge.pipeline import load
from mmedge.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["bench"]

#: Default number of timed calls: the fewest that carry a p99.9.
CALLS = 1000
WARMUP = 50
#: Calls between two words of progress: drawing a bar after each call would cool the caches.
TELL_EVERY = 50


def bench(
    path: str,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    threads: int | None = None,
    calls: int = CALLS,
    warmup: int = WARMUP,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Measure one variant of the bundle at ``path`` on this machine.

    Outputs are checked against the golden samples first: a variant that computes something else is
    not worth timing. Calls then take the golden samples in turn, one at a time, each timed from
    before the inputs are checked to after the outputs are on the host. The same samples come again
    and again, so nothing is taken from the feature cache; encoders run one after another.

    Args:
        path: as for :func:`mmedge.load`, like the next three and ``threads``.
        backend: which one may run.
        precision: which variants may run.
        device: for what they were made.
        threads: intra-op threads of each stage on the CPU.
        calls: timed calls, at least 1. Percentiles that need more are None.
        warmup: untimed calls before them.
        progress: called with the phase's name, calls done and calls in all.

    Raises:
        AccuracyError: the variant does not reproduce the golden samples.
        BundleError: there are none.
        ValueError: ``calls`` < 1 or ``warmup`` < 0.
        MMEdgeError: whatever loading raises.
    """
    if calls < 1 or warmup < 0:
        raise ValueError(f"calls must be >= 1 and warmup >= 0, got {calls} and {warmup}")
    tell = progress or _silent
    before = host.state()
    # The first call is timed; that outputs are right is checked after it.
    with load(path, backend, precision, device, threads=threads, allow_unverified=True) as pipe:
        variant, manifest = pipe.variant, pipe.bundle.manifest
        samples = pipe.bundle.samples()
        if not samples:
            raise BundleError(f"{path}: no golden samples to call it with; export it again")
        inputs = [sample.inputs for sample in samples]
        start = perf_counter_ns()
        pipe.run(inputs[0], cached=False)
        first = perf_counter_ns() - start
        verification = verify(pipe, progress=lambda done: tell("verify", done, len(samples)))
        verification.check()
        for call in range(warmup):
            pipe.run(inputs[call % len(inputs)], cached=False)

        latency: list[int] = []
        parts: list[dict[str, int]] = []
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()  # a collection of this process's own lists is no part of the pipeline
        begun = perf_counter_ns()
        try:
            for call in range(calls):
                feeds = inputs[call % len(inputs)]
                start = perf_counter_ns()
                _, part = pipe.timed(feeds, cached=False)
                latency.append(perf_counter_ns() - start)
                parts.append(part)
                if call % TELL_EVERY == TELL_EVERY - 1:
                    tell("measure", call + 1, calls)
        finally:
            if collecting:
                gc.enable()
        elapsed = perf_counter_ns() - begun
        attention = {stage: str(found) for stage, found in pipe.attention.items()}
        digest = hashlib.sha256(pipe.bundle.read("manifest.json")).hexdigest()

    tell("cold start", 0, 1)
    cold = coldstart.measure(
        path,
        variant=(variant.backend, variant.precision, variant.target),
        threads=threads,
        calls=min(calls, max(len(inputs), warmup)),
    )
    tell("cold start", 1, 1)
    after = host.state()
    milliseconds = [value / 1e6 for value in latency]
    return Report(
        bundle={"name": manifest.name, "manifest_sha256": digest},
        variant=variant.id,
        load={
            "kind": "closed",
            "calls": calls,
            "warmup": warmup,
            "threads": threads,
            "inputs": f"{len(inputs)} golden samples in turn",
        },
        latency_ms=summary(milliseconds),
        throughput_hz=calls * 1e9 / elapsed,
        cold_start_ms=cold.total,
        cold_start_parts_ms=cold.parts,
        first_call_ms=first / 1e6,
        peak_memory_bytes=cold.peak_memory_bytes,
        stages=_stages(latency, parts),
        accuracy=verification.to_dict(),
        device={**before, "after": _changing(after)},
        attention=attention,
    )


def _stages(latency: list[int], parts: list[dict[str, int]]) -> dict[str, dict[str, float | None]]:
    """Statistics in ms of every part of a call and of what they leave unexplained."""
    stages = {
        name: summary([part[name] / 1e6 for part in parts]) for name in (parts[0] if parts else ())
    }
    rest = [whole - sum(part.values()) for whole, part in zip(latency, parts, strict=True)]
    return {**stages, "residual": summary([value / 1e6 for value in rest])}


def _changing(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a machine's state that a run can change."""
    return {key: state[key] for key in ("frequency_khz", "load_average")}


def _silent(phase: str, done: int, total: int) -> None:
    """No progress wanted."""
