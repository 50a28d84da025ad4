"""Changes of inputs: of bytes, and of what they stand for, which gets past a first look."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from random import Random

Mutator = Callable[[bytes, Random, Sequence[bytes]], bytes]

#: No input grows beyond this.
MOST = 1 << 18

_INTEGERS = [
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    1 << 15,
    1 << 16,
    1 << 31,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
]
_VALUES: list[object] = [
    None, True, False, 0, 1, -1, 2, 5, 1 << 31, 1 << 53, 1 << 63, -(1 << 63), 10**30, 1e-308, 1e308,
    float("inf"), float("nan"), "", "x", "\ud800", "\0", "../x", "/etc/passwd", "a" * 5000, [], {},
    [[]], {"": None}, ["x"] * 3, "1e5", "-0", "\x1b[31m",
]  # fmt: skip


def mutate_bytes(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """One to a few small changes."""
    buffer = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4, 8))):
        size = len(buffer)
        at = rng.randrange(size + 1)
        match rng.randrange(9):
            case 0 if size:
                buffer[at % size] ^= 1 << rng.randrange(8)
            case 1 if size:
                buffer[at % size] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                buffer[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
            case 3:
                del buffer[at : at + rng.choice((1, 2, 4, 16, 256))]
            case 4:
                end = min(size, at + rng.randrange(1, 64))
                buffer[at:at] = buffer[at:end] * rng.choice((1, 2, 16))
            case 5:
                form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
                value = rng.choice(_INTEGERS) & ((1 << 8 * struct.calcsize(form)) - 1)
                buffer[at : at + struct.calcsize(form)] = struct.pack(form, value)
            case 6 if others:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                buffer[at : at + rng.randrange(64)] = other[start : start + rng.randrange(1, 256)]
            case 7 if rng.random() < 0.2:
                del buffer[at:]
            case _:
                end = min(size, at + rng.randrange(1, 32))
                to = rng.randrange(size + 1)
                buffer[to : to + end - at] = buffer[at:end]
    return bytes(buffer[:MOST])


def mutate_json(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes of a JSON text's values, keys and order, or of its bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng, others)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng, others)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _changed(tree, rng)
    try:
        written = json.dumps(tree).encode("utf-8", "surrogatepass")[:MOST]
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng, others)
    return mutate_bytes(written, rng, others) if rng.random() < 0.1 else written


def _changed(tree: object, rng: Random) -> object:
    """The tree with one value somewhere in it changed."""
    if not tree or not isinstance(tree, dict | list) or rng.random() < 0.1:
        return _value(tree, rng)
    if isinstance(tree, dict):
        key = rng.choice(list(tree))
        match rng.randrange(10):
            case 0:
                return {k: v for k, v in tree.items() if k != key}
            case 1:
                return {**tree, str(rng.choice(_VALUES)): tree[key]}
            case 2:
                return {**tree, key: tree[rng.choice(list(tree))]}
        return {**tree, key: _changed(tree[key], rng)}
    at = rng.randrange(len(tree))
    match rng.randrange(10):
        case 0:
            return tree[:at] + tree[at + 1 :]
        case 1:
            return tree[:at] + [tree[at]] * rng.choice((2, 3, 50)) + tree[at:]
    return [*tree[:at], _changed(tree[at], rng), *tree[at + 1 :]]


def _value(value: object, rng: Random) -> object:
    if isinstance(value, bool) or rng.random() < 0.5:
        return rng.choice(_VALUES)
    if isinstance(value, int | float):
        return rng.choice((value + 1, -value, value * 1000, value / 2, str(value)))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice((" ", "/", "..", "\n", "é", "x", "")) + value[at + 1 :]
    return [value]


def mutate_safetensors(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes of the header with its length kept right, or of bytes."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3 or size > len(data):
        return mutate_bytes(data, rng, others)
    header = mutate_json(data[8 : 8 + size], rng, ())
    return (len(header).to_bytes(8, "little") + header + data[8 + size :])[:MOST]


def mutate_protobuf(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes inside messages, with the lengths around them kept right, or of bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng, others)
    return _inside(data, rng, others, 0)[:MOST]


def _inside(data: bytes, rng: Random, others: Sequence[bytes], depth: int) -> bytes:
    spans = _fields(data)
    if not spans or depth > 12 or rng.random() < 0.15:
        return mutate_bytes(data, rng, others)
    at = rng.randrange(len(spans))
    parts = [data[tag:stop] for tag, _, stop in spans]
    tag, begin, stop = spans[at]
    match rng.randrange(8):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[rng.randrange(len(parts))])
        case 2:
            rng.shuffle(parts)
        case 3 if begin < 0:
            parts[at] = data[tag : tag + 1] + _varint(rng.choice(_INTEGERS) & ((1 << 64) - 1))
        case _ if begin >= 0:
            body = _inside(data[begin:stop], rng, others, depth + 1)
            parts[at] = _varint(_tag(data, tag)) + _varint(len(body)) + body
        case _:
            parts[at] = mutate_bytes(parts[at], rng, others)
    return b"".join(parts)


def _tag(data: bytes, at: int) -> int:
    return _read_varint(data, at)[0]


def _fields(data: bytes) -> list[tuple[int, int, int]]:
    """(first byte, first byte of the body or -1, byte after) of each field; empty: no message."""
    spans = []
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        wire = tag & 7
        begin = -1
        if wire == 2:
            size, begin = _read_varint(data, at)
            at = begin + size
        elif wire == 0:
            _, at = _read_varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            return []
        if at > len(data) or not tag >> 3 or len(spans) > 2000:
            return []
        spans.append((start, begin, at))
    return spans


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            break
        shift += 7
    return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
