"""What is made once in a run of the tests, whichever worker comes first, and read by all."""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
import sys
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
        with translations_read_once():
            export(f"zoo:{name}", folder / f"{name}.mmedge", split=split, rtol=rtol).close()

    return once(factory, f"zoo-{name}", make) / f"{name}.mmedge"


@contextmanager
def translations_read_once() -> Iterator[None]:
    """Let all exports of a process share torch's table of translations to ONNX.

    torch parses the source of some 500 translations anew for each export, which takes longer than
    the rest of the export of a small network. They do not change, but for those of torchvision's
    operators, which are there once it is imported. Each export gets a copy of its own.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = ONNXRegistry.from_torchlib.__func__  # type: ignore[attr-defined]
    tables: dict[tuple[int | None, bool], ONNXRegistry] = {}

    def from_torchlib(cls: type[ONNXRegistry], opset_version: int | None = None) -> ONNXRegistry:
        key = opset_version, "torchvision" in sys.modules
        if key not in tables:
            tables[key] = read(cls) if opset_version is None else read(cls, opset_version)
        table = copy.copy(tables[key])
        table.functions = {name: list(ways) for name, ways in table.functions.items()}
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", classmethod(from_torchlib))
        yield
