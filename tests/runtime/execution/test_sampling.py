"""Choosing a token, against the format page's words written out slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.errors import BackendError
from mmedge.execution.random_numbers import uniform
from mmedge.execution.sampling import Sampling, choose

#: Scores with ties, far ones and ones that must not be chosen.
SCORES = st.lists(
    st.one_of(
        st.integers(-3, 3).map(float),
        st.floats(-80, 80, width=32),
        st.just(-math.inf),
    ),
    min_size=1,
    max_size=24,
).filter(lambda row: max(row) > -math.inf)


def chosen_by_the_page(scores, sampling, choice, suppress, row=0) -> int:
    """One sentence of the page after another."""
    scores = [-math.inf if token in suppress else float(s) for token, s in enumerate(scores)]
    if sampling.temperature == 0:
        return scores.index(max(scores))
    scores = [score / sampling.temperature for score in scores]
    tokens = list(range(len(scores)))
    if sampling.top_k:
        tokens = sorted(tokens, key=lambda token: -scores[token])[: sampling.top_k]
    largest = max(scores[token] for token in tokens)
    p = {token: float(np.exp(scores[token] - largest)) for token in sorted(tokens)}
    order = sorted(p, key=lambda token: -scores[token])
    if sampling.top_p < 1:
        total = sum(p[token] for token in order)
        so_far = 0.0
        for place, token in enumerate(order):
            so_far += p[token]
            if so_far >= sampling.top_p * total:
                order = order[: place + 1]
                break
    u = uniform(sampling.seed, choice, row + 1)[row]
    total = sum(p[token] for token in order)
    so_far = 0.0
    for token in order:
        so_far += p[token]
        if so_far > u * total:
            return token
    return order[-1]


@given(
    scores=SCORES,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 7.0]),
    top_k=st.integers(0, 26),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999999, 1.0]),
    seed=st.integers(0, 2**64 - 1),
    choice=st.integers(0, 300),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
)
def test_a_token_is_the_one_that_the_page_says(
    scores, temperature, top_k, top_p, seed, choice, dtype
):
    row = np.array([scores], dtype)
    sampling = Sampling(temperature, top_k, top_p, seed)
    kept = row.copy()
    assert choose(row, sampling, choice, ()) == [chosen_by_the_page(row[0], sampling, choice, ())]
    assert np.array_equal(row, kept)


@given(scores=st.lists(SCORES.map(lambda r: (r * 24)[:24]), min_size=2, max_size=4))
def test_rows_have_numbers_of_their_own(scores):
    rows, sampling = np.array(scores, np.float32), Sampling(1.0, seed=5)
    assert choose(rows, sampling, 2, ()) == [
        chosen_by_the_page(row, sampling, 2, (), index) for index, row in enumerate(rows)
    ]
    greedy = Sampling()
    assert choose(rows, greedy, 2, ()) == [chosen_by_the_page(row, greedy, 2, ()) for row in rows]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_suppressed_tokens_are_not_chosen(temperature):
    row = np.array([[5.0, 4.0, 3.0]], np.float32)
    row.flags.writeable = False
    for suppress, expected in (((0,), {1, 2}), ((0, 1), {2})):
        tokens = {
            choose(row, Sampling(temperature, seed=seed), 0, suppress)[0] for seed in range(40)
        }
        assert tokens == ({min(expected)} if not temperature else expected)


def test_scores_by_the_share_that_they_have():
    """A large vocabulary: how often a token is drawn is its probability."""
    row = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    counts = np.bincount(
        [choose(row, Sampling(1.0), choice, ())[0] for choice in range(4000)], minlength=4
    )
    assert np.allclose(counts / 4000, [0.5, 0.25, 0.125, 0.125], atol=0.03)


def test_a_large_vocabulary_with_ties():
    rng = np.random.default_rng(1)
    row = rng.normal(size=(1, 5000)).astype(np.float16)  # many are equal
    for top_k, top_p in ((0, 1.0), (50, 1.0), (0, 0.9), (0, 0.999999), (1000, 0.5)):
        for seed in range(12):
            sampling = Sampling(0.7 + seed, top_k, top_p, seed)
            assert choose(row, sampling, 0, ())[0] == chosen_by_the_page(row[0], sampling, 0, ())


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(1.0), Sampling(1.0, 1), Sampling(1.0, 2)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_nan_is_no_token(sampling, batch):
    rows = np.zeros((batch, 4), np.float32)
    rows[-1, 2] = np.nan
    with pytest.raises(BackendError, match="token 7 hold NaN.*run mmedge verify"):
        choose(rows, sampling, 7, ())
    assert len(choose(rows, sampling, 7, [2])) == batch


@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("places", [[1], [0, 2], [0, 1, 2, 3]])
def test_nothing_is_drawn_beside_infinity(top_k, places):
    """It has no share. Of the best alone, the first one is chosen."""
    rows = np.zeros((1, 4), np.float32)
    rows[0, places] = np.inf
    assert choose(rows, Sampling(), 0, ()) == places[:1]
    with pytest.raises(BackendError, match="infinity"):
        choose(rows, Sampling(1.0, top_k), 0, ())
    with pytest.raises(BackendError, match="infinity"):
        choose(np.array([[1.0, 2.0]]), Sampling(1e-308), 0, ())


def test_scores_that_are_nearly_equal_lie_in_their_own_order():
    """Whatever the last bit of exp: a slower token never comes before a better one."""
    row = np.array([[0.0, 1e-16, 3e-16, 2e-16]])
    tokens = [choose(row, Sampling(1.0, seed=seed), 0, ())[0] for seed in range(400)]
    numbers = [float(uniform(seed, 0, 1)[0]) for seed in range(400)]
    order = [token for _, token in sorted(zip(numbers, tokens, strict=True))]
    assert list(dict.fromkeys(order)) == [2, 3, 1, 0]
    assert order == sorted(order, key=[2, 3, 1, 0].index)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_when_nothing_may_be_chosen(temperature, batch):
    rows = np.zeros((batch, 3), np.float32)
    rows[0] = -np.inf
    with pytest.raises(BackendError, match="nothing but minus infinity"):
        choose(rows, Sampling(temperature), 0, ())
