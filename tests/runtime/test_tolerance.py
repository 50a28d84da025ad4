"""Neither fill values nor channels of another magnitude excuse a difference beside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmedge.errors import AccuracyError
from mmedge.spec import Tolerance
from mmedge.tolerance import OutputComparison, difference

LIMIT = Tolerance(rtol=1e-4, atol=1e-6)

#: Of one magnitude, none of them zero.
arrays = hnp.arrays(
    np.float64,
    hnp.array_shapes(max_dims=3),
    elements=st.floats(2, 9) | st.floats(-9, -2),
)


def floats(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def rounded(array: np.ndarray, seed: int = 1) -> np.ndarray:
    """As another order of the same float32 work gives it: off by some units in the last place."""
    noise = np.random.default_rng(seed).normal(size=array.shape) * 3e-7
    return (array * (1 + noise)).astype(np.float32)


@given(arrays)
def test_equal_arrays_do_not_differ(array):
    found = difference(array, array.copy(), LIMIT)
    assert (found.max_abs, found.max_rel, found.limit_used) == (0.0, 0.0, 0.0)


@given(arrays, st.floats(0, 3), st.integers(0, 100))
def test_the_share_of_the_limit_decides(array, share, at):
    step = share * (LIMIT.atol + LIMIT.rtol * float(np.abs(array).max()))
    moved = array.copy()
    moved.flat[at % array.size] += step
    found = difference(moved, array, LIMIT)
    assert found.limit_used == pytest.approx(share, rel=1e-6, abs=1e-3)
    assert found.scale == np.abs(array).max() or not found.max_abs
    assert found.where == ""


@pytest.mark.parametrize(
    ("got", "golden"),
    [
        (np.array([1.0, np.nan]), np.array([1.0, 2.0])),
        (np.array([1.0, np.inf]), np.array([1.0, 2.0])),
        (np.array([1.0, 2.0]), np.array([1.0, np.nan])),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf])),
        (np.array([1.0]), np.array([1.0, 2.0])),
        (np.array([1], np.int64), np.array([2], np.int64)),
        (np.array([2**53], np.int64), np.array([2**53 + 1], np.int64)),
        (np.array([True]), np.array([False])),
        (np.array([1.0], np.float32), np.array([1.0], np.float64)),
    ],
)
def test_what_can_never_pass(got, golden):
    found = difference(got, golden, Tolerance(1.0, 1.0))
    assert found.limit_used > 1
    assert not found.passes
    with pytest.raises(AccuracyError):
        compared = OutputComparison(LIMIT)
        compared.add(got, golden)
        compared.least()


def test_what_is_special_and_equal_passes():
    special = np.array([np.nan, np.inf, -np.inf, 0.5])
    assert difference(special, special.copy(), LIMIT).limit_used == 0
    assert difference(np.zeros((0, 2)), np.zeros((0, 2)), LIMIT).passes
    for dtype in (np.int64, np.uint8, np.bool_):
        value = np.array([0, 1, 1], dtype)
        assert difference(value.copy(), value, LIMIT).passes
        found = difference(np.array([0, 1, 0], dtype), value, Tolerance(1, 1))
        assert str(found) == "differs in 1 of 3 elements"


def test_a_reference_of_zeros_leaves_only_the_absolute_limit():
    zeros = np.zeros(3, np.float32)
    assert difference(zeros + np.float32(LIMIT.atol / 2), zeros, LIMIT).passes
    found = difference(zeros + np.float32(0.5), zeros, LIMIT)
    assert not found.passes
    assert str(found) == "differs by up to 0.5 where it should be zero throughout"


FILLS = [-1e4, -1e9, -1e30, -100.0, -5e4, -65504.0, float(np.finfo(np.float32).min), -2.3819763e38]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_fill_value_excuses_nothing(fill, count):
    golden = floats(6, 8)
    golden.flat[np.random.default_rng(2).permutation(golden.size)[:count]] = fill
    masked = golden == np.float32(fill)
    scores = np.where(masked, 0, golden)
    wrong = np.where(masked, golden, scores * np.float32(1.01))
    assert difference(np.where(masked, golden, rounded(scores)), golden, LIMIT).passes
    found = difference(wrong, golden, LIMIT)
    assert not found.passes
    assert found.scale < 10
    assert found.max_rel == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_value_that_is_not_met_is_a_difference(fill):
    golden = floats(6, 8)
    golden[2, 3] = fill
    wrong = golden.copy()
    wrong[2, 3] = fill / 2
    found = difference(wrong, golden, LIMIT)
    assert not found.passes
    assert found.max_rel == pytest.approx(0.5)


@pytest.mark.parametrize("fill", [-1e4, -1e9])
def test_a_mask_that_is_added_excuses_nothing_either(fill):
    scores, masked = floats(6, 8, scale=3), np.zeros((6, 8), np.float32)
    masked[:, 5:] = fill
    golden = scores + masked
    assert difference(rounded(scores) + masked, golden, LIMIT).passes
    found = difference(scores * np.float32(1.001) + masked, golden, LIMIT)
    assert not found.passes
    assert found.max_abs >= 1e-3


@pytest.mark.parametrize("layout", [(0, 1, 2), (0, 2, 1)], ids=["last", "first"])
@pytest.mark.parametrize("boxes", [90.0, 640.0, 5e3])
def test_boxes_excuse_no_classes(layout, boxes):
    golden = floats(1, 50, 4 + 1 + 20, scale=2)
    golden[..., :4] = boxes * np.random.default_rng(3).random((1, 50, 4))
    wrong = golden.copy()
    wrong[..., 5:] += 3e-3 * floats(1, 50, 20, seed=4)
    golden, wrong = golden.transpose(layout), wrong.transpose(layout)
    assert difference(rounded(golden), golden, LIMIT).passes
    found = difference(wrong, golden, LIMIT)
    assert not found.passes
    assert found.scale < 20
    assert found.where.startswith("channel" if layout[1] == 1 else "axis 1 at")


def test_one_small_channel_is_known_by_several_samples():
    """A position in millimeters beside a gripper: one row does not tell that it is no accident."""
    compared = OutputComparison(LIMIT)
    for seed in range(6):
        golden = floats(1, 4, scale=800, seed=seed)
        golden[0, 3] = np.random.default_rng(seed).random() - 0.5
        wrong = rounded(golden, seed + 100)
        wrong[0, 3] *= np.float32(1.05)
        compared.add(wrong, golden)
        if not seed:
            assert compared.result().passes
    found = compared.result()
    assert not found.passes
    assert found.where == "channel 3"
    assert found.max_rel == pytest.approx(0.05, rel=0.1)


def test_rows_of_a_batch_excuse_no_other_row():
    golden = floats(3, 8, scale=2)
    golden[1] *= 1e4
    assert difference(rounded(golden), golden, LIMIT).passes
    wrong = golden.copy()
    wrong[2] *= np.float32(1.01)
    found = difference(wrong, golden, LIMIT)
    assert not found.passes
    assert found.where == "row 2"


def test_noise_where_nothing_is_refuses_nothing():
    golden = floats(1, 20, 16, scale=5)
    golden[..., 7] = 0.0
    got = rounded(golden)
    got[..., 7] = 1e-5 * np.random.default_rng(5).normal(size=(1, 20))
    assert difference(got, golden, LIMIT).passes
    # The difference of two large numbers, which is small: its noise is theirs.
    golden[..., 7] = 4e-5 * np.random.default_rng(6).normal(size=(1, 20))
    got[..., 7] = golden[..., 7] + 2e-6 * np.random.default_rng(7).normal(size=(1, 20))
    assert difference(got, golden, LIMIT).passes


def test_probabilities_are_of_one_magnitude():
    """A class that no sample has is no smaller a thing than one that some have."""
    logits = floats(8, 30, scale=4)
    logits[:, 3] += 12
    golden = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.abs(golden[:, 4:]).max() < 0.2 * golden.max()
    got = golden + np.float32(5e-5) * floats(8, 30)
    found = difference(got.astype(np.float32), golden.astype(np.float32), Tolerance(1e-3, 0.0))
    assert found.passes
    assert found.where == ""


@pytest.mark.parametrize("sigma", [1, 2, 4])
def test_heavy_tails_of_right_graphs_pass(sigma):
    for seed in range(50):
        golden = np.exp(floats(2, 40, scale=sigma, seed=seed))
        golden *= np.sign(floats(2, 40, seed=seed + 1000))
        assert difference(rounded(golden), golden, LIMIT).passes


def test_few_small_elements_are_small_by_chance():
    golden = np.array([[8.0, 5.0, 3.0, 2.0, -0.5, 0.01]], np.float32)
    got = golden + np.float32(4e-5)
    assert difference(got, golden, LIMIT).passes


def test_a_row_that_is_repeated_is_no_further_evidence():
    golden = np.repeat(np.array([[8.0, 5.0, 3.0, 2.0, -0.5, 0.001]], np.float32), 9, axis=0)
    assert difference(golden + np.float32(2e-5), golden, LIMIT).passes


def test_the_least_tolerance_holds_what_it_was_made_of():
    """And a channel that is lost does not widen it for the rest."""
    golden = [floats(1, 30, 9, scale=100, seed=seed) for seed in range(4)]
    for array in golden:
        array[..., 8] *= 1e-4
    got = [array + 0.3 * floats(1, 30, 9, seed=seed + 50) for seed, array in enumerate(golden)]
    compared = OutputComparison(Tolerance(0.0, 0.0))
    samples = [compared.add(ours, theirs) for ours, theirs in zip(got, golden, strict=True)]
    least = compared.least()
    assert least.rtol < 0.02
    assert least.atol < 2
    again = OutputComparison(Tolerance(least.rtol * 1.001, least.atol * 1.001))
    for ours, theirs in zip(got, golden, strict=True):
        again.add(ours, theirs)
    assert again.result().passes
    assert compared.result().max_rel > 1  # the lost channel
    assert max(map(compared.relative, samples)) == compared.result().max_rel


def test_the_least_tolerance_of_zeros_is_absolute():
    zeros = np.zeros(2, np.float32)
    for golden, want in ((zeros, Tolerance(0.0, 0.25)), (zeros + 1, Tolerance(0.25, 0.0))):
        compared = OutputComparison(Tolerance(0.0, 0.0))
        compared.add(golden + np.float32(0.25), golden.astype(np.float32))
        assert compared.least() == want


def test_axes_of_changing_size_are_no_channels():
    compared = OutputComparison(LIMIT)
    for size in (8, 5, 30):
        golden = floats(1, size, scale=10)
        compared.add(rounded(golden), golden)
    golden = floats(1, 40, scale=500)
    golden[:, 8:] /= 100
    wrong = golden + np.float32(1e-2) * (np.abs(golden) < 30)
    compared.add(wrong.astype(np.float32), golden)
    assert compared.result().passes  # by the tensor's scale: 500


@pytest.mark.parametrize("scale", [1.0, 1e-3, 6e4])
def test_neighbors_in_float16_pass_and_those_beyond_do_not(scale):
    golden = (np.random.default_rng(0).standard_normal(200) * scale).clip(-6e4, 6e4)
    golden = golden.astype(np.float16)
    near, far = np.nextafter(golden, np.float16(np.inf)), golden * np.float16(1.01)
    assert difference(near, golden, Tolerance(1e-4, 0.0)).passes
    assert not difference(far, golden, Tolerance(1e-4, 0.0)).passes
    assert not difference(near, golden, Tolerance(0.0, 0.0)).passes
