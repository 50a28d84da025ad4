"""How a stage with state is run step by step: in its session's own way, or with arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.backends import Session, Stepper
    from mmedge.loop_spec import StateSpec
    from mmedge.spec import Array

__all__ = ["ArrayStepper", "make_stepper"]


class ArrayStepper:
    """Runs a stage with state in any session, whose states are arrays between two runs.

    See :class:`mmedge.backends.Stepper`.

    Args:
        session: of the stage.
        states: of the stage.
    """

    def __init__(self, session: Session, states: Sequence[StateSpec]) -> None:
        self._session = session
        self._states = {state.output: state.input for state in states}
        self._feeds: dict[str, Any] = {}

    def begin(self, states: Mapping[str, Array]) -> None:
        """See :meth:`mmedge.backends.Stepper.begin`."""
        self._feeds.update({name: states[name] for name in self._states.values()})

    def hold(self, tensors: Mapping[str, Any]) -> None:
        """See :meth:`mmedge.backends.Stepper.hold`."""
        self._feeds.update(tensors)

    def run(self) -> dict[str, Array]:
        """See :meth:`mmedge.backends.Stepper.run`."""
        outputs = self._session.run(self._feeds)
        for name, state in self._states.items():
            self._feeds[state] = outputs.pop(name)
        return outputs

    def states(self) -> dict[str, Array]:
        """See :meth:`mmedge.backends.Stepper.states`."""
        return {name: self._feeds[name] for name in self._states.values()}


def make_stepper(session: Session, states: Sequence[StateSpec]) -> Stepper:
    """The session's own way to keep states, where it has one; else arrays.

    Args:
        session: of the stage.
        states: of the stage.
    """
    make = getattr(session, "stepper", None)  # see `mmedge.backends.SteppingSession`
    stepper: Stepper | None = None if make is None else make(states)
    return ArrayStepper(session, states) if stepper is None else stepper
