"""Weights out of a ``model.bin`` of CTranslate2, as float32.

Written after the published writer, ``ModelSpec._serialize`` of CTranslate2 4
(https://github.com/OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py). All numbers are
little-endian: the binary version, the model's name and revision, then for each variable its name,
rank, sizes, dtype and bytes, then aliases. A string is its size with the closing zero (16 bits),
and its bytes. Stored integers are divided by the scale beside them, as
``src/ops/dequantize_cpu.cc`` does it: times the scale's reciprocal, in float32.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["VERSION", "read_model"]

#: Of the binary form, the one that CTranslate2 2 to 4 write.
VERSION = 6
#: By the number that stands for it; bfloat16 is the upper half of a float32.
_DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2", "bfloat16")


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        piece = self.content[self.at : self.at + size]
        if len(piece) != size:
            raise ValueError(f"the file ends at byte {len(self.content)}, inside of a value")
        self.at += size
        return piece

    def number(self, form: str) -> int:
        value: int = struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]
        return value

    def string(self) -> str:
        return self.take(self.number("H"))[:-1].decode()


def read_model(file: Path) -> tuple[str, dict[str, NDArray[Any]]]:
    """Name of the model and its variables.

    Floating point numbers and integers with a scale come as float32, other integers as they are.
    An alias has the variable that it stands for.

    Args:
        file: a ``model.bin``.

    Raises:
        ValueError: it has another version or dtype, ends early, or goes on after its end.
    """
    reader = _Reader(file.read_bytes())
    version = reader.number("I")
    if version != VERSION:
        raise ValueError(f"{file} has binary version {version}; this reader knows {VERSION}")
    name, _revision = reader.string(), reader.number("I")
    stored = dict(_read_variable(reader) for _ in range(reader.number("I")))
    for alias, of in [(reader.string(), reader.string()) for _ in range(reader.number("I"))]:
        stored[alias] = stored[of]
        if f"{of}_scale" in stored:
            stored[f"{alias}_scale"] = stored[f"{of}_scale"]
    if reader.at != len(reader.content):
        raise ValueError(f"{file} goes on for {len(reader.content) - reader.at} bytes at its end")
    variables = {
        key: _dequantize(value, stored.get(f"{key}_scale"))
        for key, value in stored.items()
        if not key.endswith("_scale") or key.removesuffix("_scale") not in stored
    }
    return name, variables


def _read_variable(reader: _Reader) -> tuple[str, NDArray[Any]]:
    name = reader.string()
    shape = [reader.number("I") for _ in range(reader.number("B"))]
    dtype = reader.number("B")
    content = reader.take(reader.number("I"))
    if dtype >= len(_DTYPES):
        raise ValueError(f"{name} has dtype {dtype}; this reader knows 0 to {len(_DTYPES) - 1}")
    if _DTYPES[dtype] == "bfloat16":
        value = (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    else:
        value = np.frombuffer(content, _DTYPES[dtype])
    return name, value.reshape(shape)


def _dequantize(value: NDArray[Any], scale: NDArray[Any] | None) -> NDArray[Any]:
    if value.dtype.kind == "f":
        return value.astype(np.float32)
    if scale is None:
        return value.copy()
    reciprocal = np.float32(1) / scale.astype(np.float32)
    # One scale for the tensor (int16), or one for each row (int8).
    rows = reciprocal.reshape(-1, *[1] * (value.ndim - 1)) if scale.ndim else reciprocal
    quantized: NDArray[np.float32] = value.astype(np.float32) * rows
    return quantized
