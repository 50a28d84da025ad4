"""The backends that can run a stage, each a package of its own, and what they have in common.

:class:`Session` is the one seam for another engine: whatever satisfies it can be a stage of a
pipeline. :mod:`mmedge.backends.registry` says what a backend's package offers and lists them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.backends.placement import Placement
    from mmedge.loop_spec import StateSpec
    from mmedge.spec import Array, TensorSpec

__all__ = ["Attention", "Session", "SessionOptions", "Stepper", "SteppingSession", "check_threads"]


class SessionOptions(NamedTuple):
    """How a session uses the machine.

    ``threads``: most intra-op threads; None leaves the default. Where a network has several stages,
    one with little work uses fewer. ``kernels``: whether mmedge's own kernels take the place of the
    functions that a graph carries for them; None: where they were measured to be no slower.
    ``spin``: whether idle threads wait for the next run awake; None: those of a stage by itself do.
    ``run_timeout_s``: most seconds of one run of a stage, in ONNX Runtime alone; None: no limit.
    ``large_pages``: whether large pages are asked for the memory that a plan's sessions take; None:
    where their files are large (:mod:`mmedge.backends.large_pages`).
    ``placement``: cores and priority of the threads; None: as whoever starts them.
    """

    threads: int | None = None
    kernels: bool | None = None
    spin: bool | None = None
    run_timeout_s: float | None = None
    large_pages: bool | None = None
    placement: Placement | None = None


class Attention(NamedTuple):
    """What runs a stage's attention over segments.

    Attributes:
        nodes: how many such nodes the stage has.
        kernel: instruction set of the kernel that runs them; None where their bodies of standard
            operators do.
        reason: why there is no kernel; empty where there is one.
    """

    nodes: int
    kernel: str | None = None
    reason: str = ""

    def __str__(self) -> str:
        plural = "" if self.nodes == 1 else "s"
        by = f"kernel ({self.kernel})" if self.kernel else f"standard operators: {self.reason}"
        return f"{self.nodes} node{plural} by {by}"


class Session(Protocol):
    """One loaded stage."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`run` takes, in the graph's order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`run` returns, in the graph's order."""

    @property
    def attention(self) -> Attention | None:
        """What runs attention over segments; None where there is none in the stage."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run once.

        ``feeds`` maps every input's name to a C-contiguous array of the right dtype and shape, or
        to an object with ``__cuda_array_interface__`` where the stage runs on a GPU. Callers check
        values; a session may trust them. Raises BackendError when the engine fails.
        """

    def close(self) -> None:
        """Free what the session holds. May be called twice."""


class Stepper(Protocol):
    """A stage with state that is run step by step, for one caller.

    Between two runs the states stay where the backend has them. What it is given is read and never
    written to; what :meth:`states` gave is not written to by later runs.
    """

    def begin(self, states: Mapping[str, Array]) -> None:
        """Take these states, by their inputs, in the next run."""

    def hold(self, tensors: Mapping[str, Any]) -> None:
        """Take these inputs in every run from now on.

        They are read at each run: who writes to an array in between changes what the next one
        takes.
        """

    def run(self) -> dict[str, Array]:
        """Run once, keep the new states, and return the other outputs by name."""

    def states(self) -> dict[str, Array]:
        """The states as they are now, by their inputs; not to be written to."""


class SteppingSession(Session, Protocol):
    """A session that has a way of its own to keep states; others are run with arrays."""

    def stepper(self, states: Sequence[StateSpec]) -> Stepper | None:
        """For one caller; None where it has no such way on this processor."""


def check_threads(threads: object) -> None:
    """Raise ValueError unless ``threads`` is None or a whole number from 1: 0 is no default."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ValueError(f"threads must be a whole number from 1, or None; got {threads!r}")
