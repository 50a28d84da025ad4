"""States and loops of a network that libmmedge has loaded, for Python's pipeline."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

from mmedge.errors import InputError
from mmedge.execution.denoise import DenoiseStep
from mmedge.execution.generate import GenerateStep
from mmedge.execution.native_handles import refuse
from mmedge.execution.native_text import LoopTexts
from mmedge.execution.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmedge.execution.native_handles import Handles
    from mmedge.execution.native_text import NativeTexts
    from mmedge.native import runtime
    from mmedge.native.loop_calls import NativeStep
    from mmedge.spec import Array, Manifest

__all__ = ["NativeRun", "NativeState"]


class NativeState(State):
    """A state that libmmedge keeps.

    Args:
        handle: of it.
        owner: handles of the network that it belongs to.
    """

    def __init__(self, handle: runtime.NativeState, owner: Handles) -> None:
        super().__init__(owner)
        self.handle, self._handles = handle, owner
        finalize(self, _close_state, handle, owner).atexit = False

    def is_of(self, owner: Handles) -> bool:
        """Whether calls of these handles may have it."""
        return owner is self._handles

    @contextmanager
    def taken(self) -> Iterator[None]:
        """As :meth:`mmedge.State.use`, for a call of its own handles."""
        with self.use(self._handles):
            yield

    @property
    def position(self) -> int:
        """Tokens that the stage of a loop has taken; without a loop, calls."""
        return self.handle.position

    @property
    def choices(self) -> int:
        """Refused."""
        refuse("count the choices of a State")

    @property
    def nbytes(self) -> int:
        """Refused."""
        refuse("count the bytes of a State")

    def tensors(self) -> dict[str, Array]:
        """Refused."""
        refuse("give the tensors of a State")

    def copy(self) -> NativeState:
        """Another state of the same content. What happens to one does not change the other."""
        with self.taken():
            return NativeState(self.handle.copy(), self._handles)

    def reset(self) -> None:
        """Forget everything: the next call begins with the first value.

        Raises:
            InputError: a call uses it.
        """
        with self.taken():
            self.handle.reset()

    def __repr__(self) -> str:
        return f"<State of libmmedge at {self.position}>"


class NativeRun:
    """One run of a loop, which :class:`mmedge.execution.loop_run.LoopRun` shows to the caller.

    Args:
        handles: of the network.
        manifest: of the bundle; it has a loop.
        arrays: by input.
        state: what it begins with and leaves its state in; None: anew.
        cached: whether encoders may be left out.
        options: of the call, without ``state``.
        texts: where the bundle makes text of the loop's tokens.

    Raises:
        InputError: an input, an option or the state does not fit.
        BackendError: the engine failed, or the pipeline is closed.
    """

    def __init__(
        self,
        handles: Handles,
        manifest: Manifest,
        arrays: Mapping[str, Array],
        state: NativeState | None,
        *,
        cached: bool,
        options: Mapping[str, Any],
        texts: NativeTexts | None,
    ) -> None:
        self._handle: runtime.NativePipeline | None = None
        loop = manifest.loop
        if loop is None:
            raise ValueError("this bundle has no loop")
        self._is_generating = loop.kind == "generate"
        stages = {stage.name: stage for stage in manifest.loop_stages()}
        decoder = getattr(loop, "decoder", None)
        #: How many outputs the loop itself gives; those of the network follow.
        self._own = 2 if self._is_generating else len(stages[decoder].outputs) if decoder else 1
        self._steps = 0 if self._is_generating else len(getattr(loop, "schedule", ()))
        self._handles, self._state, self._texts = handles, state, texts
        self._row_texts: LoopTexts | None = None
        self._active: Array | None = None  # after the last step, and which rows ended with it
        self._ended: Array | None = None
        self._taken = 0
        self._has_ended = self._is_canceled = False
        self._result: dict[str, Any] | None = None
        if state is not None:
            state.acquire(handles)
        try:
            handle = handles.take()
            self._handle = handle
            kept = None if state is None else state.handle
            handle.begin(arrays, cached=cached, state=kept, **options)
        except BaseException:
            self._release()
            if state is not None:
                state.release()
            raise

    @property
    def finish(self) -> str | None:
        """Why it ended; None while there are steps left."""
        if self._is_canceled:
            return "cancel"
        if not self._has_ended:
            return None
        if not self._is_generating:
            return "schedule" if self._taken == self._steps else "deadline"
        rows: list[str] = self.result()["finish"]
        return next((why for why in rows if why != "stop"), "stop")

    def __iter__(self) -> Iterator[GenerateStep | DenoiseStep]:
        """Take the steps that are left."""
        while (step := self._advance()) is not None:
            yield self._shown(step)

    def advance(self) -> bool:
        """Take the next step; say whether there was one."""
        return self._advance() is not None

    def _advance(self) -> NativeStep | None:
        if self._is_canceled or self._has_ended or self._handle is None:
            return None
        step = self._handle.step()
        self._has_ended = step is None or step.done
        self._taken += step is not None
        if step is not None and step.active is not None:
            before = np.ones_like(step.active) if self._active is None else self._active
            self._active = step.active
            self._ended = np.logical_and(before, np.logical_not(step.active))
        return step

    def _shown(self, step: NativeStep) -> GenerateStep | DenoiseStep:
        if step.latent is not None:
            return DenoiseStep(step.index, step.latent)
        tokens, active, scores = step.tokens, step.active, step.scores
        if tokens is None or active is None or scores is None or self._ended is None:
            raise ValueError("a step of a loop 'generate' has tokens and scores")
        pieces = ("",) * len(tokens)
        if self._texts is not None:
            self._row_texts = self._row_texts or LoopTexts(self._texts, len(tokens))
            pieces = self._row_texts.add(tokens, active, self._ended, last=step.done)
        return GenerateStep(step.index, tokens, active, pieces, scores)

    def cancel(self) -> None:
        """Take no more steps; a State stays as it was unless :meth:`leave_state` follows."""
        self._is_canceled = self._is_canceled or not self._has_ended

    def leave_state(self, _states: Mapping[str, Array]) -> None:
        """Have libmmedge leave what there is so far in the State, as at the end of a loop."""
        if self._handle is not None:
            self._handle.cancel()

    def result(self) -> dict[str, Any]:
        """What the loop gives, then the network's outputs.

        Raises:
            InputError: a loop ``denoise`` was left before it had an estimate.
            TimeoutError: its deadline passed before it had one.
        """
        if self._result is None:
            if self._handle is None:
                raise InputError("the loop failed, and has no result")
            outputs, rows = self._handle.result()
            finish: list[str] | str = rows[0]
            if self._is_generating:
                finish = rows
                count = len(outputs["tokens"])
                if count != len(rows):
                    finish = self._handle.result(count)[1]
            values = list(outputs.items())
            own, others = dict(values[: self._own]), dict(values[self._own :])
            made: dict[str, Any] = {**own, "finish": finish}
            if self._texts is not None:
                lengths = own["lengths"].tolist()
                rows_of_tokens = zip(own["tokens"].tolist(), lengths, strict=True)
                made["text"] = self._texts.decode(row[:length] for row, length in rows_of_tokens)
            self._result = {**made, **others}
            self._has_ended = self._has_ended or self._is_canceled
            self._release()
        return dict(self._result)

    def _release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            # One that has begun and not ended holds the State until it is gone.
            self._handles.give_back(handle, reuse=self._state is None or self._has_ended)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._release()


def _close_state(handle: runtime.NativeState, owner: Handles) -> None:
    if not owner.is_disowned:
        handle.close()
