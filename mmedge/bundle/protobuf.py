"""Protobuf's wire format (protobuf.dev/programming-guides/encoding), read in pure Python.

A general parser forgives what two readers may understand differently: fields that it does not know,
a number where text should be, a second value where there can be one. Here a message is read by a
table of the fields that it may have and the wire types that each may come in, and by a budget of
fields, so that a small file costs little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BYTES", "FIXED32", "FIXED64", "MAX_FIELDS", "REPEATED", "SKIPPED", "VARINT", "Table",
    "WireError", "WireReader", "fields", "signed", "table",
]  # fmt: skip

#: What a message may hold: tag -> (field number, wire type, a bit of its own where it may stand
#: there but once, else 0, and whether it is skipped).
Table = Mapping[int, tuple[int, int, int, bool]]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

#: Bits of a field in a table beside those of its wire types: it may stand there more than once; it
#: is of no interest, and checked without being yielded.
REPEATED, SKIPPED = 8, 9

#: Fields of one file: far above any real network, and few seconds of work.
MAX_FIELDS: Final = 4_000_000

#: Files of up to this many bytes are copied to be read, since that makes reading a byte faster.
_COPIED: Final = 16 << 20


class WireError(ValueError):
    """The bytes are not the message that they should be, or more of it than is read."""


def table(kinds: Mapping[int, int]) -> Table:
    """A table of a message's fields.

    Args:
        kinds: field number to the wire types that it may have, a bit for each, and
            :data:`REPEATED` and :data:`SKIPPED`.
    """
    return {
        number << 3 | wire: (
            number,
            wire,
            0 if bits >> REPEATED & 1 else 1 << number,
            bool(bits >> SKIPPED),
        )
        for number, bits in kinds.items()
        for wire in (VARINT, FIXED64, BYTES, FIXED32)
        if bits >> wire & 1
    }


class WireReader:
    """Reads the fields of messages that lie in one file, within a common budget.

    Args:
        data: the file's bytes.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = bytes(data) if len(data) <= _COPIED else data
        self._left = MAX_FIELDS

    def fields(
        self, start: int, end: int, field_table: Table | None
    ) -> Iterator[tuple[int, int, int]]:
        """Each field of the message in bytes ``start`` to ``end``.

        Args:
            start: first byte.
            end: byte after the last.
            field_table: the fields that it may have; None: any.

        Yields:
            (number, first byte, byte after the last) of what has a length, (number, value, -1) of
            a varint, and (number, first byte, -2) of a number of 4 or 8 bytes.

        Raises:
            WireError: not such a message, or the budget is used up.
        """
        data, at, seen_bits, skipped = self.data, start, 0, False
        if at >= end:
            return
        find = None if field_table is None else field_table.get
        count = 0
        try:
            for count in range(1, self._left + 1):  # noqa: B007 - counted in the end
                tag = data[at]
                at += 1
                if tag >= 0x80:
                    tag, at = self._varint(at - 1, end)
                if find is None:
                    number, wire = tag >> 3, tag & 7
                    if not 0 < number < 1 << 29:
                        raise WireError(f"field number {number} before byte {at}")
                else:
                    entry = find(tag)
                    if entry is None:
                        raise WireError(
                            f"field {tag >> 3} of wire type {tag & 7} before byte {at} is not known"
                        )
                    number, wire, once, skipped = entry
                    if once:
                        if seen_bits & once:
                            # A reader keeps the last, or merges them; two might not agree.
                            raise WireError(f"field {number} given twice, before byte {at}")
                        seen_bits |= once
                if wire == BYTES:
                    size = data[at] if at < end else 0x80
                    at += 1
                    if size >= 0x80:
                        # Most often of two bytes, and worth no call.
                        more = data[at] if at < end else 0x80
                        if more < 0x80:
                            size += (more - 1) << 7
                            at += 1
                        else:
                            size, at = self._varint(at - 1, end)
                    begin = at
                    at += size
                    if at > end:
                        raise WireError(f"truncated at byte {end}")
                    if not skipped:
                        yield number, begin, at
                elif wire == VARINT:
                    value = data[at] if at < end else 0x80
                    at += 1
                    if value >= 0x80:
                        value, at = self._varint(at - 1, end)
                    yield number, value, -1
                elif wire in (FIXED64, FIXED32):
                    begin = at
                    at += 8 if wire == FIXED64 else 4
                    if at > end:
                        raise WireError(f"truncated at byte {end}")
                    yield number, begin, -2
                else:
                    raise WireError(f"wire type {wire} before byte {at}")
                if at >= end:
                    return
            raise WireError(f"more than {MAX_FIELDS} fields")
        finally:
            self._left -= count

    def varints(self, start: int, end: int) -> Iterator[int]:
        """The numbers of a packed field."""
        at = start
        while at < end:
            value, at = self._varint(at, end)
            yield value

    def text(self, start: int, end: int) -> str:
        """The bytes as UTF-8.

        Raises:
            WireError: they are not.
        """
        try:
            return str(self.data[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"a name that is not UTF-8 at byte {start}") from error

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """(value of 64 bits, byte after it)."""
        data = self.data
        value = shift = 0
        while at < end and shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise WireError(f"number not ended at byte {at}")


def signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each length-delimited field (string, bytes, message) of a message.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    for number, begin, stop in WireReader(message).fields(0, len(message), None):
        if stop >= 0:
            yield number, message[begin:stop]
