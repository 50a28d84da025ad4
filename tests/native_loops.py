"""Random calls of a loop in both runtimes, of which every step is compared to the last bit."""

from __future__ import annotations

import numpy as np

import mmedge
from mmedge.errors import MMEdgeError
from mmedge.native.runtime import NativeBundle, NativePipeline

__all__ = ["Both"]


class Both:
    """A bundle in both runtimes, with a state for each name.

    Args:
        path: of the bundle.
        variant: of it; None: the best.
        cached: whether calls may begin with what earlier ones left.
        unverified: it is loaded without a proof by golden samples.
    """

    def __init__(self, path, variant=None, *, cached=False, unverified=False) -> None:
        self.python = mmedge.load(
            path, variant, threads=1, kernels=False, allow_unverified=unverified
        )
        with NativeBundle(path) as bundle:
            self.native = NativePipeline(
                bundle, variant=variant, threads=1, kernels=0, allow_unverified=unverified
            )
        self.native.reserve(4, 128)  # states of a handle hold what it has room for
        self.cached = cached
        self.states = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _, state in self.states.values():
            state.close()
        self.native.close()
        self.python.close()

    def state(self, name):
        if name is not None and name not in self.states:
            self.states[name] = (self.python.state(), self.native.state())
        return self.states.get(name, (None, None))

    def copy(self, name, other):
        """``other`` becomes a copy of the state ``name``."""
        python, native = self.state(name)
        copied = python.copy(), native.copy()
        if other in self.states:
            self.states[other][1].close()
        self.states[other] = copied

    def reset(self, name):
        for state in self.state(name):
            state.reset()

    def call(self, inputs, *, state=None, steps=None, **options):
        """Run a call in both, and compare what it gives; the kind of its error, if any.

        Args:
            inputs: by name.
            state: name of one.
            steps: it is cancelled after so many; None: never.
            options: of the loop.
        """
        states = self.state(state)
        results = []
        for run, kept in zip((self._run_python, self._run_native), states, strict=True):
            try:
                result = run(inputs, kept, steps, options)
            except MMEdgeError as error:
                result = error
            results.append(result)
        expected, got = results
        if isinstance(expected, MMEdgeError) or isinstance(got, MMEdgeError):
            assert type(expected) is type(got), (results, inputs, options)
            return type(expected)
        for name, value in expected.items():
            assert np.array_equal(value, got[name]), (name, value, got[name])
        if state is not None:
            assert states[0].position == states[1].position
        return None

    def _run_python(self, inputs, state, count, options):
        with self.python.iterate(inputs, cached=self.cached, state=state, **options) as run:
            steps = _take(run, count)
        return {**{n: v for n, v in run.result().items() if n != "text"}, **steps}

    def _run_native(self, inputs, state, count, options):
        self.native.begin(inputs, cached=self.cached, state=state, **options)
        steps = _take(self.native.steps(), count)
        outputs, finish = self.native.result(8)
        return {**outputs, "finish": finish[: len(outputs["lengths"])], **steps}


def _take(steps, count):
    """What the first steps give; None: all."""
    taken = []
    while (count is None or len(taken) < count) and (step := next(steps, None)) is not None:
        # The runtime in Python hands out its own scores.
        taken.append((step.tokens, step.active, step.scores.copy()))
    names = ("step tokens", "active", "scores")
    return {name: np.array([step[place] for step in taken]) for place, name in enumerate(names)}
