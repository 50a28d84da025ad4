"""The emulator finds the faults that it is there to find."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulated_cuda import EARLY, LATE, build, emulated

pytestmark = pytest.mark.native_build

HERE = Path(__file__).parent


def run(name: str, seed: int, copies: int = LATE, shared: int = 1024):
    """What the emulator said, and what the kernel computed."""
    emu = emulated()
    emu.set_order(seed, copies)
    function = emu.c.emulator_run_fault
    function.restype = ctypes.c_char_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    given = np.arange(256 + 4, dtype=np.uint32)
    start = -given.ctypes.data % 16 // 4
    given = given[start : start + 256]
    given[:] = np.arange(256)
    out = np.zeros(64, np.uint32)
    said = function(name.encode(), given.ctypes.data, out.ctypes.data, shared)
    return said and said.decode(), out


NEIGHBOUR = {32: np.arange(64) ^ 32, 1: np.arange(64) ^ 1}


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("block barrier", "no block barrier", NEIGHBOUR[32]),
        ("warp barrier", "no warp barrier", NEIGHBOUR[1]),
        ("waited for", "not waited for", NEIGHBOUR[32] * 4),
        ("waited for", "not committed", NEIGHBOUR[32] * 4),
        ("waited for", "others not waited for", NEIGHBOUR[32] * 4),
        ("overwritten after a barrier", "overwritten", NEIGHBOUR[32] * 4),
    ],
)
def test_a_missing_barrier_or_wait_shows(right, wrong, expected):
    for copies in (LATE, EARLY):
        for seed in range(5):
            said, out = run(right, seed, copies)
            assert said is None
            assert np.array_equal(out, expected)
    found = [run(wrong, seed, copies) for copies in (LATE, EARLY) for seed in range(5)]
    assert any(said or not np.array_equal(out, expected) for said, out in found)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lanes part", "lanes of a warp are at different places: .* from_lane_xor at line"),
        ("a lane leaves", "lanes of a warp are at different places: .*the end"),
        ("a warp skips a barrier", "threads of a block are at different barriers"),
        ("writes past shared memory", "shared memory was written outside its 512 bytes"),
        ("reads past shared memory", "16 bytes at 512 of 512 bytes of shared memory"),
        ("bank conflict", r"bank conflict in load_matrices \(banks 01\)"),
        ("copy not aligned", "which is not aligned"),
        ("not committed", "copies were not waited for"),
        ("no such", "there is no such kernel"),
    ],
)
def test_it_says_what_is_wrong(name, message):
    said, _ = run(name, 1, shared=1024 if name == "not committed" else 512)
    assert said is not None
    assert re.search(message, said), said


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake builds the emulated library")
def test_no_access_is_out_of_bounds():
    """The kernels under AddressSanitizer, in a process that has loaded its runtime first."""
    library = build("address")
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if not Path(runtime).is_file():
        pytest.skip("AddressSanitizer's runtime, libasan.so, is not installed")
    done = subprocess.run(
        [sys.executable, HERE / "asan_cases.py", library],
        env=os.environ
        | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, str(HERE.parent)])),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "heap-buffer-overflow" in done.stdout
