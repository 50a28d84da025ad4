"""A recording as one MCAP file: a channel for each modality, a message for each sample.

docs/reference/recording.md states the messages' encoding. Chunks are not compressed: what a reader
holds at once is bounded by what lies in the file. They are closed after a second, so that a
recorder that is killed loses little. Writer and reader stand in one module, because each rule of
the format is in both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import struct
import time
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from mcap.data_stream import ReadDataStream
from mcap.exceptions import RecordLengthLimitExceeded
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType
from mcap.writer import Writer as Mcap

from mmedge.errors import InputError
from mmedge.recording.sample import (
    MAX_SECONDS,
    MAX_VALUE_BYTES,
    Order,
    Recorded,
    check_modalities,
    exists,
    hole_fault,
    pack,
    range_fault,
    tensors_of,
    unpack,
    value_of,
    words,
)
from mmedge.schema.read import Misfit, decode, integer, table, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["EXTRA", "EXTRA_SCHEMA", "McapRecording", "McapWriter"]

#: Encoding of messages, name and encoding of their schema.
ENCODING, SCHEMA, SCHEMA_ENCODING = "safetensors", "mmedge.Sample", "text/plain"
SCHEMA_TEXT = (
    "One sample of one modality as a safetensors file. Its tensors are one of: 'value' (the array "
    "of a modality of one input); 'in.<input>' for each input; 'text' (uint8 [bytes], UTF-8). "
    "log_time is the arrival, publish_time the stamp of the measurement, both in ns since the Unix "
    "epoch as the recorder knew it when it began."
)
#: Names of the metadata records at the beginning and at the end, and of the digest in each.
BEGIN, END, DIGEST = "mmedge.recording", "mmedge.recording.end", "sha256"

#: Beginning of the topics and schemas of a flight recorder's dump, which are no samples.
EXTRA, EXTRA_SCHEMA = "/mmedge/", "mmedge.Flight"

#: Version of the file. A reader refuses any other.
VERSION = 2
#: Bytes of a chunk's records, and seconds after its first one; what a killed recorder loses.
CHUNK_BYTES, CHUNK_SECONDS = 1 << 20, 1.0
MAX_RECORD_BYTES = MAX_VALUE_BYTES + (64 << 20)
MAGIC = b"\x89MCAP0\r\n"
#: A record's kind and length, before its content.
HEAD = struct.Struct("<BQ")
#: A message's channel, number, log time and publish time, before its data.
MESSAGE = struct.Struct("<HIQQ")
#: Bytes of the metadata record at the end; ours has about a hundred.
MAX_END_BYTES = 1 << 20

#: Times of the metadata record at the beginning, as the writer writes them.
_WHOLE, _NUMBER = re.compile(r"[0-9]{1,20}"), re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?")
#: As in a folder's ``recording.json``.
_read_lost = table(text(re.compile(r"[a-z_]{1,64}")), integer(0, 1 << 53))


class McapWriter:
    """See :class:`mmedge.recording.sample.Writer`. ``origin`` is the recorder's time now.

    ``start_ns`` are nanoseconds since 1970 at that time; None: now.

    Raises:
        InputError: something is at ``path`` already.
        OSError: the disk refused.
    """

    def __init__(
        self,
        path: Path,
        bundle: str,
        modalities: tuple[str, ...],
        *,
        origin: float,
        start_ns: int | None = None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = path.open("xb")
        except FileExistsError as error:
            raise exists(path) from error
        self._mcap = Mcap(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
        self._mcap.start(profile="", library=f"mmedge recording {VERSION}")
        schema = self._mcap.register_schema(SCHEMA, SCHEMA_ENCODING, SCHEMA_TEXT.encode())
        self._channels = {
            name: self._mcap.register_channel(f"/{name}", ENCODING, schema) for name in modalities
        }
        self._start_ns = time.time_ns() if start_ns is None else start_ns
        self._origin = origin
        self._counts = dict.fromkeys(modalities, 0)
        self._since: float | None = None
        begin = {
            "recording_version": str(VERSION),
            "bundle": bundle,
            "modalities": json.dumps(modalities),
            "start_ns": str(self._start_ns),
            "origin_s": repr(origin),
        }
        self.add_metadata(BEGIN, begin)
        self._file.flush()

    def add_metadata(self, name: str, content: Mapping[str, str]) -> None:
        """Write a metadata record, with a digest of what it says."""
        self._mcap.add_metadata(name, {**content, DIGEST: _digest(content)})

    def add_channel(self, topic: str, encoding: str, schema: tuple[str, str, str]) -> int:
        """Make a channel beside those of modalities; its topic begins with :data:`EXTRA`.

        ``schema`` is its name, its encoding and its text.
        """
        name, schema_encoding, text = schema
        number = self._mcap.register_schema(name, schema_encoding, text.encode())
        return self._mcap.register_channel(topic, encoding, number)

    def add_message(self, channel: int, data: bytes, seconds: float, number: int) -> None:
        """Write a message of such a channel, at a time of the recorder's clock."""
        ns = self._ns(seconds)
        self._mcap.add_message(
            channel, log_time=ns, publish_time=ns, data=data, sequence=number & 0xFFFFFFFF
        )
        self._written()

    def fault(self, sample: Recorded) -> str:
        """See :meth:`mmedge.recording.sample.Writer.fault`: 64 bits of nanoseconds hold less."""
        if fault := range_fault(sample):
            return fault
        if all(0 <= self._ns(time) < 1 << 64 for time in (sample.arrival, sample.t)):
            return ""
        return (
            f"stamp {sample.t} s and arrival {sample.arrival} s are not of the recorder's clock, "
            f"which stood at {self._origin} s when it began"
        )

    def write(self, sample: Recorded) -> None:
        """See :meth:`mmedge.recording.sample.Writer.write`."""
        self._mcap.add_message(
            self._channels[sample.modality],
            log_time=self._ns(sample.arrival),
            publish_time=self._ns(sample.t),
            data=pack(tensors_of(sample.value)),
            sequence=self._counts[sample.modality] & 0xFFFFFFFF,
        )
        self._counts[sample.modality] += 1
        self._written()

    def _written(self) -> None:
        if self._since is None:
            self._since = time.monotonic()
        self._file.flush()  # a chunk that became full
        self.settle()

    def settle(self) -> None:
        """See :meth:`mmedge.recording.sample.Writer.settle`."""
        if self._since is None or time.monotonic() - self._since < CHUNK_SECONDS:
            return
        self._since = None
        # The library ends a chunk by its bytes alone, and has no public call for it.
        self._mcap._Writer__finalize_chunk()  # type: ignore[attr-defined]  # noqa: SLF001
        self._file.flush()
        os.fsync(self._file.fileno())

    def _ns(self, seconds: float) -> int:
        return self._start_ns + round((seconds - self._origin) * 1e9)

    def close(self, lost: Mapping[str, int]) -> None:
        """See :meth:`mmedge.recording.sample.Writer.close`."""
        try:
            count = sum(self._counts.values())
            end = {"count": str(count), "lost": json.dumps(dict(lost))}
            self.add_metadata(END, end)
            self._mcap.finish()  # type: ignore[no-untyped-call]
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def abandon(self) -> None:
        """See :meth:`mmedge.recording.sample.Writer.abandon`."""
        with contextlib.suppress(OSError):
            self._file.close()


class McapRecording:
    """See :class:`mmedge.recording.sample.Recording`. ``path`` may be a link to a plain file.

    Raises:
        InputError: not such a file, or one that mmedge did not write.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._truncation = self._end()
        for record in self._records():
            self._check_own(record)
            if isinstance(record, Metadata) and record.name == BEGIN:
                self._take_begin(record.metadata)
                self.missing = self._truncation or words(self._losses())
                return
            if isinstance(record, Message):
                break
        self._refuse("no metadata record of mmedge at its beginning")

    def __iter__(self) -> Iterator[Recorded]:
        """See :class:`mmedge.recording.sample.Recording`."""
        order = Order(self.name, self.modalities)
        topics: dict[int, str] = {}
        expected: str | None = None
        for record in self._records():
            self._check_own(record)
            where = f"{self._path}: sample {order.count}"
            if isinstance(record, Channel):
                topics[record.id] = record.topic
            elif isinstance(record, Metadata) and record.name == END:
                expected = record.metadata.get("count")
            elif isinstance(record, Message):
                if record.channel_id not in topics:
                    raise InputError(f"{where} is of channel {record.channel_id}, which is unknown")
                topic = topics[record.channel_id]
                if topic.startswith(EXTRA):
                    continue
                value = value_of(unpack(record.data, where), where)
                t, arrival = self._seconds(record.publish_time), self._seconds(record.log_time)
                yield order.check(Recorded(topic.removeprefix("/"), t, arrival, value))
        if not self._truncation and expected != str(order.count):
            raise InputError(
                f"{self._path}: expected {expected} samples, got {order.count}; copy it anew"
            )

    def messages(self) -> Iterator[tuple[str, Message]]:
        """All messages with their topics, those that are no samples too.

        Raises:
            InputError: it cannot be read.
        """
        topics: dict[int, str] = {}
        for record in self._records():
            self._check_own(record)
            if isinstance(record, Channel):
                topics[record.id] = record.topic
            elif isinstance(record, Message):
                if record.channel_id not in topics:
                    raise InputError(
                        f"{self._path}: a message of channel {record.channel_id}, which is unknown"
                    )
                yield topics[record.channel_id], record

    def metadata(self, name: str) -> Mapping[str, str] | None:
        """A metadata record that :meth:`McapWriter.add_metadata` wrote; None: there is none.

        Raises:
            InputError: it is altered, or the file cannot be read.
        """
        for record in self._records():
            if isinstance(record, Metadata) and record.name == name:
                if record.metadata.get(DIGEST) != _digest(record.metadata):
                    raise InputError(
                        f"{self._path}: metadata {name!r} is altered: its digest differs; copy it "
                        "anew"
                    )
                return {k: v for k, v in record.metadata.items() if k != DIGEST}
        return None

    def _seconds(self, ns: int) -> float:
        return self._origin + (ns - self._start_ns) / 1e9

    def _end(self) -> str:
        """What the end of the file says is missing."""
        with self._open() as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{self._path}: not an MCAP file; give a recording of mmedge")
            file.seek(max(len(MAGIC), size - len(MAGIC)))
            if file.read() == MAGIC:
                return ""
        return "the recorder was not closed: what came after the last whole chunk is missing"

    def _losses(self) -> Mapping[str, int]:
        """Samples not recorded, by reason, as the metadata record at the end says.

        Records are passed over by their lengths, so no sample is read. The summary would be
        quicker, but it need not be there, nor agree with the data. A damaged file is refused where
        its samples are read.
        """
        counts: Mapping[str, int] = {}
        with self._open() as file:
            size, at = os.fstat(file.fileno()).st_size, len(MAGIC)
            while at + HEAD.size <= size:
                file.seek(at)
                kind, length = HEAD.unpack(file.read(HEAD.size))
                at += HEAD.size + length
                if kind == Opcode.DATA_END:
                    break
                if kind != Opcode.METADATA or length > MAX_END_BYTES:
                    continue
                try:
                    record = Metadata.read(ReadDataStream(BytesIO(file.read(length))))
                    if record.name == END:
                        if record.metadata.get(DIGEST) != _digest(record.metadata):
                            raise ValueError("its digest differs")
                        data = record.metadata["lost"].encode()
                        counts = _read_lost(decode(data, most=MAX_END_BYTES), "lost")
                except Exception as error:  # what damaged bytes make of the library's parsing
                    what = error if isinstance(error, Misfit) else repr(error)
                    raise InputError(
                        f"{self._path}: metadata {END!r}: {what}; copy it anew"
                    ) from error
        return counts

    def _records(self) -> Iterator[McapRecord]:
        """Records up to the end of the data, those of chunks too, or to where the file was cut."""
        with self._open() as file:
            records = iter(
                StreamReader(
                    _Bounded(file),  # type: ignore[arg-type]
                    emit_chunks=True,
                    record_size_limit=MAX_RECORD_BYTES,
                ).records
            )
            while True:
                try:
                    record = next(records, None)
                    if record is None or isinstance(record, DataEnd):
                        return
                    inner = [record]
                    if isinstance(record, Chunk) and not record.compression:
                        inner = _parts(record)
                except Exception as error:  # what damaged bytes make of the library's parsing
                    at_end = file.read(1) == b"" and not isinstance(
                        error, RecordLengthLimitExceeded
                    )
                    if self._truncation and at_end:
                        return
                    raise InputError(
                        f"{self._path}: damaged: {type(error).__name__}: {error}; copy it anew"
                    ) from error
                yield from inner

    def _open(self) -> BinaryIO:
        try:
            # Not to wait for a pipe.
            file = os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        except OSError as error:
            raise InputError(f"{self._path}: the recording cannot be read: {error}") from error
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise InputError(f"{self._path}: not a plain file")
        if fault := hole_fault(file.fileno(), status):
            file.close()
            raise InputError(f"{self._path}: {fault} is no recording, copy it anew")
        return file

    def _check_own(self, record: McapRecord) -> None:
        """Refuse what another program wrote."""
        if isinstance(record, Chunk) and record.compression:
            raise InputError(
                f"{self._path}: its chunks are compressed with {record.compression!a}; write it "
                "anew with mcap compress --compression none"
            )
        if (
            isinstance(record, Schema)
            and (record.name, record.encoding) != (SCHEMA, SCHEMA_ENCODING)
            and not record.name.startswith(EXTRA_SCHEMA)
        ):
            self._refuse(f"schema {record.name!a} of encoding {record.encoding!a}")
        if (
            isinstance(record, Channel)
            and record.message_encoding != ENCODING
            and not record.topic.startswith(EXTRA)
        ):
            self._refuse(f"topic {record.topic!a} of message encoding {record.message_encoding!a}")

    def _refuse(self, fault: str) -> NoReturn:
        raise InputError(
            f"{self._path}: not a recording of mmedge: {fault}; expected messages of encoding "
            f"{ENCODING!r} with schema {SCHEMA!r}. Of a ROS 2 bag, say which topic is which "
            "modality (--topic camera=/camera); decode another file with your own code, and write "
            "each message with mmedge.recording.Recorder.record"
        )

    def _take_begin(self, data: Mapping[str, str]) -> None:
        where = f"{self._path}: metadata {BEGIN!r}"
        if data.get("recording_version") != str(VERSION):
            raise InputError(
                f"{where}: expected recording_version {VERSION}, got "
                f"{data.get('recording_version')!a}; record it again with this version"
            )
        if data.get(DIGEST) != _digest(data):
            raise InputError(f"{where} is altered: its digest differs; copy it anew")
        try:
            modalities = json.loads(data["modalities"])
            self.bundle = data["bundle"]
            start, origin = data["start_ns"], data["origin_s"]
            are_numbers = (
                len(origin) <= 64 and _WHOLE.fullmatch(start) and _NUMBER.fullmatch(origin)
            )
            self._start_ns, self._origin = (int(start), float(origin)) if are_numbers else (-1, 0.0)
            if not (0 <= self._start_ns < 1 << 64 and abs(self._origin) <= MAX_SECONDS):
                raise ValueError("times that no clock has")
        except (KeyError, ValueError, RecursionError) as error:
            raise InputError(f"{where}: cannot be read: {error!r}; record it again") from error
        if not isinstance(modalities, list) or not all(isinstance(m, str) for m in modalities):
            raise InputError(f"{where}: expected a list of modalities; record it again")
        self.modalities = check_modalities(where, tuple(modalities))


def _digest(metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that a metadata record says; chunks have a checksum of their own."""
    rest = {key: value for key, value in metadata.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _parts(chunk: Chunk) -> list[McapRecord]:
    """Records of a chunk; data of messages are views of it, and not copied.

    Raises:
        ValueError: it is damaged; or whatever the library raises.
    """
    data = memoryview(chunk.data)
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise ValueError("the checksum of a chunk differs")
    records: list[McapRecord] = []
    at = 0
    while at < len(data):
        kind, length = HEAD.unpack_from(data, at)
        at += HEAD.size
        body = data[at : at + length]
        at += length
        if len(body) < length:
            raise ValueError("a record that ends after its chunk")
        if kind == Opcode.MESSAGE:
            channel, number, log, publish = MESSAGE.unpack_from(body)
            data_view: Any = body[MESSAGE.size :]
            records.append(Message(channel, log, data_view, publish, number))
        elif kind in (Opcode.CHANNEL, Opcode.SCHEMA):
            reader = Channel if kind == Opcode.CHANNEL else Schema
            records.append(reader.read(ReadDataStream(BytesIO(body))))
    return records


class _Bounded:
    """A file of which no more is read, or asked memory for, than is left of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._bytes_left = os.fstat(file.fileno()).st_size

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._bytes_left))
        self._bytes_left -= len(data)
        return data
