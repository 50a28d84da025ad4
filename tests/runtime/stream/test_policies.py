"""Alignment: interpolation and slerp against their definitions, windows against the signal."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmedge.errors import InputError
from mmedge.spec import TensorSpec
from mmedge.stream.interpolation import blend
from mmedge.stream.policies import Exact, Hold, Interpolate, Window
from mmedge.stream.ring import Ring
from mmedge.stream.sample import StreamSample

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


@given(a=st.floats(-np.pi, np.pi), turn=st.floats(-3.1, 3.1), weight=st.floats(0, 1))
def test_angles_go_the_shorter_way(a, turn, weight):
    b = np.angle(np.exp(1j * (a + turn)))
    mixed = blend(np.array([[7.0, a]]), np.array([[9.0, b]]), weight, angles=((1, 2),))[0]
    assert mixed[0] == pytest.approx(7.0 + 2.0 * weight)
    assert abs(mixed[1]) <= np.pi + 1e-9
    assert np.exp(1j * mixed[1]) == pytest.approx(np.exp(1j * (a + turn * weight)), abs=1e-9)


def test_angles_in_other_units_are_refused():
    with pytest.raises(InputError, match=r"from -pi to pi: 350 is among them"):
        blend(np.array([[350.0]]), np.array([[10.0]]), 0.5, angles=((0, 1),))


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
    least = -(-length // hop) * hop
    held = set()
    for seq, (start, stop) in enumerate(pairwise(stops)):
        held.add(seq)
        chunk = StreamSample(seq, float(seq), {"pcm": signal[:, start:stop]}, {})
        windows, gone, left_out = ring.add(chunk)
        ends = [end for end in range(least, stop + 1, hop) if end > start]
        assert len(windows) == len(ends)
        assert left_out == 0
        assert (ring.filling() is None) == (stop // hop * hop >= length)
        for window, end in zip(windows, ends, strict=True):
            assert np.array_equal(window.build()["pcm"], signal[:, end - length : end])
            rows = [(stops[s.seq], stops[s.seq + 1]) for s in window.samples]
            assert all(first < end and last > end - length for first, last in rows)
            assert {s.seq for s in window.samples} <= held
            # Without a stated rate, rows have the stamps of their chunks.
            assert (window.first_t, window.last_t) == (window.samples[0].t, float(seq))
        held -= {sample.seq for sample in gone}
        # Bounded: what is held reaches back from the newest row by a window at most.
        assert all(stops[s + 1] > stop - length for s in held)
    assert {sample.seq for sample in ring.clear("test")} == held


def test_rows_of_a_stated_rate_have_times_of_their_own():
    ring = Ring(Window(6, 2), {"pcm": PCM}, rows_hz=100.0)
    pcm = np.zeros((1, 4), np.float32)
    ring.add(StreamSample(0, 1.00, {"pcm": pcm}, {}))
    windows, _, _ = ring.add(StreamSample(1, 1.04, {"pcm": pcm}, {}))
    # Rows 0 to 7 are of 0.97, 0.98, ... 1.04 s.
    times = [(w.first_t, w.last_t) for w in windows]
    assert np.allclose(times, [(0.97, 1.02), (0.99, 1.04)])


def test_a_chunk_of_very_many_windows_leaves_out_the_oldest():
    ring = Ring(Window(2), {"pcm": PCM})
    pcm = np.arange(2000, dtype=np.float32)[None]
    windows, _, left_out = ring.add(StreamSample(0, 1.0, {"pcm": pcm}, {}))
    assert (len(windows), left_out) == (1024, 1999 - 1024)
    assert windows[-1].build()["pcm"].tolist() == [[1998.0, 1999.0]]


def gaps(intervals, rows=4, **options):
    """Which chunks of ``rows`` rows, the second one first, begin anew."""
    policy = Window(8, 4, **options)
    ring = Ring(policy, {"pcm": PCM}, rows_hz=policy.rate_hz)
    t, anew = 1e9, []
    for seq, interval in enumerate([0.0, *intervals]):
        t += interval
        chunk = StreamSample(seq, t, {"pcm": np.zeros((1, rows), np.float32)}, {})
        anew.append(ring.gap(chunk) is not None)
        if anew[-1]:
            ring.clear("gap")
        ring.add(chunk)
    return anew[1:]


@pytest.mark.parametrize(
    ("intervals", "options", "anew"),
    [
        # A stated rate: 4 rows take 40 ms, and half of that may be missing.
        ([0.04, 0.06, 0.061, 0.02, 0.08], {"rate_hz": 100}, [0, 0, 1, 0, 1]),
        ([0.002, 0.00301, 0.0029], {"rate_hz": 2000}, [0, 1, 0]),
        ([40.0, 59.0, 80.0], {"rate_hz": 0.1}, [0, 0, 1]),
        ([0.04, 0.06, 0.1, 0.14], {"rate_hz": 100, "max_gap_ms": 60}, [0, 0, 0, 1]),
        ([0.04, 0.041], {"rate_hz": 100, "max_gap_ms": 0}, [0, 1]),
        # None: the first interval is taken up to a second, others are compared with the median.
        ([0.1, 0.1, 0.149, 0.2, 0.1], {}, [0, 0, 0, 1, 0]),
        ([1000.0, 0.1, 0.1, 0.1, 1000.0, 0.1], {}, [1, 0, 0, 0, 1, 0]),
        ([10.0, 10.0, 10.0, 20.0, 10.0], {}, [1, 0, 0, 1, 0]),
        # What comes as fast as it can is late by less than 20 ms.
        ([0.001, 0.01, 0.0001, 0.02, 0.5], {}, [0, 0, 0, 0, 1]),
    ],
)
def test_gaps_between_chunks(intervals, options, anew):
    assert gaps(intervals, **options) == [bool(flag) for flag in anew]


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
        (lambda: Interpolate((0, 4)), "one slice is written"),
        (lambda: Interpolate({"a": (0, 4)}), "one slice is written"),
        (lambda: Interpolate(((-4, 0),)), "begins at 0 or later"),
        (lambda: Interpolate(angles=((2, 2),)), "begins at 0 or later"),
        (lambda: Interpolate(angles=((0.0, 1.0),)), "whole numbers"),
        (lambda: Interpolate(((0, 4),)).turns_of(["a", "b"]), "several inputs, a, b; say whose"),
        (lambda: Interpolate({"c": ((0, 4),)}).turns_of(["a", "b"]), "unknown input 'c'"),
        (lambda: Interpolate(((0, 4),), angles=((3, 5),)).turns_of(["a"]), "overlap"),
        (lambda: Window(2.5), "whole numbers"),
        (lambda: Window(4, rate_hz=0), "rate_hz must be above 0"),
        (lambda: Window(4, max_gap_ms=-1), "max_gap_ms must be 0 or more"),
        (lambda: Window(0), "length"),
        (lambda: Window(3, 0), "hop"),
        (lambda: Window(3, axis=2).axis_of(PCM), "does not fit input pcm"),
    ],
)
def test_policies_that_cannot_be_meant(make, match):
    with pytest.raises(InputError, match=match):
        make()
