"""A result as a line of JSON: what a replay prints, and what a node publishes.

docs/howto/record.md says what it holds.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.spec import Array
    from mmedge.stream.result import Result

__all__ = ["FEW_ELEMENTS", "result_line"]

#: Elements of an output that is written in full.
FEW_ELEMENTS = 64


def result_line(result: Result, modalities: Sequence[str]) -> dict[str, Any]:
    """All that a result says but its drops, of values that JSON has.

    Of an output, dtype, shape and SHA-256 of its bytes, and ``values`` where there are at most 64.

    Args:
        result: of a stream.
        modalities: of its bundle, in the line's order.
    """
    outputs = None
    loop: dict[str, Any] = {}
    if result.outputs is not None:
        arrays = {k: v for k, v in result.outputs.items() if isinstance(v, np.ndarray)}
        outputs = {name: _output(value) for name, value in arrays.items()}
        # What a loop gives beside arrays: why it ended, and texts.
        loop = {k: v for k, v in result.outputs.items() if k not in arrays}
        if isinstance(loop.get("finish"), str):
            loop["finish"] = [loop["finish"]]
    others = {n: t for n, t in sorted(result.notes.items()) if n not in modalities}
    return {
        "t": result.t,
        "made": result.made,
        "latency": result.latency,
        "trigger": result.trigger,
        "fresh": result.fresh,
        "met": result.met,
        "outputs_t": result.outputs_t,
        "reason": result.reason,
        "modalities": {name: _modality(result, name) for name in modalities},
        **({"notes": others} if others else {}),
        **({"drift": dict(result.drift)} if result.drift else {}),
        **({"network": result.network._asdict()} if result.network.number else {}),
        "outputs": outputs,
        **loop,
    }


def _modality(result: Result, name: str) -> dict[str, Any]:
    used = result.samples.get(name, ())
    line: dict[str, Any] = {"age": result.ages.get(name), "samples": len(used)}
    if used:
        line |= {"sequence": used[-1].seq, "stamp": used[-1].t}
    for key, texts in (("absent", result.absent), ("note", result.notes)):
        if texts.get(name):
            line[key] = texts[name]
    return line


def _output(value: Array) -> dict[str, Any]:
    """Dtype, shape and digest of an array, and the elements of a small one."""
    line: dict[str, Any] = {
        "dtype": value.dtype.name,
        "shape": list(value.shape),
        "sha256": hashlib.sha256(value.tobytes()).hexdigest(),
    }
    if value.size <= FEW_ELEMENTS:
        line["values"] = _elements(value)
    return line


def _elements(array: Array) -> list[Any]:
    """In C order; None for what is not finite, which JSON has no number for."""
    elements: list[Any] = array.reshape(-1).tolist()
    if array.dtype.kind != "f":
        return elements
    return [element if math.isfinite(element) else None for element in elements]
