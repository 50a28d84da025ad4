"""What is run: recordings and samples by name, their files, and the digest of their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge import InputError

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["Content", "Recordings", "find_recordings", "find_samples", "name_recordings"]

#: What a caller hands in: a folder to search, paths, or paths by name.
Recordings: TypeAlias = (
    str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]
)

#: The file that makes a folder a recording, and the suffix of one that is a file.
INDEX, SUFFIX = "recording.json", ".mcap"


def find_recordings(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """All recordings under a folder, or the one that ``folder`` is, by their names.

    A name is the path from ``folder`` (of ``folder`` itself its own name): ``robot-1/run-7.mcap``.
    Links to folders are not followed.

    Raises:
        InputError: there is none.
    """
    root = Path(folder)
    if root.suffix == SUFFIX or (root / INDEX).is_file():
        return {root.name: root}
    recordings: dict[str, Path] = {}
    for place, folders, files in os.walk(root):
        here = Path(place)
        if INDEX in files and here != root:
            recordings[here.relative_to(root).as_posix()] = here
            folders.clear()
            continue
        for file in files:
            if file.endswith(SUFFIX) and not file.startswith("."):
                recordings[(here / file).relative_to(root).as_posix()] = here / file
    if not recordings:
        raise InputError(
            f"{root}: no recording is in it: neither a folder with {INDEX} nor an {SUFFIX} file"
        )
    return dict(sorted(recordings.items()))


def name_recordings(recordings: Recordings) -> dict[str, Path]:
    """Recordings by name.

    Args:
        recordings: a folder to search (:func:`find_recordings`); paths, whose last parts are their
            names; or paths by name.

    Raises:
        InputError: there is none, two have the same name, or a name cannot be a file's.
    """
    if isinstance(recordings, str | os.PathLike):
        return find_recordings(recordings)
    if isinstance(recordings, Mapping):
        by_name = {str(name): Path(path) for name, path in recordings.items()}
    else:
        by_name = {}
        for path in map(Path, recordings):
            name = path.resolve().name
            if name in by_name:
                raise InputError(
                    f"{by_name[name]} and {path} have the same name {name!r}; give paths by name: "
                    "{'robot-1/run': ..., 'robot-2/run': ...}"
                )
            by_name[name] = path
    if not by_name:
        raise InputError("no recordings; give at least one")
    for name in by_name:
        parts = name.split("/")
        # A leading dot or underscore hides a file from readers of Parquet folders.
        if any(not part or part[0] in "._" or "\0" in part for part in parts):
            raise InputError(
                f"recording {name!r}: a name is the path of its Parquet file in the output, with "
                "no parts that are empty or begin with '.' or '_'; give paths by name"
            )
    return by_name


def find_samples(folder: str | os.PathLike[str]) -> list[Path]:
    """The ``.safetensors`` files in a folder, sorted by name; each is one sample.

    Raises:
        InputError: there is none.
    """
    root = Path(folder)
    try:
        samples = sorted(path for path in root.iterdir() if path.suffix == ".safetensors")
    except OSError as error:
        raise InputError(f"{root}: the samples cannot be listed: {error}") from error
    if not samples:
        raise InputError(
            f"{root}: no .safetensors file is in it; each is one sample. Recordings need a trigger"
        )
    return samples


@dataclass(frozen=True, slots=True)
class Content:
    """Files of a recording, or of a part of a folder of samples, as they are now.

    Attributes:
        paths: the files, in the order of ``files``.
        files: of each its name, its bytes, and when it was written, in ns.
    """

    paths: tuple[Path, ...]
    files: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, *paths: Path) -> Content:
        """The files at ``paths``, and in folders among them.

        Raises:
            InputError: one cannot be looked at.
        """
        every: list[tuple[str, Path]] = []
        try:
            for path in paths:
                if path.is_dir():
                    every += ((f"{path.name}/{each.name}", each) for each in path.iterdir())
                else:
                    every.append((path.name, path))
            every.sort()
            status = [path.lstat() for _, path in every]
        except OSError as error:
            raise InputError(f"{paths[0]}: cannot be read: {error}") from error
        files = tuple(
            (name, each.st_size, each.st_mtime_ns)
            for (name, _), each in zip(every, status, strict=True)
        )
        return cls(tuple(path for _, path in every), files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size, _ in self.files)

    def digest(self) -> str:
        """SHA-256 over names and contents of the files; reads all of them.

        Raises:
            InputError: one cannot be read, or is no plain file.
        """
        whole = hashlib.sha256()
        for path, (name, _, _) in zip(self.paths, self.files, strict=True):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(fd, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error}") from error
            whole.update(f"{digest} {name}\n".encode())
        return whole.hexdigest()
