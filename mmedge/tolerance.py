"""How far an output lies from what it should be, and whether that is near enough.

The one rule of parity, verification, engines and the gate; docs/reference/bundle.md states it for
other readers of a bundle. What an element may differ by is a share of a *scale*, and one scale for
a tensor would be wrong twice: a mask that is filled with -1e9 would excuse everything beside it,
and boxes in pixels would excuse class scores in the same tensor. So fill values leave the scale,
and channels of another magnitude have a scale of their own.

Longer than most modules: it is one rule, whose parts mean nothing without each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmedge.errors import AccuracyError
from mmedge.spec import Tolerance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mmedge.spec import Array

    Floats = NDArray[np.float64]

__all__ = ["FLOOR", "Difference", "OutputComparison", "SampleErrors", "difference"]

#: A share of the tensor's scale that every channel is granted: float32's rounding (2**-24), 16
#: times. A small channel that is the difference of large numbers has that much noise. Rows are
#: computed apart and get nothing of each other's.
FLOOR = 1e-6

#: Scales of channels that are this many times apart are of another magnitude.
APART = 10.0

#: Elements that say so, at the least: of fewer, all may be small by chance.
EVIDENCE = 4

#: A fill value is this many times larger than all that is none; ``FAR`` where its value alone does
#: not give it away, and it is the same in both tensors bit for bit.
OUTLYING, FAR = 10.0, 1e3

#: Smallest fill value with one or two digits (-50, -100, 255), and smallest power of ten that has
#: been added to a value: -1e4 + 3.2 fills as well.
_ROUND, _POWER = 50.0, 1e3

#: Largest numbers of float16, bfloat16, float32 and float64, which masks are filled with.
_EXTREMES = (65504.0, 3.3895313892515355e38, 3.4028234663852886e38, 1.7976931348623157e308)


# Tuples and a plain class: dataclasses would take most of this module's import, at every load.


class Difference(NamedTuple):
    """Worst difference of one output from its reference over what was compared.

    Attributes:
        max_abs: ``max |got - golden|``; of float16 beyond the step that rounding may be.
        max_rel: largest difference as a share of the scale of its place; infinite where that is 0.
        limit_used: largest share of the tolerance that an element takes (pass: <= 1).
        scale: what the difference that takes most of its limit is held against.
        where: what has that scale, in words; empty for the whole tensor.
        reason: set where figures do not tell what is wrong.
    """

    max_abs: float
    max_rel: float
    limit_used: float
    scale: float = 0.0
    where: str = ""
    reason: str = ""

    @property
    def passes(self) -> bool:
        """Whether it lies within the tolerance. NaN never does."""
        return self.limit_used <= 1.0

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        if not np.isfinite(self.max_rel):
            return f"differs by up to {self.max_abs:.3g} where it should be zero throughout"
        of = f"the scale of {self.where}, {self.scale:.3g}" if self.where else "its largest value"
        return f"differs by up to {self.max_abs:.3g}, {self.max_rel:.2g} of {of}"


def difference(got: Array, golden: Array, tolerance: Tolerance) -> Difference:
    """How far ``got`` lies from ``golden``, both one output of one run.

    Integers and booleans must be equal. Another shape or dtype, or NaN or Inf where the golden
    value has another, is infinitely far.
    """
    if got.dtype == golden.dtype and np.array_equal(got, golden):
        return Difference(0.0, 0.0, 0.0)  # as most second runs, and most operators on their own
    comparison = OutputComparison(tolerance)
    comparison.add(got, golden)
    return comparison.result()


class SampleErrors(NamedTuple):
    """One sample of a :class:`OutputComparison`.

    Attributes:
        max_rel: largest difference as a share of its scale, channels left out.
        errors: largest difference of each channel, by axis.
    """

    max_rel: float
    errors: Mapping[int, Floats]


class OutputComparison:
    """One output held against its reference over any number of samples.

    The scale of a channel is that of all samples together: that a channel is small is no accident
    of one.

    Args:
        tolerance: what is allowed.
    """

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._worst = Difference(0.0, 0.0, 0.0)
        self._max_abs = 0.0
        self._size = 0.0
        self._least = (0.0, 0.0)
        self._channels: dict[int, _Slices] = {}
        self._rank: int | None = None

    def add(self, got: Array, golden: Array) -> SampleErrors:
        """Compare one sample; what is returned is for :meth:`relative`."""
        worst = self._fault(got, golden)
        sample_errors = SampleErrors(0.0 if worst is None else worst.max_rel, {})
        if worst is None:
            worst, errors = self._floats(got, golden)
            sample_errors = SampleErrors(worst.max_rel, errors)
            rtol, atol = self._least
            if np.isfinite(worst.max_rel):
                self._least = max(rtol, worst.max_rel), atol
            else:
                self._least = rtol, max(atol, worst.max_abs)
        self._worst = _worse(self._worst, worst)
        self._max_abs = max(self._max_abs, worst.max_abs)
        return sample_errors

    def result(self) -> Difference:
        """The worst of all that was added."""
        worst = self._worst
        if worst.reason:
            return worst
        for axis, slices in self._axes():
            worst = _worse(worst, self._slices(slices, slices.errors, _name(axis, self._rank)))
        # One row of figures: the largest of each, and the place that takes most of its limit.
        return Difference(
            self._max_abs, worst.max_rel, worst.limit_used, worst.scale, worst.where, worst.reason
        )

    def relative(self, sample_errors: SampleErrors) -> float:
        """Largest difference of one sample as a share of its scale, by the scales of all."""
        largest = sample_errors.max_rel
        for axis, slices in self._axes():
            if axis in sample_errors.errors:
                shares = _over(sample_errors.errors[axis], slices.scales())
                largest = max(largest, float(shares.max()))
        return largest

    def least(self) -> Tolerance:
        """The smallest tolerance that holds all that was added.

        The share is what the whole tensor's scale needs. Channels of another magnitude that need
        more get it as an absolute difference, which is little beside that scale: a share as wide as
        a channel that is lost needs would hold nothing else to anything.

        Raises:
            AccuracyError: no tolerance holds it: another shape or dtype, other integers, or NaN or
                infinity where there is none.
        """
        worst = self._worst
        if worst.reason:
            raise AccuracyError(worst.reason)
        rtol, atol = self._least
        for _axis, slices in self._axes():
            limits = np.maximum(rtol * slices.scales(), min(FLOOR, rtol) * self._size)
            atol = max(atol, float(np.max(slices.errors - limits)))
        return Tolerance(rtol, atol)

    def _axes(self) -> list[tuple[int, _Slices]]:
        return [(axis, slices) for axis, slices in self._channels.items() if slices.fixed]

    def _fault(self, got: Array, golden: Array) -> Difference | None:
        """What is wrong or right without a tolerance; None where floats are to be compared."""
        if got.shape != golden.shape or got.dtype != golden.dtype:
            reason = (
                f"is {got.dtype} {list(got.shape)}, expected {golden.dtype} {list(golden.shape)}"
            )
            return Difference(np.inf, np.inf, np.inf, reason=reason)
        if got.size == 0:
            return Difference(0.0, 0.0, 0.0)
        if np.issubdtype(golden.dtype, np.floating):
            finite = np.isfinite(golden)
            if finite.all() and np.isfinite(got).all():
                return None
            special = ~finite
            if np.array_equal(got[special], golden[special], equal_nan=True) and (
                np.isfinite(got[~special]).all()
            ):
                return None
            return Difference(
                np.inf,
                np.inf,
                np.inf,
                reason="has NaN or infinities where the reference has not, or the other way round",
            )
        wrong = int(np.count_nonzero(got != golden))
        if not wrong:
            return Difference(0.0, 0.0, 0.0)
        a, b = got.astype(np.float64), golden.astype(np.float64)
        # Beyond 2**53 float64 cannot tell two integers apart, but they differ by one at least.
        far, size = max(float(np.max(np.abs(a - b))), 1.0), float(np.max(np.abs(b)))
        reason = f"differs in {wrong} of {got.size} elements"
        return Difference(far, far / size if size else np.inf, np.inf, size, reason=reason)

    def _floats(self, got: Array, golden: Array) -> tuple[Difference, dict[int, Floats]]:
        """The worst without channels, and the largest error of each channel by axis."""
        finite = np.isfinite(golden)
        whole = bool(finite.all())
        b = golden.astype(np.float64) if whole else np.where(finite, golden, 0).astype(np.float64)
        a = got.astype(np.float64) if whole else np.where(finite, got, 0).astype(np.float64)
        with np.errstate(over="ignore"):
            errors = np.abs(a - b)
        if golden.dtype == np.float16 and self._tolerance.rtol:
            # Numbers a hair apart may be rounded to neighbors, which lie up to 2**-10 apart.
            apart = np.spacing(np.abs(golden if whole else np.where(finite, golden, 0)))
            errors = np.maximum(errors - np.nan_to_num(apart.astype(np.float64), posinf=32.0), 0.0)
        sizes = np.abs(b)
        fill = _fills(sizes, got == golden)
        worst = Difference(0.0, 0.0, 0.0)
        if fill is not None:
            at = errors[fill]
            if at.any():
                scale = sizes[fill]
                shares = at / scale
                limits = self._tolerance.atol + self._tolerance.rtol * scale
                place = int(np.argmax(_over(at, limits)))
                worst = Difference(
                    float(at.max()), float(shares.max()), float(_over(at, limits)[place]),
                    float(scale[place]), "its fill values",
                )  # fmt: skip
            errors, sizes = np.where(fill, 0.0, errors), np.where(fill, 0.0, sizes)
            b = np.where(fill, 0.0, b)
        size, far = float(sizes.max()), float(errors.max())
        self._size = max(self._size, size)
        limit = self._tolerance.atol + self._tolerance.rtol * size
        worst = _worse(
            worst,
            Difference(far, _share(far, size), _share(far, limit), size),
        )
        if self._rank not in (None, golden.ndim):
            self._channels.clear()
        self._rank = golden.ndim
        channels = {}
        for axis in _channel_axes(golden.ndim):
            slices = _Slices.of(axis, errors, sizes, b)
            channels[axis] = slices.errors
            old = self._channels.get(axis)
            self._channels[axis] = slices if old is None else old.merge(slices)
        if golden.ndim > 1 and golden.shape[0] > 1 and far > 0.0:
            rows = _Slices.of(0, errors, sizes, b)
            worst = _worse(worst, self._slices(rows, rows.errors, "row", size=0.0))
        return worst, channels

    def _slices(
        self, slices: _Slices, errors: Floats, what: str, *, size: float | None = None
    ) -> Difference:
        """The slice that takes most of its limit."""
        if not errors.any():
            return Difference(0.0, 0.0, 0.0)
        scales = slices.scales()
        least = min(FLOOR, self._tolerance.rtol) * (self._size if size is None else size)
        limits = self._tolerance.atol + np.maximum(self._tolerance.rtol * scales, least)
        shares = _over(errors, limits)
        place = int(np.argmax(shares))
        where = f"{what} {place}" if scales[place] < slices.sizes.max() else ""
        return Difference(
            float(errors.max()),
            float(_over(errors, scales).max()),
            float(shares[place]),
            float(scales[place]),
            where,
        )


class _Slices:
    """Of every slice along one axis: largest error, largest size, smallest value, and some sizes.

    ``distinct`` holds up to :data:`EVIDENCE` sizes of each slice, no two alike and none 0, and NaN
    where there are fewer: rows that are repeated to another batch size say nothing new. ``fixed``
    is False once samples had other numbers of slices: those are no channels.
    """

    __slots__ = ("_scales", "distinct", "errors", "fixed", "least", "sizes")

    def __init__(
        self, errors: Floats, sizes: Floats, least: Floats, distinct: Floats, *, fixed: bool = True
    ) -> None:
        self.errors, self.sizes, self.least = errors, sizes, least
        self.distinct, self.fixed = distinct, fixed
        self._scales: Floats | None = None

    @classmethod
    def of(cls, axis: int, errors: Floats, sizes: Floats, values: Floats) -> _Slices:
        others = tuple(i for i in range(sizes.ndim) if i != axis)
        largest = sizes.max(others)
        if largest.min() * APART <= largest.max():
            flat = np.moveaxis(sizes, axis, 0).reshape(len(largest), -1)
            places = np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], 2 * EVIDENCE))
            distinct = _distinct(flat[:, places.astype(int)])
        else:
            distinct = np.full((len(largest), EVIDENCE), np.nan)
        return cls(errors.max(others), largest, values.min(others), distinct)

    def merge(self, other: _Slices) -> _Slices:
        if not self.fixed or self.sizes.shape != other.sizes.shape:
            return _Slices(other.errors, other.sizes, other.least, other.distinct, fixed=False)
        distinct = self.distinct
        if np.isnan(distinct[:, -1]).any() and not np.isnan(other.distinct[:, 0]).all():
            distinct = _distinct(np.concatenate((distinct, other.distinct), 1))
        return _Slices(
            np.maximum(self.errors, other.errors),
            np.maximum(self.sizes, other.sizes),
            np.minimum(self.least, other.least),
            distinct,
        )

    def scales(self) -> Floats:
        """The scale of every slice.

        Slices in order of size fall into groups where one is :data:`APART` times smaller than the
        one before; the scale of each is its group's largest. Two groups are one where what is
        below the gap is of fewer than :data:`EVIDENCE` sizes, or where all holds nothing but
        shares, from 0 to 1: a class that is never likely is no smaller a thing than one that is.
        A slice that is nearly zero throughout says nothing of its scale, and has the smallest.
        """
        if self._scales is None:
            self._scales = self._find_scales()
        return self._scales

    def _find_scales(self) -> Floats:
        sizes = self.sizes
        largest = float(sizes.max())
        is_counted = sizes > FLOOR * largest
        count = int(np.count_nonzero(is_counted))
        if count < 2 or float(np.min(sizes, where=is_counted, initial=largest)) * APART > largest:
            return np.full(sizes.shape, largest)
        order = np.argsort(-sizes, kind="stable")
        sorted_sizes = sizes[order]
        below = np.cumsum(np.count_nonzero(self.distinct[order][:count] > 0, 1)[::-1])[::-1]
        share = (self.least >= 0.0) & (sizes <= 1.0)
        shares = np.cumprod(share[order][:count][::-1])[::-1]  # all from here on
        is_gap = sorted_sizes[1:count] * APART <= sorted_sizes[: count - 1]
        scales, all_shares = np.full_like(sorted_sizes, largest), bool(shares[0])
        for place in np.flatnonzero(is_gap & (below[1:] >= EVIDENCE)) + 1:
            if not all_shares:
                scales[place:], all_shares = sorted_sizes[place], bool(shares[place])
        result = np.empty_like(scales)
        result[order] = scales
        return result


def _distinct(sizes: Floats) -> Floats:
    """Up to :data:`EVIDENCE` sizes of each slice that differ and are not 0, then NaN."""
    sorted_sizes = np.sort(sizes, 1)
    sorted_sizes[:, 1:][sorted_sizes[:, 1:] == sorted_sizes[:, :-1]] = np.nan
    sorted_sizes[sorted_sizes == 0.0] = np.nan
    sorted_sizes.sort(1)
    distinct = np.full((len(sizes), EVIDENCE), np.nan)
    count = min(EVIDENCE, sorted_sizes.shape[1])
    distinct[:, :count] = sorted_sizes[:, :count]
    return distinct


def _channel_axes(rank: int) -> tuple[int, ...]:
    """The axes along which magnitudes may differ by meaning: the last, and the one after batch."""
    if rank == 0:
        return ()
    return (rank - 1,) if rank < 3 else (1, rank - 1)


def _name(axis: int, rank: int | None) -> str:
    return "channel" if rank is not None and axis == rank - 1 else f"axis {axis} at"


def _fills(sizes: Floats, equal: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Which elements are fill values, by their magnitudes; None where there are none.

    A fill value outlies all that is none, by a factor of :data:`OUTLYING` where it looks like one:
    a number of one or two digits, one that -1e4 or a larger power of ten was added to, or the
    largest of a dtype. By :data:`FAR` anything does that is the same on both sides.
    """
    largest = float(sizes.max())
    if largest < _ROUND:
        return None
    others = float(np.max(sizes, where=~equal, initial=0.0))
    if others * FAR > largest or not others:
        # Anything else than the look of the largest is settled.
        _, alike = _looks(np.array([largest]))
        if not alike[0]:
            return None
    exact, alike = _looks(sizes)
    factor = np.where(alike, OUTLYING, np.where(equal, FAR, np.inf))
    factor[sizes == 0] = np.inf
    # What is near to what surely is no fill value is none either, and so on.
    rest = float(np.max(sizes, where=np.isinf(factor), initial=0.0))
    while True:
        # Beside nothing but zeros only a value of its own look is known to outlie.
        fill = (sizes >= factor * rest) & ~np.isinf(factor) if rest else exact
        others = float(np.max(sizes, where=~fill, initial=0.0))
        if others <= rest:
            return fill if fill.any() else None
        rest = others


def _looks(sizes: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which magnitudes are powers of ten or extremes, and which look like fill values at all."""
    exact = sizes == _EXTREMES[0]
    for extreme in _EXTREMES[1:]:
        exact |= sizes == extreme
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        digits = np.log10(sizes, out=np.zeros_like(sizes), where=sizes > 0)
        unit = 10.0 ** (np.floor(digits) - 1)
        two_digits = np.round(sizes / unit) * unit
        # As far as float32 holds such a number.
        plain = (sizes >= _ROUND) & (np.abs(sizes - two_digits) <= 2.0**-23 * sizes)
        power = 10.0 ** np.round(digits)
        near = (power >= _POWER) & (np.abs(sizes - power) <= 0.01 * power)
    exact |= near & plain
    return exact, exact | near | plain


def _worse(a: Difference, b: Difference) -> Difference:
    worst = b if b.limit_used > a.limit_used else a
    return Difference(
        max(a.max_abs, b.max_abs), max(a.max_rel, b.max_rel), worst.limit_used, worst.scale,
        worst.where, worst.reason,
    )  # fmt: skip


def _over(errors: Floats, limits: Floats) -> Floats:
    """``errors / limits``: 0 where there is no error, infinite where nothing is allowed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors > 0.0, errors / limits, 0.0)


def _share(far: float, of: float) -> float:
    if far == 0.0:
        return 0.0
    return far / of if of else np.inf
