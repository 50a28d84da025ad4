"""The CUDA kernels on a real GPU: what test_cuda_emulated.py holds them to, and stream capture."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from segattn_call import Call, Enqueuer, prepare
from segattn_checks import TAKEN, check_case, check_int8, check_rising_scores, check_splits, hide

from mmedge.native.capi import library, why_absent
from mmedge.testing import CASES, FROBENIUS, AttentionCase, frobenius, make_inputs


def _missing() -> str:
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    if why_absent():
        return why_absent()
    if not Enqueuer(library().c).c.mmedge_cuda_architectures():
        return "the native library was built without CUDA: -C cmake.define.MMEDGE_CUDA=ON"
    return ""


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(_missing()), reason=_missing() or "there is a GPU"),
]

DTYPES = ("float16", "bfloat16")
#: As the benchmark has them, not cut down.
WHOLE = tuple(
    case for case in CASES if case.name in ("A action", "B detection", "C pool", "D joint")
)


class DeviceMemory:
    """Copies on the current GPU, as bytes."""

    def __init__(self) -> None:
        self.kept: dict[int, torch.Tensor] = {}

    def put(self, array: np.ndarray) -> int:
        made = torch.frombuffer(bytearray(array.tobytes() or b"\0"), dtype=torch.uint8).cuda()
        self.kept[made.data_ptr()] = made
        return made.data_ptr()

    def empty(self, shape: tuple[int, ...], dtype: type) -> tuple[int, Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        made = torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda")
        self.kept[made.data_ptr()] = made
        return made.data_ptr(), (made, shape, dtype)

    def get(self, handle: Any) -> np.ndarray:
        made, shape, dtype = handle
        return made.cpu().numpy().view(dtype).reshape(shape)

    def set(self, pointer: int, array: np.ndarray) -> None:
        self.kept[pointer].copy_(torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8))


@cache
def enqueuer() -> Enqueuer:
    return Enqueuer(library().c)


def new_workspace(size: int) -> torch.Tensor:
    made = torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda")
    made[: 4096 * 4] = 0
    return made


def enqueue(call: Call, workspace: torch.Tensor | None) -> None:
    enqueuer().enqueue(
        call,
        None if workspace is None else workspace.data_ptr(),
        torch.cuda.current_stream().cuda_stream,
    )


def compute(inputs, dtype="float16", **options) -> Call:
    call = prepare(inputs, DeviceMemory(), dtype, **options)
    size = enqueuer().workspace_bytes(call.desc)
    workspace = new_workspace(size) if size else None
    enqueue(call, workspace)
    torch.cuda.synchronize()
    assert workspace is None or not workspace[: 4096 * 4].any()
    return call


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*TAKEN, *WHOLE], ids=lambda case: f"{case.name} {case.heads}")
def test_case(case, dtype):
    check_case(compute, case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_splits(case, dtype):
    check_splits(compute, case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("rows", [5, 70])
def test_scores_that_rise(rows, largest, dtype):
    check_rising_scores(compute, rows, largest, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    # A large scale makes 8 bits of a key too few.
    "case",
    [case for case in TAKEN if case.dim % 16 == 0 and case.scale is None],
    ids=lambda case: case.name,
)
def test_8_bit_keys(case, dtype):
    if case.keys > 1:
        check_int8(compute, case, dtype, tuple(range(0, len(case.lengths), 2)))


@pytest.mark.parametrize("fill", [np.nan, np.inf])
@pytest.mark.parametrize("case", [c for c in TAKEN if c.valid or c.counted], ids=lambda c: c.name)
def test_what_hidden_keys_hold_has_no_effect(case, fill):
    inputs = make_inputs(case)
    assert np.array_equal(compute(inputs).output(), compute(hide(inputs, fill)).output())


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_values_reach_only_rows_that_see_them(fill, rows):
    inputs = make_inputs(AttentionCase("", (40, 70), rows=rows, kv_heads=4, bias="q"))
    poisoned = replace(inputs, v=tuple(v.copy() for v in inputs.v))
    poisoned.v[0][:, 7, :, 5] = fill
    inputs.options["bias"][0][..., 1::2, 7] = -np.inf
    call = compute(poisoned)
    with np.errstate(invalid="ignore"):
        wanted, _ = call.expected()
    got = call.output()
    finite = np.isfinite(wanted)
    assert np.array_equal(np.isfinite(got), finite)
    assert frobenius(got[finite], wanted[finite]) <= FROBENIUS["float16"]


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_repeatable_to_the_last_bit(case):
    inputs = make_inputs(case)
    first = compute(inputs, num_splits=5)
    for _ in range(20):
        again = compute(inputs, num_splits=5)
        assert np.array_equal(first.output(), again.output(), equal_nan=True)


@pytest.mark.parametrize("num_splits", [1, 4])
def test_lengths_may_change_between_replays_of_a_graph(num_splits):
    inputs = make_inputs(
        AttentionCase("", (700, 400), rows=4, heads=4, batch=2, counted=(0.5, 0.5))
    )
    call = prepare(inputs, DeviceMemory(), num_splits=num_splits)
    size = enqueuer().workspace_bytes(call.desc)
    workspace = new_workspace(size) if size else None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        enqueue(call, workspace)
    for lengths in ([700, 699], [0, 1], [64, 65], [0, 0], [3, 700]):
        counts = [np.array(lengths, np.int32), np.array(lengths[::-1], np.int32) // 2]
        for s, count in enumerate(counts):
            call.memory.set(call.lens[s], count)
        call.seen.options["lens"] = counts
        graph.replay()
        torch.cuda.synchronize()
        wanted, lse = call.expected()
        assert frobenius(call.output(), wanted) <= FROBENIUS["float16"]
        assert np.allclose(call.log_sum_exp(), lse, atol=2e-4, rtol=2e-5)


def test_calls_take_turns_with_one_workspace():
    chosen = [case for case in TAKEN if case.keys > 1000]
    calls = [prepare(make_inputs(case), DeviceMemory(), num_splits=7) for case in chosen]
    workspace = new_workspace(max(enqueuer().workspace_bytes(call.desc) for call in calls))
    for _ in range(3):
        for call in calls:
            enqueue(call, workspace)
    torch.cuda.synchronize()
    for call in calls:
        assert frobenius(call.output(), call.expected()[0]) <= FROBENIUS["float16"]
