"""A stage with state in ONNX Runtime: between two runs its states stay OrtValues.

They are never made NumPy arrays in between, which for a stage of many states takes longer than
choosing a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmedge.loop_spec import StateSpec
    from mmedge.spec import Array

__all__ = ["OrtStepper", "value_binding"]


class OrtStepper:
    """See :class:`mmedge.backends.Stepper`; on the CPU.

    Args:
        run: runs the session on names of outputs and values by input.
        outputs: names of the stage's.
        states: of the stage.
        inner: of :func:`value_binding`.
    """

    def __init__(
        self,
        run: Callable[[list[str], Mapping[str, Any]], Any],
        outputs: Sequence[str],
        states: Sequence[StateSpec],
        inner: Callable[[Any], Any],
    ) -> None:
        import onnxruntime as ort

        self._run, self._inner = run, inner
        self._value = ort.OrtValue.ortvalue_from_numpy
        self._states = tuple(state.input for state in states)
        new_states = {state.output for state in states}
        self._outputs = [name for name in outputs if name not in new_states]
        self._names = [*(state.output for state in states), *self._outputs]
        self._count = len(self._states)
        self._feeds: dict[str, Any] = {}
        # An OrtValue of an array does not keep the array alive.
        self._held: dict[str, Any] = {}
        self._begun: dict[str, Any] = {}

    def begin(self, states: Mapping[str, Array]) -> None:
        """See :meth:`mmedge.backends.Stepper.begin`."""
        self._begun = {name: self._value(states[name]) for name in self._states}
        self._feeds.update({name: self._inner(value) for name, value in self._begun.items()})

    def hold(self, tensors: Mapping[str, Any]) -> None:
        """See :meth:`mmedge.backends.Stepper.hold`."""
        for name, array in tensors.items():
            self._held[name] = value = self._value(array)
            self._feeds[name] = self._inner(value)

    def run(self) -> dict[str, Array]:
        """See :meth:`mmedge.backends.Stepper.run`."""
        feeds, count = self._feeds, self._count
        values = self._run(self._names, feeds)
        for name, value in zip(self._states, values, strict=False):
            feeds[name] = value
        if self._begun:
            self._begun = {}
        return {name: values[count + i].numpy() for i, name in enumerate(self._outputs)}

    def states(self) -> dict[str, Array]:
        """See :meth:`mmedge.backends.Stepper.states`; arrays over the OrtValues' own memory."""
        return {
            name: begun.numpy().copy()
            if (begun := self._begun.get(name)) is not None
            else self._feeds[name].numpy()
            for name in self._states
        }


def value_binding(session: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """What runs a session on values (names of outputs, feeds, run options), and makes one.

    A value is made of an ``OrtValue``. The public way makes an object around each value and takes
    it off again: of a step with 9 inputs and outputs on one core it took 45 us where this takes 15
    (both ways in turn in one process, ONNX Runtime 1.32). It is not public, so where there is no
    such thing this is the public one.
    """
    import onnxruntime as ort

    run = getattr(getattr(session, "_sess", None), "run_with_ort_values", None)
    inner = getattr(ort.OrtValue, "_get_c_value", None)
    if run is None or inner is None:
        return session.run_with_ort_values, _itself
    return lambda names, feeds, options: run(feeds, names, options), inner


def _itself(value: Any) -> Any:  # noqa: ANN401
    return value
