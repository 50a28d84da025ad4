"""What stages with state take beside their inputs, and what they give back, in a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.constraints import allows, spans
from mmedge.errors import BackendError, InputError
from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.loop_spec import StateSpec
    from mmedge.spec import Array, Manifest, Stage, TensorSpec

__all__ = ["StageStates"]


class StageStates:
    """The states of some stages. It holds none of them, but what they begin with.

    Args:
        manifest: of the bundle.
        stages: those that run.
        stored: what states that begin as ``stored`` begin with, by input
            (:meth:`mmedge.Bundle.first_states`).
    """

    def __init__(
        self, manifest: Manifest, stages: Sequence[Stage], stored: Mapping[str, Array]
    ) -> None:
        self._stored, self._dimensions = stored, manifest.dimensions
        self._states: dict[str, list[tuple[StateSpec, TensorSpec]]] = {}
        for stage in stages:
            specs = {spec.name: spec for spec in stage.inputs}
            states = [(s, specs[s.input]) for s in manifest.states if s.stage == stage.name]
            if states:
                self._states[stage.name] = states
        #: Tensors that are kept as states, and are not to be handed to a caller who may write.
        self.outputs = {state.output for states in self._states.values() for state, _ in states}

    def __contains__(self, stage: str) -> bool:
        """Whether a stage has a state."""
        return stage in self._states

    def enter(
        self, stage: Stage, tensors: dict[str, Any], states: Mapping[str, Mapping[str, Array]]
    ) -> None:
        """Add to ``tensors`` what a stage takes of ``states``, or else its initial values.

        Raises:
            InputError: the state has another size than what the stage takes with it, or has grown
                beyond what it takes.
        """
        own, kept = self._states[stage.name], states.get(stage.name)
        sizes = {
            size: length
            for spec in stage.inputs
            if spec.name in tensors and all(spec is not of_state for _, of_state in own)
            for size, length in zip(spec.shape, tensors[spec.name].shape, strict=True)
            if isinstance(size, str)
        }
        for state, spec in own:
            if kept is None:
                tensors[state.input] = self._initial(state, spec, sizes)
            else:
                tensors[state.input] = self._check(state, spec, kept[state.input], sizes)

    def leave(self, stage: Stage, tensors: Mapping[str, Any]) -> dict[str, Array]:
        """What the next run of a stage takes, by input.

        Raises:
            BackendError: a state is NaN somewhere, and all that came of it would be so.
        """
        states = {state.input: tensors[state.output] for state, _ in self._states[stage.name]}
        for state, _ in self._states[stage.name]:
            array = states[state.input]
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise BackendError(
                    f"stage {stage.name!r} made NaN of its state ({state.output!r}); the state "
                    "before is kept"
                )
        return states

    def _initial(self, state: StateSpec, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
        if state.initial == "stored":
            stored = self._stored[state.input]
            shape = [
                sizes.get(size, length) if isinstance(size, str) and length == 1 else length
                for size, length in zip(spec.shape, stored.shape, strict=True)
            ]
            if state.axis is not None:
                shape[state.axis] = stored.shape[state.axis]
            repeated = np.ascontiguousarray(np.broadcast_to(stored, shape))
            return self._check(state, spec, repeated, sizes)
        shape = [
            size if isinstance(size, int) else sizes.get(size, self._dimensions[size].opt)
            for size in spec.shape
        ]
        if state.axis is not None:  # it begins empty
            shape[state.axis] = 0
        return np.zeros(shape, DTYPES[spec.dtype])

    def _check(
        self, state: StateSpec, spec: TensorSpec, array: Array, sizes: Mapping[str, int]
    ) -> Array:
        for axis, (size, length) in enumerate(zip(spec.shape, array.shape, strict=True)):
            if isinstance(size, int):
                continue
            if axis == state.axis:
                if not allows(self._dimensions[size], length):
                    raise InputError(
                        f"the state {state.input!r} has grown to {length} along {size!r}, which "
                        f"takes {spans(self._dimensions[size])}; reset the stream"
                    )
            elif sizes.get(size, length) != length:
                raise InputError(
                    f"the state {state.input!r} has {size!r} {length}, and what came has "
                    f"{sizes[size]}; push values of one size, or reset the stream first"
                )
        return array
