"""What a signature adds to opening a bundle: unsigned, signed, and verified by a trusted key.

The bundle is a small one of the conformance cases, so that hashing its files hides nothing: what a
signature adds does not grow with the bundle. *Again* is one more ``Bundle.open`` in a process that
has opened one, in turns. *First* is ``mmedge.load`` in a fresh process, after ``from mmedge import
load``; with a key it imports the ``cryptography`` package. Run: ``python benchmarks/signatures.py``
(half a minute).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter_ns
from typing import Any

from mmedge import Bundle, generate_key, sign_bundle
from mmedge.bench.machine import host

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "signatures.json"
SOURCE = ROOT / "conformance" / "cases" / "bundles" / "both.mmedge"
PROGRAM = (
    "import sys, time\n"
    "from mmedge import load\n"
    "keys = sys.argv[2:] or None\n"
    "wall, cpu = time.perf_counter(), time.process_time()\n"
    "load(sys.argv[1], trusted_keys=keys)\n"
    "print(1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu))\n"
)


def spread(values: list[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, _, high = quantiles(values, n=4)
    return {"median": median(values), "quartiles": [low, high]}


def again(cases: dict[str, tuple[Path, list[Path] | None]], rounds: int) -> dict[str, Any]:
    """Microseconds of one more opening, in turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 10):
        for name, (path, keys) in cases.items():
            start = perf_counter_ns()
            bundle = Bundle.open(path, trusted_keys=keys)
            if number >= 10:
                times[name].append((perf_counter_ns() - start) / 1000)
            bundle.close()
    return {name: spread(values) for name, values in times.items()}


def first(cases: dict[str, tuple[Path, list[Path] | None]], rounds: int) -> dict[str, Any]:
    """Milliseconds of the first load of a process: processor time, and wall time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, (path, keys) in cases.items():
            command = [sys.executable, "-c", PROGRAM, str(path), *map(str, keys or ())]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            wall, cpu = map(float, out.split())
            if number:  # the first compiles bytecode
                times[name].append((wall, cpu))
    return {
        name: {
            "wall_ms": spread([wall for wall, _ in values]),
            "cpu_ms": spread([cpu for _, cpu in values]),
        }
        for name, values in times.items()
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="openings in one process")
    parser.add_argument("--processes", type=int, default=20, help="fresh processes of each case")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unsigned, signed = Path(folder) / "unsigned.mmedge", Path(folder) / "signed.mmedge"
        for path in (unsigned, signed):
            shutil.copy(SOURCE, path)
        key = generate_key(Path(folder) / "key")
        sign_bundle(signed, key.private, version=1, expires=4_102_444_800)
        cases: dict[str, tuple[Path, list[Path] | None]] = {
            "unsigned": (unsigned, None),
            "signed, no key given": (signed, None),
            "verified": (signed, [key.public]),
        }
        result = {
            "what": "opening a small bundle, unsigned, signed, and verified by a trusted key",
            "date": datetime.now(UTC).date().isoformat(),
            "rounds": options.rounds,
            "processes": options.processes,
            "device": host.state(),
            "again_us": again(cases, options.rounds),
            "first": first(cases, options.processes),
        }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("again_us", "first")}, indent=2))


if __name__ == "__main__":
    main()
