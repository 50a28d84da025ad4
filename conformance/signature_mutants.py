"""Mutants of ``manifest.json`` and ``manifest.sig``: each has to be refused by a reader with keys.

Seeded, so that every runtime gets the same ones: bits flipped, bytes deleted and inserted, ends cut
off, parts of a file exchanged or taken from the other file, statements and signatures altered with
their form kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ["Mutant", "mutants"]


class Mutant(NamedTuple):
    """Both files, of which one or both are other than they were."""

    name: str
    manifest: bytes
    signature: bytes


def mutants(manifest: bytes, signature: bytes, *, count: int, seed: int) -> Iterator[Mutant]:
    """``count`` mutants, none of them equal to what was given.

    Args:
        manifest: bytes of ``manifest.json``.
        signature: bytes of a ``manifest.sig`` with one signature. Of several, some could be altered
            where no trusted key made them, and the bundle would rightly be taken.
        count: how many.
        seed: of the choices.
    """
    numbers = random.Random(seed)
    kinds = [*_KINDS, *_FORGERIES]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        while (mutant := _change(kind, manifest, signature, numbers))[1:] == (manifest, signature):
            pass
        yield mutant


def _change(kind: str, manifest: bytes, signature: bytes, numbers: random.Random) -> Mutant:
    if kind in _FORGERIES:
        return Mutant(kind, **_FORGERIES[kind](manifest, signature, numbers))
    which = numbers.choice(("manifest", "signature", "both"))
    files = {"manifest": manifest, "signature": signature}
    for name in files if which == "both" else (which,):
        other = files["signature" if name == "manifest" else "manifest"]
        files[name] = _KINDS[kind](files[name], other, numbers)
    return Mutant(f"{kind} in {which}", **files)


def _flip(data: bytes, _other: bytes, numbers: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(numbers.choice((1, 1, 2, 8))):
        changed[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
    return bytes(changed)


def _delete(data: bytes, _other: bytes, numbers: random.Random) -> bytes:
    start = numbers.randrange(len(data))
    return data[:start] + data[start + numbers.choice((1, 1, 4, 64)) :]


def _insert(data: bytes, _other: bytes, numbers: random.Random) -> bytes:
    start = numbers.randrange(len(data) + 1)
    words = (b" ", b"\n", b"\0", b"=", b",", b'"', b"0", b"{}", numbers.randbytes(4))
    return data[:start] + numbers.choice(words) + data[start:]


def _truncate(data: bytes, _other: bytes, numbers: random.Random) -> bytes:
    return data[: numbers.randrange(len(data))]


def _exchange(data: bytes, _other: bytes, numbers: random.Random) -> bytes:
    """Two values of the same JSON file, wherever they are; the form stays canonical."""
    text = data.decode()
    values = sorted(set(_texts(json.loads(text))))
    if len(values) < 2:
        return data
    one, other = numbers.sample(values, 2)
    quoted, other_quoted = json.dumps(one), json.dumps(other)
    return (
        text.replace(quoted, "\0")
        .replace(other_quoted, quoted)
        .replace("\0", other_quoted)
        .encode()
    )


def _graft(data: bytes, other: bytes, numbers: random.Random) -> bytes:
    """A piece of the other file in place of one of this."""
    size = numbers.choice((1, 8, 64, 256))
    start, from_ = numbers.randrange(len(data)), numbers.randrange(max(1, len(other)))
    return data[:start] + other[from_ : from_ + size] + data[start + size :]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _write(envelope: dict[str, Any]) -> bytes:
    """An envelope in its one form."""
    return json.dumps(envelope, separators=(",", ":")).encode() + b"\n"


def _change_statement(
    manifest: bytes, signature: bytes, numbers: random.Random
) -> dict[str, bytes]:
    """Another statement that is read without fault, under the old signature."""
    envelope = json.loads(signature)
    release = json.loads(base64.b64decode(envelope["payload"]))
    name, value = numbers.choice((
        ("version", release["version"] + numbers.randrange(1, 1 << 40)),
        ("signed", numbers.randrange(release["signed"])),
        ("expires", (release["expires"] or 1 << 40) + numbers.randrange(1, 1 << 40)),
        ("manifest", numbers.randbytes(32).hex()),
    ))  # fmt: skip
    payload = json.dumps({**release, name: value}, separators=(",", ":"))
    envelope["payload"] = base64.b64encode(payload.encode()).decode()
    return {"manifest": manifest, "signature": _write(envelope)}


def _change_both(manifest: bytes, signature: bytes, numbers: random.Random) -> dict[str, bytes]:
    """Another manifest, and its digest in the statement, under the old signature."""
    changed = _flip(manifest, b"", numbers)
    old, new = (hashlib.sha256(data).hexdigest() for data in (manifest, changed))
    envelope = json.loads(signature)
    payload = base64.b64decode(envelope["payload"]).decode().replace(old, new)
    envelope["payload"] = base64.b64encode(payload.encode()).decode()
    return {"manifest": changed, "signature": _write(envelope)}


def _change_signature(
    manifest: bytes, signature: bytes, numbers: random.Random
) -> dict[str, bytes]:
    """Bits of the 64 bytes flipped, or another key id."""
    envelope = json.loads(signature)
    entry = envelope["signatures"][0]
    if numbers.random() < 0.2:
        entry["keyid"] = numbers.randbytes(32).hex()
    else:
        entry["sig"] = base64.b64encode(
            _flip(base64.b64decode(entry["sig"]), b"", numbers)
        ).decode()
    return {"manifest": manifest, "signature": _write(envelope)}


#: Mutants of both files whose ``manifest.sig`` keeps its form, so that the signature decides.
_FORGERIES: dict[str, Callable[[bytes, bytes, random.Random], dict[str, bytes]]] = {
    "statement altered": _change_statement,
    "manifest and statement altered": _change_both,
    "signature altered": _change_signature,
}

_KINDS: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "bits flipped": _flip,
    "bytes deleted": _delete,
    "bytes inserted": _insert,
    "end cut off": _truncate,
    "values exchanged": _exchange,
    "a piece of the other file": _graft,
}
