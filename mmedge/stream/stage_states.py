"""What stages with state take beside their inputs, and what they give back, in a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.execution.state import FirstStates, call_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.bundle import Bundle
    from mmedge.spec import Array, Stage

__all__ = ["StageStates"]


class StageStates:
    """The states of some stages. It holds none of them, but what they begin with.

    Args:
        bundle: has the stages.
        stages: those that run.
    """

    def __init__(self, bundle: Bundle, stages: Sequence[Stage]) -> None:
        with_state = {state.stage for state in bundle.manifest.states}
        self._first = {s.name: FirstStates(bundle, s) for s in stages if s.name in with_state}
        #: Tensors that are kept as states, and are not to be handed to a caller who may write.
        self.outputs = {s.output for first in self._first.values() for s in first.states}

    def enter(
        self, stage: Stage, tensors: dict[str, Any], states: Mapping[str, Mapping[str, Array]]
    ) -> None:
        """Add to ``tensors`` what a stage takes of ``states``, or else its initial values.

        Raises:
            InputError: the state has another size than what the stage takes with it, or has grown
                beyond what it takes.
        """
        first, kept = self._first[stage.name], states.get(stage.name)
        own = {state.input for state in first.states}
        sizes = call_sizes((spec for spec in stage.inputs if spec.name not in own), tensors)
        if kept is None:
            tensors.update(first.make(sizes, tensors))
            return
        advice = "push values of one size, or reset the stream first"
        first.check(kept, sizes, source="the stream's state", advice=advice)
        tensors.update(kept)

    def leave(self, stage: Stage, tensors: Mapping[str, Any]) -> dict[str, Array]:
        """What the next run of a stage takes, by input.

        Raises:
            BackendError: a state is NaN somewhere, and all that came of it would be so.
        """
        return self._first[stage.name].leave(tensors)
