"""Sanity checks of samples: what is refused, and what must not be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmedge.errors import InputError
from mmedge.spec import Dimension, Manifest, Modality, Range, Stage, TensorSpec
from mmedge.stream.sanity import Checker, Sanity, same_content


def checker(
    sanity=None, *, dtype="float32", elements=64, rate=10.0, known=None, chunks=False, sound=None
):
    modality = Modality("sensor", ("x",), rate_hz=rate, sample_rate_hz=sound)
    spec = TensorSpec("x", dtype, ("batch", elements))
    manifest = Manifest(
        name="one",
        modalities=(modality,),
        stages=(Stage("net", "net.onnx", (spec,), ()),),
        outputs=(),
        variants=(),
        files={},
        dimensions={"batch": Dimension(1, 1, 4)},
        ranges={} if known is None else {"x": Range(*known)},
    )
    return Checker(sanity or Sanity(), modality, manifest, chunks=chunks)


@given(
    array=arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(0, 2), st.integers(0, 40)),
        elements=st.floats(width=16),
    ),
    finite=st.booleans(),
)
def test_finite_means_each_element(array, finite):
    expected = None
    if finite and not np.isfinite(array).all():
        expected = "nan" if np.isnan(array).any() else "inf"
    assert checker(Sanity(finite=finite)).check({"x": array}) == expected


def test_a_sum_that_overflows_is_not_infinity():
    for dtype, large in ((np.float16, 6e4), (np.float32, 3e38), (np.float64, 1.7e308)):
        assert checker().check({"x": np.full((1, 64), large, dtype)}) is None


@given(
    contents=st.lists(st.integers(0, 2), max_size=40),
    after=st.integers(2, 5),
)
def test_frozen_from_the_nth_alike_on(contents, after):
    check = checker(Sanity(frozen_after=after))
    run = 0
    for i, number in enumerate(contents):
        run = run + 1 if i and contents[i - 1] == number else 1
        found = check.check({"x": np.full((1, 64), number, np.float32)})
        assert found == ("frozen" if run >= after else None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 10),
        ({"dtype": "uint8", "rate": 30.0}, 30),
        ({"rate": 0.5}, 2),
        ({"elements": 63}, None),
        ({"dtype": "int64"}, None),
        ({"rate": None}, None),
        ({"chunks": True}, None),
        ({"sound": 16000}, None),
    ],
)
def test_automatic_frozen_limit(options, expected):
    assert checker(**options).frozen_after == expected
    assert checker(Sanity(frozen_after=None), **options).frozen_after is None


@pytest.mark.parametrize(
    ("number", "fault"),
    [(0, None), (-5, None), (-5.1, "out_of_range"), (15, None), (16, "out_of_range")],
)
def test_range_with_its_margin(number, fault):
    one = np.full((1, 64), 3, np.float32)
    one[0, 5] = number
    assert checker(known=(0, 10)).check({"x": one}) == fault
    one[0, 6] = np.nan
    assert checker(known=(0, 10)).check({"x": one}) == "nan"
    assert checker(Sanity(finite=False), known=(0, 10)).check({"x": one}) == fault
    assert checker(Sanity(range_margin=None), known=(0, 10)).check({"x": one}) == "nan"


def test_ranges_that_say_nothing():
    far = np.full((1, 64), 999)
    assert checker(known=(3, 3)).check({"x": far.astype(np.float32)}) is None
    assert checker(dtype="int64", known=(0, 3)).check({"x": far}) is None
    assert checker(dtype="uint8", known=(0, 3)).check({"x": far.astype(np.uint8)}) == "out_of_range"


def test_content_is_compared_as_bytes():
    nan, zero = np.full((2, 2), np.nan, np.float32), np.zeros((2, 2), np.float32)
    assert same_content({"x": nan}, {"x": nan.copy()})
    assert not same_content({"x": zero}, {"x": -zero})
    assert not same_content({"x": zero}, {"x": zero.reshape(4, 1)})
    assert not same_content({"x": zero}, {"x": zero.astype(np.int32)})
    assert same_content({"x": zero[:0]}, {"x": zero[:0].copy()})
    assert not same_content({"x": object()}, {"x": object()})
    buffer = object()  # on a GPU, filled anew for each sample
    assert not same_content({"x": buffer}, {"x": buffer})


@pytest.mark.parametrize(
    "options", [{"frozen_after": 1}, {"frozen_after": "never"}, {"range_margin": -1}]
)
def test_checks_that_cannot_be_meant(options):
    with pytest.raises(InputError):
        Sanity(**options)
