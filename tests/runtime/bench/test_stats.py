"""Percentiles and intervals never claim more than the samples carry."""

from __future__ import annotations

from itertools import groupby
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.bench.stats.block_timer import turns
from mmedge.bench.stats.student import student_t
from mmedge.bench.stats.summary import (
    PERCENTILES,
    block_length,
    confidence,
    deadline,
    jitter,
    percentile,
    summary,
    thin,
)

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
    assert found["count"] == len(samples)


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="at least one call"):
        summary([])


def test_the_library_agrees_on_the_nearest_rank():
    samples = np.random.default_rng(0).lognormal(size=1234)
    for q in PERCENTILES.values():
        assert percentile(samples, q) == np.percentile(samples, q, method="inverted_cdf")


def correlated(rng, phi, count=1000):
    """AR(1) of standard normal values, as log-normal latencies."""
    noise = rng.normal(size=count) * np.sqrt(1 - phi**2)
    values = np.empty(count)
    values[0] = rng.normal()
    for i in range(1, count):
        values[i] = phi * values[i - 1] + noise[i]
    return np.exp(values)


# Of 400 series each held 0.92 to 0.96, 0.90 to 0.94 and 0.88 to 0.93; with 100 of them the
# bounds leave three standard deviations of the binomial distribution.
@pytest.mark.parametrize(("phi", "least"), [(0.0, 0.84), (0.5, 0.81), (0.8, 0.80)])
def test_intervals_hold_the_true_figure_as_often_as_stated(phi, least):
    rng = np.random.default_rng(3)
    true = {"mean": np.exp(0.5), "p50": 1.0, "p90": np.exp(NormalDist().inv_cdf(0.9))}
    held = dict.fromkeys(true, 0)
    for seed in range(100):
        found = confidence(correlated(rng, phi), seed=seed)
        for key, value in true.items():
            low, high = found[key]
            held[key] += low <= value <= high
    assert all(least <= count / 100 <= 1 for count in held.values()), held


def test_single_calls_in_place_of_blocks_would_claim_too_much():
    rng = np.random.default_rng(5)
    width = [np.diff(confidence(correlated(rng, phi))["p50"])[0] for phi in (0.0, 0.9)]
    assert width[1] > 2.5 * width[0]


def test_blocks_grow_with_dependence_and_not_with_outliers():
    rng = np.random.default_rng(1)
    lengths = [block_length(correlated(rng, phi)) for phi in (0.0, 0.8, 0.95)]
    assert lengths == sorted(lengths)
    assert lengths[0] < 15
    assert lengths[2] > 2 * lengths[0]
    spiked = correlated(rng, 0.95)
    spiked[500] = 1e9
    assert block_length(spiked) > 2 * lengths[0]


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_an_interval_is_of_observed_values_around_a_percentile_that_is_carried(samples):
    found = confidence(samples)
    assert set(found) == {*PERCENTILES, "mean"}
    for key, q in PERCENTILES.items():
        if found[key] is not None:
            low, high = found[key]
            assert low in samples
            assert high in samples
            # More than the percentile itself needs.
            assert percentile(samples, q) is not None
            assert len(samples) >= 5 / (1 - q / 100) - 1
    assert found["p99"] is None  # 200 calls do not carry it
    assert found == confidence(samples)


def test_which_intervals_are_carried():
    rng = np.random.default_rng(2)
    samples = rng.lognormal(size=20_000)
    assert all(confidence(samples).values())
    some = confidence(samples[:1000])
    assert some["p99"] is not None
    assert some["p99_9"] is None
    # Two in a hundred are slow, in a single spell: one event, from which no rate follows.
    spell = np.concatenate((rng.uniform(1, 2, 980), rng.uniform(5, 6, 20)))
    assert confidence(spell)["p99"] is None
    assert confidence(spell)["p50"] is not None
    assert not any(confidence([1.0, 2.0]).values())
    assert confidence([2.0] * 100)["p50"] == [2.0, 2.0]


def test_jitter_by_hand():
    assert jitter([1.0, 3.0, 2.0]) == {
        "std": pytest.approx(np.std([1, 3, 2])),
        "mean_step": 1.5,
        "p99_less_p50": None,
    }
    assert jitter(list(range(1, 101)))["p99_less_p50"] == 49
    assert jitter([4.0])["mean_step"] == 0
    with pytest.raises(ValueError, match="at least one call"):
        jitter([])


def test_deadline_by_hand():
    assert deadline([1, 5, 5, 2, 5, 3], 3.0) == {
        "ms": 3.0,
        "missed": 3,
        "rate": 0.5,
        "longest_run": 2,
    }
    for values, ms in [([], 1.0), ([1.0], 0.0), ([1.0], float("nan"))]:
        with pytest.raises(ValueError, match="a deadline needs"):
            deadline(values, ms)


@given(values, st.floats(1e-3, 1e6))
def test_misses_in_a_row(samples, ms):
    found = deadline(samples, ms)
    runs = [len(list(run)) for late, run in groupby(v > ms for v in samples) if late]
    assert found["missed"] == sum(runs)
    assert found["longest_run"] == max(runs, default=0)
    assert found["rate"] == pytest.approx(sum(runs) / len(samples))


@given(st.integers(0, 200), st.integers(1, 50))
def test_a_thinned_series_is_even_and_in_order(count, most):
    found = thin(np.arange(count), np.arange(count) * 2.0, most)
    starts = found["start_s"]
    assert found["of"] == count
    assert found["kept"] == len(starts) == min(count, most)
    assert [2 * start for start in starts] == found["latency_ms"]
    steps = np.diff(starts)
    if len(steps):
        assert 1 <= steps.min() <= steps.max() <= steps.min() + 1


def test_a_series_is_one_latency_a_start():
    with pytest.raises(ValueError, match="as many starts"):
        thin([1.0], [])


# Ways in turn


def test_each_round_has_every_item_once_in_another_order():
    rounds = [[], [], [], []]
    for number, item in turns("abcdef", 4, seed=3):
        rounds[number].append(item)
    assert all(sorted(items) == list("abcdef") for items in rounds)
    assert len({tuple(items) for items in rounds}) > 1
    assert list(turns("abcdef", 4, seed=3)) == [
        (number, item) for number, items in enumerate(rounds) for item in items
    ]
    assert list(turns("abcdef", 4, seed=4)) != list(turns("abcdef", 4, seed=3))


@pytest.mark.parametrize(
    ("level", "degrees", "t"),
    [(0.975, 4, 2.7764), (0.975, 30, 2.0423), (0.95, 9, 1.8331), (0.995, 19, 2.8609)],
)
def test_students_t_is_that_of_the_tables(level, degrees, t):
    assert student_t(level, degrees) == pytest.approx(t, rel=1e-3)
