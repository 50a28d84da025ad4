"""Attacks by way of the zip. A writer of its own makes what zipfile would refuse to."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from bundles_bad.attack import Attack
from tiny import GRAPH, LABELS, WEIGHTS


@dataclass(frozen=True)
class Entry:
    """One zip entry; None means what is true of ``data``."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0
    attributes: int = 0o100644 << 16
    size: int | None = None
    packed: int | None = None
    offset: int | None = None
    crc: int | None = None
    header_name: str | None = None
    header_size: int | None = None
    gap: bytes = b""
    extra: bytes = b""
    header_extra: bytes = b""


def pack(entries: list[Entry], *, front=b"", back=b"", comment=b"", count=None) -> bytes:
    body, directory = bytearray(front), bytearray()
    for e in entries:
        body += e.gap
        at = len(body) if e.offset is None else e.offset
        size = len(e.data) if e.size is None else e.size
        packed = len(e.data) if e.packed is None else e.packed
        own = packed if e.header_size is None else e.header_size
        crc = zlib.crc32(e.data) if e.crc is None else e.crc
        name, own_name = e.name.encode(), (e.header_name or e.name).encode()
        common = (20, e.flags, e.method, 0, 33, crc)
        if e.offset is None:
            lengths = (len(own_name), len(e.header_extra))
            head = struct.pack("<4s5H3I2H", b"PK\3\4", *common, own, own, *lengths)
            body += head + own_name + e.header_extra + e.data
        lengths = (len(name), len(e.extra))
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0x31E, *common, packed, size, *lengths, 0, 0, 0,
            e.attributes, at,
        ) + name + e.extra  # fmt: skip
    body += back
    count = len(entries) if count is None else count
    sizes = (len(directory), len(body), len(comment))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, *sizes) + comment
    return bytes(body + directory + end)


def entries_of(good: Path) -> list[Entry]:
    files = sorted(file for file in good.rglob("*") if file.is_file())
    return [Entry(file.relative_to(good).as_posix(), file.read_bytes()) for file in files]


def _packed(change=lambda entries: entries, **options):
    """A maker that packs the changed list of the good bundle's entries."""

    def make(good: Path, folder: Path) -> Path:
        path = folder / "bad.mmedge"
        path.write_bytes(pack(change(entries_of(good)), **options))
        return path

    return make


def _set(name, **fields):
    return _packed(lambda entries: [
        replace(e, **fields) if e.name == name else e for e in entries
    ])  # fmt: skip


def _bytes(change):
    def make(good: Path, folder: Path) -> Path:
        path = folder / "bad.mmedge"
        path.write_bytes(change(pack(entries_of(good))))
        return path

    return make


def _deflated(data: bytes):
    def make(good: Path, folder: Path) -> Path:
        path = folder / "bad.mmedge"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for e in entries_of(good):
                if e.name == WEIGHTS:
                    archive.writestr(e.name, data or e.data, zipfile.ZIP_DEFLATED)
                else:
                    archive.writestr(e.name, e.data)
        return path

    return make


def _duplicate(entries):
    return [*entries, Entry(LABELS, b'["yes", "no"]')]


def _overlap(entries):
    """The labels' entry points into the bytes of the weights' entry, which look like an entry."""
    inner = pack([Entry(LABELS, b'["no", "yes"]')])
    at = 0
    out = []
    for e in (e for e in entries if e.name != LABELS):
        data = inner if e.name == WEIGHTS else e.data
        out.append(replace(e, data=data))
        if e.name == WEIGHTS:
            inside = at + 30 + len(e.name)
        at += 30 + len(e.name) + len(data)
    return [*out, Entry(LABELS, b'["no", "yes"]', offset=inside)]


def _same_bytes_twice(entries):
    first = entries[0]
    return [*entries, replace(first, name="copy", offset=0)]


def _streamed(good: Path, folder: Path) -> Path:
    """Sizes follow the data: what zipfile writes to a pipe."""

    class Pipe:
        def __init__(self, file):
            self.write, self.flush = file.write, file.flush

    path = folder / "bad.mmedge"
    with path.open("wb") as file, zipfile.ZipFile(Pipe(file), "w") as archive:
        for e in entries_of(good):
            archive.writestr(e.name, e.data)
    return path


def _flipped_manifest(data: bytes) -> bytes:
    return data.replace(b'"source": "tests"', b'"source": "evils"')


def _flipped_weights(data: bytes) -> bytes:
    at = data.index(b"\0\0" + WEIGHTS.encode()) + len(WEIGHTS) + 50  # not its name in the manifest
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _added(name, **fields):
    return _packed(lambda entries: [*entries, Entry(name, b"x", **fields)])


LINK, FOLDER = 0o120777 << 16, 0o040755 << 16

#: APPNOTE 4.6.9: the entry's name for readers that know the field.
UNICODE_PATH = struct.pack("<2HBI", 0x7075, 5 + 4, 1, zlib.crc32(LABELS.encode())) + b"evil"

ATTACKS = [
    Attack("zip: altered byte", f"{WEIGHTS} is altered", _bytes(_flipped_weights)),
    Attack("zip: altered manifest", "altered: its CRC-32", _bytes(_flipped_manifest)),
    Attack("zip: extra file", "extra file, not listed in the manifest: more", _added("more")),
    Attack(
        "zip: missing file",
        f"missing file {GRAPH}",
        _packed(lambda entries: [e for e in entries if e.name != GRAPH]),
    ),
    Attack("zip: '..'", r"'\.\.' in path '\.\./evil'", _added("../evil")),
    Attack("zip: absolute path", "absolute path '/etc/cron.d/x'", _added("/etc/cron.d/x")),
    Attack("zip: backslash", "backslash in path", _added("..\\evil")),
    Attack("zip: drive letter", "drive letter", _added("C:/evil")),
    Attack("zip: null in a name", "unsafe characters", _added("labels\0.json")),
    Attack("zip: folder entry", "empty part in path 'onnx/'", _added("onnx/", attributes=FOLDER)),
    Attack("zip: link", f"entry {LABELS} is a link", _set(LABELS, attributes=LINK)),
    Attack("zip: duplicate entry", f"duplicate zip entry {LABELS}", _packed(_duplicate)),
    Attack("zip: compressed entry", f"{WEIGHTS} is compressed", _deflated(b"")),
    Attack("zip: bomb", f"{WEIGHTS} is compressed", _deflated(bytes(50_000_000))),
    Attack("zip: size disagrees", "declares 4294967294 bytes but stores 13",
           _set(LABELS, size=0xFFFFFFFE, packed=13)),
    Attack("zip: size past the end", "overlaps the directory or is truncated",
           _set("samples.safetensors", size=1 << 30, packed=1 << 30)),
    Attack("zip: header size disagrees", "declared otherwise in its own header",
           _set(LABELS, header_size=5)),
    Attack("zip: header name disagrees", "another name in its own header",
           _set(LABELS, header_name="assets/labelz.json")),
    Attack("zip: zip64 sizes missing", "lacks its zip64 sizes",
           _set(LABELS, size=0xFFFFFFFF, packed=0xFFFFFFFF)),
    Attack("zip: another name in Unicode", "has an extra field 0x7075",
           _set(LABELS, extra=UNICODE_PATH)),
    Attack("zip: another name in its header", "has an extra field 0x7075",
           _set(LABELS, header_extra=UNICODE_PATH)),
    Attack("zip: times", "has an extra field 0x5455", _set(LABELS, extra=b"UT\5\0\1\0\0\0\0")),
    Attack("zip: broken extra field", "zip64 sizes|extra field", _set(LABELS, extra=b"\1\0")),
    Attack("zip: zip64 sizes of nothing", "lacks its zip64 sizes",
           _set(LABELS, extra=b"\1\0\0\0")),
    Attack("zip: encrypted entry", f"entry {LABELS} is encrypted", _set(LABELS, flags=1)),
    Attack("zip: streamed", "sizes must stand in its header", _streamed),
    Attack("zip: nested entries", "overlaps the one before|leaves a gap", _packed(_overlap)),
    Attack("zip: entries that share bytes", "overlaps the one before", _packed(_same_bytes_twice)),
    Attack("zip: gap", "leaves a gap before", _set(LABELS, offset=None, gap=b"hidden")),
    Attack("zip: data in front", "leaves a gap before", _packed(front=b"#!/bin/sh\n")),
    Attack("zip: data behind", "belong to no entry", _packed(back=b"hidden")),
    Attack("zip: data after the end", "not a whole zip", _bytes(lambda data: data + b"hidden")),
    Attack("zip: comment", "not a whole zip", _packed(comment=b"hidden")),
    Attack("zip: too few entries declared", "holds more than its entries", _packed(count=3)),
    Attack("zip: too many entries declared", "not a whole zip", _packed(count=9)),
    Attack("zip: entries without end", "at most 4096 files", _packed(count=60000)),
    Attack("zip: zip64 without record", "not a whole zip", _packed(count=0xFFFF)),
    Attack("zip: truncated", "not a whole zip", _bytes(lambda data: data[:-30])),
    Attack("zip: empty", "an empty file", _bytes(lambda data: b"")),
    Attack("zip: not a zip", "not a whole zip", _bytes(lambda data: b"\x7fELF" * 100)),
]  # fmt: skip
