"""The C++ test under sanitizers, and the library for the other architecture."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from native_builds import jobs

pytestmark = pytest.mark.native_build

ROOT = Path(__file__).resolve().parents[2]
AARCH64 = "aarch64-linux-gnu-g++"


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def build(folder, *options):
    """Build with the C++ test; the test's path."""
    out = run("cmake", "-S", ROOT / "cpp_ext", "-B", folder, "-DMMEDGE_TESTS=ON", *options)
    out += run("cmake", "--build", folder, "--target", "segattn_test", "--parallel", jobs())
    assert "warning:" not in out, out
    return folder / "segattn_test", out


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_are_silent(sanitizers, tmp_path):
    program, _ = build(
        tmp_path, f"-DMMEDGE_SANITIZE={sanitizers}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"
    )
    assert run(program, "60").endswith("passed\n")


def test_the_build_says_what_is_in_it(tmp_path):
    _, out = build(tmp_path, "-DMMEDGE_ORT=OFF")
    assert "ONNX Runtime operators: off, as asked" in out
    assert "CUDA kernels: off; turn them on with MMEDGE_CUDA=ON" in out


def test_aarch64(tmp_path):
    if shutil.which(AARCH64) is None:
        pytest.skip(f"no {AARCH64}: apt-get install g++-aarch64-linux-gnu")
    program, out = build(
        tmp_path,
        f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cpp_ext' / 'aarch64.cmake'}",
    )
    assert "CPU kernels for aarch64" in out
    if shutil.which("qemu-aarch64") is not None:  # runs, if slowly, what was compiled
        out = run("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program, "15")
        assert "neon: 15 problems" in out
