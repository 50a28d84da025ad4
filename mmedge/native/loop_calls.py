"""Options and steps of libmmedge's loops, for :mod:`mmedge.native.runtime`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from sys import float_info
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.native.structures import (
    DTYPES,
    LoopOptions,
    LoopStepStruct,
    contiguous,
    tensors_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array

__all__ = ["FINISH", "NativeStep", "loop_options", "read_step"]

#: By ``mmedge_finish``.
FINISH = ("", "stop", "limit", "schedule", "deadline", "cancel")


@dataclass(frozen=True, eq=False)
class NativeStep:
    """A step of a loop, copied; of ``denoise`` the latent, of ``generate`` the rest.

    See :class:`mmedge.execution.generate.GenerateStep`. ``done``: no further step comes.
    """

    index: int
    tokens: Array | None = None
    active: Array | None = None
    scores: Array | None = None
    latent: Array | None = None
    done: bool = False


#: By option: whether it is a whole number, and the largest that the structure holds.
NUMBERS: dict[str, tuple[bool, float]] = {
    "limit": (True, 2**63 - 1),
    "stop": (True, 2**63 - 1),
    "seed": (True, 2**64 - 1),
    "top_k": (True, 2**63 - 1),
    "temperature": (False, float_info.max),
    "top_p": (False, float_info.max),
    "deadline_ms": (False, float_info.max),
}


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
            stops = [_number("stop", stop) for stop in value]
            given.stop, given.stop_count = (ctypes.c_int64 * len(stops))(*stops), len(stops)
        elif name == "forced":
            array = np.asarray(value)
            if array.ndim != 2 or (array.size and array.dtype.kind not in "iu"):
                got = f"{array.dtype}{list(array.shape)}"
                raise InputError(f"forced: expected whole numbers [batch, n], got {got}")
            array = np.ascontiguousarray(array, np.int64)
            kept.append(array)
            given.forced, (given.forced_rows, given.forced_count) = array.ctypes.data, array.shape
        elif name == "noise":
            array = contiguous({"noise": np.asarray(value)})["noise"]
            noise = tensors_of({"noise": array})
            given.noise = ctypes.addressof(noise)
            kept += [array, noise]
        elif name not in NUMBERS:
            raise InputError(f"option {name!r}: no loop takes it")
        else:
            setattr(given, name, _number(name, value))
    return given, kept


def _number(name: str, value: Any) -> Any:  # noqa: ANN401
    """A number that the structure holds as it is: ctypes would take others modulo 2**64."""
    is_whole, most = NUMBERS[name]
    kinds = (int, np.integer) if is_whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= most:
        what = "a whole number" if is_whole else "a number"
        raise InputError(f"{name}: expected {what} from 0 to {most:g}, got {value!r:.80}")
    return int(value) if is_whole else float(value)


def read_step(step: LoopStepStruct) -> NativeStep:
    """A copy of what a step says."""
    if step.latent:
        shape = tuple(step.latent_shape[: step.latent_rank])
        flat = np.ctypeslib.as_array(step.latent, (step.latent_elements,))
        return NativeStep(step.index, latent=flat.reshape(shape).copy(), done=bool(step.done))
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
        done=bool(step.done),
    )
