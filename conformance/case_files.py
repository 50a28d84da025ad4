"""Files of cases: JSON, and tensors beside it as safetensors."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from mmedge import native

__all__ = ["CASES", "Tensors", "read", "read_tensors", "versions", "write", "write_lines"]

#: Where the cases are.
CASES = Path(__file__).resolve().parent / "cases"

#: Distributions that outputs or bundles depend on.
LIBRARIES = ("numpy", "onnx", "onnxruntime", "safetensors", "tokenizers")


def versions() -> dict[str, Any]:
    """What the bits of outputs and of bundles depend on, on this machine."""
    return {
        "machine": platform.machine(),
        "instructions": native.cpu_isa(),
        "threads": 1,
        "kernels": False,
        "libraries": {name: version(name) for name in LIBRARIES},
    }


class Tensors:
    """The tensors of one file of cases, by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def put(self, name: str, array: Any) -> str:
        """Hold an array under a name, which is returned."""
        assert name not in self.arrays, name
        self.arrays[name] = np.ascontiguousarray(array)
        return name

    def put_all(self, prefix: str, arrays: dict[str, Any]) -> dict[str, str]:
        """Hold arrays; their names here by the names given."""
        return {name: self.put(f"{prefix}.{name}", array) for name, array in arrays.items()}


def write(path: Path, content: dict[str, Any], tensors: Tensors | None = None) -> None:
    """Write ``path`` as JSON, members of lists a line each, and tensors to the file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for key, value in content.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in value) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="ascii")
    if tensors is not None and tensors.arrays:
        arrays = {name: tensors.arrays[name] for name in sorted(tensors.arrays)}
        path.with_suffix(".safetensors").write_bytes(save(arrays))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``path`` as JSON, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def read(path: Path) -> Any:
    """A file of JSON."""
    return json.loads(path.read_text(encoding="ascii"))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors beside a file of JSON; none where there is no such file."""
    beside = path.with_suffix(".safetensors")
    return load_file(beside) if beside.exists() else {}
