"""Options and steps of libmmedge's loops, for :mod:`mmedge.native.runtime`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.native.structures import DTYPES, LoopOptions, LoopStepStruct, tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array

__all__ = ["FINISH", "NativeStep", "loop_options", "read_step"]

#: By ``mmedge_finish``.
FINISH = ("", "stop", "limit", "schedule", "deadline", "cancel")


@dataclass(frozen=True, eq=False)
class NativeStep:
    """A step of a loop, copied; of ``denoise`` the latent in C order, of ``generate`` the rest.

    See :class:`mmedge.GenerateStep`.
    """

    index: int
    tokens: Array | None = None
    active: Array | None = None
    scores: Array | None = None
    latent: Array | None = None


def loop_options(options: Mapping[str, Any], *, cached: bool) -> tuple[LoopOptions, object]:
    """The structure, and what has to stay while it is used.

    Raises:
        InputError: the C API cannot say what is asked for.
    """
    kept: list[object] = [options]
    given = LoopOptions(
        ctypes.sizeof(LoopOptions), limit=-1, stop_count=-1, temperature=-1.0, top_k=-1, top_p=-1.0,
        deadline_ms=-1.0, cached=cached,
    )  # fmt: skip
    for name, value in options.items():
        if value is None:
            continue
        if name == "stop":
            stops = list(value)
            given.stop, given.stop_count = (ctypes.c_int64 * len(stops))(*stops), len(stops)
        elif name == "forced":
            array = np.asarray(value)
            if array.dtype != np.int64 or array.ndim != 2 or not array.flags.c_contiguous:
                raise InputError(f"forced: expected int64 [batch, n], got {array.dtype}")
            given.forced, (given.forced_rows, given.forced_count) = array.ctypes.data, array.shape
        elif name == "noise":
            array = np.ascontiguousarray(value)
            noise = tensors_of({"noise": array})
            given.noise = ctypes.addressof(noise)
            kept += [array, noise]
        elif name not in ("limit", "seed", "temperature", "top_k", "top_p", "deadline_ms"):
            raise InputError(f"option {name!r}: no loop takes it")
        elif value < 0:
            raise InputError(f"{name}: expected a number from 0, got {value}")
        else:
            setattr(given, name, value)
    return given, kept


def read_step(step: LoopStepStruct) -> NativeStep:
    """A copy of what a step says."""
    if step.latent:
        latent = np.array(step.latent[: step.latent_elements], np.float32)
        return NativeStep(step.index, latent=latent)
    dtype = np.dtype(DTYPES[step.scores_dtype])
    size = (step.rows - 1) * step.scores_stride + step.vocabulary
    memory = ctypes.string_at(step.scores, dtype.itemsize * size)
    stride = step.scores_stride * dtype.itemsize
    scores = np.stack([
        np.frombuffer(memory, dtype, step.vocabulary, row * stride) for row in range(step.rows)
    ])  # fmt: skip
    return NativeStep(
        step.index,
        tokens=np.array(step.tokens[: step.rows], np.int64),
        active=np.array(step.active[: step.rows], np.bool_),
        scores=scores,
    )
