"""One recorded sample, and how its value becomes tensors and comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors.numpy import save

from mmedge.bundle.identity import BLOCK, has_hole
from mmedge.errors import InputError
from mmedge.execution.arrays import contiguous, gpu_interface, host_array
from mmedge.schema.names import NAME, TENSOR_NAME
from mmedge.schema.read import Misfit
from mmedge.schema.tensors import read_tensors
from mmedge.spec import DTYPES, Array

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "MAX_SECONDS",
    "MAX_VALUE_BYTES",
    "Order",
    "Recorded",
    "Recording",
    "Value",
    "Writer",
    "check_modalities",
    "check_times",
    "exists",
    "hole_fault",
    "pack",
    "range_fault",
    "size_of",
    "tensors_of",
    "to_value",
    "unpack",
    "value_of",
    "words",
]

#: Largest time, in seconds: some 3,000 years. What is beyond is in another unit.
MAX_SECONDS = 1e11

#: Bytes of one value: what a reader may have to hold at once is bounded by it.
MAX_VALUE_BYTES = 1 << 29

#: Bytes of a file that may be a hole in it: more is a sparse file, which costs what it says.
MAX_HOLE = 64 << 20

#: What :meth:`mmedge.Stream.push` takes: an array, an array for each input, or text.
Value = Array | Mapping[str, Array] | str


@dataclass(frozen=True, slots=True)
class Recorded:
    """One sample: when it was measured (``t``), when it was pushed (``arrival``), and its value.

    Both times are finite seconds of the recorder's clock.
    """

    modality: str
    t: float
    arrival: float
    value: Value


class Recording(Protocol):
    """Samples in the order of their arrivals. Each iteration reads them anew, a few at a time.

    Attributes:
        name: its name.
        bundle: name of the bundle for which it was recorded.
        modalities: the modalities that it may hold.
        missing: in words, what is missing, as far as opening it shows: samples that were not
            recorded, or the end of a recording that was cut short; empty if nothing is.
    """

    name: str
    bundle: str
    modalities: tuple[str, ...]
    missing: str

    def __iter__(self) -> Iterator[Recorded]:
        """Read the samples; raises InputError if one cannot be read or trusted."""


class Writer(Protocol):
    """Writes one form. Calls come from one thread, samples in the order of their arrivals."""

    def fault(self, sample: Recorded) -> str:
        """Why this form cannot hold a sample's times; empty if it can. Called from any thread."""

    def write(self, sample: Recorded) -> None:
        """Take in one sample; raises OSError where the disk refuses."""

    def settle(self) -> None:
        """Write what has waited for long; called about every second."""

    def close(self, lost: Mapping[str, int]) -> None:
        """Write what is left, and how many samples were not recorded, by reason."""

    def abandon(self) -> None:
        """Let go of what is open after an error."""


def to_value(value: Any, *, copy: bool = True) -> Value:  # noqa: ANN401
    """``value`` as the recording's own, in C order; not copied where ``copy`` is False.

    Raises:
        InputError: not an array on the host, a mapping to such arrays or text; a dtype that no
            bundle uses; or more than 512 MiB.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"text that UTF-8 does not have: {error}") from error
        content: Value = value
    elif isinstance(value, Mapping):
        content = {str(name): _to_array(array, copy=copy) for name, array in value.items()}
    else:
        content = _to_array(value, copy=copy)
    _check_size(size_of(content))
    return content


def size_of(value: Value) -> int:
    """Bytes of a value."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return sum(array.nbytes for array in value.values())
    return value.nbytes


def tensors_of(value: Value) -> dict[str, Array]:
    """A value as named tensors: ``value``, or ``in.<input>`` for each input, or ``text``.

    Text is its UTF-8 bytes as uint8 ``[bytes]``.
    """
    if isinstance(value, str):
        return {"text": np.frombuffer(value.encode(), np.uint8)}
    if isinstance(value, Mapping):
        return {f"in.{name}": array for name, array in value.items()}
    return {"value": value}


def value_of(tensors: Mapping[str, Array], where: str) -> Value:
    """Undo :func:`tensors_of`.

    Raises:
        InputError: they are no value.
    """
    if set(tensors) == {"value"}:
        return tensors["value"]
    if set(tensors) == {"text"}:
        data = tensors["text"]
        if data.dtype == np.uint8 and data.ndim == 1:
            try:
                return data.tobytes().decode()
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: text that is not UTF-8: {error}") from error
    inputs = {key.removeprefix("in."): array for key, array in tensors.items()}
    if inputs and all(
        key.startswith("in.") and TENSOR_NAME.fullmatch(key.removeprefix("in.")) for key in tensors
    ):
        return inputs
    raise InputError(
        f"{where}: expected tensors 'value', 'text' (uint8 of rank 1) or 'in.<input>', got "
        f"{', '.join(map(ascii, sorted(tensors)))[:200] or 'none'}; record it again"
    )


def pack(tensors: Mapping[str, Array]) -> bytes:
    """Tensors as safetensors."""
    data: bytes = save(dict(tensors))
    return data


def unpack(data: bytes | memoryview, where: str) -> dict[str, Array]:
    """Tensors of safetensors: read-only views of ``data``.

    Raises:
        InputError: not safetensors, or of a dtype that no bundle uses.
    """
    try:
        return read_tensors(data)
    except Misfit as error:
        raise InputError(f"{where}: not safetensors of a recording: {error}; copy it anew") from (
            error
        )


def range_fault(sample: Recorded) -> str:
    """Why a time cannot be seconds of any clock; empty if both can."""
    for what, time in (("stamp", sample.t), ("arrival", sample.arrival)):
        if abs(time) > MAX_SECONDS:
            return (
                f"a {what} of {time:g} s is beyond any clock ({MAX_SECONDS:g} s); if it is in "
                "nanoseconds divide it by 1e9, if in milliseconds by 1e3"
            )
    return ""


def check_times(sample: Recorded, last: float, where: str) -> None:
    """Refuse times that are not finite, or an arrival before ``last``.

    Raises:
        InputError: see above.
    """
    for what, time in (("stamp", sample.t), ("arrival", sample.arrival)):
        if not math.isfinite(time):
            raise InputError(f"{where}: a {what} is finite seconds, got {time}")
    if sample.arrival < last:
        raise InputError(
            f"{where}: arrival {sample.arrival!r} s comes after {last!r} s; a recording is ordered "
            "by arrival"
        )


class Order:
    """Checks samples as they are read: known modalities, times of a clock, arrivals in order."""

    def __init__(self, name: str, modalities: tuple[str, ...]) -> None:
        self.count = 0
        self._name, self._modalities, self._last = name, modalities, -math.inf

    def check(self, sample: Recorded) -> Recorded:
        """The sample, if it may come now; raises InputError if not."""
        where = f"{self._name}: sample {self.count}"
        if sample.modality not in self._modalities:
            raise InputError(f"{where}: unknown modality {sample.modality!a}")
        check_times(sample, self._last, where)
        if fault := range_fault(sample):
            raise InputError(f"{where}: {fault}")
        self._last = sample.arrival
        self.count += 1
        return sample


def check_modalities(name: str, modalities: tuple[str, ...]) -> tuple[str, ...]:
    """``modalities`` if they may be names and are all different.

    Raises:
        InputError: they are not.
    """
    bad_names = [modality for modality in modalities if not NAME.fullmatch(modality)]
    if bad_names or len(set(modalities)) < len(modalities) or not modalities:
        raise InputError(
            f"{name}: expected different names of modalities, got {ascii(modalities)[:200]}"
        )
    return modalities


def words(counts: Mapping[str, int]) -> str:
    """Samples that were not recorded, by reason, for :attr:`Recording.missing`."""
    if not counts:
        return ""
    return ", ".join(f"{count} samples not recorded ({why})" for why, count in counts.items())


def hole_fault(fd: int, status: os.stat_result) -> str:
    """Why an open file is none of a recording's: much of it is a hole; empty if it is not so.

    What a compressed file system stores in fewer blocks is no hole.
    """
    disk_bytes = status.st_blocks * BLOCK
    if status.st_size - disk_bytes <= MAX_HOLE or not has_hole(fd, status):
        return ""
    return f"{status.st_size} bytes, of which the disk holds {disk_bytes}; a sparse file"


def exists(path: Path) -> InputError:
    """The error for a place that is taken."""
    return InputError(f"{path}: already exists; remove it, or record under another name")


def _to_array(value: Any, *, copy: bool) -> Array:  # noqa: ANN401
    if gpu_interface(value) is not None:
        raise InputError("an array on a GPU is not recorded; copy it to the host first")
    array = host_array(value)
    if array.dtype not in DTYPES.values():
        raise InputError(f"dtype {array.dtype} is none that a bundle uses: {', '.join(DTYPES)}")
    _check_size(array.nbytes)  # before it is copied
    return array.copy(order="C") if copy else contiguous(array)


def _check_size(size: int) -> None:
    if size > MAX_VALUE_BYTES:
        raise InputError(f"a recorded value has at most {MAX_VALUE_BYTES} bytes, got {size}")
