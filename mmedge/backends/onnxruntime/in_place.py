"""A loop's stage whose keys and values ONNX Runtime writes in place.

docs/reference/bundle.md ("Cache in place") says what the file takes. A buffer is bound as input and
as output; a run writes the new places of it and copies nothing. A full buffer is copied to one of
at least twice as many places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.loop_spec import CACHE_LAST, CACHE_TOTAL
from mmedge.spec import DTYPES, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.loop_spec import GenerateLoop
    from mmedge.spec import Array, Manifest, Stage

__all__ = ["InPlaceCache", "InPlaceStepper"]

#: Places for tokens to come in a new buffer: a loop's limit may be far beyond its answers.
ROOM = 512


class InPlaceCache:
    """What does not change from run to run.

    Args:
        manifest: of the bundle.
        loop: of it.
        stage: of the loop.
        room: places for tokens to come in a new buffer, at most.

    Attributes:
        most: places of a state after a run, at most; None: any number.
        lengths: what the file takes beside the stage's inputs.
        states: of the stage.
    """

    def __init__(
        self, manifest: Manifest, loop: GenerateLoop, stage: Stage, *, room: int = ROOM
    ) -> None:
        specs = {spec.name: spec for spec in stage.inputs}
        self.token = specs[loop.token]
        self.position = None if loop.position is None else specs[loop.position]
        self.lengths = (
            TensorSpec(CACHE_LAST, "int32", self.token.shape[:1]),
            TensorSpec(CACHE_TOTAL, "int32", ()),
        )
        self.states = tuple(state for state in manifest.states if state.stage == stage.name)
        self.growing = tuple(state for state in self.states if state.axis is not None)
        self.others = tuple(state for state in self.states if state.axis is None)
        given = {state.output for state in self.states}
        self.outputs = tuple(spec.name for spec in stage.outputs if spec.name not in given)
        limits = [
            manifest.dimensions[str(size)].max
            for spec in stage.outputs
            for state in self.growing
            if spec.name == state.output
            for size in spec.shape[2:3]
        ]
        self.most = min((limit for limit in limits if limit is not None), default=None)
        self._room = min(loop.limit, room)

    def capacity(self, length: int, total: int) -> int:
        """Places of a new buffer for ``total``, where ``length`` are there already."""
        capacity = total + max(length, self._room)
        return capacity if self.most is None else max(total, min(capacity, self.most))


class InPlaceStepper:
    """See :class:`mmedge.backends.Stepper`; on the CPU.

    Args:
        cache: of the stage.
        binding: ONNX Runtime's, of the session.
        run: runs the session on it.
    """

    def __init__(
        self,
        cache: InPlaceCache,
        binding: Any,  # noqa: ANN401
        run: Callable[[Any], None],
    ) -> None:
        import onnxruntime as ort

        self._value = ort.OrtValue.ortvalue_from_numpy
        self._cache, self._binding, self._run = cache, binding, run
        # Made anew by each run, and bound before the buffers: values come in the order of binding.
        self._fresh = (*cache.outputs, *(state.output for state in cache.others))
        for name in self._fresh:
            binding.bind_output(name)
        self._buffers: dict[str, Array] = {}
        self._length = self._capacity = 0
        self._tokens: Array = np.zeros((0, 0), DTYPES[cache.token.dtype])
        self._total, self._last = np.zeros((), np.int32), np.zeros(0, np.int32)
        # An OrtValue of an array does not keep the array alive.
        self._bound: dict[str, Any] = {}
        self._bind(CACHE_TOTAL, self._total)

    def begin(self, states: Mapping[str, Array]) -> None:
        """See :meth:`mmedge.backends.Stepper.begin`."""
        # They are copied to buffers when it is known how many tokens come.
        self._buffers = {state.input: states[state.input] for state in self._cache.growing}
        self._length, self._capacity = next(iter(self._buffers.values())).shape[2], 0
        for state in self._cache.others:
            self._bind(state.input, states[state.input])

    def hold(self, tensors: Mapping[str, Any]) -> None:
        """See :meth:`mmedge.backends.Stepper.hold`."""
        for name, array in tensors.items():
            self._bind(name, array)
        self._tokens = tensors.get(self._cache.token.name, self._tokens)

    def run(self) -> dict[str, Array]:
        """See :meth:`mmedge.backends.Stepper.run`."""
        tokens, cache, binding = self._tokens, self._cache, self._binding
        rows, new = tokens.shape if tokens.ndim == 2 else (len(tokens), 1)
        if new > 1 and rows > 1 and self._length:
            return self._run_each()
        total = self._length + new
        if total > self._capacity:
            self._move(total)
        if len(self._last) != rows:
            self._last = np.zeros(rows, np.int32)
            self._bind(CACHE_LAST, self._last)
        self._total.fill(total)
        self._last.fill(total - 1)
        for name in self._fresh:
            binding.bind_output(name)
        self._run(binding)
        self._length = total
        arrays = [value.numpy() for value in binding.get_outputs()[: len(self._fresh)]]
        for state, array in zip(cache.others, arrays[len(cache.outputs) :], strict=True):
            self._bind(state.input, array)
        return dict(zip(cache.outputs, arrays, strict=False))

    def states(self) -> dict[str, Array]:
        """See :meth:`mmedge.backends.Stepper.states`; copies of what the buffers hold."""
        length = self._length
        states = {
            # A full buffer is not written to again.
            name: np.ascontiguousarray(buffer[:, :, :length])
            for name, buffer in self._buffers.items()
        }
        return {**states, **{state.input: self._bound[state.input] for state in self._cache.others}}

    def _run_each(self) -> dict[str, Array]:
        """Run token by token: the operator takes several only of one row, or at the beginning."""
        cache, tokens = self._cache, self._tokens
        held = {cache.token.name: tokens}
        if cache.position is not None:
            held[cache.position.name] = self._bound[cache.position.name]
        parts = []
        for index in range(tokens.shape[1]):
            self.hold({name: _one(array, index, tokens.ndim) for name, array in held.items()})
            parts.append(self.run())
        self.hold(held)
        return {
            name: np.concatenate([part[name] for part in parts], axis=1) if last.ndim == 3 else last
            for name, last in parts[-1].items()
        }

    def _move(self, total: int) -> None:
        """Put what there is so far into new buffers, for ``total`` places and more to come."""
        length = self._length
        self._capacity = self._cache.capacity(length, total)
        for state in self._cache.growing:
            old = self._buffers[state.input]
            buffer = np.empty((*old.shape[:2], self._capacity, old.shape[3]), old.dtype)
            buffer[:, :, :length] = old[:, :, :length]
            self._buffers[state.input] = buffer
            self._binding.bind_ortvalue_output(state.output, self._bind(state.input, buffer))

    def _bind(self, name: str, array: Array) -> Any:  # noqa: ANN401
        self._bound[name] = array
        value = self._value(array)
        self._binding.bind_ortvalue_input(name, value)
        return value


def _one(array: Array, index: int, rank: int) -> Array:
    """Of tokens or positions those of one token: [batch, new] or [new] is cut, [] goes on."""
    if not array.ndim:
        return array + np.asarray(index, array.dtype)
    cut = array[:, index : index + 1] if array.ndim == rank else array[index : index + 1]
    return np.ascontiguousarray(cut)
