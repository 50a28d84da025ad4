"""A changed copy of an ONNX file, where a bundle needs another interface than the file has.

A copy says in its metadata how it differs, which becomes a remark of the bundle. It is deleted when
the process ends.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

__all__ = ["remarks_of", "save_copy"]

#: Key of a file's metadata under which a copy says how it differs, a line each.
_REMARKS = "mmedge.remarks"


def save_copy(model: ir.Model, path: Path, remarks: list[str]) -> Path:
    """Write ``model``, which was made of the file at ``path``, under the same name elsewhere.

    Args:
        model: changed.
        path: of the original.
        remarks: how they differ.
    """
    earlier = model.metadata_props.get(_REMARKS, "")
    model.metadata_props[_REMARKS] = "\n".join([*filter(None, earlier.split("\n")), *remarks])
    folder = Path(tempfile.mkdtemp(prefix="mmedge-onnx-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / path.name
    ir.save(model, copy, external_data=f"{path.name}.data")
    return copy


def remarks_of(model: ir.Model) -> list[str]:
    """How a copy differs from its original; nothing of a file that is none."""
    return list(filter(None, model.metadata_props.get(_REMARKS, "").split("\n")))
