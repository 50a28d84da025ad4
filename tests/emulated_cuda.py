"""The CUDA library with its kernels compiled for the CPU: tests/native/emulator."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
from native_builds import jobs
from segattn_call import Call, Enqueuer, HostMemory, prepare
from shared import alone

from mmedge.native.capi import SegAttn
from mmedge.testing import Inputs

ROOT = Path(__file__).parent.parent
SOURCE = Path(__file__).parent / "native" / "emulator"

LATE, EARLY, RANDOM = range(3)  # when asynchronous copies happen


class PlanFigures(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "many",
                "width",
                "full",
                "row_tiles",
                "groups",
                "splits",
                "blocks_per_sm",
                "shared_bytes",
            )
        ),
        ("workspace", ctypes.c_uint64),
    )


def build(sanitize: str = "") -> Path:
    """Build what is out of date; the path of the library."""
    where = ROOT / "build" / ("emulated" + ("-" + sanitize.replace(",", "-") if sanitize else ""))
    with alone(where):
        for command in (
            ["cmake", "-S", str(SOURCE), "-B", str(where), f"-DMMEDGE_SANITIZE={sanitize}"],
            ["cmake", "--build", str(where), "--parallel", str(jobs())],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning:" not in done.stdout + done.stderr, done.stdout + done.stderr
    return where / "libmmedge_emulated.so"


class Emulated(Enqueuer):
    def __init__(self, path: Path) -> None:
        super().__init__(ctypes.CDLL(str(path)))
        self.c.emulator_set_order.argtypes = (ctypes.c_uint64, ctypes.c_int)
        self.c.emulator_plan.argtypes = (ctypes.POINTER(SegAttn), ctypes.POINTER(PlanFigures))
        self.set_order()
        self.set_device()

    def set_order(self, seed: int = 1, copies: int = LATE) -> None:
        """Order of blocks, warps and lanes, and when copies happen."""
        self.c.emulator_set_order(seed, copies)

    def set_device(
        self, sms: int = 132, shared_sm: int = 233472, shared_block: int = 232448
    ) -> None:
        """What is emulated; an H100 unless said otherwise."""
        self.c.emulator_set_device(sms, shared_sm, shared_block)

    def counts(self) -> tuple[int, int]:
        """Blocks that ran and bytes of keys and values that were read, since the last call."""
        blocks, copied = ctypes.c_uint64(), ctypes.c_uint64()
        self.c.emulator_take_counts(ctypes.byref(blocks), ctypes.byref(copied))
        return blocks.value, copied.value

    def plan(self, desc: SegAttn) -> PlanFigures:
        figures = PlanFigures()
        self.c.emulator_plan(desc, figures)
        return figures

    def run(self, call: Call, workspace: np.ndarray | None = None) -> Call:
        """Compute a call, in a workspace of its own if none is given, and check its counters."""
        size = self.workspace_bytes(call.desc)
        if size and workspace is None:
            workspace = new_workspace(size)
        self.enqueue(call, workspace.ctypes.data if size else None)
        if size:
            assert not workspace[: 4096 * 4].any(), "counters are not back at zero"
        return call

    def compute(self, inputs: Inputs, dtype: str = "float16", **options) -> Call:
        return self.run(prepare(inputs, HostMemory(), dtype, **options))


def new_workspace(size: int) -> np.ndarray:
    """Aligned as device memory is; counters 0, all else NaN, so that nothing is read before it is
    written."""
    raw = np.full(size + 128, 0xFF, np.uint8)
    start = -raw.ctypes.data % 128
    raw[start : start + 4096 * 4] = 0
    return raw[start : start + size]


@cache
def emulated() -> Emulated:
    return Emulated(build())
