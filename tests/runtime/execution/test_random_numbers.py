"""Random numbers against the specification in whole numbers of Python, and published values."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.errors import InputError
from mmedge.execution.random_numbers import STEP, _mix, normal, uniform

MASK = 2**64 - 1
SEEDS = st.integers(0, MASK)
STREAMS = st.one_of(st.integers(0, 5000), st.integers(0, MASK))
COUNTS = st.integers(0, 65)

#: The first numbers of two seeds and streams, written down once.
UNIFORM_0_0 = ["0x1.4e0dba5e9a32fp-1", "0x1.6705460be8829p-1", "0x1.8c6a4553eeafcp-2"]
UNIFORM_MAX_7 = ["0x1.c78e8e22ddaf8p-2", "0x1.e8fdaf5b8b3d3p-1", "0x1.db05620d9ac23p-1"]
NORMAL_1_2 = ["-0x1.4d476c0000000p+0", "0x1.4920780000000p-1", "0x1.6215e80000000p+0"]


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_uniform(seed, stream, count):
    base = mix((seed + (stream + 1) * STEP) & MASK)
    return [(mix((base + (i + 1) * STEP) & MASK) >> 11) * 2.0**-53 for i in range(count)]


def slow_normal(seed, stream, count):
    numbers = slow_uniform(seed, stream, count + count % 2)
    normals = []
    for first, second in zip(numbers[0::2], numbers[1::2], strict=True):
        r, a = math.sqrt(-2.0 * math.log(1.0 - first)), 2.0 * math.pi * second
        normals += [r * math.cos(a), r * math.sin(a)]
    return normals[:count]


@given(seed=SEEDS, stream=STREAMS, count=COUNTS)
def test_uniform_numbers_are_those_of_the_specification(seed, stream, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = uniform(seed, stream, count)
    assert numbers.dtype == np.float64
    assert numbers.tolist() == slow_uniform(seed, stream, count)


@given(seed=SEEDS, stream=STREAMS, count=COUNTS)
def test_normal_numbers_are_those_of_the_specification(seed, stream, count):
    numbers = normal(seed, stream, count)
    assert numbers.dtype == np.float32
    assert numbers.shape == (count,)
    # Another library's cosine may be off by one step of float64.
    slow = np.array(slow_normal(seed, stream, count), np.float64)
    np.testing.assert_allclose(numbers, slow, rtol=2.0**-24, atol=1e-12)


def test_the_mixing_is_that_of_splitmix64():
    # The first outputs of the generator for the state 1234567, as public tests of it list them.
    states = np.array([1234567 + i * STEP & MASK for i in range(1, 6)], np.uint64)
    assert _mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_the_numbers_never_change():
    # A bundle's seed gives the same tokens and pictures with every release of mmedge and of NumPy.
    assert [number.hex() for number in uniform(0, 0, 3).tolist()] == UNIFORM_0_0
    assert [number.hex() for number in uniform(MASK, 7, 3).tolist()] == UNIFORM_MAX_7
    assert [number.hex() for number in normal(1, 2, 3).tolist()] == NORMAL_1_2


@given(seed=SEEDS, stream=STREAMS, count=COUNTS, more=COUNTS)
def test_fewer_numbers_are_the_beginning_of_more(seed, stream, count, more):
    for draw in (uniform, normal):
        both = draw(seed, stream, count + more)
        assert draw(seed, stream, count).tobytes() == both[:count].tobytes()


def test_uniform_numbers_fill_the_interval_evenly():
    numbers = uniform(3, 0, 400_000)
    assert 0.0 <= numbers.min() < 1e-4
    assert 1.0 - 1e-4 < numbers.max() < 1.0
    counts, _ = np.histogram(numbers, 64, (0.0, 1.0))
    # Chi squared of 63 degrees of freedom: 4 standard deviations.
    assert ((counts - 6250) ** 2 / 6250).sum() < 63 + 4 * math.sqrt(2 * 63)


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    numbers = normal(3, 0, 400_000).astype(np.float64)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = math.sqrt(variance / numbers.size)
        assert abs((numbers**power).mean() - moment) < 4 * error, power


def test_seeds_and_streams_have_nothing_to_do_with_each_other():
    draws = [normal(seed, stream, 100_000) for seed in (0, 1, 2) for stream in (0, 1, 2)]
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / math.sqrt(100_000)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None, "7", np.float32(3)])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(InputError, match="whole number from 0 to"):
        uniform(seed, 0, 1)


def test_a_seed_may_be_an_integer_of_numpy():
    assert uniform(np.int64(5), 0, 4).tobytes() == uniform(5, 0, 4).tobytes()
