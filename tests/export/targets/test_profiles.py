"""Sizes that engines are built for."""

from __future__ import annotations

import numpy as np
import pytest
from engine_net import graph, write_bundle, write_trio
from hypothesis import given
from hypothesis import strategies as st

from mmedge.errors import BackendError, InputError
from mmedge.spec import Constraint, Dimension
from mmedge_export.targets.tensorrt.profiles import (
    NO_LIMIT_FACTOR,
    ProfileSizes,
    parse_profiles,
    resolve_profiles,
)


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    with write_trio(tmp_path_factory.mktemp("trio") / "trio") as bundle:
        yield bundle


def test_limits_come_from_the_manifest_and_frames_from_running(trio):
    assert resolve_profiles(trio) == {
        "batch": ProfileSizes(1, 1, 4),
        "samples": ProfileSizes(40, 400, 400 * NO_LIMIT_FACTOR),
        "frames": ProfileSizes(3, 21, 161),
    }


def test_an_override_moves_what_follows_from_it(trio):
    sizes = resolve_profiles(trio, {"samples": (200, 400, 800)})
    assert sizes["samples"] == ProfileSizes(200, 400, 800)
    assert sizes["frames"] == ProfileSizes(11, 21, 41)


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"sample": (1, 2, 3)}, "no such dynamic dimension; they have batch, samples"),
        ({"frames": (1, 2, 3)}, "no such dynamic dimension"),
        ({"samples": (40, 900, 800)}, "expected 1 <= MIN <= OPT <= MAX, got 40:900:800"),
        ({"batch": (0, 1, 4)}, "expected 1 <= MIN"),
        ({"samples": (40, 400, 500)}, r"leaves out golden samples of size \[640\]"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(trio, profile, words):
    with pytest.raises(InputError, match=words):
        resolve_profiles(trio, profile)


def test_sizes_at_which_a_stage_cannot_run_are_named(tmp_path):
    models = {
        "ear": graph(
            "ear (float[1,1,n] x) => (float[1,1,m] h) { h = Conv<kernel_shape=[40]>(x, w) }",
            w=np.ones((1, 1, 40), np.float32),
        ),
        "net": graph("net (float[1,1,m] h) => (float[1,1,m] y) { y = Relu(h) }"),
    }
    feeds = [{"x": np.ones((1, 1, 80), np.float32)}]
    sizes = {"n": Dimension(10, 80, 90), "m": Dimension(1, 41)}
    with write_bundle(tmp_path / "b", models, feeds, sizes) as bundle:
        with pytest.raises(BackendError, match="stage 'ear' does not run at n=10: .*Narrow"):
            resolve_profiles(bundle)
        assert resolve_profiles(bundle, {"n": (40, 80, 90)})["m"] == ProfileSizes(1, 41, 51)


def test_the_largest_golden_sample_counts_where_there_is_no_limit(tmp_path):
    net = graph("net (float[n] x) => (float[n] y) { y = Relu(x) }")
    feeds = [{"x": np.ones(n, np.float32)} for n in (2, 40)]
    with write_bundle(tmp_path / "b", {"net": net}, feeds, {"n": Dimension(1, 2)}) as bundle:
        assert resolve_profiles(bundle) == {"n": ProfileSizes(1, 2, 40)}


def test_constraints_and_multiples_are_kept(tmp_path):
    net = graph("net (float[n] x) => (float[n] y) { y = Relu(x) }")
    feeds = [{"x": np.ones(n, np.float32)} for n in (8, 12)]
    limits = [Constraint("n != 0", "net.py:1: if"), Constraint("n % 3 != 1", "net.py:2: if")]
    sizes = {"n": Dimension(0, 8, 16, 4)}
    with write_bundle(tmp_path / "b", {"net": net}, feeds, sizes, limits) as bundle:
        assert resolve_profiles(bundle) == {"n": ProfileSizes(8, 8, 12)}


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,9}", fullmatch=True),
        st.tuples(*[st.integers(0, 10**9)] * 3),
    )
)
def test_what_is_written_is_read(profiles):
    texts = [f"{name}={ProfileSizes(*sizes)}" for name, sizes in profiles.items()]
    assert parse_profiles(texts) == profiles


@pytest.mark.parametrize(
    "text", ["", "a", "a=1", "a=1:2", "=1:2:3", "a=1:2:3:4", "a=1:x:3", "a=-1:2:3"]
)
def test_other_forms_are_refused(text):
    with pytest.raises(InputError, match="expected DIMENSION=MIN:OPT:MAX"):
        parse_profiles([text])


def test_a_dimension_given_twice_is_refused():
    with pytest.raises(InputError, match="'a' is given twice"):
        parse_profiles(["a=1:2:3", "a=1:2:3"])
