"""What nvcc makes of the CUDA kernels, for every architecture; no GPU is needed."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from random import Random

import pytest
from native_builds import jobs

pytestmark = pytest.mark.native_build

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
cuda_build = import_module("cuda_build")

needs_nvcc = pytest.mark.skipif(
    cuda_build.find_nvcc() is None, reason="nvcc, the CUDA compiler, is not installed"
)

# Blocks that the plan counts on (blocks_per_sm in tiling.h), for which registers must suffice: a
# multiprocessor has 65,536, handed out to warps in steps of 8 a thread.
BLOCKS = {
    ("few", False): {32: 4, 64: 4, 96: 3, 128: 2},
    ("few", True): {32: 3, 64: 3, 96: 2, 128: 2},
    ("many", False): {32: 4, 64: 2, 96: 2, 128: 2},
    ("many", True): {32: 2, 64: 2, 96: 2, 128: 2},
}


def same_as_committed() -> bool:
    """Whether the results in the repository are of these sources and compilers."""
    return json.loads(cuda_build.RESULTS.read_text()).get("fingerprint") == cuda_build.fingerprint()


def committed() -> list:
    fields = json.loads(cuda_build.RESULTS.read_text())["kernels"]
    return [cuda_build.Kernel(**kernel) for kernel in fields]


def compiled(element: str, width: int, architectures: tuple[int, ...]) -> list:
    """Compiled now, or before, from the same sources: it takes half a minute."""
    if same_as_committed():
        return [
            kernel
            for kernel in committed()
            if (kernel.element, kernel.width) == (element, width)
            and kernel.architecture in architectures
        ]
    kept = ROOT / "build" / "cuda_build" / f"{cuda_build.fingerprint()}-{element}-{width}.json"
    if not kept.is_file():
        with ThreadPoolExecutor(jobs()) as pool:
            found = pool.map(
                lambda arch: cuda_build.compile_one(element, width, arch), architectures
            )
            kernels = [asdict(kernel) for group in found for kernel in group]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(kernels), encoding="utf-8")
    return [cuda_build.Kernel(**fields) for fields in json.loads(kept.read_text(encoding="utf-8"))]


@needs_nvcc
@pytest.mark.parametrize("width", cuda_build.WIDTHS)
@pytest.mark.parametrize("element", cuda_build.ELEMENTS)
def test_no_kernel_spills_on_any_architecture(element, width):
    architectures = cuda_build.supported()
    if cuda_build.version(cuda_build.find_nvcc()).startswith("13."):
        assert architectures == cuda_build.ARCHITECTURES
    kernels = compiled(element, width, architectures)
    assert len(kernels) == 4 * len(architectures)
    for kernel in kernels:
        assert (kernel.spill_bytes, kernel.stack_bytes) == (0, 0), kernel
        blocks = BLOCKS[kernel.role, kernel.full][width]
        assert blocks * 128 * (-(-kernel.registers // 8) * 8) <= 65536, kernel
        if kernel.instructions is not None:
            assert kernel.instructions["HMMA"] >= width // 4, kernel
            assert (kernel.instructions["LDL"], kernel.instructions["STL"]) == (0, 0), kernel


@needs_nvcc
@pytest.mark.parametrize("element", cuda_build.ELEMENTS)
def test_the_committed_results_are_what_the_compiler_makes(element):
    if not same_as_committed():
        pytest.skip("the committed results are of other sources or compilers: all are compiled")
    (arch,) = Random(cuda_build.fingerprint()).sample(cuda_build.supported(), 1)
    expected = [
        kernel
        for kernel in committed()
        if (kernel.element, kernel.width, kernel.architecture) == (element, 64, arch)
    ]
    assert len(expected) == 4
    assert cuda_build.compile_one(element, 64, arch) == expected


@needs_nvcc
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("-DMMEDGE_CUDA_ARCHITECTURES=75", "the kernels need sm_80 or later, got '75'"),
        ("-DMMEDGE_CUDA_ARCHITECTURES=80;999", "cannot build for '999'; it can for"),
        ("-DMMEDGE_CUDA_ARCHITECTURES=", "MMEDGE_CUDA_ARCHITECTURES is empty; name at least one"),
        ("-DMMEDGE_NVCC=", "no CUDA toolkit was found: nvcc is neither on PATH nor in CUDACXX"),
        ("-DCMAKE_CUDA_COMPILER=/no/nvcc", "/no/nvcc --list-gpu-arch failed"),
    ],
)
def test_a_build_that_cannot_be_says_why(option, message, tmp_path):
    done = subprocess.run(
        ["cmake", "-S", ROOT / "cpp_ext", "-B", tmp_path, "-DMMEDGE_CUDA=ON", option],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
