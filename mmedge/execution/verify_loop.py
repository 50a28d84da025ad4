"""Replay of a bundle's loop on its golden samples, for :mod:`mmedge.execution.verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmedge.execution.generate import GenerateStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mmedge.execution.replayable import Runnable
    from mmedge.loop_spec import DenoiseLoop, GenerateLoop
    from mmedge.spec import Array, Sample, Tolerance

__all__ = ["Choice", "LoopReplay", "replay_loop", "worst_choice"]


class Choice(NamedTuple):
    """A token that the loop chose in place of the golden one.

    Attributes:
        step: which choice, from 0.
        row: of the batch.
        got: the token; None: the row had ended.
        golden: the golden token; None: the golden row had ended.
        gap: how far the golden token's score lies below the best.
        scale: largest magnitude of the scores.
    """

    step: int
    row: int
    got: int | None
    golden: int | None
    gap: float
    scale: float

    def limit_used(self, tolerance: Tolerance) -> float:
        """The gap as a share of what two scores that are within tolerance may differ by.

        At most 1: the two tokens were equally good as far as can be told.
        """
        allowed = 2.0 * (tolerance.atol + tolerance.rtol * self.scale)
        return self.gap / allowed if allowed else float(np.inf if self.gap else 0.0)

    def __str__(self) -> str:
        words = ["the end" if token is None else str(token) for token in (self.got, self.golden)]
        return f"choice {self.step} of row {self.row}: {words[0]} for {words[1]}"


class LoopReplay(NamedTuple):
    """What a loop gave beside what it should have given.

    Attributes:
        tensors: name, what it is here, and the golden tensor, of each step.
        choices: the first other token of each row that has one.
    """

    tensors: list[tuple[str, Array, Array]]
    choices: list[Choice]


def replay_loop(pipeline: Runnable, loop: GenerateLoop | DenoiseLoop, sample: Sample) -> LoopReplay:
    """Run the loop on one golden sample.

    Raises:
        BackendError: a stage failed to run.
    """
    if loop.kind == "denoise":
        return LoopReplay(list(_latents(pipeline, loop, sample)), [])
    return _generated(pipeline, loop, sample)


def worst_choice(choices: Iterable[Choice], tolerance: Tolerance) -> Choice | None:
    """The one that takes most of its limit."""
    return max(choices, key=lambda choice: choice.limit_used(tolerance), default=None)


def _latents(
    pipeline: Runnable, loop: DenoiseLoop, sample: Sample
) -> Iterator[tuple[str, Array, Array]]:
    last = len(loop.schedule) - 1
    golden = {0: 0, last // 2: 1, last: 2}
    steps = pipeline.iterate(sample.inputs, cached=False, noise=sample.loop["noise"])
    for step in steps:
        if not isinstance(step, GenerateStep) and step.index in golden:
            yield loop.latent, step.latent.copy(), sample.loop["latents"][golden[step.index]]


def _generated(pipeline: Runnable, loop: GenerateLoop, sample: Sample) -> LoopReplay:
    tokens, golden = sample.loop["tokens"], sample.loop["logits"]
    batch, count = tokens.shape
    limit = min(count + 1, loop.limit)
    steps = pipeline.iterate(
        sample.inputs, cached=False, forced=tokens, limit=limit, temperature=0.0
    )
    tensors, all_scores = [], []
    running = np.ones(batch, np.bool_)
    for step in steps:
        if not isinstance(step, GenerateStep):
            break
        if step.index < golden.shape[1] and running.any():
            tensors.append((loop.logits, step.scores[running], golden[running, step.index]))
        all_scores.append(step.scores.astype(np.float64))
        running = np.logical_and(running, step.active)
    outputs = pipeline.run(sample.inputs, cached=False, temperature=0.0, limit=limit)
    choices = []
    for row in range(batch):
        expected = _until_stop(tokens[row], loop.stop)
        got = outputs["tokens"][row, : outputs["lengths"][row]].tolist()
        choice = _first_other(got, expected, row, loop.stop, [s[row] for s in all_scores])
        choices += [] if choice is None else [choice]
    return LoopReplay(tensors, choices)


def _until_stop(tokens: Array, stop: Iterable[int]) -> list[int]:
    stops = np.isin(tokens, list(stop))
    row: list[int] = tokens[: int(stops.argmax()) if stops.any() else len(tokens)].tolist()
    return row


def _first_other(
    got: list[int], golden: list[int], row: int, stop: tuple[int, ...], scores: list[Array]
) -> Choice | None:
    """The first choice in which two runs differ; None where they are the same."""
    least = min(len(got), len(golden))
    index = next((i for i in range(least) if got[i] != golden[i]), least)
    if index == len(got) == len(golden) or index >= len(scores):
        return None
    here = scores[index]
    expected = golden[index] if index < len(golden) else None
    # Of a row that should have ended, any stop token is right.
    best = here[list(stop)].max() if expected is None else here[expected]
    return Choice(
        index,
        row,
        got[index] if index < len(got) else None,
        expected,
        float(here.max() - best),
        float(np.abs(here[np.isfinite(here)]).max(initial=0.0)),
    )
