"""Histograms that are filled in pieces, and the range that they choose."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmedge.errors import ExportError
from mmedge_export.calibration.histogram import (
    BINS,
    PIECE,
    START_WIDTH,
    Histogram,
    least_error_range,
    mean_squared_error,
)

#: Any float32, of any size, NaN of any kind and infinities among them.
ANY = hnp.arrays(
    np.float32,
    st.integers(0, 60),
    elements=st.one_of(
        st.floats(width=32),
        st.integers(0, 2**32 - 1).map(lambda bits: np.uint32(bits).view(np.float32)),
        st.sampled_from([0.0, -0.0, 1.0, -1.0, np.float32(1) / 3, np.nan, np.inf, -np.inf]),
    ),
    fill=st.nothing(),
)
PIECES = st.lists(ANY, min_size=1, max_size=5)
FINITE = hnp.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32), fill=st.nothing()
)
RANGES = st.tuples(st.sampled_from([4, 16, 255, 256, 65536]), st.booleans())


def filled(*arrays):
    histogram = Histogram()
    for array in arrays:
        histogram.update(array)
    return histogram


def same(one, other):
    a, b = one.to_arrays(), other.to_arrays()
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], strict=True)
        assert value.tobytes() == b[name].tobytes()


def measured(values, low, high, levels, symmetric):
    """Mean squared error of really quantising."""
    values = values.astype(np.float64)
    most = (levels - 1) // 2 if symmetric else levels - 1
    step = high / most if symmetric else (high - low) / most
    least = -most if symmetric else round(low / step)
    most = most if symmetric else least + most
    return float(np.mean((values - step * np.clip(np.rint(values / step), least, most)) ** 2))


@given(PIECES)
def test_counts_and_limits_are_those_of_the_values(pieces):
    got = filled(*pieces)
    values = np.concatenate(pieces)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert got.nonfinite == values.size - finite.size
    assert got.finite == finite.size
    assert got.zeros == np.count_nonzero(finite == 0)
    assert got.min == min(finite, default=math.inf)
    assert got.max == max(finite, default=-math.inf)
    largest = np.abs(finite).max(initial=0)
    assert largest < got.width * BINS / 2
    assert got.width == START_WIDTH or largest >= got.width * BINS / 4
    assert math.frexp(got.width)[0] == 0.5
    index = np.floor(finite[finite != 0] / got.width).astype(int) + BINS // 2
    np.testing.assert_array_equal(got.counts, np.bincount(index, minlength=BINS))


@given(PIECES, st.randoms())
def test_neither_order_nor_pieces_matter(pieces, random):
    shuffled = list(np.concatenate(pieces))
    random.shuffle(shuffled)
    same(filled(*pieces), filled(np.array(shuffled, np.float32)))
    same(filled(*pieces), filled(*reversed(pieces)))


def test_a_large_array_is_binned_whole():
    values = np.random.default_rng(0).standard_normal(2 * PIECE + 77).astype(np.float32)
    got = filled(values.reshape(1, -1, 1))
    assert got.finite == values.size
    same(got, filled(*np.array_split(values, 5)))
    every_other = values[::2]
    same(filled(every_other), filled(every_other.copy()))


def test_bins_merge_in_pairs():
    got = filled(np.arange(-1024, 1024, dtype=np.float32) + np.float32(0.5))
    assert got.width == 1.0
    np.testing.assert_array_equal(got.counts, 1)
    got.update(np.array([2000.0], np.float32))
    assert got.width == 2.0
    wanted = np.zeros(BINS, int)
    wanted[BINS // 4 : 3 * BINS // 4] = 2
    wanted[BINS // 2 + 1000] += 1
    np.testing.assert_array_equal(got.counts, wanted)


def test_other_dtypes():
    same(
        filled(np.array([1.5, -2, np.inf], np.float16)),
        filled(np.array([1.5, -2, np.inf], np.float32)),
    )
    got = filled(np.array([1e300, 2.0, 1e-300]))
    assert (got.nonfinite, got.zeros, got.min, got.max) == (1, 1, 0.0, 2.0)


@given(PIECES)
def test_the_state_goes_through_arrays(pieces):
    got = filled(*pieces)
    again = Histogram.from_arrays(got.to_arrays())
    same(got, again)
    again.update(np.array([3.0e38, 1.0], np.float32))
    got.update(np.array([3.0e38, 1.0], np.float32))
    same(got, again)


@pytest.mark.parametrize("name", ["counts", "width", "apart", "limits"])
@pytest.mark.parametrize("value", [None, np.zeros(3), np.zeros(BINS, np.int32)])
def test_arrays_of_another_kind_are_refused(name, value):
    arrays = filled(np.ones(3, np.float32)).to_arrays()
    arrays[name] = value
    if value is None:
        del arrays[name]
    with pytest.raises(ExportError, match=f"array {name!r} must be"):
        Histogram.from_arrays(arrays)


# The range.


@given(FINITE, RANGES)
def test_the_range_is_no_worse_than_the_exact_limits(values, how):
    levels, symmetric = how
    histogram = filled(values)
    got = least_error_range(histogram, levels=levels, symmetric=symmetric)
    assert got.low <= 0.0 <= got.high
    assert got.low < got.high
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if symmetric:
        assert got.low == -got.high
        low, high = -max(-low, high), max(-low, high)
    if got.rule == "empty":
        assert (high - low) / levels < 1.2e-38
        return
    assert low <= got.low
    assert got.high <= high
    limit = mean_squared_error(histogram, low, high, levels=levels, symmetric=symmetric)
    assert got.error <= limit
    if got.rule == "min-max":
        assert (got.low, got.high, got.error) == (low, high, limit)


@given(ANY, RANGES)
def test_any_values_give_a_usable_range(values, how):
    levels, symmetric = how
    got = least_error_range(filled(values), levels=levels, symmetric=symmetric)
    assert math.isfinite(got.low)
    assert math.isfinite(got.high)
    assert got.error >= 0.0
    assert (got.high - got.low) / levels >= 1.17e-38
    assert got.low <= 0.0 <= got.high
    finite = values[np.isfinite(values)]
    same_values = filled(finite)
    assert got == least_error_range(same_values, levels=levels, symmetric=symmetric)


DISTRIBUTIONS = {
    "normal": lambda rng: rng.standard_normal(200_000),
    "relu": lambda rng: np.maximum(rng.standard_normal(200_000), 0),
    "gelu": lambda rng: (lambda x: x / (1 + np.exp(-1.7 * x)))(rng.standard_normal(200_000)),
    "student": lambda rng: rng.standard_t(3, 200_000),
    "uniform": lambda rng: rng.uniform(3, 4, 200_000),
    "softmax": lambda rng: rng.dirichlet(np.full(64, 0.3), 3000),
    "outlier": lambda rng: np.append(rng.standard_normal(200_000), 60.0),
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize(("levels", "symmetric"), [(256, False), (256, True), (16, False)])
def test_the_error_is_the_measured_one(kind, levels, symmetric):
    values = DISTRIBUTIONS[kind](np.random.default_rng(1)).astype(np.float32)
    got = least_error_range(filled(values), levels=levels, symmetric=symmetric)
    real = measured(values, got.low, got.high, levels, symmetric)
    assert got.error == pytest.approx(real, rel=0.1)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    assert real <= 1.01 * measured(values, low, high, levels, symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_planted_outlier_is_clipped_at_8_bits(sign, symmetric):
    values = np.random.default_rng(2).standard_normal(1_000_000).astype(np.float32)
    values[12345] = sign * 100.0
    got = least_error_range(filled(values), levels=256, symmetric=symmetric)
    assert got.rule != "min-max"
    assert max(-got.low, got.high) < 10
    assert measured(values, got.low, got.high, 256, symmetric) < 0.8 * measured(
        values, -100.0 if symmetric or sign < 0 else float(values.min()), 100.0, 256, symmetric
    )


def test_every_rule_can_win():
    rng = np.random.default_rng(3)
    normal = rng.standard_normal(300_000)
    cases = [normal, np.append(normal, 60.0), np.full(9, 5.0)]
    rules = {
        least_error_range(filled(values), levels=levels, symmetric=False).rule
        for values in cases
        for levels in (16, 256)
    }
    assert {"min-max", "percentile 99.9", "percentile 99.99"} <= rules


@pytest.mark.parametrize(("symmetric", "low"), [(False, 0.0), (True, -1.0)])
@pytest.mark.parametrize(
    "values", [[], [0.0, -0.0], [np.nan, np.inf], [1e-44, -1e-45]], ids=["none", "0", "nan", "tiny"]
)
def test_without_values_the_range_is_of_size_one(values, symmetric, low):
    histogram = filled(np.array(values, np.float32))
    got = least_error_range(histogram, levels=256, symmetric=symmetric)
    assert (got.low, got.high, got.rule) == (low, 1.0, "empty")
    assert got.error == pytest.approx(0.0, abs=1e-60)


def test_values_of_one_size_have_no_error():
    for symmetric in (False, True):
        got = least_error_range(
            filled(np.full(50, -0.37, np.float32)), levels=256, symmetric=symmetric
        )
        assert got.low == np.float32(-0.37)
        assert got.rule == "min-max"
        assert got.error == pytest.approx(0.0, abs=1e-12)


def test_few_levels_are_refused():
    with pytest.raises(ExportError, match="3 levels; expected at least 4"):
        least_error_range(Histogram(), levels=3, symmetric=False)
