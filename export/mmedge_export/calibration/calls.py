"""Calls of a bundle whose stages are run by whatever one hands over, with its states and its loop.

States and loops are those of the runtime (:mod:`mmedge.execution`): what is observed and judged is
what a pipeline would compute with the same stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, cast

from mmedge.errors import ExportError, InputError
from mmedge.execution.call_options import check_options
from mmedge.execution.generate import TokenLoop
from mmedge.execution.inputs import Feeds
from mmedge.execution.laps import Laps
from mmedge.execution.latent_loop import LatentLoop
from mmedge.execution.loop_run import LoopRun, Owner
from mmedge.execution.plan import StagePlan
from mmedge.execution.state import FirstStates, call_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.backends import Session
    from mmedge.bundle import Bundle
    from mmedge.execution.call_options import CallOptions
    from mmedge.execution.plan import Run
    from mmedge.spec import Array, Manifest, Stage

__all__ = ["BundleCalls", "all_stages"]


def all_stages(manifest: Manifest) -> tuple[Stage, ...]:
    """The stages that calls run: those of the plan that is judged, then those of the loop."""
    return (*manifest.in_order(), *manifest.loop_stages())


class _Session:
    """What runs a stage of a loop; it has no way of its own to keep states."""

    def __init__(self, run: Run) -> None:
        self.run = run


class BundleCalls:
    """The calls. For one thread.

    Args:
        bundle: open.
        runs: how each stage is run.
        stages: of the plan, those that are run; None: all of it.

    Attributes:
        feeds: what makes the inputs of the stages of what a caller passes.
        keeps_state: whether stages without a loop hand something to themselves.
    """

    def __init__(
        self, bundle: Bundle, runs: Mapping[str, Run], stages: Sequence[Stage] | None = None
    ) -> None:
        self._manifest = manifest = bundle.manifest
        names = None if stages is None else {stage.name for stage in stages}
        stages = [s for s in manifest.in_order() if names is None or s.name in names]
        self.feeds = Feeds(bundle)
        self._plan = StagePlan(stages, runs)
        with_state = {state.stage for state in manifest.states}
        self._first = [FirstStates(bundle, s) for s in stages if s.name in with_state]
        self._specs = tuple(manifest.inputs().values())
        loop = manifest.loop
        self.keeps_state = bool(self._first) and loop is None
        self._decoder = loop.decoder if loop is not None and loop.kind == "denoise" else None
        self._loop: TokenLoop | LatentLoop | None = None
        if loop is not None:
            loop_runs = {stage.name: _Session(runs[stage.name]) for stage in manifest.loop_stages()}
            sessions = cast("Mapping[str, Session]", loop_runs)
            self._loop = (
                TokenLoop(bundle, sessions, None, "")
                if loop.kind == "generate"
                else LatentLoop(bundle, sessions)
            )

    def compute(
        self, values: dict[str, Any], states: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Run the stages of the plan and add what they give to ``values``.

        Args:
            values: every input by name, from :attr:`feeds`.
            states: what the call before left. None, or what does not fit the sizes of this call:
                the stages begin anew.

        Returns:
            The states that the call leaves.
        """
        for first in self._first:
            sizes = call_sizes((*first.stage.inputs, *self._specs), values)
            values.update(first.make(sizes, {}))
            if states:
                try:
                    first.check(states, sizes)
                except InputError:
                    continue
                values.update({each.input: states[each.input] for each in first.states})
        self._plan.advance(values)
        left: dict[str, Array] = {}
        for first in self._first:
            left.update(first.leave(values))
        return left

    def begin(self, values: Mapping[str, Any], **options: Unpack[CallOptions]) -> LoopRun:
        """Begin the loop on what :meth:`compute` left in ``values``.

        Args:
            values: by name.
            options: of the call.

        Raises:
            ExportError: there is no loop.
            InputError: an option does not fit.
        """
        if self._loop is None:
            raise ExportError(f"bundle {self._manifest.name!r} has no loop")
        check_options(self._manifest, options)
        parts = () if self._decoder is None else (self._decoder,)
        outputs = {name: values[name] for name in self._manifest.returned_outputs()}
        owner = Owner(lambda: None, Laps(parts), self._decoder, outputs)
        return LoopRun(self._loop.starter(options, float("inf"))(values, None), owner)

    def finish(self, values: Mapping[str, Any], options: CallOptions) -> dict[str, Any]:
        """Run the loop to its end; what the call gives. As :meth:`begin`."""
        run = self.begin(values, **options)
        while run.finish is None:
            run.advance()
        return run.result()
