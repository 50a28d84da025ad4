"""A loop of one call as its caller sees it: steps as they come, and what it gives in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypedDict

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from mmedge.execution.denoise import DenoiseRun, DenoiseStep
    from mmedge.execution.generate import GenerateRun, GenerateStep
    from mmedge.execution.state import State
    from mmedge.spec import Array, Manifest

__all__ = ["CallOptions", "LoopRun", "Owner", "StartRun", "check_options", "deadline_of"]

#: Begins a loop on the tensors of a call, by name, and what stands for them.
StartRun = Callable[[Mapping[str, Any], object], "GenerateRun | DenoiseRun"]


class CallOptions(TypedDict, total=False):
    """Options of a call of a bundle with a loop or with state; :meth:`mmedge.Pipeline.run`."""

    state: State | None
    limit: int | None
    stop: Iterable[int] | None
    seed: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    noise: Array | None
    deadline_ms: float | None


#: Which options a bundle's loop takes, by its kind.
_BY_KIND = {
    "generate": (
        "state", "limit", "stop", "seed", "temperature", "top_k", "top_p", "deadline_ms",
    ),
    "denoise": ("state", "seed", "noise", "deadline_ms"),
}  # fmt: skip


def check_options(manifest: Manifest, options: Mapping[str, Any]) -> None:
    """Raise InputError for an option that this bundle does not take."""
    loop = manifest.loop
    names = _BY_KIND[loop.kind] if loop is not None else ("state",) if manifest.states else ()
    for name, value in options.items():
        if name not in names and value is not None:
            what = (
                f"a bundle with a loop {loop.kind!r}"
                if loop is not None
                else "a bundle without a loop"
                if manifest.states
                else "a bundle without a loop and without state"
            )
            raise InputError(
                f"option {name!r}: {what} takes {', '.join(names) or 'no options'}; leave it out"
            )


def deadline_of(deadline_ms: float | None) -> float:
    """The time of ``monotonic`` after which no run begins, for a call that begins now.

    Raises:
        InputError: no number of milliseconds from 0.
    """
    if deadline_ms is None:
        return inf
    if (
        isinstance(deadline_ms, bool)
        or not isinstance(deadline_ms, int | float)
        or not isfinite(deadline_ms)
        or deadline_ms < 0
    ):
        raise InputError(f"deadline_ms: expected milliseconds from 0, got {deadline_ms!r:.80}")
    return monotonic() + deadline_ms / 1000


@dataclass(frozen=True, slots=True)
class Owner:
    """What a :class:`LoopRun` needs of the call that began it.

    Attributes:
        check_open: raises BackendError where the pipeline is closed.
        outputs: outputs of the network that the call returns, too.
        states: states that stages before the loop leave.
        state: the caller's, which this call has acquired; None: none.
    """

    check_open: Callable[[], None]
    outputs: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, Array] = field(default_factory=dict)
    state: State | None = None


class LoopRun:
    """The steps of one call, from :meth:`mmedge.Pipeline.iterate`. For one thread at a time.

    Iterate over it to get the steps as they come. :meth:`result` gives what there is. To leave
    early is to cancel: break out of the iteration, and call :meth:`close` or :meth:`result`, or use
    it as a context manager.
    """

    def __init__(self, run: GenerateRun | DenoiseRun, owner: Owner) -> None:
        self._run, self._owner = run, owner
        self._steps: Iterator[GenerateStep | DenoiseStep] = iter(run)
        self._open = True

    @property
    def finish(self) -> str | None:
        """Why it ended; None while there are steps to come."""
        return self._run.finish

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
        return {**self._run.result(), **self._owner.outputs}

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # One that was left without a word must not keep its State from others.
        if getattr(self, "_open", False):
            self._give_back()
