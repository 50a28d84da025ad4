"""What the CUDA compiler makes of the kernels: registers, spills, code size and instructions.

Each pair of dtype and width is compiled for each architecture, as the build does. Registers and
spills are read from the compiler's report, the machine code's size from the ELF file, and the
instructions that matter from the disassembly. No GPU is needed; nvcc is, and nvdisasm of CUDA 13.2
or later for the instructions (``pip install nvidia-cuda-nvdisasm``; else they are left out).

Run: ``python benchmarks/cuda_build.py``. The tests go by what it wrote where its fingerprint is
that of the sources and compilers, and else compile all of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "cuda_build.json"
SOURCE = Path(__file__).parent.parent / "cpp_ext"

ARCHITECTURES = (80, 86, 87, 89, 90, 100, 110, 120)
ELEMENTS = ("Float16", "BFloat16")
WIDTHS = (32, 64, 96, 128)

FLAGS = ("-std=c++17", "-O3", "-DMMEDGE_BUILD", "-Xcompiler=-fPIC,-fvisibility=hidden")

#: Instructions that are counted: products on tensor cores, and memory of a thread's own, which is
#: where spilled registers go.
COUNTED = ("HMMA", "LDL", "STL")

_KERNEL = re.compile(
    r"Compiling entry function '(?P<symbol>\S*attend\S*)' for 'sm_\d+\w*'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)
_SYMBOL = re.compile(r"(BFloat16|Float16)ELi(\d+)ELNS\d*_4RoleE([01])ELb([01])E")


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture.

    Attributes:
        registers: of a thread.
        stack_bytes: memory of a thread's own, 0 where all is in registers.
        spill_bytes: that are stored and loaded because registers do not suffice.
        code_bytes: of machine code.
        instructions: how many of :data:`COUNTED` there are; None without nvdisasm.
    """

    element: str
    width: int
    role: str
    full: bool
    architecture: int
    registers: int
    stack_bytes: int
    spill_bytes: int
    code_bytes: int
    instructions: dict[str, int] | None


def find_nvcc() -> str | None:
    """The compiler: on PATH, in CUDACXX, CUDA_HOME or CUDA_PATH, or in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [os.environ.get("CUDACXX"), "nvcc", *(f"{home}/bin/nvcc" for home in homes if home)]
    return next((found for place in places if place and (found := shutil.which(place))), None)


def find_nvdisasm() -> str | None:
    """The disassembler: of the wheel, on PATH, or beside nvcc."""
    places = [f"{path}/nvidia/cu13/bin/nvdisasm" for path in sys.path]
    nvcc = find_nvcc()
    places += ["nvdisasm", *([str(Path(nvcc).with_name("nvdisasm"))] if nvcc else [])]
    return next((found for place in places if (found := shutil.which(place))), None)


def supported() -> tuple[int, ...]:
    """Those of :data:`ARCHITECTURES` that this compiler can build for."""
    nvcc = find_nvcc()
    if nvcc is None:
        return ()
    said = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = {int(number) for number in re.findall(r"\d+", said.stdout)}
    return tuple(arch for arch in ARCHITECTURES if arch in known)


def compile_one(element: str, width: int, architecture: int) -> list[Kernel]:
    """Kernels of one file for one architecture.

    Raises:
        RuntimeError: the compiler failed; its output.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("nvcc was not found; install a CUDA toolkit, or set CUDA_HOME")
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "instance.cu", Path(folder) / "instance.cubin"
        text = (SOURCE / "kernels" / "cuda" / "instance.cu.in").read_text(encoding="utf-8")
        source.write_text(
            text.replace("@element@", element).replace("@width@", str(width)), encoding="utf-8"
        )
        includes = [f"-I{SOURCE / part}" for part in ("", "include", "kernels/cuda")]
        command = [nvcc, *FLAGS, *includes, f"-arch=sm_{architecture}", "-cubin", "-Xptxas=-v"]
        done = subprocess.run(
            [*command, str(source), "-o", str(cubin)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
        sizes = _code_sizes(cubin.read_bytes())
        counts = _count_instructions(cubin)
    kernels = []
    for found in _KERNEL.finditer(done.stderr):
        symbol = found["symbol"]
        parts = _SYMBOL.search(symbol)
        if parts is None:
            raise RuntimeError(f"{symbol}: no kernel of that name is known here")
        kernels.append(
            Kernel(
                element=parts[1],
                width=int(parts[2]),
                role="many" if parts[3] == "1" else "few",
                full=parts[4] == "1",
                architecture=architecture,
                registers=int(found["registers"]),
                stack_bytes=int(found["stack"]),
                spill_bytes=int(found["stores"]) + int(found["loads"]),
                code_bytes=sizes[f".text.{symbol}"],
                instructions=None if counts is None else counts[f".text.{symbol}"],
            )
        )
    return kernels


def _code_sizes(elf: bytes) -> dict[str, int]:
    """Sizes of the sections of a 64-bit ELF file, by name."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(elf[at : at + size], "little")

    table, entry, count, names = number(40, 8), number(58, 2), number(60, 2), number(62, 2)
    strings = number(table + names * entry + 24, 8)
    sizes = {}
    for index in range(count):
        header = table + index * entry
        name = strings + number(header, 4)
        sizes[elf[name : elf.index(b"\0", name)].decode()] = number(header + 32, 8)
    return sizes


def _count_instructions(cubin: Path) -> dict[str, dict[str, int]] | None:
    nvdisasm = find_nvdisasm()
    if nvdisasm is None:
        return None
    text = subprocess.run([nvdisasm, str(cubin)], capture_output=True, text=True, check=True).stdout
    counts = {}
    for part in re.split(r"^\s*\.section\s+", text, flags=re.MULTILINE)[1:]:
        name = re.split(r"[,\s]", part, maxsplit=1)[0]
        counts[name] = {
            wanted: len(
                re.findall(rf"^\s*(?:/\*\w+\*/)?\s*(?:@!?\w+\s+)?{wanted}\b", part, re.MULTILINE)
            )
            for wanted in COUNTED
        }
    return counts


def fingerprint() -> str:
    """Of all that :func:`compile_one` depends on."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted((SOURCE / "kernels" / "cuda").iterdir()):
        digest.update(path.read_bytes())
    digest.update((SOURCE / "include" / "mmedge" / "kernels.h").read_bytes())
    digest.update(f"{version(find_nvcc())} {version(find_nvdisasm())}".encode())
    return digest.hexdigest()[:16]


def version(program: str | None) -> str | None:
    """What a CUDA program says of its version."""
    if program is None:
        return None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", said)
    return found[1] if found else said.strip()


def main() -> None:
    """Compile all, print a table and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    work = [(e, w, a) for e in ELEMENTS for w in WIDTHS for a in supported()]
    started = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        kernels = [one for found in pool.map(lambda job: compile_one(*job), work) for one in found]
    seconds = time.monotonic() - started
    for one in kernels:
        print(
            f"sm_{one.architecture:<3} {one.element:8} {one.width:3} {one.role:4} "
            f"{'full' if one.full else 'plain':5} {one.registers:3} registers "
            f"{one.spill_bytes:3} spilled {one.code_bytes:6} bytes {one.instructions or ''}"
        )
    result = {
        "what": "CUDA kernels of segmented attention as compiled; nothing was run",
        "date": datetime.now(UTC).date().isoformat(),
        "fingerprint": fingerprint(),
        "nvcc": version(find_nvcc()),
        "nvdisasm": version(find_nvdisasm()),
        "jobs": options.jobs,
        "seconds": round(seconds, 1),
        "kernels": [asdict(one) for one in kernels],
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
