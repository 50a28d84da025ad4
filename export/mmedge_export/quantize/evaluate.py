"""What a bundle answers on samples, with some of its stages exchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from mmedge.execution.generate import GenerateStep
from mmedge.spec import Tolerance
from mmedge.tolerance import OutputComparison, SampleErrors
from mmedge_export.calibration.calls import BundleCalls, all_stages
from mmedge_export.quantize.stage_runs import StageRun, typical_runs
from mmedge_export.targets.registry import quantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from mmedge.bundle import Bundle
    from mmedge.execution.call_options import CallOptions
    from mmedge.execution.loop_run import LoopRun
    from mmedge.execution.plan import Run
    from mmedge.spec import Array

__all__ = ["BundleNetwork", "Call", "changed_choices", "error"]

_EXACT = Tolerance(rtol=0.0, atol=0.0)


@dataclass(frozen=True)
class Call:
    """One call that a network is judged by.

    Attributes:
        inputs: of the network.
        options: of the call.
        states: what stages without a loop begin with; None: what the call before left.
        forced: tokens that a loop is made to choose, [batch, n]. The answer is then the scores of
            each choice, and of the one after them.
    """

    inputs: Mapping[str, Array]
    options: CallOptions = field(default_factory=dict)  # type: ignore[assignment]
    states: Mapping[str, Array] | None = None
    forced: Array | None = None


class BundleNetwork:
    """All stages of a bundle on the CPU, its loop too. For one thread.

    Args:
        bundle: open.
        graphs: by stage, graphs to run in place of the bundle's own.
        threads: most threads of a stage; None: the default.
        backend: that is to run it, as it is judged here
            (:meth:`mmedge_export.targets.registry.Quantizer.open_graph`).
    """

    def __init__(
        self,
        bundle: Bundle,
        graphs: Mapping[str, Path] | None = None,
        *,
        threads: int | None = None,
        backend: str = "ort",
    ) -> None:
        self._manifest = manifest = bundle.manifest
        target = quantizer(backend)
        self.runners: dict[str, Run] = {
            stage.name: target.open_graph(
                (graphs or {}).get(stage.name) or bundle.file(stage.graph),
                stage,
                alone=manifest.has_cores(stage),
                threads=threads,
            )
            for stage in all_stages(manifest)
        }
        self._more: Mapping[str, Mapping[str, Array]] = {}
        self._watch: Callable[[str, Mapping[str, Array]], None] | None = None
        self._calls = BundleCalls(bundle, {name: self._runner(name) for name in self.runners})

    def _runner(self, stage: str) -> Run:
        def run(feeds: Mapping[str, Any]) -> dict[str, Array]:
            if self._watch is not None:
                self._watch(stage, feeds)
            return self.runners[stage]({**feeds, **self._more.get(stage, {})})

        return run

    def run(
        self, inputs: Mapping[str, Array], *, cached: bool = False, **options: Unpack[CallOptions]
    ) -> dict[str, Any]:
        """What :meth:`mmedge.Pipeline.run` returns; nothing is cached."""
        del cached
        return self.answer(Call(inputs, options))

    def iterate(
        self, inputs: Mapping[str, Array], *, cached: bool = False, **options: Unpack[CallOptions]
    ) -> LoopRun:
        """The steps of :meth:`mmedge.Pipeline.iterate`; nothing is cached."""
        del cached
        values = self._calls.feeds.prepare(inputs)
        self._calls.compute(values)
        return self._calls.begin(values, **options)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """What a call without options returns."""
        return self.answer(Call(inputs))

    def answer(self, call: Call) -> dict[str, Any]:
        """What one call returns, or the scores of its choices."""
        return self._answer(call, {})[0]

    def answer_and_states(self, call: Call) -> tuple[dict[str, Any], dict[str, Array]]:
        """What one call returns, and the states that it leaves, by the outputs that give them."""
        answer, states = self._answer(call, {})
        by_input = {state.input: state.output for state in self._manifest.states}
        return answer, {by_input[name]: value for name, value in states.items()}

    def answers(
        self, calls: Iterable[Call], more: Mapping[str, Mapping[str, Array]] | None = None
    ) -> list[dict[str, Any]]:
        """Of calls one after another: states without a loop go from one to the next.

        Args:
            calls: to answer.
            more: fed to stages by name on top.
        """
        self._more = more or {}
        answers: list[dict[str, Any]] = []
        states: Mapping[str, Array] = {}
        try:
            for call in calls:
                answer, states = self._answer(call, states)
                answers.append(answer)
        finally:
            self._more = {}
        return answers

    def stage_runs(self, call: Call) -> dict[str, list[StageRun]]:
        """By stage, what it takes in a call: of runs that are alike one, and how many there are."""
        counts = dict.fromkeys(self.runners, 0)

        def count(stage: str, _feeds: Mapping[str, Array]) -> None:
            counts[stage] += 1

        self._watched(call, count)
        totals, counts = counts, dict.fromkeys(self.runners, 0)
        kept: dict[str, list[dict[str, Array]]] = {name: [] for name in self.runners}

        def keep(stage: str, feeds: Mapping[str, Array]) -> None:
            if counts[stage] in (0, totals[stage] // 2):
                # A loop writes to what it feeds.
                kept[stage].append({name: np.array(value) for name, value in feeds.items()})
            counts[stage] += 1

        self._watched(call, keep)
        return {name: typical_runs(runs, totals[name]) for name, runs in kept.items()}

    def _watched(self, call: Call, watch: Callable[[str, Mapping[str, Array]], None]) -> None:
        self._watch = watch
        try:
            self.answer(call)
        finally:
            self._watch = None

    def _answer(
        self, call: Call, states: Mapping[str, Array]
    ) -> tuple[dict[str, Any], Mapping[str, Array]]:
        values = self._calls.feeds.prepare(call.inputs)
        states = self._calls.compute(values, states if call.states is None else call.states)
        loop = self._manifest.loop
        if loop is None:
            return {name: values[name] for name in self._manifest.outputs}, states
        if call.forced is None or loop.kind != "generate":
            return self._calls.finish(values, call.options), {}
        limit = min(call.forced.shape[1] + 1, loop.limit)
        run = self._calls.begin(values, forced=call.forced, limit=limit, temperature=0.0)
        scores = [step.scores for step in run if isinstance(step, GenerateStep)]
        return {loop.logits: np.stack(scores, 1)}, {}


def error(
    answers: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Of each sample the largest difference of an output as a share of its scale.

    By the rule that variants are verified by (:mod:`mmedge.tolerance`), with the scales of all
    samples together. Integers, booleans and texts count the share of elements that differ, and of
    tokens those that only one has; what is not finite in one alone is an infinite error.
    """
    scales: dict[str, OutputComparison] = {}
    compared: list[dict[str, float | SampleErrors]] = []
    for ours, theirs in zip(answers, reference, strict=True):
        differences: dict[str, float | SampleErrors] = {}
        for name, value in theirs.items():
            if np.issubdtype(np.asarray(value).dtype, np.floating):
                comparison = scales.setdefault(name, OutputComparison(_EXACT))
                differences[name] = comparison.add(ours[name], value)
            else:
                differences[name] = _others(np.asarray(ours[name]), np.asarray(value))
        compared.append(differences)
    return [
        max(
            scales[name].relative(one) if isinstance(one, SampleErrors) else one
            for name, one in differences.items()
        )
        for differences in compared
    ]


def _others(ours: Array, theirs: Array) -> float:
    """The share of elements that differ, or that only one of two has."""
    if ours.ndim != theirs.ndim:
        return float("inf")
    both = tuple(slice(min(sizes)) for sizes in zip(ours.shape, theirs.shape, strict=True))
    most = int(np.prod([max(sizes) for sizes in zip(ours.shape, theirs.shape, strict=True)]))
    same = int(np.count_nonzero(ours[both] == theirs[both]))
    return 1.0 - same / most if most else 0.0


def changed_choices(
    answers: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[int, int]]:
    """By output, in how many rows the largest element is another one, and of how many rows.

    For floats with two elements or more along the last axis and a rank of at most 3, where such a
    row may be scores of classes or actions: an error that is small may still choose otherwise.
    """
    counts: dict[str, tuple[int, int]] = {}
    for ours, theirs in zip(answers, reference, strict=True):
        for name, value in theirs.items():
            if not isinstance(value, np.ndarray):
                continue
            scores = np.issubdtype(value.dtype, np.floating) and 1 <= value.ndim <= 3
            if (
                not scores
                or value.shape[-1] < 2
                or not value.size
                or ours[name].shape != value.shape
            ):
                continue
            other = np.argmax(ours[name], axis=-1) != np.argmax(value, axis=-1)
            changed_rows, rows = counts.get(name, (0, 0))
            counts[name] = changed_rows + int(np.count_nonzero(other)), rows + int(other.size)
    return counts
