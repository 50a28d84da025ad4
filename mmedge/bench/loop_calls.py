"""Calls of a bundle with a loop: always as many steps, each of them timed.

A call that stops at a token takes as long as its text is; calls that are compared take the same
number of tokens, so stops are ignored and the best token is chosen each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from mmedge.bench.timed_calls import TimedCall
from mmedge.errors import InputError, MMEdgeError
from mmedge.execution.denoise import DenoiseStep
from mmedge.execution.state import keeps_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmedge.execution.call_options import CallOptions
    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array, Manifest

__all__ = [
    "CachedTimes",
    "LoopCalls",
    "loop_options",
    "make_caller",
    "time_cached",
]

#: Tokens of a call where the caller says nothing and the loop's limit is not less.
TOKENS = 64
#: Most seconds of each way to have things in the cache, and most calls, in one session.
CACHED_S, CACHED_CALLS = 2.0, 20
#: Fewest calls of each way, however long they take.
LEAST_CACHED = 2


@dataclass(slots=True)
class CachedTimes:
    """Nanoseconds to the first step of calls that find something in the cache.

    Attributes:
        all: everything: the same inputs again.
        by_modality: one modality's inputs are the same, all others are new.
        left_out: modalities without figures, and why, in words.
    """

    all: list[int] = field(default_factory=list)
    by_modality: dict[str, list[int]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, other: CachedTimes) -> None:
        """Count those of another session."""
        self.all += other.all
        for name, times in other.by_modality.items():
            self.by_modality.setdefault(name, []).extend(times)
        self.left_out.update(other.left_out)


@dataclass(frozen=True, slots=True)
class LoopCalls:
    """How calls of a bundle with a loop are made, and what is known of them before any is timed.

    Attributes:
        kind: of the loop.
        stage: of the loop.
        steps: of each call.
        asked: tokens that were asked for; more than ``steps`` where the states take no more.
        rows: of a call's batch; None where the samples differ.
        state_bytes: of the states at the end of a call, of the largest.
        seconds: length of the sound that goes into a call, mean over samples, all rows together;
            None where it is not known.
    """

    kind: Literal["generate", "denoise"]
    stage: str
    steps: int
    asked: int
    rows: int | None
    state_bytes: int
    seconds: float | None

    @classmethod
    def of(
        cls, pipe: Pipeline, inputs: Sequence[Mapping[str, Any]], tokens: int | None = None
    ) -> Self | None:
        """Run every sample once to see how many steps all can take; None: there is no loop.

        Args:
            pipe: loaded.
            inputs: of the golden samples, at least one.
            tokens: of each call; None: the loop's limit or :data:`TOKENS`, whichever is less.

        Raises:
            InputError: ``tokens`` is more than the loop's limit, or no loop generates.
        """
        manifest = pipe.bundle.manifest
        asked = _count_steps(manifest, tokens)
        loop = manifest.loop
        if loop is None:
            return None
        calls = cls(loop.kind, loop.stage, asked, asked, None, 0, _seconds(manifest, inputs))
        runs = [calls.examine(pipe, each) for each in inputs]
        rows = {row_count for _, row_count, _ in runs}
        return replace(
            calls,
            steps=min(steps for steps, _, _ in runs),
            rows=rows.pop() if len(rows) == 1 else None,
            state_bytes=max(size for _, _, size in runs),
        )

    @property
    def options(self) -> CallOptions:
        """Of each call."""
        return {} if self.kind == "denoise" else _generating(self.steps)

    @property
    def words(self) -> str:
        """What a report says of the calls, after their inputs."""
        if self.kind == "denoise":
            return f"; {self.steps} steps a call, the noise of one seed"
        fewer = f" ({self.asked} asked for: the states take no more)"
        return (
            f"; {self.steps} tokens a call{fewer if self.steps < self.asked else ''}, the best "
            "each time, stops ignored"
        )

    @property
    def first_name(self) -> str:
        """What the first step gives, as a part of a cold start."""
        return "first_token" if self.kind == "generate" else "first_step"

    def examine(self, pipe: Pipeline, inputs: Mapping[str, Any]) -> tuple[int, int, int]:
        """Steps, rows, and bytes of state at the end of one call."""
        state = pipe.state() if keeps_state(pipe.bundle.manifest) else None
        options: CallOptions = {**self.options, "state": state}
        run = pipe.iterate(inputs, cached=False, **options)
        steps, rows, latent_size = 0, 0, 0
        for step in run:
            steps += 1
            if isinstance(step, DenoiseStep):
                rows, latent_size = len(step.latent), step.latent.nbytes
            else:
                rows = len(step.tokens)
        run.close()
        return steps, rows, latent_size + (0 if state is None else state.nbytes)

    def time(self, pipe: Pipeline, inputs: Mapping[str, Any]) -> TimedCall:
        """Make one call with nothing from the cache, and time its parts.

        Encoders must run one after another: load with ``concurrent=False``.
        """
        begin = perf_counter_ns()
        run = pipe.iterate(inputs, cached=False, **self.options)
        laps, stage = run.laps, self.stage
        run.advance()
        laps.end(stage)
        times = [perf_counter_ns()]
        first = laps.parts[stage]
        while run.advance():
            times.append(perf_counter_ns())
        laps.end(stage)
        run.result()
        del run  # what it holds is freed before the clock is read
        laps.end("outputs")
        steps = [after - before for before, after in pairwise(times)]
        parts = laps.parts
        if self.kind == "generate":
            name = "prefill" if "prefill" not in parts else "prefill (loop)"
            parts = {}
            for part, elapsed in laps.parts.items():
                if part == stage:
                    parts[name] = first
                    elapsed -= first  # noqa: PLW2901 - of the further steps
                parts[part] = elapsed
        else:
            steps.insert(0, first)
        until_first = times[0] - begin
        return TimedCall(parts, until_first - first, until_first, steps)

    def first(self, pipe: Pipeline, inputs: Mapping[str, Any]) -> int:
        """Nanoseconds to the end of the first step of a call that may take from the cache."""
        begin = perf_counter_ns()
        with pipe.iterate(inputs, **self.options) as run:
            run.advance()
            return perf_counter_ns() - begin


def loop_options(manifest: Manifest, tokens: int | None = None) -> CallOptions:
    """Of calls that are to be of one length; empty where they are at any rate.

    Args:
        manifest: of the bundle.
        tokens: as for :meth:`LoopCalls.of`.

    Raises:
        InputError: as :meth:`LoopCalls.of`.
    """
    steps = _count_steps(manifest, tokens)
    is_generating = manifest.loop is not None and manifest.loop.kind == "generate"
    return _generating(steps) if is_generating else {}


def _generating(steps: int) -> CallOptions:
    return {"limit": steps, "stop": (), "temperature": 0.0}


def _count_steps(manifest: Manifest, tokens: int | None) -> int:
    """Steps that each call is to have; 1 without a loop.

    Raises:
        InputError: ``tokens`` does not fit the bundle's loop.
    """
    loop = manifest.loop
    if loop is None or loop.kind != "generate":
        if tokens is not None:
            raise InputError(
                f"{manifest.name!r} has no loop that generates, so a call has no number of tokens; "
                "leave tokens out"
            )
        return 1 if loop is None else len(loop.schedule)
    if tokens is None:
        return min(loop.limit, TOKENS)
    if not 1 <= tokens <= loop.limit:
        raise InputError(
            f"tokens: expected a number from 1 to {loop.limit}, the loop's limit, got {tokens}"
        )
    return tokens


def make_caller(
    pipe: Pipeline, inputs: Sequence[Mapping[str, Any]], loop: LoopCalls | None
) -> Callable[[int], TimedCall]:
    """Calls of a pipeline by number, its inputs in turn, with nothing from the cache.

    Args:
        pipe: loaded.
        inputs: of the calls.
        loop: how calls are made, where there is a loop.
    """
    if loop is not None:
        return lambda index: loop.time(pipe, inputs[index % len(inputs)])

    def call(index: int) -> TimedCall:
        return TimedCall(pipe.timed(inputs[index % len(inputs)], cached=False)[1])

    return call


def time_cached(
    pipe: Pipeline, inputs: Sequence[Mapping[str, Any]], calls: LoopCalls, seed: int
) -> CachedTimes:
    """Time to the first step where all, or one modality, is in the cache.

    What is to be new is another permutation of the sample's elements in every call, which keeps
    their range.

    Args:
        pipe: loaded, with its cache.
        inputs: of the golden samples, taken in turn.
        calls: how they are made.
        seed: of the permutations.
    """
    rng = np.random.default_rng(seed)
    times = CachedTimes()
    times.all = _repeat(lambda index: _again(pipe, inputs[index % len(inputs)], calls))
    modalities = [
        m for m in pipe.bundle.manifest.modalities if all(n in inputs[0] for n in m.inputs)
    ]
    if len(modalities) < 2:
        return times
    for modality in modalities:

        def changed(index: int, keep: Sequence[str] = modality.inputs) -> int:
            sample = inputs[index % len(inputs)]
            calls.first(pipe, sample)
            new = {name: x if name in keep else _permute(rng, x) for name, x in sample.items()}
            return calls.first(pipe, new)

        others = [x for name, x in inputs[0].items() if name not in modality.inputs]
        if all(np.array_equal(_permute(rng, x), x) for x in others):
            times.left_out[modality.name] = "no permutation of the others' elements is new"
            continue
        try:
            times.by_modality[modality.name] = _repeat(changed)
        except MMEdgeError as error:
            times.left_out[modality.name] = f"changed inputs do not run: {error}"
    return times


def _again(pipe: Pipeline, inputs: Mapping[str, Any], calls: LoopCalls) -> int:
    calls.first(pipe, inputs)
    return calls.first(pipe, inputs)


def _repeat(call: Callable[[int], int]) -> list[int]:
    """What the call returns for 0, 1, ..., within the limits of a session."""
    times: list[int] = []
    begin = perf_counter_ns()
    while len(times) < CACHED_CALLS:
        if len(times) >= LEAST_CACHED and perf_counter_ns() - begin > CACHED_S * 1e9:
            break
        times.append(call(len(times)))
    return times


def _permute(rng: np.random.Generator, array: Array) -> Array:
    return rng.permutation(array.reshape(-1)).reshape(array.shape)


def _seconds(manifest: Manifest, inputs: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean length of the sound of a sample, all rows together; None: no modality has a rate.

    Samples of a sound lie along the longest axis after the first; of the longest modality.
    """
    rates = {name: m.sample_rate_hz for m in manifest.modalities for name in m.inputs}
    lengths = []
    for sample in inputs:
        sounds = [
            (x.shape[0] if x.ndim > 1 else 1) * max(x.shape[1:] or x.shape) / rate
            for name, x in sample.items()
            if (rate := rates.get(name)) and x.ndim
        ]
        if not sounds:
            return None
        lengths.append(max(sounds))
    return float(sum(lengths) / len(lengths))
