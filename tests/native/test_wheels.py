"""The wheels of a release, as `make wheels` builds them: contents, size, tag, and what loads."""

from __future__ import annotations

import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hostile_bundles import write_hostile
from shared import once

from mmedge.native.runtime import installed_onnxruntime

pytestmark = pytest.mark.native_build

ROOT = Path(__file__).resolve().parents[2]
CROSS, CROSS_C = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc"
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


KERNELS, RUNTIME = "mmedge/libmmedge_kernels.so", "mmedge/sdk/lib/libmmedge.so.0"


def library(wheels, arch, folder, name=KERNELS):
    with zipfile.ZipFile(mmedge_wheel(wheels, arch)) as archive:
        return Path(archive.extract(name, folder))


def test_there_is_a_wheel_for_each_architecture_the_zoo_and_each_integration(wheels):
    others = ("mmedge_ray", "mmedge_ros", "mmedge_triton", "mmedge_zoo")
    assert len(list(wheels.iterdir())) == len(ARCHITECTURES) + len(others)
    for name in others:
        assert len(list(wheels.glob(f"{name}-*-py3-none-any.whl"))) == 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_wheel_is_small_and_its_tag_is_that_of_old_systems(wheels, arch):
    wheel = mmedge_wheel(wheels, arch)
    assert wheel.stat().st_size <= 2_500_000
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


@pytest.mark.parametrize("name", [KERNELS, RUNTIME])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_library_is_of_the_architecture(wheels, arch, name, tmp_path):
    head = library(wheels, arch, tmp_path, name).read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert struct.unpack("<H", head[18:20])[0] == MACHINES[arch]


def test_the_aarch64_library_loads_and_runs(wheels, tmp_path):
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64: apt-get install qemu-user")
    source = tmp_path / "loader.cpp"
    source.write_text(LOADER)
    program = tmp_path / "loader"
    subprocess.run([CROSS, "-Wall", "-Werror", source, "-o", program, "-ldl"], check=True)
    for name in (KERNELS, RUNTIME):
        command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program]
        command.append(library(wheels, "aarch64", tmp_path, name))
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "neon\n"), done.stdout + done.stderr


#: Opens each bundle that it is given and says whether it is taken.
OPENER = """
#include <mmedge/mmedge.h>
#include <stdio.h>

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    mmedge_bundle* bundle = NULL;
    const mmedge_status status = mmedge_bundle_open(arguments[i], &bundle);
    printf("%d %s\\n", status, status ? mmedge_last_error() : mmedge_bundle_digest(bundle));
    mmedge_bundle_close(bundle);
  }
  return 0;
}
"""


@pytest.fixture(scope="module")
def aarch64_sdk(wheels, tmp_path_factory):
    """The SDK of the wheel for aarch64, whose programs run here under qemu."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64: apt-get install qemu-user")
    folder = tmp_path_factory.mktemp("aarch64")
    with zipfile.ZipFile(mmedge_wheel(wheels, "aarch64")) as archive:
        archive.extractall(folder)
    return folder / "mmedge" / "sdk"


def compile_with(sdk, sources, program, *options):
    """Compile a program that uses libmmedge for aarch64."""
    command = [*options, "-Wall", "-Werror", *sources, f"-I{sdk / 'include'}", f"-L{sdk / 'lib'}"]
    # What the library itself needs is looked for when it runs.
    command += ["-l:libmmedge.so.0", "-Wl,--unresolved-symbols=ignore-in-shared-libs"]
    subprocess.run([*command, "-o", program], check=True)
    return program


def test_the_aarch64_library_takes_good_bundles_and_refuses_hostile_ones(aarch64_sdk, tmp_path):
    (tmp_path / "opener.c").write_text(OPENER)
    program = compile_with(
        aarch64_sdk, [tmp_path / "opener.c"], tmp_path / "opener", CROSS_C, "-std=c99"
    )
    good = sorted((ROOT / "conformance/cases/bundles").iterdir())
    cases = [case for case in write_hostile(tmp_path / "hostile") if not case["late"]]
    hostile = [tmp_path / "hostile" / case["path"] for case in cases]
    emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-E"]
    command = [*emulator, f"LD_LIBRARY_PATH={aarch64_sdk / 'lib'}", program, *good, *hostile]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if re.match(r"\d+ ", line)]
    statuses = [line.split()[0] for line in told]
    assert len(hostile) > 300
    assert statuses == ["0"] * len(good) + ["100"] * len(hostile)


#: What ONNX Runtime asks of a processor: qemu shows that of this machine, which ends the process.
CPUINFO = """processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4

"""


@pytest.fixture(scope="module")
def aarch64_engine(tmp_path_factory):
    """ONNX Runtime for aarch64, of the version that is installed."""

    def download(folder):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
        command += ["--platform=manylinux_2_28_aarch64", "--only-binary=:all:", "--timeout=30"]
        command += [f"onnxruntime=={version('onnxruntime')}", "--dest", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            pytest.skip("ONNX Runtime for aarch64 cannot be had: it takes too long")
        if done.returncode:
            reason = (done.stderr.strip() or "pip failed").splitlines()[-1]
            pytest.skip(f"ONNX Runtime for aarch64 cannot be had: {reason}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            library = f"onnxruntime/capi/libonnxruntime.so.{version('onnxruntime')}"
            archive.extract(library, folder)
        wheel.unlink()

    return once(tmp_path_factory, "onnxruntime-aarch64", download) / "onnxruntime" / "capi"


@pytest.mark.parametrize(
    "words",
    [
        ["attention"],
        ["both", "--plan", "cut"],
        ["floats"],
        ["growing"],
        ["off"],
        ["policy"],
        ["recurrent"],
        ["captioner"],
        ["decoder"],
        ["painter"],
    ],
    ids=lambda words: words[0],
)
def test_golden_samples_pass_on_aarch64(words, verify_on_aarch64):
    """Calls, states and loops: of tokens (``captioner``, ``decoder``), of a latent."""
    name, *options = words
    done = verify_on_aarch64(*options, ROOT / "conformance/cases/bundles" / f"{name}.mmedge")
    if name == "off":  # its golden sample is another network's
        assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "FAILS"), done.stderr
        assert "'score' of stage" in done.stderr
        return
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "passes"), done.stderr
    used = float(re.search(r"worst +(\S+) of the tolerance", done.stdout)[1])
    assert used < 0.1
    assert f"on ort {version('onnxruntime')}" in done.stdout


@pytest.fixture(scope="module")
def verify_on_aarch64(aarch64_sdk, aarch64_engine, tmp_path_factory):
    """Runs mmedge-verify for aarch64 with the library of the wheel."""
    folder = tmp_path_factory.mktemp("verify")
    sources = [ROOT / "cpp_ext/tools" / name for name in ("verify.cpp", "trust.cpp")]
    program = compile_with(aarch64_sdk, sources, folder / "mmedge-verify", CROSS, "-std=c++17")
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(CPUINFO)
    (folder / "lib").symlink_to("/usr/aarch64-linux-gnu/lib")
    emulator = ["qemu-aarch64", "-L", folder, "-E", f"LD_LIBRARY_PATH={aarch64_sdk / 'lib'}"]
    command = [*emulator, program, "--threads", "1", "--onnxruntime", aarch64_engine]

    def run(*words):
        return subprocess.run([*command, *words], capture_output=True, text=True)

    return run


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
    # The SDK of the wheel alone: a C++ program is built with it.
    folders = []
    for option in ([], ["--cmake-dir"]):
        done = subprocess.run(
            [sys.executable, "-S", "-m", "mmedge.sdk", *option],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr
        folders.append(done.stdout[:-1])
    assert folders[0] == str(tmp_path / "mmedge" / "sdk")
    build = tmp_path / "example"
    for command in (
        ["cmake", "-S", ROOT / "examples/cpp", "-B", build, f"-Dmmedge_DIR={folders[1]}"],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    bundle = ROOT / "conformance/cases/bundles/tiny.mmedge"
    done = subprocess.run([build / "run_bundle", bundle], capture_output=True, text=True)
    # It opened the bundle, and looks for ONNX Runtime where a system has it.
    assert "ONNX Runtime" in done.stderr or "missing input" in done.stderr, done.stderr
    bundle = ROOT / "conformance/cases/bundles/both.mmedge"
    words = ["camera=20", "voice=40", "--seconds", "1.5", "--fails", "voice", "--onnxruntime"]
    done = subprocess.run(
        [build / "multi_rate", bundle, *words, installed_onnxruntime()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "camera: 30 pushed" in done.stdout
    assert "s: voice is absent: too_old" in done.stdout
