"""Random numbers and choices of tokens in C++: the bits and tokens of the Python runtime."""

from __future__ import annotations

import numpy as np
import pytest
from probe_cases import number, numbers, run_cases, tensor

from mmedge.errors import BackendError
from mmedge.execution.random_numbers import normal, uniform
from mmedge.execution.sampling import Sampling, choose

pytestmark = pytest.mark.native_build

SEEDS = (0, 1, 2**63 + 5, 2**64 - 1)
DTYPES = (np.float16, np.float32, np.float64)


@pytest.mark.parametrize(("kind", "draw"), [("uniform", uniform), ("normal", normal)])
def test_random_numbers_are_the_same_bits(probe, kind, draw):
    asked = [(seed, stream, 65) for seed in SEEDS for stream in (0, 1, 4096, 2**64 - 1)]
    asked += [(7, 3, count) for count in (0, 1, 2, 3)] + [(11, 0, 300_001)]
    cases = [f"{kind} {seed} {stream} {count}".encode() for seed, stream, count in asked]
    written = run_cases(probe("sampling_probe"), cases)
    assert written == b"".join(draw(*one).tobytes() for one in asked)


def test_numbers_of_16_bits_round_as_those_of_numpy(probe):
    halves = np.arange(2**16, dtype=np.uint16)
    exact = halves.view(np.float16).astype(np.float64)
    steps = np.sort(exact[np.isfinite(exact)])
    between = (steps[1:] + steps[:-1]) / 2
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 2**64, 50_000, np.uint64).view(np.float64)
    near = np.ldexp(rng.normal(size=50_000), rng.integers(-30, 20, 50_000))
    values = np.concatenate((exact, between, np.nextafter(between, 0), np.nextafter(between, 1e9),
                             wide, near, [65519.99, 65520.0, 1e5, 2.0**-25, -0.0]))  # fmt: skip
    written = run_cases(probe("sampling_probe"), [b"halves" + tensor(values)])
    floats = np.frombuffer(written, np.float32, 2**16)
    np.testing.assert_array_equal(floats, halves.view(np.float16).astype(np.float32))
    assert np.array_equal(np.signbit(floats), halves >= 2**15)
    spacings = np.frombuffer(written, np.float64, 2**16, offset=2**18)[:0x7C00]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.spacing(halves[:0x7C00].view(np.float16)).astype(np.float64)
        rounded = values.astype(np.float16)
    np.testing.assert_array_equal(spacings, np.where(np.isfinite(expected), expected, 32.0))
    back = np.frombuffer(written, np.float16, offset=2**18 + 2**19)
    np.testing.assert_array_equal(back, rounded)
    assert np.array_equal(np.signbit(back), np.signbit(rounded))


def test_a_sum_is_that_of_numpy(probe):
    rng = np.random.default_rng(1)
    counts = [*range(300), 1000, 1023, 1024, 1025, 4097, 50_257, 151_936]
    arrays = [np.exp(rng.normal(size=count) * 5) for count in counts]
    written = run_cases(probe("sampling_probe"), [b"sum" + tensor(array) for array in arrays])
    assert np.frombuffer(written).tolist() == [array.sum() for array in arrays]


def scores_of(rng: np.random.Generator) -> np.ndarray:
    """Rows of scores: spread, with ties, nearly equal, hopeless, or of a large vocabulary."""
    vocabulary = int(rng.choice([1, 2, 7, 255, 256, 257, 300, 4096, 4097, 9000]))
    shape = (int(rng.integers(1, 4)), vocabulary)
    scores = rng.normal(size=shape) * rng.choice([1e-9, 0.01, 1.0, 10.0, 300.0])
    kind = rng.integers(5)
    if kind == 0:
        scores = np.round(scores)
    elif kind == 1:
        scores[rng.random(shape) < 0.6] = -np.inf
    elif kind == 2:
        scores[:] = scores[0, 0]
    return scores.astype(DTYPES[rng.integers(3)])


def sampling_of(rng: np.random.Generator, vocabulary: int) -> tuple[Sampling, list[int]]:
    sampling = Sampling(
        float(rng.choice([0.0, 0.3, 0.7, 1.0, 7.0, 100.0, 1e-3])),
        int(rng.choice([0, 0, 1, 2, 40, 300, 5000])),
        float(rng.choice([1.0, 1.0, 0.9, 0.5, 1e-9, 0.999999])),
        int(rng.integers(0, 2**64, dtype=np.uint64)),
    )
    count = int(rng.choice([0, 0, 1, 3, vocabulary]))
    return sampling, rng.integers(0, vocabulary, count).tolist()


def bytes_of(scores, sampling, first: int, choices: int, suppress: list[int]) -> bytes:
    head = (
        f"choose {number(sampling.temperature)} {sampling.top_k} {number(sampling.top_p)} "
        f"{sampling.seed} {first} {choices} {numbers(suppress)}"
    )
    return head.encode() + tensor(scores)


def expected_of(scores, sampling, first: int, choices: int, suppress: list[int]) -> list[list[int]]:
    tokens = []
    for choice in range(first, first + choices):
        try:
            tokens.append(choose(scores, sampling, choice, suppress))
        except BackendError:
            tokens.append([-1] * len(scores))
    return tokens


@pytest.mark.parametrize("seed", range(3))
def test_the_same_tokens_are_chosen(probe, seed):
    """All types, with ties and infinities, by all options; and where nothing may be chosen."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(150):
        scores = scores_of(rng)
        sampling, suppress = sampling_of(rng, scores.shape[1])
        cases.append((scores, sampling, int(rng.integers(0, 1000)), 6, suppress))
    written = np.frombuffer(
        run_cases(probe("sampling_probe"), [bytes_of(*case) for case in cases]), np.int64
    )
    at = 0
    for case in cases:
        tokens = expected_of(*case)
        count = 6 * len(case[0])
        assert written[at : at + count].reshape(6, -1).tolist() == tokens, case
        at += count
    assert at == len(written)
    assert (written < 0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_best_is_found_at_every_place(probe, dtype):
    rng = np.random.default_rng(8)
    cases = []
    for vocabulary in (1, 2, 15, 16, 17, 33, 1023, 1024, 1025, 1040, 2049, 5000):
        places = {
            0,
            1,
            15,
            16,
            1023,
            1024,
            vocabulary - 1,
            *rng.integers(0, vocabulary, 6).tolist(),
        }
        for place in sorted(place for place in places if place < vocabulary):
            scores = rng.normal(size=(1, vocabulary)).astype(dtype)
            scores[0, place] = 9
            equal = int(rng.integers(vocabulary))  # the first of the two is chosen
            scores[0, equal] = 9
            cases.append((scores, Sampling(), 0, 1, []))
            cases.append((scores, Sampling(), 0, 1, sorted({place, equal // 2})))
            cases.append((np.where(scores == 9, np.nan, scores).astype(dtype), *cases[-1][1:]))
    written = run_cases(probe("sampling_probe"), [bytes_of(*case) for case in cases])
    expected = [token for case in cases for row in expected_of(*case) for token in row]
    assert np.frombuffer(written, np.int64).tolist() == expected
    assert -1 in expected


def test_large_vocabularies(probe):
    rng = np.random.default_rng(5)
    cases = []
    for vocabulary in (50_257, 151_936, 256_000):
        scores = (rng.normal(size=(1, vocabulary)) * 3).astype(np.float32)
        for sampling in (Sampling(1.0, seed=2), Sampling(9.0, 0, 0.95, 3), Sampling(1.0, 50, 0.9)):
            cases.append((scores, sampling, 0, 2, [5, 7]))
    written = run_cases(probe("sampling_probe"), [bytes_of(*case) for case in cases])
    expected = [expected_of(*case) for case in cases]
    assert np.frombuffer(written, np.int64).tolist() == np.ravel(expected).tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_cannot_be_chosen(probe, temperature, top_k, dtype):
    """NaN anywhere, unless it is suppressed, and plus infinity where shares are drawn."""
    rows = [[1, 2, 3, 4.0] * 5 for _ in range(4)]
    rows[0][17] = rows[1][0] = np.nan
    rows[2] = [-np.inf] * 20
    rows[3][4] = np.inf
    sampling = Sampling(temperature, top_k)
    cases = [bytes_of(np.array([row], dtype), sampling, 0, 1, []) for row in rows]
    cases += [bytes_of(np.array([rows[0]], dtype), sampling, 0, 1, [17])]
    tokens = np.frombuffer(run_cases(probe("sampling_probe"), cases), np.int64)
    assert tokens[:3].tolist() == [-1, -1, -1]
    assert tokens[3] == (-1 if temperature else 4)
    assert tokens[4] >= 0
