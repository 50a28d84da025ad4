"""Metadata and weights out of a GGUF file, the weights as float32.

Written after the format's description, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
Blocks of 32 weights are those of ggml (ggml-common.h): a scale d, for some a least value m, both
float16, and 32 integers q; four bits each, the first 16 in the lower halves of the bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["VERSION", "read_gguf"]

VERSION = 3
#: Numbers of the metadata, by the type that stands before them.
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
BLOCK = 32


def _halves(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Integers of four bits each: the lower halves of the bytes, then the upper ones."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=1).astype(np.float32)


def _half(blocks: NDArray[np.uint8], at: int) -> NDArray[np.float32]:
    """The float16 at byte ``at`` of each block, [blocks, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _q4_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _half(blocks, 0) * (_halves(blocks[:, 2:]) - np.float32(8))


def _q4_1(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _half(blocks, 0) * _halves(blocks[:, 4:]) + _half(blocks, 2)


def _q8_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _half(blocks, 0) * blocks[:, 2:].copy().view(np.int8).astype(np.float32)


def _float32(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks.copy().view("<f4")


def _float16(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks.copy().view("<f2").astype(np.float32)


def _bfloat16(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (blocks.copy().view("<u2").astype("<u4") << 16).view("<f4")


#: By ggml's number of a type: weights in a block, its bytes, and how they become numbers.
_TYPES: dict[int, tuple[int, int, Callable[[NDArray[np.uint8]], NDArray[np.float32]]]] = {
    0: (1, 4, _float32),
    1: (1, 2, _float16),
    2: (BLOCK, 18, _q4_0),
    3: (BLOCK, 20, _q4_1),
    8: (BLOCK, 34, _q8_0),
    30: (1, 2, _bfloat16),
}


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        piece = self.content[self.at : self.at + size]
        if len(piece) != size:
            raise ValueError(f"the file ends at byte {len(self.content)}, inside of a value")
        self.at += size
        return piece

    def number(self, form: str) -> Any:  # noqa: ANN401
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:  # noqa: ANN401
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            of, size = self.number("I"), self.number("Q")
            return [self.value(of) for _ in range(size)]
        raise ValueError(f"a value has type {kind}, which the format does not have")


def read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Metadata by key, and tensors by name, sizes in NumPy's order (the last changes fastest).

    Args:
        file: a GGUF file.

    Raises:
        ValueError: it is none, of another version, ends early, or holds weights of a type that is
            not read here.
    """
    reader = _Reader(file.read_bytes())
    magic, version = reader.take(4), reader.number("I")
    if magic != b"GGUF" or version != VERSION:
        raise ValueError(f"{file}: expected GGUF of version {VERSION}, got {magic!r} {version}")
    tensors, keys = reader.number("Q"), reader.number("Q")
    metadata = {reader.string(): reader.value(reader.number("I")) for _ in range(keys)}
    infos = []
    for _ in range(tensors):
        name = reader.string()
        sizes = [reader.number("Q") for _ in range(reader.number("I"))]
        infos.append((name, sizes[::-1], reader.number("I"), reader.number("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-reader.at // alignment) * alignment
    return metadata, {
        name: _tensor(reader, name, shape, kind, start + offset)
        for name, shape, kind, offset in infos
    }


def _tensor(
    reader: _Reader, name: str, shape: list[int], kind: int, start: int
) -> NDArray[np.float32]:
    if kind not in _TYPES:
        raise ValueError(
            f"{name} has type {kind} of ggml; this reader knows {', '.join(map(str, _TYPES))}"
        )
    weights, size, convert = _TYPES[kind]
    count = int(np.prod(shape))
    if count % weights:
        raise ValueError(f"{name} has {count} weights, which are no whole blocks of {weights}")
    reader.at = start
    blocks = np.frombuffer(reader.take(count // weights * size), np.uint8)
    return convert(blocks.reshape(-1, size)).reshape(shape)
