"""Example inputs of a network, read from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge.spec import Array

__all__ = ["Example", "read_example"]


class Example(dict[str, "Array"]):
    """An array for each input of a network, and the path that they are from."""

    def __init__(self, path: Path, values: Mapping[str, Array]) -> None:
        super().__init__(values)
        self.path = path


def read_example(path: Path) -> Example:
    """An array for each input of a network.

    Args:
        path: an ``.npz`` or ``.safetensors`` file whose keys are names of inputs, or a folder with
            a file ``NAME.npy`` for each (in folders of its own where the name has slashes).

    Raises:
        ExportError: there is no such file, it is of another kind, or it cannot be read.
    """
    if not path.exists():
        raise ExportError(f"no such file: {path}; {_EXPECTED}")
    try:
        if path.is_dir():
            files = sorted(path.rglob("*.npy"))
            values = {
                file.relative_to(path).with_suffix("").as_posix(): np.load(file, allow_pickle=False)
                for file in files
            }
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                values = dict(archive)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            values = load_file(path)
        else:
            raise ExportError(f"{path} is no example; {_EXPECTED}")
    except ExportError:
        raise
    except Exception as error:  # of the file system, zip, NumPy and safetensors: no common base
        raise ExportError(
            f"{path} cannot be read: {type(error).__name__}: {error}; {_EXPECTED}"
        ) from error
    if not values:
        raise ExportError(f"{path} holds no array; {_EXPECTED}")
    return Example(path, values)


_EXPECTED = (
    "expected an .npz or .safetensors file with an array for each input, or a folder with NAME.npy "
    "for each"
)
