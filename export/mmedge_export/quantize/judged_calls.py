"""Which calls a network is judged by, and ranges are taken from.

By a metric, a call is what a user makes: a loop chooses its own tokens. Without one, answers are
held against those of the network itself, and a loop is made to choose the same tokens: after a
token that differs, all others would, too.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmedge_export.open_questions import line
from mmedge_export.quantize.evaluate import Call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.execution.call_options import CallOptions
    from mmedge.spec import Array, Manifest
    from mmedge_export.quantize.evaluate import BundleNetwork
    from mmedge_export.quantize.task import Task

__all__ = ["JudgedCalls", "calibration_options", "judged_calls", "whole_calls"]

#: Most scores that answers of one network hold together: 256 MiB.
SCORES = 2**26

#: Tokens of a run that ranges are taken from at most, and that the harm of single nodes is measured
#: on.
CALIBRATED, SENSITIVE = 32, 4


class JudgedCalls(NamedTuple):
    """Calls, and what they leave open in words."""

    calls: list[Call]
    not_checked: tuple[str, ...]


def judged_calls(task: Task, manifest: Manifest, network: BundleNetwork) -> JudgedCalls:
    """The calls that the task's samples are judged by.

    Args:
        task: with the samples.
        manifest: of the bundle.
        network: in float32; says which tokens it chooses.
    """
    inputs = [inputs for inputs, _ in task.samples]
    if manifest.loop is None or task.metric is not None:
        return JudgedCalls(_calls(task, inputs, manifest, task.options), ())
    if manifest.loop.kind == "denoise":
        noises: list[Array | None] = [sample.loop["noise"] for sample in task.golden_samples]
        noises = noises or [None] * len(inputs)
        calls = [
            Call(values, {**task.options, "noise": noise})
            for values, noise in zip(inputs, noises, strict=True)
        ]
        return JudgedCalls(calls, ())
    tokens = [sample.loop["tokens"] for sample in task.golden_samples]
    return _forced(task, inputs, tokens, manifest, network)


def whole_calls(task: Task, manifest: Manifest) -> list[Call]:
    """A call of each calibration sample, to its end: what the judged calls may cut short."""
    options = task.options.copy()
    options.pop("limit", None)
    return _calls(task, task.calibration, manifest, options)


def calibration_options(task: Task, manifest: Manifest, limit: int = CALIBRATED) -> CallOptions:
    """Options of the calls that ranges are taken from: the best tokens, no more than ``limit``."""
    loop = manifest.loop
    if loop is None or loop.kind != "generate":
        return task.options
    return {**task.options, "limit": min(loop.limit, limit), "temperature": 0.0}


def _calls(
    task: Task, inputs: Sequence[Mapping[str, Array]], manifest: Manifest, options: CallOptions
) -> list[Call]:
    """A call of each sample, as a user would make it; a golden one begins with its own state."""
    if manifest.loop is not None or not manifest.states:
        return [Call(values, options) for values in inputs]
    if task.golden_samples:
        steps = [sample.step for sample in task.golden_samples]
        return [Call(values, states=step) for values, step in zip(inputs, steps, strict=True)]
    return [Call(values, states=None if task.carries_state else {}) for values in inputs]


def _forced(
    task: Task,
    inputs: Sequence[Mapping[str, Array]],
    tokens: Sequence[Array],
    manifest: Manifest,
    network: BundleNetwork,
) -> JudgedCalls:
    """Calls that are made to choose the golden tokens, or those that the network chooses."""
    room = SCORES // len(inputs)
    tokens = list(tokens)
    for values in inputs[len(tokens) :]:
        # As many as there is room for in one row, which is known before any score is.
        limit = calibration_options(task, manifest, max(1, room // _vocabulary(manifest)))
        tokens.append(network.run(values, **limit)["tokens"])
    calls, cut = [], 0
    for values, row in zip(inputs, tokens, strict=True):
        most = max(1, room // (len(row) * _vocabulary(manifest)) - 1)
        cut += row.shape[1] > most
        calls.append(Call(values, forced=np.asarray(row)[:, :most]))
    words = f"scores after more tokens than memory holds, in {cut} of {len(calls)} samples"
    return JudgedCalls(calls, (line(words),) if cut else ())


def _vocabulary(manifest: Manifest) -> int:
    """Scores of one choice; of an unknown number, as many as there may be dimensions for."""
    loop = manifest.loop
    shapes = [
        spec.shape
        for stage in manifest.loop_stages()
        for spec in stage.outputs
        if loop is not None and loop.kind == "generate" and spec.name == loop.logits
    ]
    sizes = [shape[-1] for shape in shapes]
    return prod(size for size in sizes if isinstance(size, int)) or 1
