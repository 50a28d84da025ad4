"""The Attention cases that the onnx package ships, as problems of segmented attention."""

from __future__ import annotations

import functools
import math
import warnings

import ml_dtypes
import numpy as np
import onnx

#: Cases that ask for what segmented attention does not have: a soft cap of the scores.
SOFTCAP = "softcap"


@functools.cache
def cases():
    """By name: the node, its inputs by name, and the wanted output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind="node")
    made = {}
    for case in found:
        if not case.name.startswith("test_attention") or case.name.endswith("_expanded"):
            continue
        node = case.model.graph.node[0]
        inputs, outputs = case.data_sets[0]
        given = dict(zip([n for n in node.input if n], inputs, strict=True))
        made[case.name.removeprefix("test_attention_")] = node, given, outputs[0]
    return made


def names():
    return [name for name, (node, *_) in cases().items() if not attribute(node, SOFTCAP, 0.0)]


def attribute(node, name, default):
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def heads_last(value, heads):
    """``[B, L, H, D]`` from three axes or from ``[B, H, L, D]``."""
    if value.ndim == 3:
        return value.reshape(*value.shape[:2], heads, -1)
    return value.transpose(0, 2, 1, 3)


def problem(name):
    """q, k, v ``[B, L, H, D]``, bias ``[B, H, Lq, Lk]`` or None, scale, output, tolerance."""
    node, given, wanted = cases()[name]
    dtype = given["Q"].dtype
    values = {
        key: value.astype(np.float32) if value.dtype in (np.float16, ml_dtypes.bfloat16) else value
        for key, value in given.items()
    }
    q = heads_last(values["Q"], attribute(node, "q_num_heads", None))
    k, v = (heads_last(values[key], attribute(node, "kv_num_heads", None)) for key in "KV")
    past = 0
    if "past_key" in values:
        past = values["past_key"].shape[2]
        k = np.concatenate([values["past_key"].transpose(0, 2, 1, 3), k], 1)
        v = np.concatenate([values["past_value"].transpose(0, 2, 1, 3), v], 1)
    batch, rows, heads, dim = q.shape
    keys = k.shape[1]
    bias = np.zeros((batch, heads, rows, keys), np.float32)
    if "attn_mask" in values:
        mask = values["attn_mask"]
        if mask.dtype == np.bool_:
            mask = np.where(mask, np.float32(0), np.float32(-np.inf))
        short = keys - mask.shape[-1]
        mask = np.pad(
            mask, [*[(0, 0)] * (mask.ndim - 1), (0, short)], constant_values=-np.inf
        ).astype(np.float32)
        bias = bias + np.broadcast_to(mask, bias.shape)
    count = values.get("nonpad_kv_seqlen")
    offset = np.full(batch, past) if count is None else count - rows
    at, key = np.arange(rows)[None, :, None] + offset[:, None, None], np.arange(keys)
    allowed = np.ones((batch, rows, keys), bool)
    if count is not None:
        allowed &= key < count[:, None, None]
    left, right = (attribute(node, f"{side}_window_size", -1) for side in ("left", "right"))
    if attribute(node, "is_causal", 0):
        allowed &= key <= at
    if left >= 0:
        allowed &= key >= at - left
    if right >= 0:
        allowed &= key <= at + right
    bias = np.where(allowed[:, None], bias, np.float32(-np.inf))
    scale = attribute(node, "scale", 1.0 / math.sqrt(dim))
    out = np.asarray(wanted, np.float32)
    out = out.reshape(batch, rows, heads, -1) if out.ndim == 3 else out.transpose(0, 2, 1, 3)
    tolerance = {np.dtype(np.float32): 2e-6, np.dtype(np.float16): 2e-3}.get(dtype, 2e-2)
    return q, k, v, None if not bias.any() else bias, scale, out, tolerance
