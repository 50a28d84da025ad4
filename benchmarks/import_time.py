"""What importing mmedge costs beside what it stands on, each in fresh processes, interleaved.

``import mmedge`` defers its parts; ``from mmedge import load`` is what an application pays at the
latest. Both are compared with ``import onnxruntime, numpy, safetensors.numpy`` by processor time of
the import statement (wall time is recorded too). Run: ``python benchmarks/import_time.py``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

from mmedge.bench.machine import host

RESULTS = Path(__file__).parent / "results" / "import_time.json"
BASE = "import onnxruntime, numpy, safetensors.numpy"
STATEMENTS = (BASE, "import mmedge", "from mmedge import load")
PROGRAM = (
    "import time\nwall, cpu = time.perf_counter(), time.process_time()\n{}\n"
    "print(time.perf_counter() - wall, time.process_time() - cpu)"
)


def once(statement: str) -> tuple[float, float]:
    """(wall, processor) milliseconds of one import in a fresh process."""
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return 1000 * float(out[0]), 1000 * float(out[1])


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    for statement in STATEMENTS:
        once(statement)  # bytecode is compiled and files are cached
    times: dict[str, list[tuple[float, float]]] = {statement: [] for statement in STATEMENTS}
    for _ in range(options.rounds):
        for statement in STATEMENTS:
            times[statement].append(once(statement))
    base = median(cpu for _, cpu in times[BASE])
    rows = []
    for statement, found in times.items():
        cpu = [value for _, value in found]
        rows.append(
            {
                "statement": statement,
                "cpu_ms": median(cpu),
                "cpu_ms_quartiles": [quantiles(cpu)[0], quantiles(cpu)[2]],
                "wall_ms": median(wall for wall, _ in found),
                "ratio": median(cpu) / base,
            }
        )
    result = {
        "what": "time of an import statement in a fresh process",
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": options.rounds,
        "device": host.state(),
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
