"""What stages hand to themselves: its first value, and its keeper between calls.

docs/reference/bundle.md ("State") says who keeps which state.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.constraints import allows, spans
from mmedge.errors import BackendError, InputError
from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mmedge.bundle import Bundle
    from mmedge.loop_spec import StateSpec
    from mmedge.spec import Array, Manifest, Stage, TensorSpec

__all__ = [
    "FirstStates",
    "State",
    "call_sizes",
    "keeps_state",
    "new_state",
]


class State:
    """What the stages of a pipeline hand to themselves, from call to call.

    :meth:`mmedge.Pipeline.state` makes it. A call that takes it leaves the new state in it; one
    that fails leaves it as it was. It belongs to one pipeline, and to one call at a time.
    """

    def __init__(self, owner: object) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._arrays: Mapping[str, Array] = {}
        self._pending: Array | None = None
        self._position = self._choices = 0

    @property
    def position(self) -> int:
        """Tokens that the stage of a loop has taken; without a loop, calls."""
        return self._position

    @property
    def choices(self) -> int:
        """Tokens that a loop has chosen."""
        return self._choices

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(array.nbytes for array in self._arrays.values())

    def tensors(self) -> dict[str, Array]:
        """Copies of the tensors by the inputs that take them; none before the first call."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def copy(self) -> State:
        """Another state of the same content. What happens to one does not change the other."""
        other = State(self._owner)
        with self._lock:
            other.replace(self._arrays, self._position, self._choices, self._pending)
        return other

    def reset(self) -> None:
        """Forget everything: the next call begins with the first value.

        Raises:
            InputError: a call uses it.
        """
        with self.use(self._owner):
            self.replace({}, 0, 0, None)

    @property
    def is_new(self) -> bool:
        """Whether no call has left anything in it."""
        return not self._position

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The tensors themselves, which nobody writes to."""
        return self._arrays

    @property
    def pending(self) -> Array | None:
        """The token of each row that was chosen last, which the stage has not taken yet."""
        return self._pending

    def replace(
        self, arrays: Mapping[str, Array], position: int, choices: int, pending: Array | None
    ) -> None:
        """Hold what a call leaves; ``arrays`` are not written to from now on."""
        self._arrays, self._pending = arrays, pending
        self._position, self._choices = position, choices

    def acquire(self, owner: object) -> None:
        """Take it for a call of a pipeline; :meth:`release` gives it back.

        Raises:
            InputError: it is of another pipeline, or another call uses it.
        """
        if owner is not self._owner:
            raise InputError(
                "this State belongs to another pipeline; make one with state() of the pipeline "
                "that you call"
            )
        if not self._lock.acquire(blocking=False):
            raise InputError(
                "this State is in use by another call, or by steps that were not closed; give "
                "each its own, such as state.copy()"
            )

    def release(self) -> None:
        """Let the next call have it."""
        self._lock.release()

    @contextmanager
    def use(self, owner: object) -> Iterator[None]:
        """As :meth:`acquire`, for a block."""
        self.acquire(owner)
        try:
            yield
        finally:
            self.release()

    def __repr__(self) -> str:
        return f"<State at {self._position}, {self.nbytes} bytes>"


def keeps_state(manifest: Manifest) -> bool:
    """Whether a state is there between calls: that of a loop ``denoise`` is of one call."""
    loop = manifest.loop
    in_call = loop.stage if loop is not None and loop.kind == "denoise" else None
    return any(state.stage != in_call for state in manifest.states)


def new_state(
    owner: object, manifest: Manifest, tensors: Mapping[str, Array] | None = None
) -> State:
    """A state for calls of a pipeline, with copies of ``tensors`` in it as after one call.

    Raises:
        InputError: the bundle keeps no state, or ``tensors`` are not its states, or it has a loop.
    """
    names = dict.fromkeys(state.input for state in manifest.states)
    if not keeps_state(manifest):
        name = manifest.name
        raise InputError(f"{name!r} keeps no state from call to call; call it without")
    state = State(owner)
    if tensors is None:
        return state
    if manifest.loops or tensors.keys() != names.keys():
        expected = "none, since the bundle has a loop" if manifest.loops else ", ".join(names)
        raise InputError(f"state: expected {expected}; got {', '.join(tensors) or 'none'}")
    specs = manifest.step_inputs()
    arrays = {name: np.array(tensors[name], order="C") for name in names}
    for name, array in arrays.items():
        spec = specs[name]
        if array.dtype != DTYPES[spec.dtype] or array.ndim != len(spec.shape):
            got = f"{array.dtype}{list(array.shape)}"
            raise InputError(f"state {name!r}: expected {spec}, got {got}")
    state.replace(arrays, 1, 0, None)
    return state


class FirstStates:
    """What the states of one stage begin with.

    Args:
        bundle: has the stage.
        stage: of it.

    Attributes:
        states: of the stage.
    """

    def __init__(self, bundle: Bundle, stage: Stage) -> None:
        manifest = bundle.manifest
        self.stage = stage
        self.states = tuple(state for state in manifest.states if state.stage == stage.name)
        specs = {spec.name: spec for spec in stage.inputs}
        self._specs = {state.input: specs[state.input] for state in self.states}
        self._dimensions = manifest.dimensions
        is_stored = any(state.initial == "stored" for state in self.states)
        # They lie beside the golden samples, which a load has no other need to read.
        self._stored = bundle.first_states() if is_stored else {}

    def make(self, sizes: Mapping[str, int], tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The first value of each state by its input.

        Args:
            sizes: of dynamic dimensions in this call.
            tensors: the network's outputs.

        Raises:
            InputError: a stored state, or an output, has not the sizes of this call.
        """
        states: dict[str, Array] = {}
        for state in self.states:
            spec = self._specs[state.input]
            shape = [
                size if isinstance(size, int) else sizes.get(size, self._dimensions[size].opt)
                for size in spec.shape
            ]
            if state.source is not None:
                states[state.input] = tensors[state.source]
                self._check(state, tensors[state.source], sizes, f"output {state.source!r}")
                continue
            if state.initial != "stored":
                if state.axis is not None:
                    shape[state.axis] = 0
                states[state.input] = np.zeros(shape, DTYPES[spec.dtype])
                continue
            stored = self._stored[state.input]
            for axis, size in enumerate(stored.shape):
                # Of a dimension that nothing in the call has, and of the axis that grows, the
                # stored size holds; else a size of 1 is repeated.
                if axis == state.axis or spec.shape[axis] not in sizes or size != 1:
                    shape[axis] = size
            fitting = np.ascontiguousarray(np.broadcast_to(stored, shape))
            self._check(state, fitting, sizes, "what is stored")
            states[state.input] = fitting
        return states

    def check(
        self,
        arrays: Mapping[str, Array],
        sizes: Mapping[str, int],
        *,
        source: str = "the State given",
        advice: str = "call with the same sizes, or reset() the State",
    ) -> None:
        """Raise InputError where states of an earlier call have not the sizes of this one."""
        for state in self.states:
            self._check(state, arrays[state.input], sizes, source, advice)

    def leave(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        """What the next run takes, by input, after one that gave ``tensors``.

        Raises:
            BackendError: a state is NaN somewhere, and all that came of it would be so.
        """
        for state in self.states:
            array = tensors[state.output]
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise BackendError(
                    f"stage {state.stage!r} made NaN of its state ({state.output!r}); the state "
                    "before is kept"
                )
        return {state.input: tensors[state.output] for state in self.states}

    def _check(
        self,
        state: StateSpec,
        array: Array,
        sizes: Mapping[str, int],
        source: str,
        advice: str = "call with its sizes",
    ) -> None:
        spec = self._specs[state.input]
        for axis, (size, length) in enumerate(zip(spec.shape, array.shape, strict=True)):
            if axis == state.axis and isinstance(size, str):
                if not allows(self._dimensions[size], length):
                    raise InputError(
                        f"state {state.input!r} of stage {state.stage!r}: {source} has grown to "
                        f"{length} along {size!r}, which takes {spans(self._dimensions[size])}; "
                        f"{advice}"
                    )
                continue
            expected = size if isinstance(size, int) else sizes.get(size, length)
            if length != expected:
                raise InputError(
                    f"state {state.input!r} of stage {state.stage!r}: {source} has size {length} "
                    f"along axis {axis} ({size!r}), this call has {expected}; {advice}"
                )


def call_sizes(specs: Iterable[TensorSpec], tensors: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the dynamic dimensions of those of ``specs`` that ``tensors`` has."""
    return {
        size: length
        for spec in specs
        if spec.name in tensors
        for size, length in zip(spec.shape, _shape(tensors[spec.name]), strict=True)
        if isinstance(size, str)
    }


def _shape(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Of an array, on the host or on a GPU."""
    if isinstance(value, np.ndarray):
        shape: tuple[int, ...] = value.shape
        return shape
    return tuple(value.__cuda_array_interface__["shape"])
