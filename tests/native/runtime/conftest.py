"""Programs around single parts of the C++ runtime, compiled once in a run of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from native_builds import ROOT, build_probe, jobs
from shared import alone, once


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
            return build_probe(folder, name)

    return make


#: Programs of tests that are built with the library, as it is installed.
PROGRAMS = ("pipeline_allocations", "stream_allocations", "thread_races")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``cmake --install`` puts into a folder (``sdk``), and :data:`PROGRAMS` beside it."""

    def make(folder: Path) -> None:
        kept = os.environ.get("MMEDGE_PROBES")
        build = Path(f"{kept}-installed") if kept else folder / "build"
        packages = Path(sys.modules["pytest"].__file__).parents[1]
        run(
            *("cmake", "-S", ROOT / "cpp_ext", "-B", build, "-DMMEDGE_TESTS=ON"),
            *(f"-DCMAKE_INSTALL_PREFIX={folder / 'sdk'}", "-DCMAKE_INSTALL_LIBDIR=lib"),
            f"-Dnlohmann_json_DIR={packages}",
        )
        targets = ("mmedge", "mmedge-verify", "mmedge-replay", "mmedge_kernels", *PROGRAMS)
        out = run("cmake", "--build", build, "--target", *targets, "--parallel", str(jobs()))
        assert "warning:" not in out, out
        run("cmake", "--install", build)
        for name in PROGRAMS:
            (program,) = build.rglob(name)
            shutil.copy(program, folder / name)

    folder = tmp_path_factory.mktemp("installed") / "copy"
    shutil.copytree(
        once(tmp_path_factory, "sdk", make), folder, ignore=shutil.ignore_patterns("build")
    )
    for program in (folder / "sdk/bin/mmedge-verify", *(folder / name for name in PROGRAMS)):
        program.chmod(0o755)  # what workers share can only be read
    return folder


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
