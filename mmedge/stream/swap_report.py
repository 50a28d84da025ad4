"""What a swap came to: :class:`SwapReport`, and the options that it was asked for with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from mmedge.errors import InputError
from mmedge.stream.clock import read_seconds
from mmedge.stream.shadow import OutputLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.stream.network_id import NetworkId
    from mmedge.stream.shadow import Metric
    from mmedge.tolerance import Difference

__all__ = ["SwapOptions", "SwapReport"]


@dataclass(frozen=True, slots=True)
class SwapReport:
    """Snapshot of a swap (:meth:`mmedge.stream.Stream.swap`).

    Attributes:
        state: ``loading`` (and verifying), ``shadow``, ``handover`` (what the stream holds is
            encoded anew), ``probation``; or how it ended: ``confirmed``, ``refused``,
            ``rolled_back`` or ``canceled``.
        reason: why it was refused, rolled back or canceled; else empty.
        old: the network that ran before.
        new: the other; None until it is loaded.
        compared: shadow runs that were compared with a live result.
        skipped: live results that were not, because a shadow run was still at work.
        not_comparable: live results that were not, because they have no outputs, or repeat others,
            or their loop was ended before its end.
        differences: for each output that is compared, the largest difference.
        metric: mean of the metric; None: there is none.
        shadow_seconds: half of the shadow runs took no longer than this for the encoders that a
            result waits for and the fusion; None: there were none.
        waited_for: modalities of which nothing was ready at the switch, so that results had to wait
            for their encoder, or do without.
        results: results in probation.
        misses: of them, those that were late, or repeated others in place of that.
        misses_allowed: most that they may be, by the share before the switch.
        not_checked: in words, what nothing was checked for.
    """

    state: str
    reason: str
    old: NetworkId
    new: NetworkId | None = None
    compared: int = 0
    skipped: int = 0
    not_comparable: int = 0
    differences: Mapping[str, Difference] = field(default_factory=dict)
    metric: float | None = None
    shadow_seconds: float | None = None
    waited_for: tuple[str, ...] = ()
    results: int = 0
    misses: int = 0
    misses_allowed: float = 0.0
    not_checked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SwapOptions:
    """How a swap was asked for, checked; see :meth:`mmedge.stream.Stream.swap`."""

    shadow: int
    limits: OutputLimits
    metric: Metric | None
    metric_limit: float | None
    probation: int
    shadow_old: bool
    carry_states: bool | None
    close_old: bool
    patience: float

    @staticmethod
    def read(
        outputs: tuple[str, ...] | None,
        *,
        shadow: Any,  # noqa: ANN401
        limit: Any,  # noqa: ANN401
        metric: Metric | None,
        probation: Any,  # noqa: ANN401
        shadow_old: bool,
        carry_states: bool | None,
        close_old: bool,
        patience_ms: Any,  # noqa: ANN401
    ) -> SwapOptions:
        """Check what a caller passed.

        ``outputs`` names those that a limit may be for; None: they are known once there are some.

        Raises:
            InputError: a number that cannot be meant, or options that do not go together.
        """
        for name, value in (("shadow", shadow), ("probation", probation)):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or value < 0:
                raise InputError(f"swap: {name} must be a number of results from 0, got {value!r}")
        patience = read_seconds(patience_ms, "swap: patience_ms (milliseconds)")
        if patience < 0:
            raise InputError(f"swap: patience_ms must be 0 or more, got {patience_ms}")
        if not shadow and not (shadow_old and probation) and not (limit is None and metric is None):
            raise InputError("swap: shadow=0 compares nothing; leave limit and metric out")
        metric_limit = None
        if metric is not None:
            if isinstance(limit, bool) or not isinstance(limit, SupportsFloat):
                raise InputError(
                    "swap: with a metric, limit is the number that its mean must not exceed, such "
                    f"as limit=0.2; got {limit!r}"
                )
            metric_limit = read_seconds(limit, "swap: limit (of the mean of the metric)")
            limit = None
        if shadow_old and not (probation and (limit is not None or metric is not None)):
            raise InputError("swap: shadow_old needs probation, and a limit or a metric")
        limits = OutputLimits(limit, outputs)
        return SwapOptions(
            int(shadow), limits, metric, metric_limit, int(probation),
            shadow_old, carry_states, close_old, patience / 1000.0,
        )  # fmt: skip

    def not_checked(self, *, is_verified: bool, has_deadline: bool) -> tuple[str, ...]:
        """What nothing is checked for, a line each."""
        lines = []
        if not is_verified:
            lines.append("golden samples were not replayed (allow_unverified)")
        if not self.shadow:
            lines.append("no live result was computed in the shadow (shadow=0)")
        elif not self.limits and self.metric is None:
            lines.append("outputs were measured against the live ones, and held to no limit")
        if not has_deadline:
            lines.append("the stream has no deadline: no latency was checked")
        if not self.probation:
            lines.append("no result was watched after the switch (probation=0)")
        return tuple(lines)
