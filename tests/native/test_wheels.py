"""The wheels of a release, as `make wheels` builds them: contents, size, tag, and what loads."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from shared import once

pytestmark = pytest.mark.native_build

ROOT = Path(__file__).resolve().parents[2]
CROSS = "aarch64-linux-gnu-g++"
ARCHITECTURES = ("x86_64", "aarch64")
#: Numbers of the ELF header.
MACHINES = {"x86_64": 62, "aarch64": 183}

#: Loads a library as mmedge does and asks it what it is.
LOADER = """
#include <dlfcn.h>
#include <cstdio>

int main(int, char** argv) {
  void* const library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) return std::puts(dlerror()), 1;
  auto* const isa = reinterpret_cast<const char* (*)()>(dlsym(library, "mmedge_cpu_isa"));
  return std::puts(isa()), 0;
}
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    pytest.importorskip("auditwheel", reason="pip install 'mmedge[dev]'")
    if platform.machine() != "x86_64":
        pytest.skip("the wheel for x86-64 is not cross-compiled")
    if shutil.which(CROSS) is None:
        pytest.skip(f"no {CROSS}: apt-get install g++-aarch64-linux-gnu")

    def build(folder):
        command = [sys.executable, ROOT / "cpp_ext" / "wheels.py", "--output", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return once(tmp_path_factory, "wheels", build)


def mmedge_wheel(wheels, arch):
    (wheel,) = wheels.glob(f"mmedge-*_{arch}.whl")
    return wheel


def library(wheels, arch, folder):
    with zipfile.ZipFile(mmedge_wheel(wheels, arch)) as archive:
        return Path(archive.extract("mmedge/libmmedge_kernels.so", folder))


def test_there_is_a_wheel_for_each_architecture_and_the_zoo(wheels):
    assert len(list(wheels.iterdir())) == 3
    assert len(list(wheels.glob("mmedge_zoo-*-py3-none-any.whl"))) == 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_wheel_is_small_and_its_tag_is_that_of_old_systems(wheels, arch):
    wheel = mmedge_wheel(wheels, arch)
    assert wheel.stat().st_size <= 1_500_000
    # Ubuntu 18.04 and RHEL 8 have newer C libraries.
    assert wheel.name.endswith(f"-py3-none-manylinux_2_27_{arch}.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert f"Tag: py3-none-manylinux_2_27_{arch}\n" in archive.read(name).decode()


def test_wheels_of_both_architectures_hold_the_same_files(wheels):
    names = []
    for arch in ARCHITECTURES:
        with zipfile.ZipFile(mmedge_wheel(wheels, arch)) as archive:
            names.append(sorted(archive.namelist()))
    assert names[0] == names[1]
    assert not [name for name in names[0] if name.endswith((".safetensors", ".wav", ".png"))]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_library_is_of_the_architecture(wheels, arch, tmp_path):
    head = library(wheels, arch, tmp_path).read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert struct.unpack("<H", head[18:20])[0] == MACHINES[arch]


def test_the_aarch64_library_loads_and_runs(wheels, tmp_path):
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64: apt-get install qemu-user")
    source = tmp_path / "loader.cpp"
    source.write_text(LOADER)
    program = tmp_path / "loader"
    subprocess.run([CROSS, "-Wall", "-Werror", source, "-o", program, "-ldl"], check=True)
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program]
    command.append(library(wheels, "aarch64", tmp_path))
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "neon\n"), done.stdout + done.stderr


def test_the_x86_64_wheel_installs_and_runs(wheels, tmp_path):
    wheel = mmedge_wheel(wheels, "x86_64")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, tmp_path, wheel], check=True)
    # Without site (-S) no editable install of this checkout is in the way.
    path = os.pathsep.join((str(tmp_path), str(Path(np.__file__).parents[1])))
    program = "from mmedge import native; print(native.library().path, native.cpu_isa())"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": path},
    )
    assert done.stdout.startswith(str(tmp_path)), done.stdout + done.stderr
