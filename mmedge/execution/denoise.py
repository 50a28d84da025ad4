"""The loop ``denoise``: from noise to a latent over the rows of a schedule.

docs/reference/bundle.md ("Loop") specifies the arithmetic, which is float32 in the page's order, so
that equal predictions give equal bits on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmedge.constraints import allows, spans
from mmedge.errors import BackendError, InputError
from mmedge.execution.random_numbers import check_seed, normal
from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mmedge.execution.plan import Run
    from mmedge.loop_spec import DenoiseLoop
    from mmedge.spec import Array, Manifest, Stage, TensorSpec

__all__ = ["DenoiseRun", "DenoiseStep", "Finish"]

#: Why a run ended: all rows of the schedule were taken, its time was over, or it was told to.
Finish = Literal["schedule", "deadline", "cancel"]


@dataclass(frozen=True, slots=True, eq=False)
class DenoiseStep:
    """One step that was taken: its number, from 0, and a copy of the latent after it."""

    index: int
    latent: Array


class DenoiseRun:
    """One run of the loop ``denoise``, step by step. For one thread.

    Iterating takes the steps that are left; so does calling :meth:`advance` until it says that
    there is none, which copies nothing. Between two steps a caller may stop for any time, or for
    good: :meth:`cancel`. What it takes of memory it takes at the beginning, except where a row adds
    noise.

    Args:
        manifest: of a bundle whose loop is of this kind.
        runs: how the loop's stages are run, by name. A stage with state keeps it from step to step.
        tensors: the network's inputs and outputs of this call, by name.
        unconditional: what stands for some of the outputs in the unconditional run
            (:meth:`mmedge.Bundle.unconditional`).
        run_unconditional: how the stage is run for it; None: as for the other run. A stage with
            state needs another one, since each of the two has a state of its own.
        seed: of all noise.
        noise: the first noise, before it is scaled; None: normal numbers of the seed.
        deadline: time of ``clock`` after which no step begins; None: none.
        clock: returns seconds.

    Attributes:
        index: steps taken so far.
        finish: why it ended; None while there are steps left.

    Raises:
        InputError: a seed or noise that does not fit, or tensors that do not fit each other.
    """

    def __init__(
        self,
        manifest: Manifest,
        runs: Mapping[str, Run],
        tensors: Mapping[str, Array],
        *,
        unconditional: Mapping[str, Array] | None = None,
        run_unconditional: Run | None = None,
        seed: int = 0,
        noise: Array | None = None,
        deadline: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        loop = manifest.loop
        if loop is None or loop.kind != "denoise":
            raise ValueError("this bundle has no loop 'denoise'")
        self._loop, self._runs = loop, runs
        stages = {stage.name: stage for stage in manifest.loop_stages()}
        stage = stages[loop.stage]
        self._decoder = None if loop.decoder is None else stages[loop.decoder]
        self._run = runs[loop.stage]
        self._run_unconditional = run_unconditional or self._run
        self._seed = check_seed(seed)
        self._deadline, self._clock = deadline, clock
        self._tensors = tensors
        self.index = 0
        self.finish: Finish | None = None

        specs = {spec.name: spec for spec in stage.inputs}
        sizes = _call_sizes(manifest, tensors)
        noise, shape = _first_noise(specs[loop.latent], manifest, sizes, self._seed, noise)
        sizes |= {
            size: length
            for size, length in zip(specs[loop.latent].shape, shape, strict=True)
            if isinstance(size, str)
        }
        self._latent = np.multiply(noise, np.float32(loop.initial_scale), dtype=np.float32)
        # Written in place from here on.
        self._next, self._scaled, self._estimate, self._last_estimate, self._term = (
            np.zeros(shape, np.float32) for _ in range(5)
        )
        time = specs[loop.time]
        time_shape = [sizes[size] if isinstance(size, str) else size for size in time.shape]
        self._time = np.zeros(time_shape, DTYPES[time.dtype])
        constants = {name: tensors[name] for name in specs if name in tensors}
        step = {loop.latent: self._scaled, loop.time: self._time}
        self._feeds = {**constants, **step}
        self._unconditional: dict[str, Array] | None = None
        if loop.guidance is not None:
            replaced = _fit(stage, loop, unconditional or {}, sizes)
            self._unconditional = {**constants, **replaced, **step}

    @property
    def steps(self) -> int:
        """How many steps the schedule has."""
        return len(self._loop.schedule)

    @property
    def latent(self) -> Array:
        """A copy of the latent as it is now."""
        return self._latent.copy()

    def __iter__(self) -> Iterator[DenoiseStep]:
        """Take the steps that are left. Leaving the iteration takes none; it may be begun again."""
        while self.advance():
            yield DenoiseStep(self.index - 1, self.latent)

    def advance(self) -> bool:
        """Take the next step; say whether there was one.

        Raises:
            BackendError: the stage failed, or gave another shape than the latent's.
        """
        if self.finish is not None:
            return False
        if self._deadline is not None and self._clock() >= self._deadline:
            self.finish = "deadline"
            return False
        self._step(self._loop.schedule[self.index])
        self.index += 1
        if self.index == self.steps:
            self.finish = "schedule"
        return True

    def cancel(self) -> None:
        """Take no more steps; what was made so far stays."""
        self.finish = self.finish or "cancel"

    def result(self) -> dict[str, Any]:
        """What the loop gives: the latent, or what the decoder makes of it, and ``finish``.

        If the run ended before its schedule did, the estimate of its last step stands for the
        latent, which is still noisy.

        Raises:
            TimeoutError: the time was over before any step had an estimate.
            InputError: there is no estimate for another reason: the run was canceled before, or is
                not at its end.
            BackendError: the decoder failed.
        """
        latent = self._latent if self.finish == "schedule" else self._best_estimate()
        if self._decoder is None:
            return {"latent": latent.copy(), "finish": self.finish}
        tensors = {**self._tensors, self._loop.latent: latent}
        feeds = {spec.name: tensors[spec.name] for spec in self._decoder.inputs}
        return {**self._runs[self._decoder.name](feeds), "finish": self.finish}

    def _best_estimate(self) -> NDArray[np.float32]:
        row = self._loop.schedule[self.index - 1] if self.index else (0.0,) * 9
        if self.finish is not None and (row[2] or row[3]):
            # After a step the two are exchanged.
            return self._last_estimate
        where = f"{self.index} of {self.steps} steps were taken"
        if self.finish == "deadline":
            raise TimeoutError(
                f"the deadline passed before the loop had an estimate: {where}"
                + ("; its schedule states no estimates" if self.index else "")
                + ". Allow more time"
            )
        raise InputError(
            f"the loop has no result: {where}; take all of its steps"
            if self.finish is None
            else f"the loop was canceled before it had an estimate: {where}"
        )

    def _step(self, row: tuple[float, ...]) -> None:
        time, *numbers = row
        a, p, q, r, s, u, w, c = (np.float32(number) for number in numbers)
        x, term = self._latent, self._term
        self._time.fill(time)
        np.multiply(x, a, out=self._scaled)
        m = self._predict(self._run, self._feeds)
        if self._unconditional is not None:
            # Copied first: a backend may give its next outputs in the same memory.
            np.copyto(term, m)
            m0 = self._predict(self._run_unconditional, self._unconditional)
            term -= m0
            term *= np.float32(self._loop.guidance or 0.0)
            term += m0
            np.copyto(self._scaled, term)  # which the stage needs no more
            m = self._scaled
        estimate, latent = self._estimate, self._next
        _add_terms(estimate, term, [(p, x), (q, m)])
        if self._loop.clip is not None:
            limit = np.float32(self._loop.clip)
            np.clip(estimate, -limit, limit, out=estimate)
        terms = [(r, estimate), (s, x), (u, m), (w, self._last_estimate)]
        if c:
            z = normal(self._seed, self.index + 1, latent.size).reshape(latent.shape)
            terms.append((c, z))
        _add_terms(latent, term, terms)
        self._latent, self._next = latent, x
        self._last_estimate, self._estimate = estimate, self._last_estimate

    def _predict(self, run: Run, feeds: Mapping[str, Array]) -> NDArray[np.float32]:
        prediction: NDArray[np.float32] = run(feeds)[self._loop.prediction]  # type: ignore[assignment]
        if prediction.shape != self._latent.shape:
            # Else it would be repeated, which computes something and is wrong.
            raise BackendError(
                f"stage {self._loop.stage!r} gives {self._loop.prediction!r} of shape "
                f"{list(prediction.shape)} for a latent of shape {list(self._latent.shape)}"
            )
        return prediction


def _add_terms(
    total: NDArray[np.float32],
    term: NDArray[np.float32],
    terms: Sequence[tuple[np.float32, NDArray[np.float32]]],
) -> None:
    """``total`` becomes the sum of number times array, from the left, without those of number 0."""
    is_first = True
    for number, array in terms:
        if number == 0.0:
            continue
        np.multiply(array, number, out=total if is_first else term)
        if not is_first:
            np.add(total, term, out=total)
        is_first = False
    if is_first:
        total.fill(0.0)


def _call_sizes(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, int]:
    """The sizes of dynamic dimensions in a call, by its inputs and the network's outputs."""
    outputs = {spec.name: spec for stage in manifest.stages for spec in stage.outputs}
    specs = {**outputs, **manifest.inputs()}
    return {
        size: length
        for name, tensor in tensors.items()
        if name in specs
        for size, length in zip(specs[name].shape, tensor.shape, strict=True)
        if isinstance(size, str)
    }


def _first_noise(
    spec: TensorSpec,
    manifest: Manifest,
    sizes: Mapping[str, int],
    seed: int,
    noise: Array | None,
) -> tuple[Array, tuple[int, ...]]:
    """The first noise, the caller's or the seed's, and its shape."""
    expected = tuple(
        size if isinstance(size, int) else sizes.get(size, manifest.dimensions[size].opt)
        for size in spec.shape
    )
    if noise is None:
        return normal(seed, 0, prod(expected)).reshape(expected), expected
    noise = np.asarray(noise)
    if noise.dtype != np.float32 or noise.ndim != len(spec.shape):
        raise InputError(f"noise: expected {spec}, got {noise.dtype}{list(noise.shape)}")
    for size, length, fixed in zip(spec.shape, noise.shape, expected, strict=True):
        if isinstance(size, int) or size in sizes:
            if length != fixed:
                raise InputError(
                    f"noise: expected the shape {list(expected)} in this call, got "
                    f"{list(noise.shape)}"
                )
        elif not allows(manifest.dimensions[size], length):
            raise InputError(
                f"noise: dimension {size!r} takes {spans(manifest.dimensions[size])}, got {length}"
            )
    return noise, noise.shape


def _fit(
    stage: Stage, loop: DenoiseLoop, unconditional: Mapping[str, Array], sizes: Mapping[str, int]
) -> dict[str, Array]:
    """The tensors of the unconditional run in the sizes of a call.

    Of a dimension that the stage's other inputs have, too, a stored size of 1 is repeated.
    """
    specs = {spec.name: spec for spec in stage.inputs}
    shared = {
        size
        for name, spec in specs.items()
        if name not in loop.unconditional
        for size in spec.shape
    }
    fitted: dict[str, Array] = {}
    for name in loop.unconditional:
        array, spec = unconditional[name], specs[name]
        shape = tuple(
            sizes[size] if isinstance(size, str) and size in shared and size in sizes else length
            for size, length in zip(spec.shape, array.shape, strict=True)
        )
        if any(length not in (1, size) for length, size in zip(array.shape, shape, strict=True)):
            raise InputError(
                f"the unconditional run has {name!r} of shape {list(array.shape)}, which does not "
                f"fit this call: expected {list(shape)}; call with those sizes"
            )
        fitted[name] = np.ascontiguousarray(np.broadcast_to(array, shape))
    return fitted
