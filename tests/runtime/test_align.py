"""Alignment: interpolation and slerp against their definitions, windows against the signal."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmedge.align import Exact, Hold, Interpolate, Window, blend
from mmedge.errors import InputError
from mmedge.spec import TensorSpec
from mmedge.stream.ring import Ring
from mmedge.stream.sample import Sample

PCM = TensorSpec("pcm", "float32", ("batch", "samples"))


def rotation(q):
    """Matrix of a unit quaternion (x, y, z, w)."""
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def angle(a, b):
    """Angle between two rotations, in radians."""
    return np.arccos(np.clip((np.trace(rotation(a).T @ rotation(b)) - 1) / 2, -1, 1))


quaternions = st.lists(st.floats(-1, 1), min_size=4, max_size=4).map(np.array)


@given(a=quaternions, b=quaternions, weight=st.floats(0, 1), sign=st.sampled_from([1.0, -1.0]))
def test_slerp_turns_evenly_the_shorter_way(a, b, weight, sign):
    assume(np.linalg.norm(a) > 0.1 and np.linalg.norm(b) > 0.1)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    assume(abs(a @ b) > 1e-3)  # opposite rotations have two shortest ways
    mixed = blend(a[None], sign * b[None], weight, ((0, 4),))[0]
    assert np.linalg.norm(mixed) == pytest.approx(1.0)
    whole = angle(a, b)
    assert angle(a, mixed) == pytest.approx(weight * whole, abs=1e-4)
    assert angle(mixed, b) == pytest.approx((1 - weight) * whole, abs=1e-4)


def test_blend_is_linear_outside_the_quaternion_and_keeps_the_dtype():
    half = np.sqrt(0.5)
    before = np.array([[10.0, 0, 0, 0, 1, -4]], np.float32)
    after = np.array([[20.0, 0, 0, half, half, 4]], np.float32)
    mixed = blend(before, after, 0.25, ((1, 5),))
    assert mixed.dtype == np.float32
    eighth = np.pi / 16
    np.testing.assert_allclose(mixed, [[12.5, 0, 0, np.sin(eighth), np.cos(eighth), -2]], atol=1e-6)
    assert np.array_equal(blend(before, after, 0.0)[0], before[0])
    assert np.array_equal(blend(before, after, 1.0)[0], after[0])


def test_slerp_of_zeros_is_no_division_by_zero():
    zeros = np.zeros((1, 4), np.float32)
    assert np.array_equal(blend(zeros, zeros, 0.5, ((0, 4),)), zeros)


@given(
    chunks=st.lists(st.integers(1, 9), max_size=20),
    length=st.integers(1, 12),
    hop=st.integers(1, 12),
)
def test_windows_are_slices_of_the_signal(chunks, length, hop):
    """Whatever the chunks: a window is ``length`` rows that end at a multiple of ``hop``."""
    ring = Ring(Window(length, hop), {"pcm": PCM})
    assert ring.sizes == {"samples": length}
    signal = np.arange(sum(chunks), dtype=np.float32)[None]
    stops = np.cumsum([0, *chunks])
    held = set()
    for seq, (start, stop) in enumerate(pairwise(stops)):
        before = start // hop * hop
        held.add(seq)
        gone, new = ring.add(Sample(seq, float(seq), {"pcm": signal[:, start:stop]}, {}))
        held -= {sample.seq for sample in gone}
        end = stop // hop * hop
        assert new == (end > before and end >= length)
        assert (ring.filling() is None) == (end >= length)
        if new:
            samples, build = ring.window()
            assert np.array_equal(build()["pcm"], signal[:, end - length : end])
            rows = [(stops[s.seq], stops[s.seq + 1]) for s in samples]
            assert all(first < end and last > end - length for first, last in rows)
            assert {s.seq for s in samples} <= held
        # Bounded: what is held reaches back from the newest row by a window and a hop at most.
        assert all(stops[s + 1] > stop - length - hop for s in held)
    assert {sample.seq for sample in ring.clear()} == held


@pytest.mark.parametrize(
    ("shape", "axis"),
    [(("batch", 3, "samples"), 2), (("batch", 16, 6), 1), (("batch", "time", "points"), 1)],
)
def test_axis_of_the_rows(shape, axis):
    assert Window(4).axis_of(TensorSpec("x", "float32", shape)) == axis


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Hold(0), "max_age_ms must be above 0"),
        (lambda: Hold(float("nan")), "max_age_ms"),
        (lambda: Exact(-1), "tolerance_ms must be 0 or more"),
        (lambda: Interpolate(max_age_ms=-1), "max_age_ms"),
        (lambda: Interpolate(((3, 6),)), "a quaternion is 4 elements"),
        (lambda: Window(0), "length"),
        (lambda: Window(3, 0), "hop"),
        (lambda: Window(3, axis=2).axis_of(PCM), "does not fit input pcm"),
    ],
)
def test_policies_that_cannot_be_meant(make, match):
    with pytest.raises(InputError, match=match):
        make()
