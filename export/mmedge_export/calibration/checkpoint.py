"""What a run has found out so far, so that the same run goes on from there after a stop."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Checkpoint", "digest", "write_whole"]


def digest(value: object) -> str:
    """SHA-256, in hex, of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_whole(path: Path, *parts: bytes) -> None:
    """Write a file so that whoever reads it, after a kill too, sees the old one or all of the new.

    Raises:
        ExportError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ExportError(f"{path}: progress cannot be saved: {error}") from error


class Checkpoint:
    """Findings by key, in a JSON file that is rewritten with each.

    Args:
        path: of the file. One of another job, or a damaged one, is written anew.
        job: digest of all that the findings depend on.
    """

    def __init__(self, path: Path, job: str) -> None:
        self._path, self._job = path, job
        self._found: dict[str, Any] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["job"] == job:
                self._found = dict(content["found"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            pass  # damaged: what it held is found again

    def recall(
        self,
        key: str,
        find: Callable[[], Any],
        keep: Callable[[Any], bool] = lambda _: True,
    ) -> Any:  # noqa: ANN401
        """What is known under ``key``; where nothing is, what ``find`` gives, plain values.

        What ``keep`` refuses is not written: the next run finds it again.

        Raises:
            ExportError: the file cannot be written.
        """
        if key not in self._found:
            finding = find()
            if not keep(finding):
                return finding
            self._found[key] = finding
            text = json.dumps({"job": self._job, "found": self._found})
            write_whole(self._path, text.encode())
        return self._found[key]
