"""What a signature adds to opening a bundle: unsigned, signed, and verified by a trusted key.

The bundle is a small one of the conformance cases, so that hashing its files hides nothing: what a
signature adds does not grow with the bundle. *Again* is one more ``Bundle.open`` in a process that
has opened one, in turns. *First* is ``mmedge.load`` in a fresh process, after ``from mmedge import
load``; with a key it imports the ``cryptography`` package. ``native`` is libmmedge, with each
library that verifies; its *first* is an opening, and loads no network. Run: ``python
benchmarks/signatures.py`` (a minute).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from mmedge import Bundle, generate_key, sign_bundle
from mmedge.bench.machine import host
from mmedge.native.runtime import NativeBundle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
#: The same of libmmedge: the path, a library that verifies, and a key.
NATIVE_PROGRAM = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from mmedge.native.runtime import NativeBundle, library\n"
    "library()\n"
    "keys = [Path(path).read_bytes() for path in sys.argv[3:]]\n"
    "wall, cpu = time.perf_counter(), time.process_time()\n"
    "NativeBundle(sys.argv[1], trusted_keys=keys, signature_library=sys.argv[2] or None)\n"
    "print(1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu))\n"
)
#: Libraries that verify for libmmedge, as the system has them.
LIBRARIES = {"libsodium": "libsodium.so.23", "OpenSSL": "libcrypto.so.3"}


def spread(values: list[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, _, high = quantiles(values, n=4)
    return {"median": median(values), "quartiles": [low, high]}


def again(cases: Mapping[str, Callable[[], Bundle | NativeBundle]], rounds: int) -> dict[str, Any]:
    """Microseconds of one more opening, in turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 10):
        for name, open_bundle in cases.items():
            start = perf_counter_ns()
            bundle = open_bundle()
            if number >= 10:
                times[name].append((perf_counter_ns() - start) / 1000)
            bundle.close()
    return {name: spread(values) for name, values in times.items()}


def first(commands: Mapping[str, list[str]], rounds: int) -> dict[str, Any]:
    """Milliseconds of what a fresh process does first: processor time, and wall time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, words in commands.items():
            command = [sys.executable, "-c", *words]
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


def native(
    cases: Mapping[str, tuple[Path, list[Path] | None]], rounds: int, processes: int
) -> dict[str, Any]:
    """Both of libmmedge, with each library that is there."""
    every: dict[str, tuple[Path, list[Path], str | None]] = {}
    for name, (path, keys) in cases.items():
        if keys is None:
            every[name] = (path, [], None)
            continue
        for library, file in LIBRARIES.items():
            try:
                ctypes.CDLL(file)
            except OSError:
                continue
            every[f"{name} by {library}"] = (path, keys, file)
    return {
        "again_us": again(
            {
                name: partial(
                    NativeBundle,
                    path,
                    trusted_keys=[key.read_bytes() for key in keys],
                    signature_library=library,
                )
                for name, (path, keys, library) in every.items()
            },
            rounds,
        ),
        "first": first(
            {
                name: [NATIVE_PROGRAM, str(path), library or "", *map(str, keys)]
                for name, (path, keys, library) in every.items()
            },
            processes,
        ),
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
            "again_us": again(
                {
                    name: partial(Bundle.open, path, trusted_keys=keys)
                    for name, (path, keys) in cases.items()
                },
                options.rounds,
            ),
            "first": first(
                {
                    name: [PROGRAM, str(path), *map(str, keys or ())]
                    for name, (path, keys) in cases.items()
                },
                options.processes,
            ),
            "native": native(cases, options.rounds, options.processes),
        }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    shown = ("again_us", "first", "native")
    print(json.dumps({name: result[name] for name in shown}, indent=2))


if __name__ == "__main__":
    main()
