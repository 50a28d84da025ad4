"""What every CUDA library of mmedge must compute, emulated or on a GPU.

Each check takes `run`, which computes prepared inputs: `run(inputs, dtype, **options) -> Call`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from segattn_call import Call

from mmedge.testing import (
    CASES,
    FROBENIUS,
    AttentionCase,
    Inputs,
    allowed_error,
    frobenius,
    make_inputs,
)

Run = Callable[..., Call]

TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}

#: Cases that the CUDA kernels take, and the benchmark's shapes cut down to what can be emulated.
SMALLER = {
    "A action": {"heads": 3},
    "B detection": {"heads": 1, "rows": 130, "lengths": (1100, 900)},
    "C pool": {"heads": 1, "lengths": (1500, 700, 300, 129)},
    "D joint": {"heads": 2, "batch": 2, "rows": 150, "lengths": (577, 300, 77)},
}
TAKEN = tuple(
    replace(case, **SMALLER.get(case.name, {}))
    for case in CASES
    if case.dim % 8 == 0 and case.dim_v in (None, case.dim)
)


def same_lse(got: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.allclose(got, wanted, rtol=2e-5, atol=2e-4, equal_nan=True))


def peer(call: Call) -> np.ndarray:
    """Torch's attention in the same dtype, unfused: as its tests of fused kernels compare."""
    seen, options = call.seen, call.seen.options
    batch, rows, heads, dim = seen.q.shape
    masks = []
    for s, keys in enumerate(seen.k):
        length = keys.shape[1]
        mask = np.zeros((batch, heads, rows, length), np.float32)
        if (count := (options.get("lens") or {s: None})[s]) is not None:
            mask[
                np.broadcast_to(np.arange(length) >= count[:, None, None, None], mask.shape)
            ] = -np.inf
        if (valid := (options.get("key_valid") or {s: None})[s]) is not None:
            mask[np.broadcast_to(~valid.astype(bool)[:, None, None], mask.shape)] = -np.inf
        if (bias := (options.get("bias") or {s: None})[s]) is not None:
            mask = mask + bias
        if (gate := options.get("seg_bias")) is not None:
            gate = gate[..., s]
            mask = mask + gate.reshape(*{0: (1, 1), 1: (-1, 1), 2: gate.shape}[gate.ndim], 1, 1)
        masks.append(mask)

    def tensor(parts: tuple[np.ndarray, ...]) -> torch.Tensor:
        wide = [np.broadcast_to(x, (batch, *x.shape[1:])) for x in parts]
        whole = np.concatenate(wide, 1).repeat(heads // parts[0].shape[2], 2).transpose(0, 2, 1, 3)
        return torch.from_numpy(np.ascontiguousarray(whole)).to(TORCH[call.dtype])

    scale = options.get("scale")
    scale = dim**-0.5 if scale is None else scale
    scores = tensor((seen.q.astype(np.float32),)) @ tensor(seen.k).mT * scale
    scores = scores + torch.from_numpy(np.concatenate(masks, -1)).to(TORCH[call.dtype])
    mixed = torch.softmax(scores, -1).nan_to_num(0.0) @ tensor(seen.v)
    return mixed.float().numpy().transpose(0, 2, 1, 3)


def check_case(run: Run, case: AttentionCase, dtype: str) -> None:
    call = run(make_inputs(case), dtype)
    wanted, lse = call.expected()
    got = call.output()
    assert np.isfinite(got).all()
    assert frobenius(got, wanted) <= FROBENIUS[dtype]
    if case.mode == "joint":
        assert same_lse(call.log_sum_exp(), lse)
        if case.keys:
            assert np.abs(got - wanted).max() <= allowed_error(peer(call), wanted)


def check_splits(run: Run, case: AttentionCase, dtype: str) -> None:
    inputs = make_inputs(case)
    whole = run(inputs, dtype, num_splits=1).output()
    for splits in (2, 5, 12, 0):
        call = run(inputs, dtype, num_splits=splits)
        assert frobenius(call.output(), call.expected()[0]) <= FROBENIUS[dtype]
        assert frobenius(call.output(), whole.astype(np.float64)) <= (
            1e-3 if dtype == "float16" else FROBENIUS[dtype]
        )
        if case.mode == "joint":
            assert same_lse(call.log_sum_exp(), call.expected()[1])


def check_rising_scores(run: Run, rows: int, largest: float, dtype: str) -> None:
    """Keys grow from tile to tile, and with them what weights are relative to."""
    inputs = make_inputs(AttentionCase("", (64 * 7, 64 * 3 + 5), rows=rows, heads=2))
    sizes = np.linspace(0.01, largest, sum(k.shape[1] for k in inputs.k))[None, :, None, None]
    parts = np.split(sizes, [inputs.k[0].shape[1]], axis=1)
    grown = tuple((k * size).astype(k.dtype) for k, size in zip(inputs.k, parts, strict=True))
    for num_splits in (1, 3):
        call = run(replace(inputs, k=grown), dtype, num_splits=num_splits)
        wanted, lse = call.expected()
        assert frobenius(call.output(), wanted) <= FROBENIUS[dtype]
        assert same_lse(call.log_sum_exp(), lse)


def check_int8(run: Run, case: AttentionCase, dtype: str, int8: tuple[int, ...]) -> None:
    inputs = make_inputs(case)
    call = run(inputs, dtype, int8=int8)
    # Against what the integers stand for, and against what they were made from.
    assert frobenius(call.output(), call.expected()[0]) <= FROBENIUS[dtype]
    exact = run(inputs, dtype).expected()[0]
    assert frobenius(call.output(), exact) <= FROBENIUS["int8"]


def hide(inputs: Inputs, fill: float) -> Inputs:
    """The same with `fill` in keys and values that no row may see: lens and key_valid."""
    keys, values = [], []
    batch = inputs.q.shape[0]
    for s, pair in enumerate(zip(inputs.k, inputs.v, strict=True)):
        k, v = (np.repeat(x, batch // x.shape[0], 0) for x in pair)
        hidden = np.zeros((batch, k.shape[1]), bool)
        if (count := (inputs.options.get("lens") or {s: None})[s]) is not None:
            hidden |= np.arange(k.shape[1]) >= count[:, None]
        if (valid := (inputs.options.get("key_valid") or {s: None})[s]) is not None:
            hidden |= ~valid.astype(bool)
        k[hidden], v[hidden] = fill, fill
        keys.append(k)
        values.append(v)
    return replace(inputs, k=tuple(keys), v=tuple(values))
