"""Policies: which samples of a modality stand for it at a given time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from mmedge.constraints import allows, spans
from mmedge.errors import InputError
from mmedge.spec import Dimension

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmedge.constraints import Relations
    from mmedge.spec import Modality, TensorSpec

__all__ = ["Exact", "Hold", "Interpolate", "Latest", "Policy", "Window", "check_policy"]


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest sample, while it is not older than the manifest's ``max_age_ms``.

    ``wait_ms``: how long a trigger waits for the features of a newer sample that was there before
    it and is still being encoded, as of a prompt that just changed; then an older one is used, and
    the result's ``notes`` say so. 0: what is ready is used.
    """

    wait_ms: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _check_wait(self.wait_ms)


@dataclass(frozen=True, slots=True)
class Hold:
    """The newest sample, while it is not older than ``max_age_ms``; else as :class:`Latest`."""

    max_age_ms: float
    wait_ms: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _positive("max_age_ms", self.max_age_ms)
        _check_wait(self.wait_ms)


@dataclass(frozen=True, slots=True)
class Exact:
    """The sample whose stamp is nearest to the trigger's time, within ``tolerance_ms``.

    Of two that are equally near, the newer. The manifest's ``max_age_ms`` holds as well.
    ``wait_ms``: how long a trigger waits, from its arrival, for a sample within the tolerance; the
    first one ends it.
    """

    tolerance_ms: float
    wait_ms: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _positive("tolerance_ms", self.tolerance_ms, zero=True)
        _check_wait(self.wait_ms)


class Turns(NamedTuple):
    """Slices of one input's last axis that are no plain numbers: quaternions, and angles."""

    quaternions: tuple[tuple[int, int], ...] = ()
    angles: tuple[tuple[int, int], ...] = ()


#: Slices ``(start, stop)`` of the last axis; by input where a modality has several.
Slices = Sequence[tuple[int, int]] | Mapping[str, Sequence[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Interpolate:
    """The value at the trigger's time, between the two samples around it; float inputs only.

    Linear along the last axis, except for the slices ``(start, stop)`` of it that are named here: a
    tuple of them, or where the modality has several inputs, a mapping from each input to its tuple.
    A neighbor farther from the trigger's time than the maximum age is not used. Where only one is
    left it is held as it is, and so is the nearer of two with different shapes, and the result's
    ``notes`` say so: nothing is extrapolated. If the sample before the trigger's time was no longer
    kept, the modality is absent as ``history_too_short``.

    Attributes:
        quaternions: slices of length 4 that are slerped, the shorter way round, and normalized.
        angles: slices of angles in radians from -pi to pi, interpolated the shorter way round; the
            result is again from -pi to pi. Other values are an error of the modality.
        max_age_ms: None: the manifest's.
        wait_ms: how long a trigger waits, from its arrival, for a sample that is not before its
            time. Without it, a sensor that delivers in time is held and not interpolated.

    Raises:
        InputError: slices that are none, overlap, or are not of length 4 for a quaternion.
    """

    quaternions: Slices = ()
    max_age_ms: float | None = None
    angles: Slices = ()
    wait_ms: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _check_wait(self.wait_ms)
        if self.max_age_ms is not None:
            _positive("max_age_ms", self.max_age_ms)
        for start, stop in _all_slices("quaternions", self.quaternions):
            if stop - start != 4:
                raise InputError(f"a quaternion is 4 elements (start, stop), got ({start}, {stop})")
        _all_slices("angles", self.angles)

    def turns_of(self, inputs: Iterable[str]) -> dict[str, Turns]:
        """The slices by input, of a modality with these inputs; inputs without any are left out.

        Raises:
            InputError: slices of no input or of unknown ones, or slices that overlap.
        """
        names = tuple(inputs)
        quaternions = _by_input("quaternions", self.quaternions, names)
        angles = _by_input("angles", self.angles, names)
        turns = {}
        for name in names:
            turn = Turns(quaternions.get(name, ()), angles.get(name, ()))
            slices = sorted([*turn.quaternions, *turn.angles])
            for (_, stop), (start, _) in pairwise(slices):
                if start < stop:
                    raise InputError(
                        f"input {name!r}: slices of quaternions and angles overlap: "
                        f"{', '.join(map(str, slices))}"
                    )
            if slices:
                turns[name] = turn
        return turns


@dataclass(frozen=True, slots=True)
class Window:
    """The last ``length`` rows of the chunks that were pushed, anew every ``hop`` rows.

    For PCM and inertial data. A push brings a chunk of any number of rows along ``axis`` (None: the
    first dynamic axis after axis 0, else axis 1), stamped with the time of its last row. Windows
    end at multiples of ``hop`` rows, and one chunk may make several. No window joins rows between
    which others are missing: after a chunk that was dropped, and after a gap between two stamps,
    counting begins anew.

    Attributes:
        length: rows of a window.
        hop: rows from one window to the next.
        axis: see above.
        rate_hz: rows a second; None: the manifest's ``sample_rate_hz``. With it each row has a time
            of its own, which ages and triggers count from; without it a row's time is its chunk's
            stamp, and gaps are judged by the median of the last chunks' times.
        max_gap_ms: time that may be missing between two chunks before it is a gap; None: half of
            the time that the shorter of them takes, and at least 20 ms where no rate is stated.
        max_age_ms: oldest age of the oldest row; None: the manifest's.

    Raises:
        InputError: a number that cannot be.
    """

    length: int
    hop: int = 1
    axis: int | None = None
    rate_hz: float | None = None
    max_gap_ms: float | None = None
    max_age_ms: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _positive("length", self.length)
        _positive("hop", self.hop)
        if self.length != int(self.length) or self.hop != int(self.hop):
            raise InputError(
                f"length and hop are whole numbers of rows, got {self.length} and {self.hop}"
            )
        for name in ("rate_hz", "max_age_ms"):
            value = getattr(self, name)
            if value is not None:
                _positive(name, value)
        if self.max_gap_ms is not None:
            _positive("max_gap_ms", self.max_gap_ms, zero=True)

    def axis_of(self, spec: TensorSpec) -> int:
        """The axis of the rows in an input.

        Raises:
            InputError: the input has no such axis.
        """
        axis = self.axis
        if axis is None:
            dynamic = [i for i, size in enumerate(spec.shape) if i and isinstance(size, str)]
            axis = dynamic[0] if dynamic else 1
        if not 0 <= axis < len(spec.shape):
            raise InputError(f"a window along axis {axis} does not fit input {spec}; set its axis")
        return axis


Policy = Latest | Hold | Exact | Interpolate | Window


def check_policy(
    policy: Policy,
    modality: Modality,
    specs: Mapping[str, TensorSpec],
    relations: Relations,
    *,
    has_state: bool = False,
) -> None:
    """Raise InputError where ``policy`` cannot serve ``modality``.

    ``has_state``: its encoder has one, which takes every value once and in order.
    """
    if not isinstance(policy, Latest | Hold | Exact | Interpolate | Window):
        raise InputError(
            f"align: modality {modality.name!r}: expected a policy, such as Hold(300) of "
            f"mmedge.stream, got {policy!r}"
        )
    if has_state:
        _check_order(policy, modality)
    turns: Mapping[str, Turns] = {}
    if isinstance(policy, Interpolate):
        try:
            turns = policy.turns_of(modality.inputs)
        except InputError as error:
            raise InputError(f"modality {modality.name!r}: {error}") from error
    if isinstance(policy, Window):
        _check_span(policy, modality)
    for name in modality.inputs:
        spec = specs[name]
        where = f"modality {modality.name!r}, input {spec}"
        if isinstance(policy, Interpolate):
            if not spec.dtype.startswith("float"):
                raise InputError(f"{where}: only float inputs are interpolated; use Exact or Hold")
            last = spec.shape[-1] if spec.shape else 0
            least = relations.dimensions[last].min if isinstance(last, str) else last
            turn = turns.get(name, Turns())
            for start, stop in (*turn.quaternions, *turn.angles):
                if stop > least:
                    raise InputError(f"{where}: no elements ({start}, {stop}) on the last axis")
        elif isinstance(policy, Window):
            size = spec.shape[policy.axis_of(spec)]
            if isinstance(size, str):
                limit = relations.dimensions[size]
                fault = relations.fault({size: policy.length})
            else:
                limit, fault = Dimension(size, size, size), None
            if not allows(limit, policy.length):
                raise InputError(
                    f"{where}: takes {spans(limit)} rows, but the window's length is "
                    f"{policy.length}"
                )
            if fault:
                raise InputError(f"{where}: the window's length is {policy.length}: {fault}")


def _check_order(policy: Policy, modality: Modality) -> None:
    """Raise InputError where an encoder with state would not take each value once, in order."""
    where = f"modality {modality.name!r}: its encoder has a state, which takes each value once"
    if isinstance(policy, Exact | Interpolate):
        raise InputError(
            f"{where}; {type(policy).__name__} encodes at a trigger and not in order; use Latest "
            "or Hold"
        )
    if isinstance(policy, Window) and policy.hop != policy.length:
        rows = "again and again" if policy.hop < policy.length else "not at all"
        raise InputError(
            f"{where}; windows of {policy.length} rows every {policy.hop} rows would give it rows "
            f"{rows}; set hop={policy.length}"
        )


def _check_span(policy: Window, modality: Modality) -> None:
    """Raise InputError where rates contradict each other or every window would be too old."""
    bundle_rate, rate = modality.sample_rate_hz, policy.rate_hz or modality.sample_rate_hz
    if rate is None:
        return
    if bundle_rate is not None and rate != bundle_rate:
        raise InputError(
            f"modality {modality.name!r}: the window's rate_hz is {rate:g}, the bundle's "
            f"sample_rate_hz {bundle_rate:g}; leave rate_hz out"
        )
    limit = modality.max_age_ms if policy.max_age_ms is None else policy.max_age_ms
    span = (policy.length - 1) / rate * 1e3
    if limit is not None and span > limit:
        raise InputError(
            f"modality {modality.name!r}: the oldest row of a window of {policy.length} rows at "
            f"{rate:g} Hz is {span:g} ms older than its newest, but max_age_ms is {limit:g}; set "
            "Window(max_age_ms=) to what the oldest row may have"
        )


def _all_slices(what: str, slices: Slices) -> list[tuple[int, int]]:
    """All slices whatever input they are of, checked by themselves."""
    groups = slices.values() if isinstance(slices, Mapping) else (slices,)
    pairs: list[tuple[int, int]] = []
    for group in groups:
        for pair in group:
            whole = isinstance(pair, Sequence) and all(isinstance(n, int) for n in pair)
            if not whole or len(pair) != 2:
                raise InputError(
                    f"{what}: expected slices (start, stop) of whole numbers, got {pair!r}; one "
                    "slice is written ((0, 4),)"
                )
            if not 0 <= pair[0] < pair[1]:
                raise InputError(
                    f"{what}: a slice begins at 0 or later and is not empty, got {pair}"
                )
            pairs.append((pair[0], pair[1]))
    return pairs


def _by_input(
    what: str, slices: Slices, inputs: tuple[str, ...]
) -> dict[str, tuple[tuple[int, int], ...]]:
    if isinstance(slices, Mapping):
        for name in slices:
            if name not in inputs:
                raise InputError(f"{what}: unknown input {name!r}; it has {', '.join(inputs)}")
        return {name: tuple(group) for name, group in slices.items()}
    if slices and len(inputs) != 1:
        raise InputError(
            f"{what}: several inputs, {', '.join(inputs)}; say whose elements they are: "
            f"{what}={{{inputs[0]!r}: {tuple(slices)!r}}}"
        )
    return {inputs[0]: tuple(slices)} if slices else {}


def _check_wait(wait_ms: float) -> None:
    _positive("wait_ms", wait_ms, zero=True)
    if wait_ms == float("inf"):
        raise InputError("wait_ms must be finite, so that a lost sensor does not end all results")


def _positive(name: str, value: float, *, zero: bool = False) -> None:
    if not (value > 0 or (zero and value == 0)):
        raise InputError(f"{name} must be {'0 or more' if zero else 'above 0'}, got {value}")
