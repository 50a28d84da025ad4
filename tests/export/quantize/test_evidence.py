"""Bounds of a metric's drop hold their level, have power, and refuse what they cannot judge."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.errors import ExportError
from mmedge_export.quantize.metric_drop import Spending, drop_of


def answers(values):
    return [{"y": value} for value in values]


def mean(outputs, targets):
    return sum(float(output["y"]) for output in outputs) / len(outputs)


def hits(outputs, targets):
    return sum(o["y"] == t for o, t in zip(outputs, targets, strict=True)) / len(targets)


def median(outputs, targets):
    return -float(np.median([abs(o["y"] - t) for o, t in zip(outputs, targets, strict=True)]))


def pearson(outputs, targets):
    return float(np.corrcoef([output["y"] for output in outputs], targets)[0, 1])


def f1(outputs, targets):
    said = np.array([output["y"] for output in outputs])
    true = np.array(targets)
    return float(2 * (said & true).sum() / (said.sum() + true.sum()))


def drop(metric, reference, candidate, targets=None, **options):
    targets = [0] * len(reference) if targets is None else list(targets)
    return drop_of(metric, answers(reference), answers(candidate), targets, **options)


def at_most(count, chance, level):
    """Quantile of the binomial distribution."""
    total = 0.0
    for k in range(count + 1):
        total += math.comb(count, k) * chance**k * (1 - chance) ** (count - k)
        if total >= level:
            return k
    return count


# Each kind draws (metric, reference, candidate, targets) and names the drop that is true of it.


def flips(worse, better):
    def draw(rng, n):
        kind = rng.random(n)
        reference = np.where(kind < worse, 1, np.where(kind < worse + better, 0, 1))
        candidate = np.where(kind < worse, 0, 1)
        return mean, reference, candidate, None

    return draw, worse - better


def unrelated():
    def draw(rng, n):
        targets = rng.integers(0, 2, n)
        reference, candidate = rng.integers(0, 2, n), rng.integers(0, 2, n)
        return hits, reference, np.where(rng.random(n) < 0.1, 2, candidate), targets

    return draw, 0.05


def scores(noise, true):
    def draw(rng, n):
        reference = rng.normal(size=n)
        return mean, reference, reference - true - noise(rng, n), None

    return draw, true


def rare_with_noise():
    def draw(rng, n):
        reference = rng.uniform(0.5, 1, n)
        noise = 0.01 * rng.normal(size=n)
        return mean, reference, np.where(rng.random(n) < 0.01, 0, reference + noise), None

    return draw, 0.0075


def f1_of(missed):
    def draw(rng, n):
        true = rng.random(n) < 0.3
        reference = true & (rng.random(n) < 0.95)
        return f1, reference, reference & (rng.random(n) >= missed), true

    return draw, 2 * 0.95 / 1.95 - 2 * 0.95 * (1 - missed) / (1 + 0.95 * (1 - missed))


def median_of():
    def draw(rng, n):
        error = rng.normal(size=n)
        return median, error, error + 0.5 * rng.normal(size=n), np.zeros(n)

    return draw, NormalDist().inv_cdf(0.75) * (math.sqrt(1.25) - 1)


def pearson_of():
    def draw(rng, n):
        targets = rng.normal(size=n)
        reference = targets + 0.5 * rng.normal(size=n)
        return pearson, reference, reference + 0.3 * rng.normal(size=n), targets

    return draw, 1 / math.sqrt(1.25) - 1 / math.sqrt(1.34)


KINDS = {
    "one way, rare": (flips(0.021, 0.0), 150),
    "one way": (flips(0.06, 0.0), 80),
    "both ways": (flips(0.06, 0.04), 150),
    "both ways, many": (flips(0.3, 0.25), 60),
    "unrelated": (unrelated(), 80),
    "normal": (scores(lambda rng, n: 0.3 * rng.normal(size=n), 0.05), 50),
    "skewed": (scores(lambda rng, n: rng.lognormal(size=n) - math.exp(0.5), 0.05), 50),
    "rare with noise": (rare_with_noise(), 150),
    "f1": (f1_of(0.1), 60),
    "median": (median_of(), 40),
    "pearson": (pearson_of(), 40),
}
REPEATS = 60


@pytest.fixture(scope="module")
def accepted():
    """Of each kind, how many draws a limit equal to the true drop lets through; never, ideally."""
    counts = {}
    for index, (name, ((draw, true), n)) in enumerate(KINDS.items()):
        rng = np.random.default_rng([11, index])
        bounds = [drop(*draw(rng, n), resamples=50).bound for _ in range(REPEATS)]
        # No bound is so wide that the level would hold whatever the samples are.
        assert min(bounds) < 3 * true + 0.2, name
        counts[name] = sum(bound <= true for bound in bounds)
    return counts


@pytest.mark.parametrize("name", KINDS)
def test_of_a_drop_at_the_limit_few_are_accepted(accepted, name):
    assert accepted[name] <= at_most(REPEATS, 0.05, 0.99)


def test_over_all_kinds_at_most_one_in_twenty_is_accepted(accepted):
    total = sum(accepted.values())
    assert 0 < total <= 0.05 * REPEATS * len(KINDS)


def test_a_students_bound_would_not_hold():
    (draw, true), n = KINDS["one way, rare"]
    rng = np.random.default_rng(3)
    bad, repeats = 0, 500
    for _ in range(repeats):
        _, reference, candidate, _ = draw(rng, n)
        difference = reference - candidate
        bad += difference.mean() + 1.66 * difference.std(ddof=1) / math.sqrt(n) <= true
    assert bad > at_most(repeats, 0.05, 0.9999)


@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.0025])
@pytest.mark.parametrize(("n", "lost"), [(50, 0), (50, 7), (400, 0), (400, 1), (400, 90)])
def test_drops_of_two_values_get_the_clopper_pearson_bound(n, lost, alpha):
    found = drop(mean, [1] * n, [0] * lost + [1] * (n - lost), alpha=alpha)
    p = found.bound
    chance = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(lost + 1))
    assert chance == pytest.approx(alpha, rel=0.03)
    assert (found.changed, found.samples, found.level) == (lost, n, 1 - alpha)
    assert found.drop == pytest.approx(lost / n)


def test_nothing_changed_on_2000_samples_is_enough_for_one_percent():
    found = drop(mean, [1] * 2000, [1] * 2000, alpha=0.025)
    assert 0 < found.bound < 0.002
    assert (found.drop, found.changed) == (0, 0)


def test_small_drops_are_mostly_accepted():
    draw, true = flips(0.006, 0.004)
    rng = np.random.default_rng(1)
    bounds = [drop(*draw(rng, 1000)).bound for _ in range(30)]
    assert true == pytest.approx(0.002)
    assert sum(bound <= 0.01 for bound in bounds) >= 15


def test_a_correlation_that_holds_is_accepted():
    rng = np.random.default_rng(2)
    targets = rng.normal(size=300)
    reference = targets + 0.5 * rng.normal(size=300)
    found = drop(pearson, reference, reference + 0.01 * rng.normal(size=300), targets, resamples=99)
    assert 0 < found.bound < 0.03
    assert found.changed == 300


def test_a_perfect_f1_allows_for_the_misses_that_could_come():
    true = np.arange(200) < 20
    found = drop(f1, true, true, true, resamples=50)
    assert found.changed == 0
    # A miss in 20 positives costs 2 * 19 / 39, and 3 of 200 samples may have failed unseen.
    assert found.bound == pytest.approx(3 * (1 - 38 / 39), rel=0.1)


def test_a_slow_metric_is_called_no_more_than_needed():
    calls = []

    def slow(outputs, targets):
        calls.append(len(outputs))
        return pearson(outputs, targets)

    rng = np.random.default_rng(4)
    reference, targets = rng.normal(size=(2, 400))
    candidate = reference + 0.1 * rng.normal(size=400)
    found = drop(slow, reference, candidate, targets, seconds=0.0)
    assert calls.count(399) == calls.count(200) == 100
    assert found.bound > found.drop


def test_a_mean_is_called_on_each_sample_once():
    calls = []

    def counted(outputs, targets):
        calls.append(len(outputs))
        return mean(outputs, targets)

    drop(counted, [1] * 100, [0] * 100)
    assert calls.count(100) == 4
    assert len(calls) <= 4 + 2 + 2 * 16 + 200


def test_float32_means_are_recognised():
    rng = np.random.default_rng(5)
    reference = rng.normal(size=2000).astype(np.float32)

    def single(outputs, targets):
        return float(np.array([output["y"] for output in outputs]).sum() / np.float32(len(outputs)))

    found = drop(single, reference, reference)
    assert found.changed == 0
    assert found.bound > 0


def test_interval_turns_with_the_networks():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 60))
    there, back = drop(mean, a, b), drop(mean, b, a)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.low < there.drop < there.bound < there.high


def test_same_seed_same_result():
    rng = np.random.default_rng(7)
    a, b, targets = rng.normal(size=(3, 40))
    first, again, other = (
        drop(pearson, a, b, targets, resamples=60, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first.drop == other.drop


def test_a_metric_must_be_deterministic():
    rng = np.random.default_rng(0)
    with pytest.raises(ExportError, match="must be deterministic"):
        drop(lambda outputs, targets: mean(outputs, targets) + rng.normal(), [1] * 9, [1] * 9)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_must_be_finite(value):
    with pytest.raises(ExportError, match="finite"):
        drop(lambda outputs, targets: value, [1] * 9, [1] * 9)


def test_a_metric_must_be_defined_on_parts():
    def whole_only(outputs, targets):
        return 1.0 if len(outputs) == 30 else math.nan

    with pytest.raises(ExportError, match="undefined on all samples but one"):
        drop(whole_only, [1] * 30, [1] * 30)


def test_few_samples_say_nothing_of_a_correlation():
    with pytest.raises(ExportError, match="10 samples or more"):
        drop(pearson, [1, 2, 3], [1, 2, 4], [3, 5, 8])


def test_lists_must_fit():
    with pytest.raises(ExportError, match="3 outputs of the reference, 2 of the candidate and 3"):
        drop(mean, [1, 1, 1], [1, 1])
    with pytest.raises(ExportError, match="no samples"):
        drop(mean, [], [])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -0.1])
def test_alpha_is_a_small_chance(alpha):
    with pytest.raises(ValueError, match="alpha"):
        drop(mean, [1], [1], alpha=alpha)


def test_spending_never_exceeds_its_total():
    spent = [Spending(0.05).alpha(attempt) for attempt in range(1, 2000)]
    assert spent[0] == 0.025
    assert spent == sorted(spent, reverse=True)
    assert 0.0499 < math.fsum(spent) < 0.05
    with pytest.raises(ValueError, match="count from 1"):
        Spending().alpha(0)


pairs = st.lists(
    st.tuples(st.floats(-1, 1, width=16), st.floats(-1, 1, width=16)), min_size=1, max_size=30
)


@given(pairs, st.floats(-1, 1, width=16))
@settings(max_examples=50, deadline=None)
def test_a_constant_on_all_scores_changes_nothing(values, shift):
    # Scores keep spanning 0: the worst that a sample can do is taken from their range with 0 in it.
    a, b = np.array([*values, (-2.0, -2.0), (2.0, 2.0)]).T
    plain, shifted = drop(mean, a, b), drop(mean, a + shift, b + shift)
    assert shifted.drop == pytest.approx(plain.drop, abs=1e-9)
    assert shifted.bound == pytest.approx(plain.bound, abs=1e-6)
    assert shifted.changed == plain.changed


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_bounds_are_ordered(values):
    a, b = np.array(values).T
    bounds = [drop(mean, a, b, alpha=alpha).bound for alpha in (0.1, 0.05, 0.01, 0.0001)]
    assert bounds == sorted(bounds)
    found = drop(mean, a, b)
    assert found.low - 1e-12 <= found.drop <= found.high + 1e-12
    # No sample can lose more than the range of the scores.
    worst = max(a.max(), b.max(), 0) - min(a.min(), b.min(), 0) or 1.0
    assert found.drop - 1e-9 <= found.bound <= worst + 1e-9


@given(pairs, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_samples_is_nothing(values, random):
    a, b = np.array(values).T
    random.shuffle(values)
    c, d = np.array(values).T
    found, shuffled = drop(mean, a, b), drop(mean, c, d)
    assert shuffled.drop == pytest.approx(found.drop, abs=1e-9)
    assert shuffled.bound == pytest.approx(found.bound, abs=1e-6)
