"""A stage with state in OpenVINO: a state is the tensor in which its infer request left it.

The next run takes that very tensor. Where shapes are dynamic, the request writes its outputs to
another place meanwhile, so that nothing is copied; where they are fixed, it has one place for each
output, and states are copied from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmedge.backends.openvino.compiled import Compiled, Shapes
    from mmedge.loop_spec import StateSpec
    from mmedge.spec import Array

__all__ = ["OpenVinoStepper"]


class OpenVinoStepper:
    """See :class:`mmedge.backends.Stepper`; each has an infer request of its own.

    Args:
        form: what is compiled for some shapes of the inputs.
        check: raises BackendError where inputs, in order, hold what OpenVINO does not take; it is
            given None for a state that a run left.
        inputs: names of the stage's, in the model's order.
        states: of the stage.
        where: names stage and variant in errors.
    """

    def __init__(
        self,
        form: Callable[[Shapes], Compiled],
        check: Callable[[Sequence[Array | None]], None],
        inputs: Sequence[str],
        states: Sequence[StateSpec],
        where: str,
    ) -> None:
        self._form, self._check, self._where = form, check, where
        self._index = {name: index for index, name in enumerate(inputs)}
        self._states = {state.output: state.input for state in states}
        #: What an input lies on, which nothing else may keep alive; None for a state that lies in
        #: the request.
        self._arrays: dict[str, Array | None] = dict.fromkeys(inputs)
        #: Inputs of which the request does not know yet.
        self._new: set[str] = set()
        self._compiled: Compiled | None = None
        self._request: Any = None

    def begin(self, states: Mapping[str, Array]) -> None:
        """See :meth:`mmedge.backends.Stepper.begin`."""
        self.hold({name: states[name] for name in self._states.values()})

    def hold(self, tensors: Mapping[str, Any]) -> None:
        """See :meth:`mmedge.backends.Stepper.hold`."""
        self._arrays.update(tensors)
        self._new.update(tensors)

    def run(self) -> dict[str, Array]:
        """See :meth:`mmedge.backends.Stepper.run`."""
        self._check(tuple(self._arrays.values()))
        try:
            return self._run()
        except Exception as error:  # the binding raises several unrelated types
            raise BackendError(f"{self._where}: OpenVINO failed: {error}") from error

    def _run(self) -> dict[str, Array]:
        compiled = self._enter() if self._new or self._compiled is None else self._compiled
        request = self._request
        request.infer(share_outputs=True)
        outputs: dict[str, Array] = {}
        for name, index in compiled.outputs:
            tensor = request.get_output_tensor(index)
            state = self._states.get(name)
            if state is None:
                # The next run writes where this one's output lies.
                outputs[name] = np.array(tensor.data)
                continue
            array = np.array(tensor.data) if index in compiled.fixed_outputs else None
            self._arrays[state] = array
            request.set_input_tensor(
                self._index[state], tensor if array is None else compiled.tensor(array)
            )
        return outputs

    def _enter(self) -> Compiled:
        """Tell the request of new arrays; of all, and by another request, if the form changes."""
        shapes = tuple(
            self._left(name).shape if array is None else array.shape
            for name, array in self._arrays.items()
        )
        compiled = self._form(shapes)
        if compiled is not self._compiled:
            # What the request before has goes with it.
            self._arrays.update(self.states())
            self._new = set(self._arrays)
            self._compiled, self._request = compiled, compiled.request()
        for name in self._new:
            array = self._arrays[name]
            if array is not None:
                self._request.set_input_tensor(self._index[name], compiled.tensor(array))
        self._new = set()
        return compiled

    def _left(self, state: str) -> Array:
        """The state that the last run left, where the request has it."""
        array: Array = self._request.get_input_tensor(self._index[state]).data
        return array

    def states(self) -> dict[str, Array]:
        """See :meth:`mmedge.backends.Stepper.states`."""
        return {
            name: self._left(name).copy() if (array := self._arrays[name]) is None else array
            for name in self._states.values()
        }
