"""The CPU kernel against the reference, on every instruction set that this processor has."""

from __future__ import annotations

import platform

import numpy as np
import onnx_attention
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge import native
from mmedge.errors import BackendError, InputError
from mmedge.native import capi
from mmedge.testing import (
    CASES,
    FROBENIUS,
    AttentionCase,
    Inputs,
    allowed_error,
    frobenius,
    make_inputs,
    reference,
)

ISAS = (
    ("neon", "portable")
    if platform.machine() in ("aarch64", "arm64")
    else ("avx512", "avx2", "portable")
)


@pytest.fixture(params=ISAS)
def isa(request):
    try:
        native.use_isa(request.param)
    except InputError as error:
        pytest.skip(str(error))
    yield request.param
    native.use_isa(None)


def attend(inputs, **more):
    out, lse = native.segmented_attention(inputs.q, inputs.k, inputs.v, **inputs.options, **more)
    return out, lse


def torch_attention(inputs):
    """The same by torch in float32, of joint segments."""
    q = torch.from_numpy(np.ascontiguousarray(inputs.q)).transpose(1, 2)
    batch, heads, rows, _ = q.shape
    group = heads // inputs.k[0].shape[2]
    bias = torch.zeros(batch, heads, rows, 0)
    for s, k in enumerate(inputs.k):
        added = torch.zeros(batch, heads, rows, k.shape[1])
        for name in ("lens", "key_valid", "bias"):
            value = (inputs.options.get(name) or [None] * len(inputs.k))[s]
            if value is None:
                continue
            if name == "bias":
                added = added + torch.from_numpy(value)
                continue
            taken = np.arange(k.shape[1]) < value[:, None] if name == "lens" else value
            added = added.masked_fill(~torch.from_numpy(taken)[:, None, None], -torch.inf)
        if (gate := inputs.options.get("seg_bias")) is not None:
            gate = torch.from_numpy(gate)[..., s]
            added = added + gate.reshape(*gate.shape, *[1] * (4 - gate.ndim))
        bias = torch.cat([bias, added], -1)
    k, v = (
        torch.cat(
            [torch.from_numpy(np.ascontiguousarray(x)).expand(batch, -1, -1, -1) for x in parts],
            1,
        )
        .transpose(1, 2)
        .repeat_interleave(group, 1)
        for parts in (inputs.k, inputs.v)
    )
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, scale=inputs.options["scale"]
    )
    return torch.nan_to_num(out).transpose(1, 2).numpy()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case, isa):
    if case.rows * case.keys * case.batch * case.heads > 2e7 and isa == "portable":
        pytest.skip("large")
    inputs = make_inputs(case)
    out, lse = attend(inputs, return_lse=case.mode == "joint")
    wanted, wanted_lse = reference(inputs.q, inputs.k, inputs.v, **inputs.options)
    assert frobenius(out, wanted) <= FROBENIUS["float32"]
    if case.mode == "joint":
        np.testing.assert_allclose(lse, wanted_lse, rtol=2e-6, atol=2e-6)
        peer = torch_attention(inputs)
        assert np.abs(out - wanted).max(initial=0.0) <= allowed_error(peer, wanted)


@pytest.mark.parametrize("case", [c for c in CASES if c.keys < 4000], ids=lambda case: case.name)
def test_threads_and_repeats_give_the_same_bits(case):
    inputs = make_inputs(case)
    alone, _ = attend(inputs)
    for threads in (1, 2, 5):
        again, _ = attend(inputs, threads=threads)
        np.testing.assert_array_equal(alone, again)


@pytest.mark.parametrize("splits", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(
    "name", ["long, half valid", "everything, 64 elements, 16 rows", "all absent"]
)
def test_parts_of_the_keys(name, splits, isa):
    inputs = make_inputs(next(c for c in CASES if c.name == name))
    whole, lse = attend(inputs, return_lse=True, num_splits=1)
    parts, lse_of_parts = attend(inputs, return_lse=True, num_splits=splits, threads=2)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lse_of_parts, lse, rtol=1e-6)


@pytest.mark.parametrize("name", onnx_attention.names())
def test_attention_of_onnx_with_keys_cut_at_random(name):
    q, k, v, bias, scale, wanted, tolerance = onnx_attention.problem(name)
    rng = np.random.default_rng(len(name))
    keys = k.shape[1]
    for segments in (1, 2, 5):
        cuts = np.sort(rng.integers(0, keys + 1, segments - 1))
        parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, keys], strict=True)]
        out, _ = native.segmented_attention(
            np.ascontiguousarray(q),
            [k[:, part] for part in parts],
            [v[:, part] for part in parts],
            bias=None if bias is None else [bias[..., part] for part in parts],
            scale=scale,
        )
        np.testing.assert_allclose(out, wanted, rtol=tolerance, atol=tolerance)


def test_onnx_has_the_cases_that_are_thought_of():
    assert len(onnx_attention.cases()) >= 90
    assert len(onnx_attention.names()) >= 80


# What holds whatever the shape.


def problems(**fixed):
    share = st.one_of(st.none(), st.sampled_from([0.0, 0.3, 0.9]))

    @st.composite
    def build(draw):
        segments = draw(st.integers(1, 4))
        kv = draw(st.sampled_from([1, 2, 3]))
        values = {
            "name": "drawn",
            "lengths": tuple(draw(st.sampled_from([0, 1, 3, 17, 64, 90])) for _ in range(segments)),
            "rows": draw(st.sampled_from([1, 2, 5, 7, 9, 16, 33])),
            "kv_heads": kv,
            "heads": kv * draw(st.sampled_from([1, 2, 4])),
            "dim": draw(st.sampled_from([8, 13, 32, 64, 72, 96, 128, 200])),
            "dim_v": draw(st.sampled_from([None, 24, 64])),
            "batch": draw(st.sampled_from([1, 2, 3])),
            "valid": tuple(draw(share) for _ in range(segments)),
            "counted": tuple(draw(share) for _ in range(segments)),
            "bias": draw(st.sampled_from([None, "", "b", "h", "q", "bq", "bhq"])),
            "gates": draw(st.sampled_from([None, "", "b", "bh"])),
            "shared": tuple(s for s in range(segments) if draw(st.booleans())),
            "layout": draw(st.sampled_from(["bshd", "bhsd", "packed"])),
            "mode": "joint",
            **fixed,
        }
        if values["mode"] == "independent":
            values["gamma"] = draw(st.sampled_from([None, "", "b", "bh"]))
        return AttentionCase(**values), draw(st.integers(0, 9))

    return build()


@given(problems(), st.sampled_from(ISAS), st.integers(0, 4), st.integers(1, 3))
def test_any_problem(problem, isa, splits, threads):
    try:
        native.use_isa(isa)
    except InputError:
        native.use_isa("portable")
    try:
        inputs = make_inputs(*problem)
        out, lse = attend(inputs, return_lse=True, num_splits=splits, threads=threads)
        wanted, wanted_lse = reference(inputs.q, inputs.k, inputs.v, **inputs.options)
        np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(lse, wanted_lse, rtol=1e-5, atol=1e-5)
    finally:
        native.use_isa(None)


@settings(max_examples=60)
@given(problems(mode="independent"))
def test_any_problem_of_independent_segments(problem):
    inputs = make_inputs(*problem)
    out, _ = attend(inputs)
    wanted, _ = reference(inputs.q, inputs.k, inputs.v, **inputs.options)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


def options(inputs, order):
    """Options with the segments in another order."""
    found = dict(inputs.options)
    for name in ("lens", "key_valid", "bias"):
        if name in found:
            found[name] = [found[name][s] for s in order]
    for name in ("seg_bias", "gamma"):
        if name in found:
            found[name] = np.ascontiguousarray(found[name][..., list(order)])
    return found


@settings(max_examples=60)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_segments_does_not_matter(problem, random):
    inputs = make_inputs(*problem)
    order = random.sample(range(len(inputs.k)), len(inputs.k))
    other = Inputs(
        inputs.q,
        tuple(inputs.k[s] for s in order),
        tuple(inputs.v[s] for s in order),
        options(inputs, order),
    )
    np.testing.assert_allclose(attend(other)[0], attend(inputs)[0], rtol=1e-5, atol=1e-5)


@settings(max_examples=60)
@given(problems(counted=()), st.data())
def test_a_segment_cut_in_two_is_the_same_to_the_bit(problem, data):
    case, seed = problem
    inputs = make_inputs(case, seed)
    s = data.draw(st.integers(0, len(inputs.k) - 1))
    at = data.draw(st.integers(0, case.lengths[s]))
    found = options(inputs, [*range(s + 1), *range(s, len(inputs.k))])
    for name in ("key_valid", "bias"):
        if name in found and found[name][s] is not None:
            value = found[name][s]
            found[name][s], found[name][s + 1] = value[..., :at], value[..., at:]

    def cut(parts):
        return (*parts[:s], parts[s][:, :at], parts[s][:, at:], *parts[s + 1 :])

    other = Inputs(inputs.q, cut(inputs.k), cut(inputs.v), found)
    np.testing.assert_array_equal(attend(other)[0], attend(inputs)[0])


@pytest.mark.parametrize("how", ["length", "lens", "key_valid", "bias", "seg_bias", "left out"])
def test_ways_to_be_absent_are_the_same_to_the_bit(how):
    case = AttentionCase("absent", (40, 30, 20), rows=5, batch=2)
    inputs = make_inputs(case)
    k, v, found = list(inputs.k), list(inputs.v), dict(inputs.options)
    if how == "length":
        k[1], v[1] = k[1][:, :0], v[1][:, :0]
    elif how == "lens":
        found["lens"] = [None, np.zeros(2, np.int32), None]
    elif how == "key_valid":
        found["key_valid"] = [None, np.zeros((2, 30), bool), None]
    elif how == "bias":
        found["bias"] = [None, np.full((1, 1, 1, 30), -np.inf, np.float32), None]
    elif how == "seg_bias":
        found["seg_bias"] = np.array([0, -np.inf, 0], np.float32)
    else:
        k, v = [k[0], k[2]], [v[0], v[2]]
    if how not in ("length", "left out"):
        k[1], v[1] = np.full_like(k[1], np.nan), np.full_like(v[1], np.nan)
    wanted, _ = native.segmented_attention(
        inputs.q, [inputs.k[0], inputs.k[2]], [inputs.v[0], inputs.v[2]]
    )
    out, _ = native.segmented_attention(inputs.q, k, v, **found)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [1, 4, 20])
def test_what_hidden_keys_hold_does_not_leak(poison, rows, isa):
    inputs = make_inputs(
        AttentionCase(
            "poison", (70, 40), rows=rows, batch=2, counted=(0.5, None), valid=(None, 0.5)
        )
    )
    clean, _ = attend(inputs)
    k, v = ([x.copy() for x in parts] for parts in (inputs.k, inputs.v))
    for b in range(2):
        k[0][b, inputs.options["lens"][0][b] :] = poison
        v[0][b, inputs.options["lens"][0][b] :] = poison
        k[1][b, ~inputs.options["key_valid"][1][b]] = poison
        v[1][b, ~inputs.options["key_valid"][1][b]] = poison
    out, _ = native.segmented_attention(inputs.q, k, v, **inputs.options)
    np.testing.assert_array_equal(out, clean)


@pytest.mark.parametrize("rows", [2, 20])
def test_a_key_hidden_from_some_rows_does_not_leak_into_them(rows, isa):
    """A bias of minus infinity hides it from the first row alone; the others see NaN."""
    inputs = make_inputs(AttentionCase("poison", (70,), rows=rows))
    bias = np.zeros((1, 1, rows, 70), np.float32)
    bias[0, 0, 0, 10] = -np.inf
    v = inputs.v[0].copy()
    v[0, 10] = np.nan
    clean, _ = native.segmented_attention(inputs.q, inputs.k, inputs.v, bias=[bias])
    out, _ = native.segmented_attention(inputs.q, inputs.k, [v], bias=[bias])
    np.testing.assert_allclose(out[:, 0], clean[:, 0], rtol=1e-6)
    assert np.isnan(out[:, 1:]).all()


def test_nan_that_is_seen_is_not_swallowed(isa):
    for rows in (1, 20):
        inputs = make_inputs(AttentionCase("nan", (70,), rows=rows))
        k = inputs.k[0].copy()
        k[0, 3] = np.nan
        assert np.isnan(native.segmented_attention(inputs.q, [k], inputs.v)[0]).all()
        assert np.isnan(native.segmented_attention(inputs.q, [k[:, 3:4]], [k[:, 3:4]])[0]).all()


def test_scores_too_large_for_exp_are_no_trouble(isa):
    inputs = make_inputs(AttentionCase("large", (100,), rows=20))
    out, lse = native.segmented_attention(
        inputs.q, inputs.k, inputs.v, scale=1000.0, return_lse=True
    )
    _, wanted_lse = reference(inputs.q, inputs.k, inputs.v, scale=1000.0)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(lse, wanted_lse, rtol=1e-5)


# Refusals.


def test_bad_arguments_are_named():
    q, k = np.zeros((1, 2, 4, 8), np.float32), np.zeros((1, 3, 2, 8), np.float32)
    attend = native.segmented_attention
    with pytest.raises(
        InputError,
        match=r"q: expected float32 or float16 or bfloat16 or int8 of rank 4, got float64",
    ):
        attend(q.astype(np.float64), [k], [k])
    with pytest.raises(InputError, match=r"expected 1 to 8 segments.*got 9 keys and 9 values"):
        attend(q, [k] * 9, [k] * 9)
    with pytest.raises(InputError, match=r"k\[0\]: its 3 heads do not divide the 4 of q"):
        attend(q, [np.zeros((1, 3, 3, 8), np.float32)], [np.zeros((1, 3, 3, 8), np.float32)])
    with pytest.raises(InputError, match=r"v\[1\]: axis 1 must have size 3, got shape \[1, 2"):
        attend(q, [k, k], [k, k[:, :2]])
    with pytest.raises(InputError, match=r"k\[0\]: the last axis must be contiguous, got steps"):
        attend(q, [np.zeros((1, 3, 2, 16), np.float32)[..., ::2]], [k])
    with pytest.raises(InputError, match=r"lens\[0\]: expected int32 of rank 1, got int64"):
        attend(q, [k], [k], lens=[np.zeros(1, np.int64)])
    with pytest.raises(InputError, match=r"bias\[0\]: axis 2 must have size 2 or 1"):
        attend(q, [k], [k], bias=[np.zeros((1, 1, 3, 3), np.float32)])
    with pytest.raises(InputError, match=r"seg_bias: expected float32 \[M\]"):
        attend(q, [k], [k], seg_bias=np.zeros(1))
    with pytest.raises(InputError, match=r"lse: independent segments have no common"):
        attend(q, [k], [k], mode="independent", return_lse=True)
    with pytest.raises(InputError, match=r"gamma weights independent segments"):
        attend(q, [k], [k], gamma=np.zeros(1, np.float32))
    wide = np.zeros((1, 2, 2, 300), np.float32)
    with pytest.raises(InputError, match=r"heads of up to 256 elements, got dim 300, dim_v 300"):
        attend(wide, [wide], [wide])
    with pytest.raises(InputError, match=r"instruction set 'sse9' is not built into"):
        native.use_isa("sse9")


def test_without_the_library_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(capi, "_find", lambda: capi._Lookup(None, "there is none"))
    assert native.why_absent() == "there is none"
    assert native.ort_kernels() == (None, "there is none")
    with pytest.raises(BackendError, match="there is none"):
        native.cpu_isa()


def test_a_library_of_another_version_is_refused(monkeypatch):
    path = native.library().path
    monkeypatch.setattr(capi, "ABI_VERSION", 99)
    with pytest.raises(BackendError, match=r"expected version 99 of the C API, found 1; install"):
        native.NativeLibrary(path)


def test_no_queries_give_no_output():
    q, k = np.zeros((1, 0, 4, 8), np.float32), np.zeros((1, 3, 2, 8), np.float32)
    assert native.segmented_attention(q, [k], [k])[0].shape == (1, 0, 4, 8)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("size", [2**31, 2**32 + 1])
def test_sizes_beyond_32_bits_are_not_cut_off(axis, size):
    shape = [1, 1, 1, 8]
    shape[axis] = size
    q = np.lib.stride_tricks.as_strided(np.ones(8, np.float32), shape, (0, 0, 0, 4))
    k = np.ones((1, 2, 1, 8), np.float32)
    with pytest.raises(InputError, match="expected|axis|do not divide"):
        native.segmented_attention(q, [k], [k])


@pytest.mark.parametrize("splits", [-1, 2**31, 2**32 + 1])
def test_parts_beyond_32_bits_are_not_cut_off(splits):
    one = np.ones((1, 2, 1, 8), np.float32)
    with pytest.raises(InputError, match="num_splits: expected"):
        native.segmented_attention(one, [one], [one], num_splits=splits)
