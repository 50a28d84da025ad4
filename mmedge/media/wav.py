"""PCM samples of a WAV file: all that it holds, or an error.

The header of a recorder that was killed, or that wrote to a pipe, states another length than the
file has, and programs write more than one kind of block; so every block is walked over and has to
end where the next one begins, the last one with the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from mmedge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge.spec import Array

__all__ = ["Sound", "read_wav"]

#: Bytes of a file that is read at once.
MAX_WAV_BYTES = 1 << 31

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
#: What follows the format's number in a sub-format of the extensible form (a GUID).
_GUID = bytes.fromhex("000000001000800000aa00389b71")
_FORMAT = struct.Struct("<HHIIHH")


@dataclass(frozen=True, slots=True)
class Sound:
    """Samples of one channel: float32 ``[samples]`` in [-1, 1], at ``rate`` Hz."""

    samples: Array
    rate: int


def read_wav(path: Path) -> Sound:
    """Read a WAV file of one channel of 8, 16 or 32-bit PCM.

    Raises:
        InputError: another form, more channels, or a file of another length than it says.
    """
    try:
        size = path.stat().st_size
        if size > MAX_WAV_BYTES:
            raise InputError(f"{path}: {size} bytes, expected at most {MAX_WAV_BYTES}; cut it")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read as PCM WAV: {error}") from error
    blocks = dict(_blocks(path, data))
    if len(blocks.get(b"fmt ", b"")) < _FORMAT.size or b"data" not in blocks:
        _refuse(path, "no block of format or of data")
    kind, channels, rate, _, align, bits = _FORMAT.unpack_from(blocks[b"fmt "])
    if kind == _EXTENSIBLE:
        valid, kind = _sub_format(path, blocks[b"fmt "])
        if valid != bits:
            _refuse(path, f"{valid} bits in {bits}, which would be scaled wrongly")
    if kind != _PCM:
        what = "float samples" if kind == _FLOAT else f"format {kind}"
        _refuse(path, f"{what} where whole numbers are expected; save it as 16-bit PCM")
    if channels != 1:
        raise InputError(f"{path}: expected one channel, got {channels}; mix it down first")
    if bits not in (8, 16, 32):
        raise InputError(f"{path}: {bits}-bit samples are not read; save it with 16 bits")
    if align != bits // 8:
        _refuse(path, f"samples of {bits} bits in steps of {align} bytes")
    pcm = blocks[b"data"]
    if len(pcm) % align:
        _refuse(path, "it ends in the middle of a sample")
    if not pcm:
        _refuse(path, "no samples; a recorder that was killed leaves a length of 0 in the header")
    # WAV holds 8-bit samples unsigned around 128 and wider ones signed, little-endian.
    if bits == 8:
        samples = (np.frombuffer(pcm, np.uint8).astype(np.float32) - 128.0) / 128.0
    else:
        whole = np.frombuffer(pcm, f"<i{align}")
        samples = (whole / float(1 << (bits - 1))).astype(np.float32)
    return Sound(samples, rate)


def _blocks(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each block, each of format and data once."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        _refuse(path, f"it begins with {data[:4]!a} and not as a WAV file")
    (riff_size,) = struct.unpack_from("<I", data, 4)
    end = riff_size + 8
    # A block of odd size is followed by a byte that some programs leave out or do not count.
    if not len(data) - 1 <= end <= len(data) + 1:
        _wrong_length(path, end, len(data))
    blocks: list[tuple[bytes, bytes]] = []
    at = 12
    while at < len(data):
        if at + 8 > len(data):
            if len(data) - at == 1:
                break
            _refuse(path, f"{len(data) - at} bytes after the last block")
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if at + size > len(data):
            _wrong_length(path, at + size, len(data))
        if name in (b"fmt ", b"data") and any(name == other for other, _ in blocks):
            _refuse(path, f"more than one block {name.decode()!r}")
        blocks.append((name, data[at : at + size]))
        at += size + size % 2
    return blocks


def _sub_format(path: Path, block: bytes) -> tuple[int, int]:
    """Valid bits and the number of the format of the extensible form."""
    if len(block) < 40 or block[26:40] != _GUID:
        _refuse(path, "a format that is not known")
    valid, _, kind = struct.unpack_from("<HIH", block, 18)
    return valid, kind


def _wrong_length(path: Path, header_size: int, size: int) -> NoReturn:
    _refuse(
        path,
        f"its header says {header_size} bytes, but the file has {size}: samples are missing, or "
        "the recorder was killed or wrote to a pipe. Copy it anew, or write it anew with its true "
        "length (ffmpeg -i)",
    )


def _refuse(path: Path, fault: str) -> NoReturn:
    raise InputError(f"{path}: cannot be read as PCM WAV: {fault}")
