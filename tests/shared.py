"""What is made once in a run of the tests, whichever worker comes first, and read by all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes, so that one builds in it and the rest find it done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def once(factory: pytest.TempPathFactory, key: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` filled; whoever changes a file of it works on a copy.

    Args:
        factory: where temporary folders of this run are.
        key: its name; the same for the same content alone.
        make: given the empty folder.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own there
    folder = base / "shared" / key
    with alone(folder):
        finished = folder.with_name(key + ".finished")
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            for path in folder.rglob("*"):
                path.chmod(0o555 if path.is_dir() else 0o444)
            finished.touch()
    return folder


def zoo_bundle(factory: pytest.TempPathFactory, name: str) -> Path:
    """A reference network as one file, that of questions cut into stages; change a copy of it."""

    def make(folder: Path) -> None:
        from mmedge_export import export

        split = True if name.startswith("vqa") else None
        rtol = 0.01 if name == "speak" else None  # as its documentation says
        export(f"zoo:{name}", folder / f"{name}.mmedge", split=split, rtol=rtol).close()

    return once(factory, f"zoo-{name}", make) / f"{name}.mmedge"
