"""Programs around single parts of the C++ runtime, compiled once in a run of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from native_builds import ROOT, jobs
from shared import alone


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the program made of ``tests/native/runtime/NAME.cpp``.

    MMEDGE_PROBES names a folder to build in that stays from run to run.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = Path(os.environ.get("MMEDGE_PROBES", base / "shared" / "probes"))

    def make(name: str) -> Path:
        with alone(folder):
            if not (folder / "CMakeCache.txt").exists():
                packages = Path(sys.modules["pytest"].__file__).parents[1]
                run(
                    *("cmake", "-S", ROOT / "cpp_ext", "-B", folder, "-DMMEDGE_TESTS=ON"),
                    # Faults of memory and arithmetic end a program with a report.
                    "-DMMEDGE_SANITIZE=address,undefined",
                    # Less time to compile than -O3 takes, and tests that end soon all the same.
                    "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
                    f"-Dnlohmann_json_DIR={packages}",
                )
            run("cmake", "--build", folder, "--target", name, "--parallel", str(jobs()))
            (program,) = folder.rglob(name)
            return program

    return make


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
