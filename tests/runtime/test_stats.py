"""Percentiles never claim more than the samples carry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.bench.stats import PERCENTILES, percentile, summary

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


@pytest.mark.parametrize(("q", "fewest"), [(50, 2), (90, 10), (99, 100), (99.9, 1000)])
def test_a_percentile_needs_a_sample_beyond_it(q, fewest):
    assert percentile(list(range(fewest - 1)), q) is None
    assert percentile(list(range(fewest)), q) is not None


def test_nearest_rank_by_hand():
    thousand = list(range(1, 1001))
    assert percentile(thousand, 50) == 500
    assert percentile(thousand, 99) == 990
    assert percentile(thousand, 99.9) == 999


@given(values, st.sampled_from(list(PERCENTILES.values())))
def test_a_percentile_is_an_observed_value_with_enough_below_it(samples, q):
    found = percentile(samples, q)
    if found is not None:
        assert found in samples
        assert sum(v <= found for v in samples) >= len(samples) * q / 100 - 1e-6
        assert sum(v < found for v in samples) <= len(samples) * q / 100


@given(values)
def test_summary_is_ordered(samples):
    found = summary(samples)
    known = [v for key in ("min", *PERCENTILES, "max") if (v := found[key]) is not None]
    assert known == sorted(known)
    assert found["mean"] == pytest.approx(np.mean(samples))


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="at least one call"):
        summary([])
