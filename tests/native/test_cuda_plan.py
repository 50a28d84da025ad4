"""How calls are cut for GPUs of several sizes, and what is refused; no GPU is needed."""

import ctypes
import re

import numpy as np
import pytest
from emulated_cuda import emulated
from segattn_call import HostMemory, prepare

from mmedge.errors import InputError
from mmedge.native.capi import I8, NativeLibrary, SegAttn
from mmedge.testing import CASES, AttentionCase, make_inputs

pytestmark = pytest.mark.native_build

# Multiprocessors, shared memory of one and of a block: CUDA C++ Programming Guide, "Technical
# Specifications per Compute Capability".
KIB = 1024
DEVICES = {
    "Orin sm_87": (16, 164 * KIB, 163 * KIB),
    "RTX 4090 sm_89": (128, 100 * KIB, 99 * KIB),
    "H100 sm_90": (132, 228 * KIB, 227 * KIB),
    "Thor sm_110": (20, 228 * KIB, 227 * KIB),
    "RTX 5090 sm_120": (170, 100 * KIB, 99 * KIB),
}


def call_of(case: AttentionCase, **options):
    memory = HostMemory()
    call = prepare(make_inputs(case), memory, **options)
    call.memory = memory
    return call


def plan(device: str, case: AttentionCase, **options):
    emu = emulated()
    emu.set_device(*DEVICES[device])
    call = call_of(case, **options)
    found = emu.plan(call.desc)
    assert emu.workspace_bytes(call.desc) == found.workspace
    return found


NAMED = {case.name: case for case in CASES}


@pytest.mark.parametrize(
    ("device", "splits"),
    [
        ("Orin sm_87", 3),
        ("RTX 4090 sm_89", 7),
        ("H100 sm_90", 7),
        ("Thor sm_110", 5),
        ("RTX 5090 sm_120", 7),
    ],
)
def test_an_action_expert_is_cut_to_fill_the_gpu(device, splits):
    found = plan(device, NAMED["A action"])
    assert (found.many, found.full, found.row_tiles, found.groups) == (0, 0, 1, 16)
    assert found.splits == splits
    assert found.workspace == 4096 * 4 + 16 * splits * 16 * (64 + 2) * 4


@pytest.mark.parametrize("device", DEVICES)
def test_enough_tiles_are_not_cut(device):
    found = plan(device, NAMED["D joint"])
    assert (found.many, found.row_tiles, found.groups, found.splits) == (1, 8, 48, 1)
    assert found.workspace == 0


@pytest.mark.parametrize(
    ("device", "splits"),
    [("Orin sm_87", 1), ("RTX 4090 sm_89", 4), ("H100 sm_90", 4), ("Thor sm_110", 1)],
)
def test_a_detector_s_queries(device, splits):
    found = plan(device, NAMED["B detection"])
    assert (found.many, found.row_tiles, found.groups, found.splits) == (1, 15, 8, splits)


def test_parts_are_of_two_tiles_at_least_and_32_at_most():
    assert plan("H100 sm_90", AttentionCase("", (150,), heads=1)).splits == 1
    assert plan("H100 sm_90", AttentionCase("", (64 * 4,), heads=1)).splits == 2
    assert plan("H100 sm_90", AttentionCase("", (64 * 500,), heads=1, rows=1)).splits == 32
    assert plan("H100 sm_90", AttentionCase("", (150,), heads=1), num_splits=40).splits == 32
    assert plan("H100 sm_90", AttentionCase("", (150,), heads=1), num_splits=3).splits == 3


def test_parts_of_independent_segments_are_whole_segments():
    case = AttentionCase("", (640, 640, 0), heads=1, mode="independent")
    assert plan("H100 sm_90", case).splits == 2
    assert plan("H100 sm_90", case, num_splits=5).splits == 2


@pytest.mark.parametrize(
    ("rows", "kv_heads", "many", "row_tiles"),
    [(1, 8, 0, 1), (16, 8, 0, 1), (17, 8, 0, 2), (32, 8, 0, 2), (33, 8, 1, 1), (16, 2, 1, 1)],
)
def test_heads_that_share_keys_are_rows_of_one_tile(rows, kv_heads, many, row_tiles):
    found = plan("H100 sm_90", AttentionCase("", (100,), rows=rows, kv_heads=kv_heads))
    assert (found.many, found.row_tiles, found.groups) == (many, row_tiles, kv_heads)


def test_only_what_needs_it_takes_the_full_kernel():
    def full(case, **options):
        return bool(plan("H100 sm_90", case, **options).full)

    assert not full(NAMED["counted"])
    assert not full(NAMED["gated by batch"])
    assert not full(AttentionCase("", (60, 40), gates="bh"))
    assert full(NAMED["gated by head"])
    assert full(NAMED["half valid"])
    assert full(NAMED["bias by key"])
    assert full(NAMED["independent"])
    assert full(AttentionCase("", (60, 40), scale=-1.0))
    assert full(AttentionCase("", (60, 40)), int8=(1,))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("dim", [8, 32, 40, 64, 96, 128])
@pytest.mark.parametrize("mode", ["joint", "independent"])
@pytest.mark.parametrize("valid", [(), (0.5,)])
def test_shared_memory_fits(device, rows, dim, mode, valid):
    case = AttentionCase("", (100,), rows=rows, dim=dim, mode=mode, valid=valid, heads=2)
    for int8 in ((), (0,)) if dim % 16 == 0 else ((),):
        found = plan(device, case, int8=int8)
        assert found.width == min(w for w in (32, 64, 96, 128) if w >= dim)
        assert found.shared_bytes <= DEVICES[device][2]
        assert 1 <= found.blocks_per_sm <= 4
        assert found.blocks_per_sm * (found.shared_bytes + 1024) <= DEVICES[device][1]


def test_what_no_kernel_takes_is_told_from_what_is_wrong():
    library = NativeLibrary.__new__(NativeLibrary)
    library.c = emulated().c
    emulated().set_device(*DEVICES["H100 sm_90"])
    assert library.workspace_bytes(call_of(AttentionCase("", (100,))).desc) == 0
    assert library.workspace_bytes(call_of(AttentionCase("", (100,), dim=136)).desc) is None
    wrong = call_of(AttentionCase("", (100,)))
    wrong.desc.heads = -1
    with pytest.raises(InputError):
        library.workspace_bytes(wrong.desc)


def test_a_gpu_that_is_too_small_is_refused():
    emu = emulated()
    emu.set_device(40, 64 * KIB, 64 * KIB)
    call = call_of(AttentionCase("", (100,), dim=128))
    size = ctypes.c_size_t()
    assert emu.c.mmedge_segattn_workspace(call.desc, size) == 2
    assert "expected sm_80 or later" in emu.error()


def test_no_gpu_is_said_so():
    emu = emulated()
    emu.set_device(0, 0, 0)
    call = call_of(AttentionCase("", (100,)))
    assert emu.c.mmedge_segattn_enqueue(call.desc, None, None) == 3
    assert "mmedge_segattn_cpu() needs no GPU" in emu.error()


def _set_dims(desc, dim):
    desc.dim = desc.dim_v = dim


def _refused(change):
    emu = emulated()
    emu.set_device()
    call = call_of(AttentionCase("", (100, 61), batch=2))
    change(call.desc)
    status = emu.c.mmedge_segattn_enqueue(call.desc, None, None)
    return status, emu.error()


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda d: setattr(d, "dtype", 0), 2, "F16 and BF16 queries, got F32; convert"),
        (lambda d: setattr(d, "dim_v", 32), 2, "dim 64 and dim_v 32; fill"),
        (
            lambda d: (setattr(d, "dim", 60), setattr(d, "dim_v", 60)),
            2,
            "multiples of 8, got dim 60",
        ),
        (lambda d: (setattr(d, "dim", 136), setattr(d, "dim_v", 136)), 2, "up to 128 elements"),
        (lambda d: setattr(d, "q", d.q + 2), 2, "q: expected an address that is a multiple of 16"),
        (lambda d: d.q_stride.__setitem__(1, 516), 2, "q: expected strides .* multiples of 8"),
        (lambda d: d.segment[1].v_stride.__setitem__(1, 4), 2, "segment 1: v: expected strides"),
        (
            lambda d: setattr(d.segment[0], "dtype", 2),
            2,
            "segment 0: .* of queries, F16, or I8; got BF16",
        ),
        (lambda d: setattr(d.segment[0], "length", 2**30), 2, "segment 0: at most"),
        (lambda d: setattr(d.segment[0], "length", 2**31), 1, "segment 0: expected a length"),
        (lambda d: setattr(d, "batch", 10000), 2, "at most 65535, got 80000; call it in parts"),
        (lambda d: setattr(d, "num_splits", 2), 1, "workspace: expected .* aligned to 16"),
        (lambda d: setattr(d, "mode", 7), 1, "no mmedge_mode"),
    ],
)
def test_what_is_refused(change, status, message):
    found, text = _refused(change)
    assert found == status
    assert re.search(message, text), text


def test_8_bit_rows_start_at_multiples_of_16():
    emu = emulated()
    emu.set_device()
    call = call_of(AttentionCase("", (100,), dim=72), int8=(0,))
    assert call.desc.segment[0].dtype == I8
    assert emu.c.mmedge_segattn_enqueue(call.desc, None, None) == 2
    assert "multiples of 16 elements" in emu.error()


def test_more_tiles_than_counters_cannot_be_cut():
    emu = emulated()
    emu.set_device()
    desc = call_of(AttentionCase("", (100,), heads=8)).desc
    desc.batch, desc.num_splits = 600, 2
    desc.q_stride[0] = desc.segment[0].k_stride[0] = desc.segment[0].v_stride[0] = 0
    assert emu.c.mmedge_segattn_workspace(desc, ctypes.c_size_t()) == 2
    assert "4800 tiles of queries cannot be cut, at most 4096; pass 0" in emu.error()
    desc.num_splits = 0
    assert emu.c.mmedge_segattn_workspace(desc, ctypes.c_size_t()) == 0


def test_strides_of_axes_of_one_do_not_matter():
    emu = emulated()
    emu.set_device()
    call = call_of(AttentionCase("", (100,)))
    call.desc.q_stride[0] = call.desc.segment[0].k_stride[0] = 3
    emu.run(call)
    assert np.isfinite(call.output()).all()


def test_parameters_fit():
    # Kernels take the whole structure by value; 4 KiB is the limit before CUDA 12.1.
    assert ctypes.sizeof(SegAttn) < 4096 - 256
