"""The CUDA kernels on an emulated GPU: the same sources, compiled for the CPU."""

import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from emulated_cuda import EARLY, LATE, RANDOM, Emulated, emulated, new_workspace
from hypothesis import given
from hypothesis import strategies as st
from segattn_call import Call, HostMemory, prepare
from segattn_checks import TAKEN, check_case, check_int8, check_rising_scores, check_splits, hide

from mmedge.testing import FROBENIUS, AttentionCase, Inputs, frobenius, make_inputs

pytestmark = [
    pytest.mark.native_build,
    pytest.mark.skipif(
        shutil.which("cmake") is None, reason="cmake builds the emulated library; it is not on PATH"
    ),
]

DTYPES = ("float16", "bfloat16")


@cache
def named(name: str) -> AttentionCase:
    return next(case for case in TAKEN if case.name == name)


def gpu() -> Emulated:
    found = emulated()
    found.set_order()
    found.set_device()
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_case(case, dtype):
    check_case(gpu().compute, case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        "long",
        "long, half valid",
        "eight segments",
        "all absent",
        "counted to nothing",
        "many queries",
        "gated by head",
        "independent by head",
        "independent, some hidden",
        "C pool",
        "everything, 96 elements, 70 rows",
        "everything, 128 elements, 6 rows",
    ],
)
def test_splits(name, dtype):
    check_splits(gpu().compute, named(name), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("rows", [5, 70])
def test_scores_that_rise(rows, largest, dtype):
    check_rising_scores(gpu().compute, rows, largest, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("int8", [(0, 1), (1,)])
@pytest.mark.parametrize(
    "case",
    [
        AttentionCase("few", (130, 61), rows=5),
        AttentionCase("many", (130, 61), rows=70, heads=2),
        AttentionCase("D32", (100, 61), dim=32, batch=2, counted=(0.7, None)),
        AttentionCase("D96 many", (100, 61), dim=96, rows=40, heads=2, valid=(0.5, None)),
        AttentionCase("D128 grouped", (100, 61), dim=128, kv_heads=2),
        AttentionCase("D128 many", (100, 61), dim=128, rows=40, heads=2),
        AttentionCase("D72", (50, 31), dim=72, heads=2, layout="bhsd"),
        AttentionCase("D80", (50, 31), dim=80, heads=2),
        AttentionCase("independent", (70, 61), mode="independent", gamma="bh", rows=20),
        AttentionCase(
            "independent D128", (70, 61), mode="independent", gamma="", rows=40, dim=128, heads=2
        ),
    ],
    ids=lambda case: case.name,
)
def test_8_bit_keys(case, int8, dtype):
    if case.dim % 16:
        case = replace(case, kv_heads=1, layout="bshd")
        with pytest.raises(AssertionError, match="multiples of 16 elements"):
            check_int8(gpu().compute, case, dtype, int8)
        return
    check_int8(gpu().compute, case, dtype, int8)


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("dim", [8, 72, 104, 120])
def test_8_bit_rows_that_end_inside_16_bytes(dim, rows):
    inputs = make_inputs(AttentionCase("", (70, 33), rows=rows, heads=4, kv_heads=2, dim=128))
    cropped = replace(
        inputs,
        q=inputs.q[..., :dim],
        k=tuple(k[..., :dim] for k in inputs.k),
        v=tuple(v[..., :dim] for v in inputs.v),
    )
    check = gpu().compute(cropped, int8=(0, 1))
    assert frobenius(check.output(), check.expected()[0]) <= FROBENIUS["float16"]


@pytest.mark.parametrize("fill", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name",
    [
        "counted",
        "counted to nothing",
        "counted and valid",
        "half valid",
        "no valid key",
        "long, half valid",
        "independent, some hidden",
        "everything, 64 elements, 6 rows",
        "everything, 128 elements, 70 rows",
    ],
)
def test_what_hidden_keys_hold_has_no_effect(name, fill):
    inputs = make_inputs(named(name))
    plain = gpu().compute(inputs)
    filled = gpu().compute(hide(inputs, fill))
    assert np.array_equal(plain.output(), filled.output())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "kv_heads"), [(3, 4), (20, 8), (40, 2)])
@pytest.mark.parametrize("bias", ["q", "h"])
@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_values_reach_only_rows_that_see_them(fill, bias, rows, kv_heads, dtype):
    inputs = make_inputs(AttentionCase("", (40, 70), rows=rows, kv_heads=kv_heads, bias=bias))
    poisoned = replace(inputs, v=tuple(v.copy() for v in inputs.v))
    poisoned.v[0][:, 7, :, 5] = fill
    poisoned.v[1][:, 66, :, 40] = fill
    inputs.options["bias"][0][..., 1::2, 7] = -np.inf  # hidden from every second row
    inputs.options["bias"][0][:, 1::2, :, 7] = -np.inf
    call = gpu().compute(poisoned, dtype)
    with np.errstate(invalid="ignore"):
        wanted, _ = call.expected()
    got = call.output()
    assert not np.isfinite(wanted).all()
    assert np.array_equal(np.isfinite(got), np.isfinite(wanted))
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    finite = np.isfinite(wanted)
    assert frobenius(got[finite], wanted[finite]) <= FROBENIUS[dtype]


def test_gates_of_one_head_hide_what_another_sees():
    inputs = make_inputs(AttentionCase("", (40, 20), kv_heads=2, gates="bh", rows=3))
    inputs.options["seg_bias"][:, ::2, 1] = -np.inf
    inputs.k[1][:, 3] = np.nan
    inputs.v[1][:, 3] = np.nan
    call = gpu().compute(inputs)
    wanted, lse = call.expected()
    assert np.isfinite(call.output()[:, :, ::2]).all()
    assert np.isnan(call.output()[:, :, 1::2]).all()
    assert frobenius(call.output()[:, :, ::2], wanted[:, :, ::2]) <= FROBENIUS["float16"]
    assert np.allclose(call.log_sum_exp()[:, ::2], lse[:, ::2], atol=2e-4)


@pytest.mark.parametrize("name", ["half valid", "counted to nothing", "gated", "bias by key"])
@pytest.mark.parametrize("mode", ["joint", "independent"])
@pytest.mark.parametrize("num_splits", [1, 2])
def test_rows_without_a_key(name, mode, num_splits):
    inputs = make_inputs(replace(named(name), mode=mode, rows=3))
    inputs.options["key_valid"] = [
        np.zeros((inputs.q.shape[0], k.shape[1]), bool) for k in inputs.k
    ]
    call = gpu().compute(inputs, num_splits=num_splits)
    assert not call.output().any()
    if mode == "joint":
        assert np.isneginf(call.log_sum_exp()).all()
    call = gpu().compute(inputs, num_splits=num_splits, empty_is_nan=True)
    assert np.isnan(call.output()).all()


def close(a: Call, b: Call) -> bool:
    return frobenius(a.output(), b.output().astype(np.float64)) <= FROBENIUS[a.dtype]


@pytest.mark.parametrize("rows", [1, 40])
def test_segments_may_change_places(rows):
    inputs = make_inputs(AttentionCase("", (70, 33, 128), rows=rows, heads=4))
    order = (2, 0, 1)
    moved = replace(
        inputs, k=tuple(inputs.k[i] for i in order), v=tuple(inputs.v[i] for i in order)
    )
    assert close(gpu().compute(inputs), gpu().compute(moved))


@pytest.mark.parametrize("rows", [1, 40])
def test_a_segment_cut_in_two_is_the_same(rows):
    inputs = make_inputs(AttentionCase("", (150, 33), rows=rows, heads=4))

    def cut(tensors):
        first, second = tensors
        return (first[:, :61], first[:, 61:], second)

    halves = replace(inputs, k=cut(inputs.k), v=cut(inputs.v))
    assert close(gpu().compute(inputs), gpu().compute(halves))


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("how", ["length", "lens", "gate"])
def test_a_segment_that_is_absent_costs_nothing(how, rows):
    inputs = make_inputs(AttentionCase("", (150, 64, 33), rows=rows, heads=4))
    without = replace(inputs, k=inputs.k[::2], v=inputs.v[::2])
    options = {}
    if how == "length":
        inputs = replace(
            inputs,
            k=(inputs.k[0], inputs.k[1][:, :0], inputs.k[2]),
            v=(inputs.v[0], inputs.v[1][:, :0], inputs.v[2]),
        )
    elif how == "lens":
        options["lens"] = [None, np.zeros(1, np.int32), None]
    else:
        options["seg_bias"] = np.array([0.0, -np.inf, 0.0], np.float32)
    emu = gpu()
    emu.counts()
    one = emu.compute(without, num_splits=1)
    _, read_without = emu.counts()
    other = emu.compute(replace(inputs, options=inputs.options | options), num_splits=1)
    assert np.array_equal(one.output(), other.output())
    assert emu.counts()[1] == read_without


def test_keys_past_the_length_are_not_read():
    inputs = make_inputs(AttentionCase("", (1000,), heads=2, rows=1))
    inputs.options["lens"] = [np.array([130], np.int32)]
    emu = gpu()
    emu.counts()
    emu.compute(inputs, num_splits=1)
    assert emu.counts() == (2, 2 * 130 * 64 * 2 * 2)


def test_a_length_past_the_segment_or_below_zero_is_cut():
    inputs = make_inputs(AttentionCase("", (60, 40), batch=2))
    clamped = replace(inputs, options=dict(inputs.options))
    inputs.options["lens"] = [np.array([1000, -5], np.int32), None]
    clamped.options["lens"] = [np.array([60, 0], np.int32), None]
    assert np.array_equal(gpu().compute(inputs).output(), gpu().compute(clamped).output())


def test_a_shared_segment_is_one_for_each_batch():
    inputs = make_inputs(named("shared by all batches"))
    each = replace(
        inputs,
        k=tuple(np.repeat(k, 3 // k.shape[0], 0) for k in inputs.k),
        v=tuple(np.repeat(v, 3 // v.shape[0], 0) for v in inputs.v),
    )
    assert np.array_equal(gpu().compute(inputs).output(), gpu().compute(each).output())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["bias by key", "bias by all", "everything, 32 elements, 70 rows"])
def test_a_bias_in_the_dtype_of_queries(name, dtype):
    call = gpu().compute(make_inputs(named(name)), dtype, bias_dtype="same")
    assert frobenius(call.output(), call.expected()[0]) <= FROBENIUS[dtype]


@pytest.mark.parametrize("scale", [-0.3, 0.0, 2.5])
@pytest.mark.parametrize("rows", [2, 40])
def test_any_scale(scale, rows):
    call = gpu().compute(make_inputs(AttentionCase("", (100, 31), rows=rows, scale=scale)))
    assert frobenius(call.output(), call.expected()[0]) <= FROBENIUS["float16"]


@pytest.mark.parametrize("name", ["long", "everything, 96 elements, 70 rows", "independent"])
@pytest.mark.parametrize("int8", [(), (1,)])
def test_repeatable_to_the_last_bit_in_any_order(name, int8):
    """Also: no barrier and no wait is missing, else some order gives other data."""
    inputs = make_inputs(named(name))
    emu = gpu()
    first = emu.compute(inputs, num_splits=5, int8=int8)
    for seed, copies in ((2, LATE), (3, EARLY), (4, EARLY), (5, RANDOM), (6, RANDOM)):
        emu.set_order(seed, copies)
        again = emu.compute(inputs, num_splits=5, int8=int8)
        assert np.array_equal(first.output(), again.output())
        if first.lse is not None:
            assert np.array_equal(first.log_sum_exp(), again.log_sum_exp())


def test_calls_of_other_shapes_may_use_the_workspace():
    names = ("long", "C pool", "everything, 128 elements, 6 rows", "long, half valid")
    emu = gpu()
    inputs = [make_inputs(named(name)) for name in names]
    workspace = new_workspace(
        max(emu.workspace_bytes(prepare(x, HostMemory(), num_splits=7).desc) for x in inputs)
    )
    for _ in range(2):
        for given_inputs in inputs:
            call = emu.run(prepare(given_inputs, HostMemory(), num_splits=7), workspace)
            assert frobenius(call.output(), call.expected()[0]) <= FROBENIUS["float16"]


@st.composite
def problems(draw) -> tuple[Inputs, dict]:
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    group = draw(st.sampled_from([1, 1, 2, 5]))
    lengths = tuple(
        draw(st.lists(st.sampled_from([0, 1, 7, 16, 33, 64, 65, 130]), min_size=1, max_size=8))
    )
    shares = st.sampled_from([None, None, 0.0, 0.4, 1.0])
    each = {"min_size": len(lengths), "max_size": len(lengths)}
    mode = draw(st.sampled_from(["joint", "joint", "independent"]))
    axes = st.sampled_from([None, None, "", "b", "bh"])
    case = AttentionCase(
        "",
        lengths,
        rows=draw(st.sampled_from([1, 2, 9, 16, 17, 33, 65])),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        dim=draw(st.sampled_from([8, 32, 40, 64, 72, 80, 96, 104, 128])),
        batch=draw(st.sampled_from([1, 1, 2])),
        valid=tuple(draw(st.lists(shares, **each))),
        counted=tuple(draw(st.lists(shares, **each))),
        bias=draw(st.sampled_from([None, None, "", "b", "q", "hq", "bhq"])),
        gates=draw(axes),
        gamma=draw(axes) if mode == "independent" else None,
        shared=tuple(draw(st.sets(st.integers(0, len(lengths) - 1)))),
        mode=mode,
        layout=draw(st.sampled_from(["bshd", "bhsd", "packed"])),
    )
    inputs = make_inputs(case, draw(st.integers(0, 2**32 - 1)))
    options = {
        "num_splits": draw(st.sampled_from([0, 1, 2, 3, 40])),
        "bias_dtype": draw(st.sampled_from(["float32", "same"])),
        "heads_first": draw(st.booleans()),
    }
    if case.dim % 16 == 0:
        options["int8"] = tuple(draw(st.sets(st.integers(0, len(lengths) - 1), max_size=2)))
    return inputs, options


@given(problems(), st.sampled_from(DTYPES), st.integers(0, 2**32), st.sampled_from([0, 1, 2]))
def test_any_problem(problem, dtype, seed, copies):
    inputs, options = problem
    emu = gpu()
    emu.set_order(seed, copies)
    call = emu.compute(inputs, dtype, **options)
    wanted, lse = call.expected()
    assert frobenius(call.output(), wanted) <= FROBENIUS[dtype]
    if call.lse is not None:
        assert np.allclose(call.log_sum_exp(), lse, atol=2e-4, rtol=2e-5)
