"""Tensors of safetensors bytes, checked in plain Python before anything is allocated for them.

The library's own reader copies each tensor, hands shapes of any rank to NumPy, and knows dtypes
that no bundle uses. Here the header has limits, and arrays are views of the bytes that were read.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mmedge.schema.names import MAX_RANK
from mmedge.schema.read import Misfit, decode, members, show
from mmedge.spec import DTYPES, Array

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_HEADER_BYTES", "MAX_TENSORS", "read_tensors"]

#: Bytes of the header, and tensors that it may name.
MAX_HEADER_BYTES, MAX_TENSORS = 4 << 20, 1 << 15

#: safetensors' dtype names -> those of a manifest: BOOL, F32, U8 and so on.
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}": dtype
    for dtype in DTYPES.values()
}
_FIELDS = {"dtype", "shape", "data_offsets"}
_LENGTH = struct.Struct("<Q")


def read_tensors(data: bytes | memoryview) -> dict[str, Array]:
    """Each tensor by name, as a read-only view of ``data``, in the order of the header.

    Raises:
        Misfit: not safetensors, more than the limits allow, or a dtype that no bundle uses.
    """
    data = memoryview(data).toreadonly()
    if len(data) < _LENGTH.size:
        raise Misfit("$", "safetensors", f"{len(data)} bytes")
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    if start > len(data) or length > MAX_HEADER_BYTES:
        most = min(MAX_HEADER_BYTES, len(data) - _LENGTH.size)
        raise Misfit("$", f"a header of at most {most} bytes", f"one of {length} bytes")
    header = members(decode(bytes(data[_LENGTH.size : start]), most=MAX_HEADER_BYTES), "$")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise Misfit("$", f"at most {MAX_TENSORS} tensors", str(len(header)))
    tensors, spans = {}, []
    for name, entry in header.items():
        array, span = _tensor(entry, data[start:], f"$[{show(name)}]")
        tensors[name] = array
        spans.append(span)
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise Misfit("$", f"tensors without gaps or overlaps, one at {at}", f"one at {begin}")
        at = end
    if at != len(data) - start:
        raise Misfit("$", f"{at} bytes of tensors", f"{len(data) - start} bytes")
    return tensors


def _tensor(entry: object, data: memoryview, where: str) -> tuple[Array, tuple[int, int]]:
    header = members(entry, where)
    if header.keys() != _FIELDS:
        raise Misfit(where, "dtype, shape and data_offsets", show(", ".join(header)))
    dtype = _DTYPES.get(header["dtype"]) if isinstance(header["dtype"], str) else None
    if dtype is None:
        raise Misfit(f"{where}.dtype", f"one of {', '.join(_DTYPES)}", show(header["dtype"]))
    shape, offsets = _sizes(header["shape"], where, "shape"), header["data_offsets"]
    begin, end = _sizes(offsets, where, "data_offsets") if _is_pair(offsets) else (0, -1)
    if len(shape) > MAX_RANK or not 0 <= begin <= end <= len(data):
        raise Misfit(
            where,
            f"rank up to {MAX_RANK} and offsets inside the file",
            f"{show(shape)} at {show(offsets)}",
        )
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise Misfit(where, f"{end - begin} bytes", f"{dtype} of shape {list(shape)}")
    try:
        array = np.frombuffer(data[begin:end], dtype).reshape(shape)
    except ValueError as error:  # sizes beside a 0 that no array may have
        raise Misfit(f"{where}.shape", "sizes of an array", show(str(error))) from error
    if dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise Misfit(where, "booleans of 0 and 1", "another byte")
    return array, (begin, end)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _sizes(value: object, where: str, field: str) -> tuple[int, ...]:
    if isinstance(value, list) and all(type(size) is int and size >= 0 for size in value):
        return tuple(value)
    raise Misfit(f"{where}.{field}", "whole numbers from 0", show(value))
