"""Run small cases on the emulated library that is named, built with AddressSanitizer; then one
access out of bounds, in a process of its own, which must be found."""

import os
import sys
from pathlib import Path

from emulated_cuda import Emulated
from segattn_call import HostMemory, prepare
from segattn_checks import TAKEN

from mmedge.testing import AttentionCase, make_inputs


def main() -> None:
    emu = Emulated(Path(sys.argv[1]))
    for case in TAKEN:
        if case.keys * case.rows * case.heads * case.batch > 20000:
            continue
        inputs = make_inputs(case)
        emu.compute(inputs, "float16", bias_dtype="same")
        emu.compute(inputs, "bfloat16", num_splits=2, int8=(0,) if case.dim % 16 == 0 else ())
    sys.stdout.flush()
    if os.fork() == 0:
        os.dup2(1, 2)
        call = prepare(make_inputs(AttentionCase("", (64,), heads=1)), HostMemory())
        call.desc.segment[0].length = 65
        emu.run(call)
        print("it was not found")  # noqa: T201
        os._exit(0)
    os.wait()


main()
