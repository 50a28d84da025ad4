"""A recording as a folder: ``recording.json``, and chunks of samples in safetensors.

A chunk is written beside its place and renamed into it, so that a recorder that is killed loses
what it has not written yet and nothing else. Each chunk, and the index, holds a digest of what is
in it: a bit that flips on the disk is told and not replayed. Writer and reader stand in one module,
because each rule of the format is in both.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import InputError
from mmedge.recording.sample import (
    MAX_VALUE_BYTES,
    Order,
    Recorded,
    check_modalities,
    exists,
    hole_fault,
    pack,
    range_fault,
    size_of,
    tensors_of,
    unpack,
    value_of,
    words,
)
from mmedge.schema.names import SHA256
from mmedge.schema.read import (
    Misfit,
    array,
    boolean,
    decode,
    integer,
    record,
    show,
    table,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mmedge.spec import Array

__all__ = ["DirectoryRecording", "DirectoryWriter"]

INDEX = "recording.json"
#: Version of the folder. A reader refuses any other.
VERSION = 2

#: A chunk ends when its values reach this many bytes, its samples or their tensors this number, or
#: when its arrivals span or its first sample has waited this many seconds: what a killed recorder
#: loses, and what a reader holds at once.
CHUNK_BYTES, CHUNK_SAMPLES, CHUNK_TENSORS, CHUNK_SECONDS = 16 << 20, 4096, 16384, 5.0

#: Bytes of a chunk's file: one value of the largest size on top of a full chunk, and its header.
MAX_CHUNK_BYTES = MAX_VALUE_BYTES + CHUNK_BYTES + (64 << 20)

#: Name of the tensor with a chunk's digest.
DIGEST = "sha256"

#: Bytes of ``recording.json``, which lists every chunk.
MAX_INDEX_BYTES, MAX_CHUNKS = 32 << 20, 1_000_000

_CHUNK = re.compile(r"chunk-[0-9]{6}\.safetensors")
#: What a killed recorder was about to write.
_PART = re.compile(r"\.(chunk-[0-9]{6}\.safetensors|recording\.json)\.part")
_TENSOR = re.compile(r"(0|[1-9][0-9]{0,6})\.(.+)", re.DOTALL)
_START = re.compile(r"[0-9T:.+-]{1,40}")
_REASON = re.compile(r"[a-z_]{1,64}")


@dataclass(frozen=True, slots=True)
class _Index:
    """``recording.json``. ``chunk_bytes``, ``count`` and ``lost`` hold once ``complete``."""

    recording_version: int
    bundle: str
    modalities: tuple[str, ...]
    start: str
    complete: bool
    count: int
    chunk_bytes: tuple[int, ...]
    lost: Mapping[str, int]
    sha256: str = ""


_read_index = record(
    _Index,
    recording_version=integer(VERSION, VERSION),
    bundle=text(),
    modalities=array(text(), least=1),
    start=text(_START),
    complete=boolean,
    count=integer(0, 1 << 53),
    chunk_bytes=array(integer(1, MAX_CHUNK_BYTES), most=MAX_CHUNKS),
    lost=table(text(_REASON), integer(0, 1 << 53)),
    sha256=text(SHA256),
)


class DirectoryWriter:
    """See :class:`mmedge.recording.sample.Writer`.

    Raises:
        InputError: something is at ``path`` already.
        OSError: the disk refused.
    """

    def __init__(self, path: Path, bundle: str, modalities: tuple[str, ...]) -> None:
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise exists(path) from error
        self._path, self._modalities = path, modalities
        self._index = _Index(
            recording_version=VERSION,
            bundle=bundle,
            modalities=modalities,
            start=datetime.now(UTC).isoformat(),
            complete=False,
            count=0,
            chunk_bytes=(),
            lost={},
        )
        self._batch: list[Recorded] = []
        self._bytes = self._tensors = 0
        self._since = 0.0
        self._count = 0
        self._sizes: list[int] = []
        self._put(INDEX, self._json(self._index))

    def fault(self, sample: Recorded) -> str:
        """See :meth:`mmedge.recording.sample.Writer.fault`."""
        return range_fault(sample)

    def write(self, sample: Recorded) -> None:
        """See :meth:`mmedge.recording.sample.Writer.write`."""
        if not self._batch:
            self._since = monotonic()
        self._batch.append(sample)
        self._bytes += size_of(sample.value)
        self._tensors += len(sample.value) if isinstance(sample.value, Mapping) else 1
        if (
            self._bytes >= CHUNK_BYTES
            or len(self._batch) >= CHUNK_SAMPLES
            or self._tensors >= CHUNK_TENSORS
            or sample.arrival - self._batch[0].arrival >= CHUNK_SECONDS
        ):
            self._flush()

    def settle(self) -> None:
        """See :meth:`mmedge.recording.sample.Writer.settle`."""
        if self._batch and monotonic() - self._since >= CHUNK_SECONDS:
            self._flush()

    def close(self, lost: Mapping[str, int]) -> None:
        """See :meth:`mmedge.recording.sample.Writer.close`."""
        self._flush()
        index = replace(
            self._index,
            complete=True,
            count=self._count,
            chunk_bytes=tuple(self._sizes),
            lost=dict(lost),
        )
        self._put(INDEX, self._json(index))

    def abandon(self) -> None:
        """See :meth:`mmedge.recording.sample.Writer.abandon`: nothing is open."""

    def _flush(self) -> None:
        # Let go of first: a chunk that the disk refused must not be tried again and again.
        batch, self._batch, self._bytes, self._tensors = self._batch, [], 0, 0
        if not batch:
            return
        tensors: dict[str, Array] = {
            "t": np.array([sample.t for sample in batch]),
            "arrival": np.array([sample.arrival for sample in batch]),
            "modality": np.array([self._modalities.index(sample.modality) for sample in batch]),
        }
        for number, sample in enumerate(batch):
            for key, value in tensors_of(sample.value).items():
                tensors[f"{number}.{key}"] = value
        tensors[DIGEST] = _digest(self._index.start, len(self._sizes), tensors)
        data = pack(tensors)
        self._put(_chunk(len(self._sizes)), data)
        self._sizes.append(len(data))
        self._count += len(batch)

    def _put(self, name: str, data: bytes) -> None:
        part = self._path / f".{name}.part"
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path / name)

    def _json(self, index: _Index) -> bytes:
        index = replace(index, sha256=_index_digest(index))
        return (json.dumps(asdict(index), indent=2) + "\n").encode()


class DirectoryRecording:
    """See :class:`mmedge.recording.sample.Recording`.

    ``path`` itself may be a link; inside the folder none is followed.

    Raises:
        InputError: not a recording, of another version, or its files are not those it lists.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self._path = path.resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            raise InputError(f"{path}: the recording cannot be read: {error}") from error
        try:
            self._index: _Index = _read_index(
                decode(self._read(INDEX, MAX_INDEX_BYTES), most=MAX_INDEX_BYTES), "$"
            )
        except Misfit as error:
            raise InputError(f"{path}: {INDEX}: {error}; record it again") from error
        if self._index.sha256 != _index_digest(self._index):
            raise InputError(f"{path}: {INDEX} is altered: its digest differs; copy it anew")
        self.bundle = self._index.bundle
        self.modalities = check_modalities(f"{path}: {INDEX}", self._index.modalities)
        self._chunks = self._list()
        self.missing = words(self._index.lost)
        if self._index.complete:
            self._check_whole()
        else:
            self.missing = (
                f"the recorder was not closed: what came after chunk {len(self._chunks) - 1} "
                "is missing"
                if self._chunks
                else "the recorder was not closed: all samples are missing"
            )

    def __iter__(self) -> Iterator[Recorded]:
        """See :class:`mmedge.recording.sample.Recording`."""
        order = Order(self.name, self.modalities)
        for number, name in enumerate(self._chunks):
            data = self._read(name, MAX_CHUNK_BYTES)
            if self._index.complete and len(data) != self._index.chunk_bytes[number]:
                raise InputError(self._wrong_size(name, len(data), number))
            tensors = unpack(data, f"{self._path}: {name}")
            self._check_digest(tensors, number, name)
            for sample in self._samples(tensors, name):
                yield order.check(sample)
        if self._index.complete and order.count != self._index.count:
            raise InputError(
                f"{self._path}: expected {self._index.count} samples, got {order.count}; "
                "record it again"
            )

    def _check_digest(self, tensors: dict[str, Array], number: int, name: str) -> None:
        digest = tensors.pop(DIGEST, None)
        expected = _digest(self._index.start, number, tensors)
        if digest is None or digest.tobytes() != expected.tobytes():
            raise InputError(
                f"{self._path}: {name} is altered: its digest differs; copy the recording anew"
            )

    def _samples(self, tensors: dict[str, Array], name: str) -> Iterator[Recorded]:
        where = f"{self._path}: {name}"
        stamps = _column(tensors, "t", "float64", where)
        arrivals = _column(tensors, "arrival", "float64", where)
        kinds = _column(tensors, "modality", "int64", where)
        if not len(stamps) == len(arrivals) == len(kinds):
            raise InputError(f"{where}: 't', 'arrival' and 'modality' differ in length")
        values: list[dict[str, Array]] = [{} for _ in stamps]
        for key, tensor in tensors.items():
            match = _TENSOR.fullmatch(key)
            if match is None or int(match[1]) >= len(values):
                raise InputError(f"{where}: unknown tensor {show(key)}; record it again")
            values[int(match[1])][match[2]] = tensor
        for number, (t, arrival, kind) in enumerate(
            zip(stamps.tolist(), arrivals.tolist(), kinds.tolist(), strict=True)
        ):
            if not 0 <= kind < len(self.modalities):
                raise InputError(f"{where}: sample {number} is of modality {kind}, which is none")
            value = value_of(values[number], f"{where}: sample {number}")
            yield Recorded(self.modalities[kind], t, arrival, value)

    def _list(self) -> list[str]:
        """The chunks' names in order, without gaps."""
        try:
            names = sorted(entry.name for entry in self._path.iterdir())
        except OSError as error:
            raise InputError(f"{self._path}: cannot be listed: {error}") from error
        for name in names:
            if name != INDEX and not _CHUNK.fullmatch(name) and not _PART.fullmatch(name):
                raise InputError(
                    f"{self._path}: unknown file {show(name)}; a recording holds {INDEX} and its "
                    "chunks alone, remove it"
                )
        chunks = [name for name in names if _CHUNK.fullmatch(name)]
        for number, name in enumerate(chunks):
            if name != _chunk(number):
                raise InputError(f"{self._path}: {_chunk(number)} is missing; copy it anew")
        return chunks

    def _check_whole(self) -> None:
        sizes = self._index.chunk_bytes
        if len(self._chunks) != len(sizes):
            raise InputError(
                f"{self._path}: expected {len(sizes)} chunks, got {len(self._chunks)}; the "
                "recording was whole once, copy it anew"
            )
        for number, name in enumerate(self._chunks):
            try:
                status = (self._path / name).lstat()
            except OSError as error:
                raise InputError(f"{self._path}: {name} cannot be read: {error}") from error
            if stat.S_ISREG(status.st_mode) and status.st_size != sizes[number]:
                raise InputError(self._wrong_size(name, status.st_size, number))

    def _wrong_size(self, name: str, size: int, number: int) -> str:
        return (
            f"{self._path}: {name}: expected {self._index.chunk_bytes[number]} bytes, got {size}; "
            "copy the recording anew"
        )

    def _read(self, name: str, most: int) -> bytes:
        """A plain file of the folder, following no link and waiting for no pipe."""
        try:
            fd = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise InputError(f"{self._path}: {name} is not a plain file")
                if status.st_size > most:
                    raise InputError(
                        f"{self._path}: {name}: expected at most {most} bytes, got {status.st_size}"
                    )
                if fault := hole_fault(file.fileno(), status):
                    raise InputError(f"{self._path}: {name}: {fault} is no chunk, copy it anew")
                return file.read(status.st_size)
        except OSError as error:
            raise InputError(
                f"{self._path}: {name} cannot be read as a part of a recording: {error}. A "
                "recording holds plain files, no links"
            ) from error


def _digest(start: str, number: int, tensors: Mapping[str, Array]) -> Array:
    """SHA-256 of a chunk's content and of its place, as uint8 ``[32]``."""
    digest = hashlib.sha256(json.dumps([start, number]).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.tobytes() if array.ndim == 0 else array.reshape(-1).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _index_digest(index: _Index) -> str:
    """SHA-256 of all that the index says."""
    data = asdict(replace(index, sha256=""))
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _chunk(number: int) -> str:
    return f"chunk-{number:06d}.safetensors"


def _column(tensors: dict[str, Array], name: str, dtype: str, where: str) -> Array:
    column = tensors.pop(name, None)
    if column is None or column.dtype != dtype or column.ndim != 1:
        raise InputError(f"{where}: expected {name!r} of {dtype}, rank 1; record it again")
    return column
