"""What an attack is, and the tools that all of them use."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Attack:
    """``make(good, folder)`` returns the path of a hostile bundle made in ``folder`` from ``good``.

    ``words`` is a regular expression that the error must match. ``late`` attacks are in files that
    are read on demand: opening succeeds and ``Bundle.verify`` refuses.
    """

    name: str
    words: str
    make: Callable[[Path, Path], Path]
    late: bool = False

    def __str__(self) -> str:
        return self.name


def on_directory(change: Callable[[Path], object]) -> Callable[[Path, Path], Path]:
    """A maker that changes a copy of the good directory."""

    def make(good: Path, folder: Path) -> Path:
        path = shutil.copytree(good, folder / "bad")
        change(path)
        return path

    return make


def rewrite_manifest(path: Path, data: bytes) -> None:
    """Put a manifest and its digest in a bundle's directory."""
    (path / "manifest.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (path / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def on_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], Path]:
    """A maker that changes the decoded manifest of a copy."""

    def apply(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        change(manifest)
        rewrite_manifest(path, json.dumps(manifest).encode())

    return on_directory(apply)


def on_text(change: Callable[[str], str | bytes]) -> Callable[[Path, Path], Path]:
    """A maker that replaces the manifest's text in a copy."""

    def apply(path: Path) -> None:
        changed = change((path / "manifest.json").read_text())
        data = changed if isinstance(changed, bytes) else changed.encode()
        rewrite_manifest(path, data)

    return on_directory(apply)


def on_file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    """A maker that changes one file of a copy and its digest in the manifest."""

    def apply(path: Path) -> None:
        changed = change((path / name).read_bytes())
        (path / name).write_bytes(changed)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"][name] = hashlib.sha256(changed).hexdigest()
        rewrite_manifest(path, json.dumps(manifest).encode())

    return on_directory(apply)
