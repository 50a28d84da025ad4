"""What the operators assume of ONNX Runtime's C ABI, held against its own header."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Where Debian's libonnxruntime-dev and ONNX Runtime's own packages put it.
FOLDERS = [
    Path(base, *parts)
    for base in ("/usr/include", "/usr/local/include")
    for parts in (("onnxruntime",), ("onnxruntime", "core", "session"), ())
]


def test_positions_and_fields_are_those_of_the_header():
    found = [folder for folder in FOLDERS if (folder / "onnxruntime_c_api.h").is_file()]
    if not found:
        pytest.skip("no onnxruntime_c_api.h here: apt-get install libonnxruntime-dev (Debian 13)")
    command = ["c++", "-std=c++17", "-fsyntax-only", f"-I{found[0]}", f"-I{ROOT / 'cpp_ext/ort'}"]
    command.append(str(ROOT / "tests/native/check_ort_abi.cpp"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
