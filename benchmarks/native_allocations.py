"""What calls and a stream of the reference network allocate, free and lock, once warm.

A C++ program (``native_allocations.cpp``) is compiled from the installed SDK. Its functions take
the place of the C library's malloc, free and mutex, and tell by the caller's address whether
libmmedge called or something else, which is ONNX Runtime. 100,000 calls change their content, and
leave out what is optional in every fourth; the stream runs on the real clock, each sensor at its
rate. The numbers of libmmedge have to be 0: else it ends with 1.

Run: ``python benchmarks/native_allocations.py``, which takes as long as ``--minutes`` says, and
some minutes for the calls.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from native_runtime import compile_program, engine_library

import mmedge
from mmedge.bench.machine import host
from mmedge.native.structures import DTYPES
from mmedge_export import export

if TYPE_CHECKING:
    from mmedge.spec import Manifest

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "native_allocations.json"

#: Rate of a modality that states none.
RATE_HZ = 10.0
COUNTS = ("allocations", "frees", "locks")


def sensor_words(manifest: Manifest, inputs: dict[str, Any]) -> list[str]:
    """Inputs as the program takes them, of the sizes of ``inputs``, with their rates."""
    words = []
    for modality in manifest.modalities:
        for name in modality.inputs:
            array = inputs[name]
            sizes = "x".join(map(str, array.shape))
            rate = modality.rate_hz or RATE_HZ
            words.append(f"{name}:{DTYPES.index(str(array.dtype))}:{sizes}:{rate}")
    return words


def measure(folder: Path, bundle: Path, calls: int, minutes: float) -> dict[str, Any]:
    """Counts of the calls and of the stream."""
    program = compile_program(HERE / "native_allocations.cpp", folder)
    with mmedge.Bundle.open(bundle) as opened:
        manifest, inputs = opened.manifest, dict(opened.samples()[0].inputs)
    trigger = manifest.modalities[0].name
    numbers = [str(calls), str(60 * minutes), trigger, "100"]
    words = [*numbers, *sensor_words(manifest, inputs)]
    done = subprocess.run(
        [program, bundle, engine_library(), *words], stdout=subprocess.PIPE, text=True, check=True
    )
    rows = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    found: dict[str, Any] = {
        name: {
            "own": dict(zip(COUNTS, row[:3], strict=True)),
            "engine": {"allocations": row[3], "locks": row[4]},
        }
        for name, row in zip(("calls", "stream"), rows[:2], strict=True)
    }
    found["calls"]["count"] = rows[2][0]
    found["stream"] |= {"minutes": minutes, "samples": rows[2][1], "count": rows[2][2]}
    return {"network": manifest.name, **found}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the stream")
    parser.add_argument("--bundle", type=Path, help="the cut reference network, if it is exported")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = arguments.bundle or folder / "vqa.mmedge"
        if arguments.bundle is None:
            export("zoo:vqa-attention", bundle).close()
        found = measure(folder, bundle, arguments.calls, arguments.minutes)
    result = {
        "what": "memory and locks of libmmedge and ONNX Runtime in calls and a stream, once warm",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "device": host.state(),
        **found,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    sys.exit(any(any(found[name]["own"].values()) for name in ("calls", "stream")))


if __name__ == "__main__":
    main()
