"""Cases for a probe: what case_reader.h reads."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["number", "numbers", "run_cases", "tensor"]


def tensor(array: np.ndarray) -> bytes:
    """An array, with its type and shape in front."""
    sizes = " ".join(map(str, (array.ndim, *array.shape)))
    return f" {array.dtype} {sizes}\n".encode() + array.tobytes()


def number(value: float) -> str:
    """A float64 with all of its bits."""
    return float(value).hex()


def numbers(values: Any) -> str:
    """Whole numbers, with their count in front."""
    return " ".join(map(str, (len(values), *values)))


def run_cases(program: Path, cases: list[bytes]) -> bytes:
    """What a probe writes on so many cases, in one run."""
    done = subprocess.run([program], input=b"\n".join(cases), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
