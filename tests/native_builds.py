"""Tests that build native code: when they run, and with how many processes.

``python3 tests/native_builds.py FOLDER`` compiles the runtime there as the probes need it, before
there are packages: with MMEDGE_PROBES=FOLDER the tests go on from that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: What those tests protect, and what they are made of.
WATCHED = (
    "cpp_ext",
    "tests/native",
    "conformance",
    "tests/ed25519_points.py",
    "tests/emulated_cuda.py",
    "tests/fuzz/native.py",
    "tests/line_probe.py",
    "tests/ort_kit.py",
    "tests/segattn_call.py",
    "tests/probe_cases.py",
    "tests/segattn_checks.py",
    "mmedge/native",
    "mmedge/testing.py",
    "benchmarks/cuda_build.py",
)


def left_out(mode: str, root: Path = ROOT) -> str | None:
    """The reason why native builds are not tested in this run; None: they are.

    Args:
        mode: ``always``, ``never``, or ``changed``: where :data:`WATCHED` changed since the commit
            that :func:`base` names, or is not committed. What git cannot tell has changed.
        root: the checkout.
    """
    if mode == "always":
        return None
    if mode == "never":
        return "native builds: left out as asked"
    since = base(root)
    if since is None or git(root, "diff", "--quiet", since, "--", *WATCHED) is None:
        return None
    if git(root, "status", "--porcelain", "--", *WATCHED) != "":
        return None
    return (
        f"native builds: nothing of theirs changed since commit {since[:9]}; "
        "make test NATIVE_BUILDS=always runs them, as .ci/run does"
    )


def base(root: Path) -> str | None:
    """Where this branch left main; the commit before this one where it is main's own.

    None where git cannot tell: no repository, or a clone without that commit.
    """
    head = git(root, "rev-parse", "HEAD")
    for main in ("origin/main", "main"):
        common = git(root, "merge-base", "HEAD", main)
        if common is not None and common != head:
            return common
    return git(root, "rev-parse", "--verify", "--quiet", "HEAD^1")


def git(root: Path, *words: str) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words], cwd=root, capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def build_probe(folder: Path, name: str) -> Path:
    """The program made of ``tests/native/runtime/NAME.cpp``, built there under sanitizers.

    MMEDGE_SANITIZE names others than those of memory and arithmetic, such as ``thread``.
    """
    if not (folder / "with_json").exists():
        configure(folder)
        (folder / "with_json").touch()
    _run("cmake", "--build", folder, "--target", name, "--parallel", str(jobs()))
    (program,) = folder.rglob(name)
    return program


def configure(folder: Path) -> None:
    """Have the probes built in a folder; without nlohmann-json, only the runtime can be."""
    try:
        packages = Path(str(distribution("nlohmann-json").locate_file("")))
        json = [f"-Dnlohmann_json_DIR={packages}"]
    except PackageNotFoundError:
        json = []
    _run(
        *("cmake", "-S", ROOT / "cpp_ext", "-B", folder, "-DMMEDGE_TESTS=ON"),
        # Faults of memory and arithmetic end a program with a report.
        f"-DMMEDGE_SANITIZE={os.environ.get('MMEDGE_SANITIZE', 'address,undefined')}",
        # Less time to compile than -O3 takes, and tests that end soon all the same.
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
        *json,
    )


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def jobs() -> int:
    """Compilers at once: the cores of this process, shared among the workers of pytest-xdist."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return max(1, len(os.sched_getaffinity(0)) // workers)


if __name__ == "__main__":
    configure(Path(sys.argv[1]))
    _run("cmake", "--build", sys.argv[1], "--target", "mmedge_runtime")
