"""A loop of one call as its caller sees it: steps as they come, and what it gives in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from mmedge.closable import Closable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmedge.execution.call_options import StepRun
    from mmedge.execution.denoise import DenoiseStep
    from mmedge.execution.generate import GenerateStep
    from mmedge.execution.laps import Laps
    from mmedge.execution.state import State
    from mmedge.spec import Array

__all__ = ["LoopRun", "Owner"]


@dataclass(frozen=True, slots=True)
class Owner:
    """What a :class:`LoopRun` needs of the call that began it.

    Attributes:
        check_open: raises BackendError where the pipeline is closed.
        laps: of the call: the parts before the loop have ended.
        decoder: the stage that makes outputs of what the loop leaves; None: none does.
        outputs: outputs of the network that the call returns, too.
        states: states that stages before the loop leave.
        state: the caller's, which this call has acquired; None: none.
    """

    check_open: Callable[[], None]
    laps: Laps
    decoder: str | None = None
    outputs: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, Array] = field(default_factory=dict)
    state: State | None = None


class LoopRun(Closable):
    """The steps of one call, from :meth:`mmedge.Pipeline.iterate`. For one thread at a time.

    Iterate over it to get the steps as they come. :meth:`result` gives what there is. To leave
    early is to cancel: break out of the iteration, and call :meth:`close` or :meth:`result`, or use
    it as a context manager.
    """

    def __init__(self, run: StepRun, owner: Owner) -> None:
        self._run, self._owner = run, owner
        self._steps: Iterator[GenerateStep | DenoiseStep] = iter(run)
        self._open = True

    @property
    def finish(self) -> str | None:
        """Why it ended; None while there are steps to come."""
        return self._run.finish

    @property
    def laps(self) -> Laps:
        """Times of the parts before the loop; who takes the steps ends the parts that follow.

        Of no use where encoders ran at once.
        """
        return self._owner.laps

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GenerateStep | DenoiseStep:
        """Take the next step.

        Raises:
            BackendError: the engine failed, or the pipeline was closed.
        """
        try:
            if self._run.finish is None:
                self._owner.check_open()
            return next(self._steps)
        except StopIteration:
            self.close()
            raise
        except BaseException:
            self._give_back()
            raise

    def advance(self) -> bool:
        """Take the next step without looking at it; say whether there was one."""
        try:
            self._owner.check_open()
            return self._run.advance()
        except BaseException:
            self._give_back()
            raise

    def close(self) -> None:
        """Take no more steps. A State that the call was given holds what there is so far."""
        if not self._open:
            return
        self._run.cancel()
        try:
            if self._owner.state is not None:
                self._leave_state(self._owner.state)
        finally:
            self._give_back()

    def result(self) -> dict[str, Any]:
        """What the call gives; of the steps taken so far if there are more, which it cancels.

        Raises:
            InputError: a loop ``denoise`` was left before it had an estimate.
            TimeoutError: its deadline passed before it had one.
        """
        self.close()
        result = self._run.result()
        if self._owner.decoder is not None:
            self._owner.laps.end(self._owner.decoder)
        return {**result, **self._owner.outputs}

    def _leave_state(self, state: State) -> None:
        leave = getattr(self._run, "leave_state", None)
        if leave is not None:
            leave(self._owner.states)
        else:
            state.replace(self._owner.states, state.position + 1, 0, None)

    def _give_back(self) -> None:
        self._run.cancel()
        if self._open and self._owner.state is not None:
            self._owner.state.release()
        self._open = False

    def __del__(self) -> None:
        # One that was left without a word must not keep its State from others.
        if getattr(self, "_open", False):
            self._give_back()
