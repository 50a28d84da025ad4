"""Give the parsers of libmmedge changed inputs, under sanitizers, and say what came of it, as JSON.

    python tests/fuzz/native.py [TARGET ...] --runs 1000000 [--seed 0] [--output FILE]

Probes of ``tests/native/runtime`` do the work, each in a process that ends at the first fault: a
crash, what a sanitizer reports, an input that takes more than a second of the processor or 64 MB
(``fuzz_loop.h``). ``tests/fuzz/run.py`` does this for Python's parsers.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.targets import CORPUS
from native_builds import build_probe

__all__ = ["TARGETS", "fuzz"]

#: Parsers: the probe, and what it takes beside its inputs; SCRATCH is a file to write to.
SCRATCH = "SCRATCH"
TARGETS: dict[str, tuple[str, tuple[str | Path, ...]]] = {
    "manifest": ("schema_probe", ()),
    "json": ("schema_probe", ()),
    "tokenizer": ("schema_probe", ()),
    "graph": ("graphs_probe", ()),
    "samples": ("tensors_probe", (CORPUS / "manifest/tiny.json",)),
    "zip": ("archive_probe", (SCRATCH,)),
    "signature": ("signature_probe", ()),
    "public-key": ("signature_probe", ()),
    "recording-folder": ("recording_probe", (SCRATCH,)),
    "recording-mcap": ("recording_probe", (SCRATCH,)),
}
#: What a sanitizer keeps of freed memory would pass for the parser's.
_QUARANTINE = "quarantine_size_mb=1"


def fuzz(
    program: Path, kind: str, seeds: Iterable[bytes], *more: str | Path, count: int, seed: int = 1
) -> dict[str, Any]:
    """What a probe counts over ``count`` changes of the seeds; a fault is an error.

    Returns:
        ``inputs``, ``taken``, ``slowest_s`` (processor time) and ``peak_mb`` above the seeds'.
    """
    done = subprocess.run(
        [program, "fuzz", kind, str(seed), str(count), *more],
        input=b"".join(struct.pack("<Q", len(data)) + data for data in seeds),
        capture_output=True,
        env=os.environ | {"ASAN_OPTIONS": _QUARANTINE},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
    counts: dict[str, Any] = json.loads(done.stdout)
    return counts


def seeds_of(target: str) -> list[bytes]:
    """Good inputs of a target, and those that were faults once."""
    folder = CORPUS / ("manifest" if target == "json" else target)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the counts here too")
    parser.add_argument(
        "--probes", type=Path, default=Path("build/probes"), help="folder that they are built in"
    )
    options = parser.parse_args()
    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no target {min(unknown)}; there are {', '.join(TARGETS)}")
    results = []
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for target in options.targets:
            probe, words = TARGETS[target]
            program = build_probe(options.probes, probe)
            more = [f"{folder}/{target}" if word == SCRATCH else word for word in words]
            begin = time.perf_counter()
            counts = fuzz(
                program, target, seeds_of(target), *more, count=options.runs, seed=options.seed
            )
            seconds = time.perf_counter() - begin
            results.append({"target": target, **counts, "seconds": round(seconds, 1)})
            print(json.dumps(results[-1]), flush=True)
    if options.output is not None:
        content = {
            "what": "changed inputs of libmmedge's parsers, under address and undefined-behavior "
            "sanitizers: no crash, none over 1 s of the processor or 64 MB",
            "date": datetime.now(UTC).date().isoformat(),
            "seed": options.seed,
            "inputs": sum(each["inputs"] for each in results),
            "targets": results,
        }
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
