"""Runs a network on what made live results, beside the stream, and holds its outputs against them.

It is given everything that a live result was made of, so that both networks see the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.execution.finite import is_finite
from mmedge.spec import Tolerance
from mmedge.tolerance import Difference, difference

if TYPE_CHECKING:
    from mmedge.stream.background import Background
    from mmedge.stream.choose import Active
    from mmedge.stream.compute import Encoded, Fused, States
    from mmedge.stream.network import Network
    from mmedge.stream.sample import Item

__all__ = [
    "Comparisons",
    "Limit",
    "Live",
    "Metric",
    "OutputLimits",
    "Shadow",
    "ShadowRun",
    "find_non_finite",
]

#: What outputs may differ by: a share of the scale, or a tolerance; for all or by output.
Limit = float | Tolerance | Mapping[str, "float | Tolerance"]
#: How far the second outputs lie from the first, both by name; smaller is better.
Metric = Callable[[Mapping[str, Any], Mapping[str, Any]], float]

#: Measures a difference without a limit.
MEASURE = Tolerance(1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Live:
    """What a live result was made of.

    ``asked`` names the modalities that it waited for. ``states`` are those that its encoders took,
    and ``fusion_states`` those of the fusion's stages.
    """

    items: Mapping[str, Item | None]
    sizes: Mapping[str, int]
    states: Mapping[str, States]
    fusion_states: States
    outputs: Mapping[str, Any]
    asked: frozenset[str]

    @staticmethod
    def of(active: Active, outcome: Fused) -> Live:
        """A copy of what a fusion took and gave; a reader of the result may write to its arrays."""
        items = active.items
        return Live(
            items,
            dict(active.sizes),
            {name: i.turn.states for name, i in items.items() if i is not None and i.turn},
            active.states,
            {
                name: value.copy() if isinstance(value, np.ndarray) else value
                for name, value in (outcome.outputs or {}).items()
            },
            frozenset(active.requests),
        )


@dataclass(slots=True)
class ShadowRun:
    """Outcome of one run.

    Attributes:
        ran: the stages that ran.
        fault: what is wrong with it; empty: nothing.
        seconds: how long the result would have waited for its encoders and the fusion.
        differences: from the live outputs, by output.
        metric: what the user's metric says; None: there is none.
    """

    ran: list[str] = field(default_factory=list)
    fault: str = ""
    seconds: float = 0.0
    differences: dict[str, Difference] = field(default_factory=dict)
    metric: float | None = None


class Shadow:
    """One network in the shadow of another. :meth:`run` is called by one thread at a time.

    Args:
        network: runs in the shadow.
        background: tells how long stages took.
        limits: of the outputs.
        metric: None: there is none.
        with_states: whether it takes the states of the live network.
        finds_non_finite: whether NaN and infinity in its outputs are a fault.

    Attributes:
        features: by modality, the item that was encoded last, and its outcome.
    """

    def __init__(
        self,
        network: Network,
        background: Background,
        limits: OutputLimits,
        metric: Metric | None,
        *,
        with_states: bool,
        finds_non_finite: bool,
    ) -> None:
        self.network, self._background = network, background
        self._limits, self._metric = limits, metric
        self._with_states, self._finds_non_finite = with_states, finds_non_finite
        self.features: dict[str, tuple[Item, Encoded]] = {}

    def run(self, live: Live) -> ShadowRun:
        """Compute the same result, and compare."""
        run = ShadowRun()
        compute = self.network.compute
        items: dict[str, Item | None] = {}
        for name, item in live.items.items():
            if item is None or not compute.has_encoder(name):
                items[name] = item
                continue
            encoded, seconds = self._encode(name, item, live, run)
            if encoded.features is None:
                run.fault = f"its encoder of {name!r} failed: {encoded.message}"
                return run
            items[name] = replace(item, features=encoded.features)
            if name in live.asked:
                run.seconds = max(run.seconds, seconds)
        begin = perf_counter()
        before = len(run.ran)
        states = live.fusion_states if self._with_states else {}
        outcome = compute.fuse(items, live.sizes, states)
        run.ran += outcome.ran
        if outcome.loop is not None:
            step_stages, end_stages = compute.step_stages
            while compute.step(outcome):
                pass
            run.ran += step_stages * outcome.steps + end_stages
            compute.end(outcome)
        elapsed = perf_counter() - begin
        run.seconds += self._background.seconds(self.network, run.ran[before:], elapsed)
        if outcome.outputs is None:
            run.fault = f"its fusion failed: {outcome.message}"
            return run
        self._compare(live.outputs, outcome.outputs, run)
        return run

    def _encode(self, name: str, item: Item, live: Live, run: ShadowRun) -> tuple[Encoded, float]:
        """The features of an item, and the seconds that they took or had taken."""
        held = self.features.get(name)
        if held is not None and held[0] is item:
            return held[1], 0.0
        states = live.states.get(name, {}) if self._with_states else {}
        begin = perf_counter()
        encoded = self.network.compute.encode_aside(name, item, states)
        seconds = self._background.seconds(self.network, encoded.ran, perf_counter() - begin)
        run.ran += encoded.ran
        if encoded.features is not None:
            self.features[name] = item, encoded
        return encoded, seconds

    def _compare(self, live: Mapping[str, Any], new: Mapping[str, Any], run: ShadowRun) -> None:
        if self._finds_non_finite:
            run.fault = find_non_finite(new, live)
        unknown = self._limits.names.keys() - live.keys()
        if unknown and not run.fault:
            run.fault = f"limit: no output {min(unknown)!r}; there are {', '.join(live)}"
        for name, value in live.items():
            tolerance = self._limits.of(name)
            worst = _difference(new.get(name), value, tolerance or MEASURE)
            run.differences[name] = worst
            if tolerance is not None and not worst.passes and not run.fault:
                run.fault = (
                    f"output {name!r} {worst}: {worst.limit_used:.3g} times what the limit "
                    f"rtol={tolerance.rtol:g}, atol={tolerance.atol:g} allows"
                )
        if self._metric is None:
            return
        try:
            run.metric = float(self._metric(live, new))
        except Exception as error:  # noqa: BLE001 - of the user's function; the swap tells it
            run.fault = run.fault or f"the metric raised {type(error).__name__}: {error}"


def find_non_finite(outputs: Mapping[str, Any], reference: Mapping[str, Any] | None = None) -> str:
    """Which output has NaN or infinity, in words; empty: none.

    An output is left out that has such values in ``reference``, too.
    """
    for name, value in outputs.items():
        if _is_finite(value):
            continue
        if reference is None or _is_finite(reference.get(name)):
            return f"output {name!r} has NaN or infinity"
    return ""


def _is_finite(value: object) -> bool:
    return not (isinstance(value, np.ndarray) and value.dtype.kind == "f") or is_finite(value)


def _difference(new: object, live: object, tolerance: Tolerance) -> Difference:
    if isinstance(new, np.ndarray) and isinstance(live, np.ndarray):
        return difference(new, live, tolerance)
    if new == live:
        return Difference(0.0, 0.0, 0.0)
    infinity = float("inf")
    return Difference(infinity, infinity, infinity, reason=f"is {new!r:.60}, and live {live!r:.60}")


class OutputLimits:
    """What each output may differ by.

    Args:
        limit: see :data:`Limit`; None: nothing is held to any.
        outputs: names that ``limit`` may have; None: they are known once there are outputs.

    Raises:
        InputError: an unknown output, or what is no tolerance and no number from 0.
    """

    def __init__(self, limit: Any, outputs: tuple[str, ...] | None) -> None:  # noqa: ANN401
        self._is_set = limit is not None
        self._all: Tolerance | None = None
        self.names: dict[str, Tolerance] = {}
        if not isinstance(limit, Mapping):
            self._all = None if limit is None else _read_tolerance("all outputs", limit)
            return
        for name, value in limit.items():
            if outputs is not None and name not in outputs:
                raise InputError(f"limit: unknown output {name!r}; there are {', '.join(outputs)}")
            self.names[name] = _read_tolerance(f"output {name!r}", value)

    def __bool__(self) -> bool:
        return self._is_set

    def of(self, name: str) -> Tolerance | None:
        """The limit of an output; None: it has none."""
        return self.names.get(name, self._all)


def _read_tolerance(what: str, value: Any) -> Tolerance:  # noqa: ANN401
    if isinstance(value, Tolerance):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < np.inf:
        return Tolerance(float(value), 0.0)
    raise InputError(
        f"limit of {what}: expected a share of the scale from 0, such as 0.01, or an "
        f"mmedge.spec.Tolerance, got {value!r:.60}"
    )


class Comparisons:
    """What a number of shadow runs came to.

    Args:
        metric_limit: most that the mean of the metric may be; None: there is no metric.
        deadline: seconds from a trigger to its result; None: none.
    """

    def __init__(self, metric_limit: float | None, deadline: float | None) -> None:
        self._metric_limit, self._deadline = metric_limit, deadline
        self.differences: dict[str, Difference] = {}
        self.seconds: list[float] = []
        self._metrics: list[float] = []

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def metric(self) -> float | None:
        """The mean; None: there is none."""
        return fmean(self._metrics) if self._metrics else None

    @property
    def median(self) -> float | None:
        """The middle of the seconds that results would have taken; None before the first."""
        return sorted(self.seconds)[len(self.seconds) // 2] if self.seconds else None

    def add(self, run: ShadowRun) -> None:
        """Take in a run."""
        self.seconds.append(run.seconds)
        for name, one in run.differences.items():
            worst = self.differences.get(name)
            if worst is None or one.limit_used > worst.limit_used:
                self.differences[name] = one
        if run.metric is not None:
            self._metrics.append(run.metric)

    def fault(self) -> str:
        """Why the network is not good enough, of all runs together; empty: it is."""
        metric, median = self.metric, self.median
        limit = self._metric_limit
        if metric is not None and limit is not None and not metric <= limit:
            return (
                f"the metric is {metric:.6g} in the mean of {len(self._metrics)} results, and "
                f"{limit:.6g} is allowed"
            )
        if median is not None and self._deadline is not None and median > self._deadline:
            return (
                f"half of its results would take more than {median:.6g} s for encoders and fusion "
                f"alone, and the deadline is {self._deadline:.6g} s"
            )
        return ""
