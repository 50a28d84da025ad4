"""What a backend's profiler says of the operators of a stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bundle import Bundle
    from mmedge.spec import Stage, Variant

__all__ = ["BETWEEN", "NOT_PROFILED", "Operator", "Profile", "ProfileRequest", "Span"]

#: What no profile of single operators sees.
BETWEEN = (
    "Between the operators' sum and the stage's time lie this rounding, what passes between two "
    "operators, and the call from Python; profiling itself lengthens a run."
)


@dataclass(frozen=True, slots=True)
class Operator:
    """All nodes of one operator in one module of one stage.

    Attributes:
        stage: name of the stage.
        module: qualified name in the original network, without a root that all modules share;
            :data:`mmedge.backends.module_scopes.NETWORK` or ``FUSED`` where there is none.
        op: operator, as the backend runs it.
        calls: nodes of this kind that run in one call.
        ms: milliseconds of them together in one call, median over the calls.
        share: of the time of all operators of the stage, 0 to 1.
    """

    stage: str
    module: str
    op: str
    calls: int
    ms: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """What a backend's profiler is to run.

    Attributes:
        bundle: has the stage.
        variant: of it.
        stage: what to run.
        feeds: what enters the stage, by name.
        threads: as for :func:`mmedge.load`.
        untimed: runs before those that are profiled.
        calls: profiled runs.
    """

    bundle: Bundle
    variant: Variant
    stage: Stage
    feeds: Mapping[str, Any]
    threads: int | None
    untimed: int
    calls: int


@dataclass(frozen=True, slots=True)
class Span:
    """One node of one profiled run: when it began after the run's start, and how long it took."""

    name: str
    op: str
    module: str
    start_us: float
    us: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What operators took.

    Attributes:
        rows: largest time first; empty where the backend has no such profile.
        stages: by stage ``profiled_ms`` (the medians of its operators together) and ``stage_ms``
            (the stage without a profiler, median over as many calls before these and as many
            after).
        unseen: what the profile does not see, or why there is none, in words.
        spans: by stage the nodes of one profiled call, that of the median total, in order.
    """

    rows: tuple[Operator, ...]
    stages: Mapping[str, Mapping[str, float]]
    unseen: str
    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)

    def report_keys(self) -> dict[str, Any]:
        """What a report says of it: the keys ``operators`` and ``operators_unexplained``."""
        return {
            "operators": [asdict(row) for row in self.rows],
            "operators_unexplained": {"words": self.unseen, "stages": dict(self.stages)},
        }


#: Of a run that was to go without.
NOT_PROFILED = Profile((), {}, "not asked for")
