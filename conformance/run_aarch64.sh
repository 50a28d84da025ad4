#!/usr/bin/env bash
# Holds both runtimes to the cases on aarch64, under qemu: an interpreter from Debian's packages, wheels
# for aarch64, and libmmedge cross-compiled here.
#
#   conformance/run_aarch64.sh FOLDER [SCHEDULES]
#
# FOLDER is made, and kept for the next run; SCHEDULES random schedules are played too (2000). Needs
# Debian with python3.11, g++-aarch64-linux-gnu, qemu-user, and as root apt-get, which reads the list of
# arm64 packages; PYTHON is an interpreter with mmedge[dev].
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
schedules=${2:-2000}
python=${PYTHON:-$root/.venv/bin/python}

# What an interpreter needs of Debian. By libssl3 libmmedge verifies signatures; without it, or libsodium23,
# it refuses whatever is to be verified, and the cases of signatures are shown as faults.
if [ ! -d "$folder/system" ]; then
    dpkg --add-architecture arm64
    trap 'dpkg --remove-architecture arm64' EXIT
    apt-get update -qq
    mkdir -p "$folder/packages"
    (cd "$folder/packages" && apt-get download -qq {python3.11-minimal,libpython3.11-minimal}:arm64 \
        {libpython3.11-stdlib,libc6,libgcc-s1,libstdc++6,libexpat1,zlib1g,libssl3,libffi8}:arm64 \
        {libbz2-1.0,liblzma5,libsqlite3-0,libuuid1}:arm64)
    for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$folder/system"; done
    # ONNX Runtime asks the kernel what the processor is; qemu shows that of this machine.
    mkdir -p "$folder/system/proc"
    printf '%s\t: %s\n' processor 0 BogoMIPS 100.00 \
        Features 'fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid' 'CPU implementer' 0x41 \
        'CPU architecture' 8 'CPU variant' 0x0 'CPU part' 0xd03 'CPU revision' 4 \
        >"$folder/system/proc/cpuinfo"
fi

# Wheels of the versions that are installed here.
if [ ! -d "$folder/site" ]; then
    wheels=$("$python" -c 'from importlib.metadata import version
for name in ("numpy", "safetensors", "onnx", "ml_dtypes", "protobuf", "tokenizers",
             "typing_extensions", "xxhash", "onnxruntime", "cryptography", "cffi", "pycparser"):
    print(f"{name}=={version(name)}")')
    # shellcheck disable=SC2086
    "$python" -m pip install --quiet --no-deps --target "$folder/site" --python-version 3.11 \
        --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
        --only-binary=:all: $wheels
fi

# libmmedge, and the program that plays schedules.
json=$("$python" -c 'from importlib.metadata import distribution
print(distribution("nlohmann-json").locate_file(""))')
cmake -S "$root/cpp_ext" -B "$folder/build" -DMMEDGE_TESTS=ON "-Dnlohmann_json_DIR=$json" \
    -DCMAKE_TOOLCHAIN_FILE="$root/cpp_ext/aarch64.cmake" >"$folder/build.log"
cmake --build "$folder/build" --target mmedge mmedge_kernels stream_probe --parallel \
    >>"$folder/build.log" 2>&1
rm -rf "$folder/site/mmedge"
cp -r "$root/mmedge" "$folder/site/mmedge"
mkdir -p "$folder/site/mmedge/sdk/lib"
cp -r "$root/cpp_ext/include" "$folder/site/mmedge/sdk/include"
cp "$folder/build/libmmedge.so.0" "$folder/site/mmedge/sdk/lib"
cp "$folder/build/libmmedge_kernels.so" "$folder/site/mmedge"

emulator="qemu-aarch64 -L $folder/system"
cat >"$folder/check.py" <<'PYTHON'
import platform
import sys

import run_native
import run_python

assert platform.machine() == "aarch64"
for runtime, checks in (("Python", run_python.CHECKS), ("libmmedge", run_native.CHECKS)):
    for name, check in checks.items():
        faults = check()
        print(f"{runtime}, {name}: {len(faults)} faults", *faults, sep="\n    ")
PYTHON
PYTHONPATH="$folder/site:$root/conformance:$root/tests" \
    $emulator "$folder/system/usr/bin/python3.11" "$folder/check.py"

# Schedules: made here, played there.
engine=$(echo "$folder"/site/onnxruntime/capi/libonnxruntime.so.*)
printf '#!/bin/sh\nexec %s %s/build/runtime/stream_probe "$1" %s\n' \
    "$emulator" "$folder" "$engine" >"$folder/stream_probe"
chmod +x "$folder/stream_probe"
"$python" "$root/conformance/make.py" --schedules "$schedules" --output "$folder/schedules.jsonl"
PYTHONPATH="$root/conformance:$root/tests" "$python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from native_streams import check_streams

folder = Path(sys.argv[1])
for name, files in (("cases", ()), ("random", (folder / "schedules.jsonl",))):
    faults = check_streams(folder / "stream_probe", *files)
    print(f"libmmedge, schedules ({name}): {len(faults)} faults", *faults, sep="\n    ")
PYTHON
