"""The loop ``denoise`` of a loaded plan: what does not change from call to call."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from mmedge.execution.denoise import DenoiseRun
from mmedge.execution.state import FirstStates, call_sizes
from mmedge.execution.steppers import make_stepper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.backends import Session
    from mmedge.bundle import Bundle
    from mmedge.execution.call_options import CallOptions, StartRun
    from mmedge.execution.plan import Run
    from mmedge.spec import Array

__all__ = ["LatentLoop"]


class LatentLoop:
    """Begins runs of the loop.

    Args:
        bundle: its loop is of the kind ``denoise``.
        sessions: by stage; those of the loop are among them.
    """

    def __init__(self, bundle: Bundle, sessions: Mapping[str, Session]) -> None:
        self._manifest = manifest = bundle.manifest
        self._sessions = {stage.name: sessions[stage.name] for stage in manifest.loop_stages()}
        step = manifest.loop_stages()[0]
        self._first = FirstStates(bundle, step)
        self._specs = (*step.inputs, *manifest.inputs().values())
        loop = manifest.loop
        has_guidance = loop is not None and loop.kind == "denoise" and loop.guidance is not None
        self._unconditional = bundle.unconditional() if has_guidance else {}

    def starter(self, options: CallOptions, deadline: float) -> StartRun:
        """Begins a run with the options of a call.

        Args:
            options: of the call.
            deadline: time of ``monotonic`` after which no step begins.
        """
        return partial(self._start, options, deadline)

    def _start(
        self, options: CallOptions, deadline: float, tensors: Mapping[str, Any], _key: object
    ) -> DenoiseRun:
        runs: dict[str, Run] = {name: session.run for name, session in self._sessions.items()}
        run_unconditional = None
        if self._first.states:
            runs[self._first.stage.name] = self._stepping(tensors)
            run_unconditional = self._stepping(tensors)
        return DenoiseRun(
            self._manifest,
            runs,
            tensors,
            unconditional=self._unconditional,
            run_unconditional=run_unconditional,
            seed=options.get("seed", 0),
            noise=options.get("noise"),
            deadline=None if deadline == inf else deadline,
        )

    def _stepping(self, tensors: Mapping[str, Array]) -> Run:
        """Runs the step with states of its own."""
        first = self._first
        stepper = make_stepper(self._sessions[first.stage.name], first.states)
        stepper.begin(first.make(call_sizes(self._specs, tensors), tensors))

        def run(feeds: Mapping[str, Any]) -> dict[str, Array]:
            stepper.hold(feeds)
            return stepper.run()

        return run
