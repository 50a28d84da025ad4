"""The output folder: what it is bound to, Parquet files that appear whole, and attempts.

=====================  ===========================================================================
``_run.json``          bundle, variant and options of the run that the folder belongs to
``<name>.parquet``     results of one recording; its footer says what it was made of
``_errors.json``       the error table; not there if nothing failed
``.<name>.*.part``     what is being written; renamed to the Parquet file once it is whole
``.<name>.attempts``   a line for each time that a worker began it; gone once it ended
=====================  ===========================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mmedge import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["RUN_KEY", "Store", "TableFile", "worker_name"]

#: Version of the folder. Another one is refused.
VERSION = 1
#: Keys of a Parquet file's metadata: what it was made of, and what came of it.
RUN_KEY, END_KEY = b"mmedge.run", b"mmedge.end"
RUN, ERRORS = "_run.json", "_errors.json"


class Store:
    """The output folder of a run.

    Args:
        folder: the folder, which need not be there.
        binding: what all its files are made by, in values that JSON has.
    """

    def __init__(self, folder: Path, binding: Mapping[str, Any]) -> None:
        self.folder = folder
        # As it comes back from a file.
        self.binding: dict[str, Any] = json.loads(json.dumps({"version": VERSION, **binding}))

    def bind(self) -> None:
        """Make the folder this run's, unless it is already.

        Raises:
            InputError: it belongs to another run, has Parquet files of no run, or cannot be
                written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = (self.folder / RUN).read_text("utf-8")
        except FileNotFoundError:
            if any(self.folder.rglob("*.parquet")):
                raise InputError(
                    f"{self.folder}: has Parquet files and no {RUN}, so they are of no run; choose "
                    "another output"
                ) from None
            _write(self.folder / RUN, self.binding)
            return
        except OSError as error:
            raise InputError(f"{self.folder}: the output cannot be written: {error}") from error
        try:
            there = json.loads(text)
        except ValueError as error:
            raise InputError(f"{self.folder / RUN}: is no JSON: {error}; remove the folder") from (
                error
            )
        if differences := _differences(there, self.binding):
            raise InputError(
                f"{self.folder}: belongs to another run; {differences}. Choose another output, or "
                "run with what it was made with"
            )

    def path(self, name: str) -> Path:
        """Where the results of a recording lie."""
        return self.folder / f"{name}.parquet"

    def read(self, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What a recording's Parquet file was made of, and what came of it; None: it is not there.

        Raises:
            InputError: what is there is not of this run.
        """
        path = self.path(name)
        try:
            metadata = pq.read_metadata(path).metadata or {}
            run, end = json.loads(metadata[RUN_KEY]), json.loads(metadata[END_KEY])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise InputError(
                f"{path}: is no Parquet file of a run ({error}); remove it to run {name!r} again"
            ) from error
        binding = {key: run.get(key) for key in self.binding}
        if differences := _differences(binding, self.binding):
            raise InputError(
                f"{path}: is of another run; {differences}. Remove it to run {name!r} again"
            )
        return run, end

    def begin(self, name: str, run_id: str) -> int:
        """Count an attempt of this run; how many there are with it. Clears what a dead one left."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        for part in path.parent.iterdir():
            if part.name.startswith(f".{path.name}.") and part.name.endswith(".part"):
                part.unlink(missing_ok=True)
        with self._attempts(name).open("a+", encoding="utf-8") as file:
            file.write(f"{run_id} {worker_name()}\n")
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            return sum(line.startswith(run_id) for line in file)

    def attempts(self, name: str) -> list[str]:
        """Workers that began a recording and have not ended it, in order."""
        try:
            lines = self._attempts(name).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [line.partition(" ")[2] for line in lines]

    def end(self, name: str) -> None:
        """Forget the attempts: it came to an end, good or bad."""
        self._attempts(name).unlink(missing_ok=True)

    def write_errors(self, errors: Sequence[tuple[str, str]]) -> None:
        """Write the error table; without errors there is none."""
        path = self.folder / ERRORS
        if errors:
            _write(path, [{"name": name, "error": what} for name, what in errors])
        else:
            path.unlink(missing_ok=True)

    def _attempts(self, name: str) -> Path:
        path = self.path(name)
        return path.with_name(f".{path.name}.attempts")


class TableFile:
    """A Parquet file that appears under its name once it is whole, and not before.

    Leaving it as a context without :meth:`commit` removes what was written.

    Args:
        path: its name.
        schema: of its tables.
        run: what it is made of, for its footer.
    """

    def __init__(self, path: Path, schema: pa.Schema, run: Mapping[str, Any]) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        self._file = self._part.open("wb")
        self._writer = pq.ParquetWriter(
            self._file, schema.with_metadata({RUN_KEY: json.dumps(run)}), compression="zstd"
        )

    def write(self, table: pa.Table) -> None:
        """Write a table as one row group."""
        self._writer.write_table(table, row_group_size=len(table))

    def commit(self, end: Mapping[str, Any]) -> int:
        """Write what came of it, and give the file its name; its bytes.

        Raises:
            OSError: the disk refused.
        """
        self._writer.add_key_value_metadata({END_KEY: json.dumps(end)})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        self._file.close()
        self._part.replace(self._path)
        _sync(self._path.parent)
        return size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._file.closed:
            # What it says goes with the file; the disk may well be full.
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
            self._file.close()
            self._part.unlink(missing_ok=True)


def worker_name() -> str:
    """Host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _write(path: Path, content: object) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> str:
    """Values that differ, in words; empty if none does."""
    words: list[str] = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            words += filter(None, [_differences(old, new, f"{prefix}{key}.")])
        elif old != new:
            words.append(f"{prefix}{key} was {json.dumps(old)[:100]}, is {json.dumps(new)[:100]}")
    return "; ".join(words)
