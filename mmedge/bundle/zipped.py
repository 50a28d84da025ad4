"""A bundle as one zip: a reader of stored entries only, by the letter of PKWARE's APPNOTE 6.3.10.

General zip readers forgive what two readers may understand differently: data before the first or
between entries, overlapping entries, a local header that disagrees with the directory. Here each
byte of the file belongs to exactly one entry or to the directory at its end. Nothing is compressed,
so nothing inflates, and files are handed out as views into one mapping of the zip.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import stat
import struct
import weakref
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmedge.bundle.identity import has_hole, identity_of
from mmedge.errors import BundleError
from mmedge.forks import watch
from mmedge.schema import MANIFEST, MAX_FILES, path_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Zipped"]

# APPNOTE 4.3.7, 4.3.12, 4.3.16, 4.3.15 and 4.3.14, little-endian, without their variable tails.
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCATOR64 = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")

_UTF8_NAME = 0x800  # general purpose bit 11: the one flag that a bundle's entry may carry
_ENCRYPTED = 0x1
_MANY16, _MANY32 = 0xFFFF, 0xFFFFFFFF  # stand for "see the zip64 record"

#: Bytes at the end of a zip in which the names of its entries are looked for.
_NAMES_BYTES = 1 << 24


class _Entry(NamedTuple):
    """One line of the central directory; ``raw_name`` and ``size`` must agree with the header."""

    name: str
    raw_name: bytes
    crc: int
    size: int
    offset: int


class Zipped:
    """A zip of stored entries (see :class:`mmedge.bundle.archive.Archive`).

    The whole file is mapped once, so replacing the bundle by rename, as mmedge does, leaves an open
    one as it was. Writing into the file in place does not.
    """

    zipped = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder: Path | None = None
        self._remove: weakref.finalize[..., Zipped] | None = None
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            self._identity = identity_of(status)
            if not self._identity.size:
                raise BundleError(f"{path}: an empty file is no bundle")
            if has_hole(file.fileno(), status):
                raise BundleError(
                    f"{path}: a sparse file: {status.st_size} bytes, of which some are not stored; "
                    "copy it with cp --sparse=never"
                )
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # Before the zip's own rules, which say nothing to whoever named another file.
        names_at = max(0, self._identity.size - _NAMES_BYTES)
        if self._map.rfind(MANIFEST.encode(), names_at) < 0:
            raise BundleError(
                f"{path} is not a bundle: not a whole zip that holds {MANIFEST}. A bundle is the "
                "folder, or the one file NAME.mmedge, that mmedge export wrote"
            )
        self._view = memoryview(self._map)
        self._spans = self._locate()
        self.sizes: Mapping[str, int] = {name: len(span) for name, span in self._spans.items()}

    def read(self, name: str) -> memoryview:
        """See :meth:`mmedge.bundle.archive.Archive.read`."""
        if not self._spans:
            raise BundleError(f"{self.path}: the bundle is closed; open it again")
        span = self._spans[name]
        return self._view[span.start : span.stop]

    def digester(self, name: str) -> Callable[[], str]:
        """See :meth:`mmedge.bundle.archive.Archive.digester`."""
        data = self.read(name)

        def digest() -> str:
            hexadecimal = hashlib.sha256(data).hexdigest()
            self._forget_pages()
            return hexadecimal

        return digest

    def place(self, names: Iterable[str]) -> None:
        """See :meth:`mmedge.bundle.archive.Archive.place`: copies, each file once."""
        contents = {name: self.read(name) for name in names}
        try:
            for name, data in contents.items():
                target = self.folder() / name
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _write(target, data)
                    self._forget_pages()
        except OSError as error:
            size = math.ceil(sum(map(len, contents.values())) / 1e6)
            raise BundleError(
                f"{self.path}: {name} cannot be copied to a temporary directory: {error}; set "
                f"TMPDIR to a directory with {size} MB free, or unpack the bundle into a directory "
                "and open that"
            ) from error

    def folder(self) -> Path:
        """See :meth:`mmedge.bundle.archive.Archive.folder`: made at first use, mode 0700."""
        if self._folder is None:
            import shutil  # only some bundles need them
            import tempfile

            self._folder = Path(tempfile.mkdtemp(prefix="mmedge-"))
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            watch(self)
        return self._folder

    def release(self) -> None:
        """See :meth:`mmedge.bundle.archive.Archive.release`: the whole private directory."""
        if self._remove is not None:
            self._remove()
        self._folder = self._remove = None

    def disown(self) -> None:
        """See :class:`mmedge.forks.Inherited`: the private directory is the parent's."""
        if self._remove is not None:
            self._remove.detach()
        self._folder = self._remove = None

    def check_unchanged(self) -> None:
        """See :meth:`mmedge.bundle.archive.Archive.check_unchanged`."""
        try:
            identity = identity_of(self.path.stat(follow_symlinks=False))
        except OSError as error:
            raise BundleError(
                f"{self.path}: changed since the bundle was opened: {error}"
            ) from error
        if identity != self._identity:
            raise BundleError(f"{self.path}: changed since the bundle was opened; open it again")

    def close(self) -> None:
        """See :meth:`mmedge.bundle.archive.Archive.close`."""
        self._spans = {}
        self._view = memoryview(b"")  # the mapping goes with the last view that was handed out
        self.release()

    def _forget_pages(self) -> None:
        # One pass over a large bundle would otherwise stay in this process's resident memory.
        self._map.madvise(mmap.MADV_DONTNEED)

    def _refuse(self, fault: str) -> BundleError:
        return BundleError(f"{self.path}: {fault}; export the bundle again")

    def _unpack(self, record: struct.Struct, offset: int, magic: bytes) -> tuple[int, ...]:
        end = offset + record.size
        if offset < 0 or end > len(self._view) or self._view[offset : offset + 4] != magic:
            raise self._refuse(f"not a whole zip: no record {magic!r} at byte {offset}")
        return record.unpack(self._view[offset:end])[1:]

    def _locate(self) -> dict[str, range]:
        """Bytes of each entry's data, after every rule has been checked."""
        start, entries = self._directory()
        spans: dict[str, range] = {}
        cursor = 0
        for entry in sorted(entries, key=lambda entry: entry.offset):
            if entry.offset != cursor:
                how = "overlaps the one before" if entry.offset < cursor else "leaves a gap before"
                raise self._refuse(f"entry {entry.name} at byte {entry.offset} {how}")
            begin = self._data_start(entry)
            cursor = begin + entry.size
            if cursor > start:
                raise self._refuse(f"entry {entry.name} overlaps the directory or is truncated")
            spans[entry.name] = range(begin, cursor)
        if cursor != start:
            raise self._refuse(f"bytes {cursor} to {start} belong to no entry")
        for entry in entries:
            # Digests guard all other files; nothing else guards the manifest from a flipped bit.
            span = spans[entry.name]
            data = self._view[span.start : span.stop]
            if entry.name == MANIFEST and zlib.crc32(data) != entry.crc:
                raise self._refuse(f"{MANIFEST} is altered: its CRC-32 is not the zip's")
        return spans

    def _directory(self) -> tuple[int, list[_Entry]]:
        """Where the central directory starts, and its entries."""
        end = len(self._view) - _END.size
        disk, disk2, count, count2, size, start, comment = self._unpack(_END, end, b"PK\x05\x06")
        if disk or disk2 or comment or count != count2:
            raise self._refuse("a zip in several parts or with a comment")
        short_fields = count, size, start
        # Some writers, Python's among them, add the record well before a number needs it.
        has_locator = bytes(self._view[max(0, end - _LOCATOR64.size) : end][:4]) == b"PK\x06\x07"
        if has_locator or count == _MANY16 or _MANY32 in {size, start}:
            end -= _LOCATOR64.size
            disk, at, disks = self._unpack(_LOCATOR64, end, b"PK\x06\x07")
            end -= _END64.size
            record, _, _, disk2, disk3, count, count2, size, start = self._unpack(
                _END64, end, b"PK\x06\x06"
            )
            if disk or disk2 or disk3 or disks != 1 or at != end or record != _END64.size - 12:
                raise self._refuse("a zip64 end record that contradicts itself")
            for narrow, wide, sentinel in zip(
                short_fields, (count, size, start), (_MANY16, _MANY32, _MANY32), strict=True
            ):
                if narrow not in {wide, sentinel}:
                    raise self._refuse("a zip64 end record that contradicts the end record")
        if count != count2 or count > MAX_FILES + 3:
            raise self._refuse(f"at most {MAX_FILES} files expected, the zip declares {count}")
        if start + size != end:
            raise self._refuse("the zip's directory does not end where its end record begins")
        entries: dict[str, _Entry] = {}
        at = start
        for _ in range(count):
            entry, at = self._entry(at)
            if entry.name in entries:
                raise self._refuse(f"duplicate zip entry {entry.name}")
            entries[entry.name] = entry
        if at != end:
            raise self._refuse("the zip's directory holds more than its entries")
        return start, list(entries.values())

    def _entry(self, at: int) -> tuple[_Entry, int]:
        """The directory's entry at byte ``at``, and where the next one starts."""
        (_, _, flags, method, _, _, crc, packed_size, size, name_size, extra_size, comment_size,
         disk, _, attributes, offset) = self._unpack(_ENTRY, at, b"PK\x01\x02")  # fmt: skip
        name_at = at + _ENTRY.size
        extra_at = name_at + name_size
        after = extra_at + extra_size
        if after > len(self._view) or comment_size or disk:
            raise self._refuse("a directory entry that is truncated, commented or on another disk")
        raw_name = bytes(self._view[name_at:extra_at])
        name = raw_name.decode("ascii", "backslashreplace")
        if fault := path_fault(name):
            raise self._refuse(fault)
        if stat.S_IFMT(attributes >> 16) not in {0, stat.S_IFREG}:
            raise self._refuse(f"entry {name} is a link or a device; a bundle holds plain files")
        if flags & _ENCRYPTED:
            raise self._refuse(f"entry {name} is encrypted")
        if flags & ~_UTF8_NAME:
            raise self._refuse(f"entry {name} has flags {flags:#x}; sizes must stand in its header")
        if method:
            raise self._refuse(f"entry {name} is compressed (method {method}); zip with -0")
        packed_size, size, offset = self._zip64(
            self._view[extra_at:after], (size, packed_size, offset), name
        )
        if packed_size != size:
            raise self._refuse(f"entry {name} declares {size} bytes but stores {packed_size}")
        return _Entry(name, raw_name, crc, size, offset), after

    def _zip64(
        self, extra: memoryview, fields: tuple[int, int, int], name: str
    ) -> tuple[int, int, int]:
        """(stored size, size, offset) with the 64-bit ones filled in: APPNOTE 4.5.3.

        No other extra field is allowed: one of them gives the entry another name (4.6.9).
        """
        size, packed_size, offset = fields
        wide_count = fields.count(_MANY32)
        if not extra and not wide_count:
            return packed_size, size, offset
        if len(extra) < 4:
            raise self._refuse(f"entry {name} lacks its zip64 sizes")
        kind, length = struct.unpack_from("<2H", extra, 0)
        if kind != 1 or length != len(extra) - 4:
            raise self._refuse(f"entry {name} has an extra field {kind:#06x}; zip with -X")
        if not length == 8 * wide_count > 0:
            raise self._refuse(f"entry {name} lacks its zip64 sizes")
        wide = iter(struct.unpack(f"<{wide_count}Q", extra[4:]))
        size, packed_size, offset = (next(wide) if f == _MANY32 else f for f in fields)
        return packed_size, size, offset

    def _data_start(self, entry: _Entry) -> int:
        """First byte of the entry's data, after its local header has been compared."""
        _, flags, method, _, _, _, packed_size, size, name_size, extra_size = self._unpack(
            _LOCAL, entry.offset, b"PK\x03\x04"
        )
        name_at = entry.offset + _LOCAL.size
        extra_at = name_at + name_size
        begin = extra_at + extra_size
        if begin > len(self._view) or bytes(self._view[name_at:extra_at]) != entry.raw_name:
            raise self._refuse(f"entry {entry.name} has another name in its own header")
        packed_size, size, _ = self._zip64(
            self._view[extra_at:begin], (size, packed_size, 0), entry.name
        )
        if flags & ~_UTF8_NAME or method or not packed_size == size == entry.size:
            raise self._refuse(f"entry {entry.name} is declared otherwise in its own header")
        return begin


def _write(target: Path, data: memoryview) -> None:
    """Write a file that is there whole or not at all."""
    part = target.with_name(f"{target.name}~")  # no path in a bundle holds a "~"
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
