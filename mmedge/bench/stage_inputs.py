"""What the stages of one call begin with: inputs as they take them, and first states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.execution.inputs import Feeds
from mmedge.execution.state import FirstStates, call_sizes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmedge.bundle import Bundle
    from mmedge.spec import Array, Stage

__all__ = ["first_states", "stage_inputs"]


def stage_inputs(
    bundle: Bundle, stages: Iterable[Stage], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Every tensor that no stage makes, by name, for a call on the host.

    Args:
        bundle: has the stages.
        stages: of one plan.
        inputs: as for :meth:`mmedge.Pipeline.run`.

    Raises:
        InputError: as :meth:`mmedge.Pipeline.run`.
    """
    values = Feeds(bundle).prepare(inputs)
    return values | first_states(bundle, stages, values)


def first_states(
    bundle: Bundle, stages: Iterable[Stage], inputs: Mapping[str, Any]
) -> dict[str, Array]:
    """What the states of all ``stages`` begin with in a call, by the network's inputs."""
    sizes = call_sizes(bundle.manifest.inputs().values(), inputs)
    states: dict[str, Array] = {}
    for stage in stages:
        states.update(FirstStates(bundle, stage).make(sizes, inputs))
    return states
