"""Options of a call of a bundle with a loop or with state, and what they begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, isfinite
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from mmedge.errors import InputError
from mmedge.execution.state import keeps_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mmedge.execution.state import State
    from mmedge.spec import Array, Manifest

__all__ = ["CallOptions", "StartRun", "StepRun", "check_options", "deadline_of"]


class StepRun(Protocol):
    """One run of a loop, step by step."""

    @property
    def finish(self) -> str | None:
        """Why it ended; None while there are steps left."""

    def __iter__(self) -> Iterator[Any]:
        """Take the steps that are left."""

    def advance(self) -> bool:
        """Take the next step; say whether there was one."""

    def cancel(self) -> None:
        """Take no more steps."""

    def result(self) -> Mapping[str, Any]:
        """What the loop gives."""


#: Begins a loop on the tensors of a call, by name, and what stands for them.
StartRun = Callable[[Mapping[str, Any], object], StepRun]


class CallOptions(TypedDict, total=False):
    """Options of a call of a bundle with a loop or with state; :meth:`mmedge.Pipeline.run`."""

    state: State | None
    limit: int | None
    stop: Iterable[int] | None
    seed: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    forced: Array | None
    noise: Array | None
    deadline_ms: float | None


#: Which options a bundle's loop takes, by its kind.
_BY_KIND = {
    "generate": (
        "limit", "stop", "seed", "temperature", "top_k", "top_p", "forced", "deadline_ms",
    ),
    "denoise": ("seed", "noise", "deadline_ms"),
}  # fmt: skip


def check_options(manifest: Manifest, options: Mapping[str, Any]) -> None:
    """Raise InputError for an option that this bundle does not take."""
    loop = manifest.loop
    names = _BY_KIND[loop.kind] if loop is not None else ()
    if keeps_state(manifest):
        names = ("state", *names)
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
