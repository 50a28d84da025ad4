"""Calls of a bundle: what a caller passes is checked, completed, and run, with its loop if any."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from mmedge.execution.call_options import CallOptions, check_options
from mmedge.execution.finite import FiniteInputs
from mmedge.execution.inputs import Feeds
from mmedge.execution.laps import Laps
from mmedge.execution.state import new_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bundle import Bundle
    from mmedge.execution.loaded_plan import LoadedPlan, RunEncoders
    from mmedge.execution.loop_run import LoopRun
    from mmedge.execution.state import State
    from mmedge.spec import Array

__all__ = ["Calls"]


class Calls:
    """What calls of a pipeline have in common, whichever plan they run.

    Args:
        bundle: open.
        on_gpu: whether inputs may lie on a GPU.
        allow_non_finite: whether NaN and infinity are passed on.
    """

    def __init__(self, bundle: Bundle, *, on_gpu: bool, allow_non_finite: bool) -> None:
        self._manifest = bundle.manifest
        self._feeds = Feeds(bundle, on_gpu=on_gpu)
        finite = FiniteInputs(bundle)
        self._finite = None if allow_non_finite or not finite.names else finite
        self._state_owner = object()
        self._takes_options = bool(self._manifest.loops or self._manifest.states)

    def take_options(self, inputs: dict[str, Any]) -> CallOptions:
        """The options among the keywords of a call, which are taken out of ``inputs``."""
        options: CallOptions = {}
        if self._takes_options:
            for name in CallOptions.__optional_keys__:
                if name in inputs and not self._feeds.takes(name):
                    options[name] = inputs.pop(name)  # type: ignore[literal-required]
        return options

    def prepare(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a caller passes, checked and completed, by the network's inputs.

        Raises:
            InputError: it does not fit.
        """
        values = self._feeds.prepare(inputs)
        if self._finite is not None:
            self._finite.check(values)
        return values

    def state(self, tensors: Mapping[str, Array] | None = None) -> State:
        """See :meth:`mmedge.Pipeline.state`."""
        return new_state(self._state_owner, self._manifest, tensors)

    def answer(
        self,
        loaded_plan: LoadedPlan,
        inputs: Mapping[str, Any],
        *,
        cached: bool,
        run_encoders: RunEncoders,
        options: CallOptions,
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Outputs of a call, and the nanoseconds of each part (:meth:`mmedge.Pipeline.timed`).

        Args:
            loaded_plan: that it runs.
            inputs: as the caller passed them.
            cached: whether features may come from the cache, and are put there.
            run_encoders: runs tasks by modality and returns their results.
            options: of the call.
        """
        laps = Laps(loaded_plan.parts)
        loop = self._manifest.loop
        if loop is not None:
            run = self.begin_loop(
                loaded_plan, inputs, laps, cached=cached, run_encoders=run_encoders, options=options
            )
            while run.advance():
                pass
            laps.end(loop.stage)
            outputs = run.result()
            laps.end(getattr(loop, "decoder", None) or "outputs")
            return outputs, laps.parts
        if options:
            check_options(self._manifest, options)
        loaded_plan.check_open()
        values = self.prepare(inputs)
        state = options.get("state")
        with nullcontext() if state is None else state.use(self._state_owner):
            outputs = loaded_plan.answer(
                values, laps, cached=cached, run_encoders=run_encoders, state=state
            )
        return outputs, laps.parts

    def begin_loop(
        self,
        loaded_plan: LoadedPlan,
        inputs: Mapping[str, Any],
        laps: Laps,
        *,
        cached: bool,
        run_encoders: RunEncoders,
        options: CallOptions,
    ) -> LoopRun:
        """Run what is before a loop, and begin it; the arguments are those of :meth:`answer`."""
        start = loaded_plan.starter(options)
        state = options.get("state")
        with ExitStack() as on_error:
            if state is not None:
                state.acquire(self._state_owner)
                on_error.callback(state.release)
            run = loaded_plan.begin_loop(
                self.prepare(inputs),
                laps,
                start,
                cached=cached,
                run_encoders=run_encoders,
                state=state,
            )
            on_error.pop_all()
        return run
