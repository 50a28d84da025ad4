"""A changed copy of an ONNX file, where a bundle needs another interface than the file has.

A copy says in its metadata how it differs, which becomes a remark of the bundle. It is deleted when
the process ends. This process remembers the call that made it, so that a factory can repeat it.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CopyCall", "call_of", "remarks_of", "remember", "save_copy", "temporary_folder"]

#: Key of a file's metadata under which a copy says how it differs, a line each.
_REMARKS = "mmedge.remarks"


@dataclass(frozen=True)
class CopyCall:
    """The call that made a copy.

    Attributes:
        module: of the function.
        function: its name.
        files: its first arguments.
        arguments: the others.
        lists_files: the function takes a list of files, and gives one of copies.
    """

    module: str
    function: str
    files: tuple[Path, ...]
    arguments: tuple[object, ...]
    lists_files: bool = False


_calls: dict[Path, CopyCall] = {}


def save_copy(model: ir.Model, path: Path, remarks: Sequence[str], call: CopyCall) -> Path:
    """Write ``model``, which was made of the file at ``path``, under the same name elsewhere.

    Args:
        model: changed.
        path: of the original.
        remarks: how they differ.
        call: what makes the same copy again.
    """
    earlier = model.metadata_props.get(_REMARKS, "")
    model.metadata_props[_REMARKS] = "\n".join([*filter(None, earlier.split("\n")), *remarks])
    copy = temporary_folder() / path.name
    ir.save(model, copy, external_data=f"{path.name}.data")
    remember(copy, call)
    return copy


def remember(copy: Path, call: CopyCall) -> None:
    """Note what made a copy."""
    _calls[copy] = call


def call_of(path: Path) -> CopyCall | None:
    """What made a copy; None of a file that is none."""
    return _calls.get(path)


def temporary_folder() -> Path:
    """A folder that is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="mmedge-source-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def remarks_of(model: ir.Model) -> list[str]:
    """How a copy differs from its original; nothing of a file that is none."""
    return list(filter(None, model.metadata_props.get(_REMARKS, "").split("\n")))
