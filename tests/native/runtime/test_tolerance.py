"""Comparison of outputs in C++ beside mmedge/tolerance.py: the same figures, words and decision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from probe_cases import number, run_cases, tensor

from mmedge.spec import DTYPES, Tolerance
from mmedge.tolerance import OutputComparison

pytestmark = pytest.mark.native_build

FLOATS = (np.float16, np.float32, np.float64)
#: Fill values, their neighbors, and what only looks like one.
FILLS = (
    -1e9, -1e4, 1e4, -65504.0, 65504.0, 3.3895313892515355e38, -3.4028234663852886e38, 255.0,
    -100.0, -50.0, 49.0, 990.0, 989.0, 1010.0, 1011.0, 1e3, 1.2e5, 1.23e5, 33000.0, 5.5e20, 1e30,
    9.9e37,
)  # fmt: skip
EXTREME = (1.7976931348623157e308, -1e308, 1e300, 5e-324, 1e-310)
TOLERANCES = [(1e-4, 1e-6), (0.0, 0.0), (1e-2, 0.0), (0.0, 1e-3), (2.0, 1e9), (1e-7, 1e-8)]


def shape_of(rng: np.random.Generator) -> tuple[int, ...]:
    rank = int(rng.integers(0, 5))
    return tuple(int(size) for size in rng.integers(0 if rng.random() < 0.02 else 1, 9, rank))


def golden_of(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Values of one or several magnitudes, shares, zeros, or repeated ones."""
    values = np.asarray(rng.normal(size=shape))
    kind = rng.integers(6)
    if shape and kind < 3:
        axis = int(rng.integers(len(shape)))
        sizes = [1] * len(shape)
        sizes[axis] = shape[axis]
        values = values * 10.0 ** rng.integers(-8, 5, sizes)
    elif kind == 3:
        values = 10.0 ** -np.abs(4 * values)
    elif kind == 4:
        values = np.round(values)
    if rng.random() < 0.1:
        values = values * 0.0
    return np.asarray(values)


@np.errstate(all="ignore")
def sample_of(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype, rtol: float
) -> tuple[np.ndarray, np.ndarray]:
    golden = golden_of(rng, shape)
    if rng.random() < 0.5 and golden.size:
        pool = FILLS + (EXTREME if dtype == np.float64 else ())
        mask = rng.random(golden.shape) < rng.choice([0.05, 0.5, 0.95])
        fills = rng.choice(rng.choice(pool, rng.integers(1, 4)), golden.shape)
        golden = np.where(mask, fills, golden)
    got = golden * (1 + rng.normal(size=shape) * rng.choice([0.0, 1e-7, rtol, 0.1]))
    if rng.random() < 0.3:
        got = got + rng.normal(size=shape) * 10.0 ** rng.integers(-8, 1)
    if rng.random() < 0.2:
        got = np.where(rng.random(shape) < 0.7, golden, got)
    got, golden = np.asarray(got).astype(dtype), np.asarray(golden).astype(dtype)
    if rng.random() < 0.15 and golden.size:
        special = rng.random(golden.shape) < 0.2
        values = rng.choice([np.nan, np.inf, -np.inf], golden.shape).astype(dtype)
        golden = np.where(special, values, golden)
        got = np.where(special if rng.random() < 0.8 else ~special, values, got)
    return got, golden


@np.errstate(all="ignore")
def case_of(rng: np.random.Generator) -> tuple[Tolerance, list[tuple[np.ndarray, np.ndarray]]]:
    tolerance = Tolerance(*TOLERANCES[rng.integers(len(TOLERANCES))])
    shape, samples = shape_of(rng), []
    dtype = np.dtype(FLOATS[rng.integers(3)])
    if rng.random() < 0.15:
        dtype = np.dtype(rng.choice(list(DTYPES.values())))
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.1:
            shape = (*shape[:-1], *rng.integers(1, 9, 1)) if shape else shape_of(rng)
        if dtype.kind == "f":
            got, golden = sample_of(rng, shape, dtype, tolerance.rtol)
        else:
            raw = rng.integers(0, 2 if dtype.kind == "b" else 256, (*shape, dtype.itemsize))
            golden = raw.astype(np.uint8).view(dtype).reshape(shape)
            got = golden.copy()
            if rng.random() < 0.5 and got.size:
                got.flat[rng.integers(got.size)] ^= True
        if rng.random() < 0.02:
            got = got.astype(rng.choice(list(DTYPES.values()))) if rng.random() < 0.5 else got[None]
        samples.append((np.ascontiguousarray(got).reshape(got.shape), golden))
    return tolerance, samples


def bytes_of(tolerance: Tolerance, samples: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
    head = f"{number(tolerance.rtol)} {number(tolerance.atol)} {len(samples)}".encode()
    return head + b"".join(tensor(got) + tensor(golden) for got, golden in samples)


def expected_of(tolerance: Tolerance, samples: list[tuple[np.ndarray, np.ndarray]]) -> str:
    comparison = OutputComparison(tolerance)
    with np.errstate(all="ignore"):
        for got, golden in samples:
            comparison.add(got, golden)
        worst = comparison.result()
    figures = (worst.max_abs, worst.max_rel, worst.limit_used, worst.scale)
    values = "|".join(number(figure) for figure in figures)
    return f"{values}|{worst.where}|{worst.reason}|{worst.passes:d}|{worst}"


def normal_form(line: str) -> str:
    """A line of the probe with its numbers as Python writes them."""
    figures, rest = line.split("|")[:4], line.split("|")[4:]
    values = [
        number(float.fromhex(f))
        if "n" not in f
        else number(math.copysign(1, -1) * math.nan)
        if "nan" in f
        else f
        for f in figures
    ]
    return "|".join((*values, *rest))


def check(program, cases) -> None:
    lines = run_cases(program, [bytes_of(*case) for case in cases]).decode().splitlines()
    assert len(lines) == len(cases)
    for case, line in zip(cases, lines, strict=True):
        assert normal_form(line) == expected_of(*case), case


@pytest.mark.parametrize("seed", range(4))
def test_figures_words_and_decision_are_those_of_python(probe, seed):
    """Bit for bit: all types, with fill values, channels, rows, NaN and infinities."""
    rng = np.random.default_rng(seed)
    cases = [case_of(rng) for _ in range(400)]
    check(probe("tolerance_probe"), cases)
    passed = [expected_of(*case).split("|")[-2] for case in cases]
    assert passed.count("1") > 80
    assert passed.count("0") > 80


def test_what_looks_like_a_fill_value_is_the_same_number(probe):
    """Around every power of ten, and with one, two and three digits: with small ones beside it."""
    cases = []
    values = [digits * 10.0**power for power in range(37) for digits in (1, 1.01, 0.99, 3.3, 1.23)]
    values += [np.nextafter(np.float32(value), np.float32(0)) for value in values]
    values += [float(value) for value in range(40, 1200)]
    for value in values:
        golden = np.array([[value, 0.3, -0.2, value, 0.7]], np.float32)
        got = golden.copy()
        got[0, 1:4] += np.float32([1e-3, 0, value * 1e-5])
        cases.append((Tolerance(1e-4, 1e-6), [(got, golden)]))
    check(probe("tolerance_probe"), cases)


def test_a_channel_is_small_by_all_samples(probe):
    """Large tensors, whose slices are looked at in places that are evenly spaced."""
    rng = np.random.default_rng(9)
    cases = []
    for shape in ((3, 7, 50), (2, 4, 9, 11), (64, 33), (1, 1000), (5, 3, 129)):
        for _ in range(6):
            scale = 10.0 ** rng.integers(-9, 3, shape[-1])
            samples = []
            for _ in range(3):
                golden = (np.round(rng.normal(size=shape) * 2) * scale).astype(np.float32)
                samples.append((golden + np.float32(1e-7) * rng.normal(size=shape), golden))
            samples = [(got.astype(np.float32), golden) for got, golden in samples]
            cases.append((Tolerance(1e-4, 0.0), samples))
    check(probe("tolerance_probe"), cases)
