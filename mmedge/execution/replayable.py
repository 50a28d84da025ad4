"""What :mod:`mmedge.execution.verify` replays golden samples through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bundle import Bundle
    from mmedge.execution.call_options import CallOptions
    from mmedge.execution.loop_run import LoopRun
    from mmedge.execution.state import State
    from mmedge.spec import Array, PlanName, Variant

__all__ = ["Replayable", "Runnable"]


class Runnable(Protocol):
    """What runs whole calls."""

    def run(
        self, inputs: Mapping[str, Any], *, cached: bool = True, **options: Unpack[CallOptions]
    ) -> dict[str, Any]:
        """Outputs of the whole network."""

    def iterate(
        self, inputs: Mapping[str, Any], *, cached: bool = True, **options: Unpack[CallOptions]
    ) -> LoopRun:
        """Steps of the network's loop."""


class Replayable(Runnable, Protocol):
    """What can be verified: a :class:`mmedge.Pipeline`."""

    bundle: Bundle
    variant: Variant

    @property
    def plan(self) -> PlanName:
        """The plan that is loaded."""

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs of one stage alone."""

    def state(self, tensors: Mapping[str, Array] | None = None) -> State:
        """What stages with state begin with."""
