"""Makes the table by which attention is dispatched from what was measured.

Reads ``results/attention*.json`` and writes ``mmedge/native/dispatch.json``; ``--check`` fails
where that is stale. A problem that was measured more than once counts by the measurement with the
most rounds; of the problems of one shape (threads, hidden keys; on a GPU, whether a graph was
captured or calls came from Python) the least favourable counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
TABLE = HERE.parent / "mmedge" / "native" / "dispatch.json"


def measurements() -> Iterator[tuple[tuple[Any, ...], int, dict[str, Any]]]:
    """Each problem, the rounds that it was measured for, and its row of the table."""
    for path in sorted((HERE / "results").glob("attention*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if "grid" in data:
            yield from measurements_of_gpu(data)
            continue
        for row in data["rows"]:
            for framework, found in row["over_standard"].items():
                made = {
                    "framework": framework,
                    "device": f"cpu-{data['versions']['instruction set']}",
                    "dtype": "float32",
                    "dim": row["dim"],
                    "rows": row["rows"],
                    "keys": row["keys"],
                }
                problem = (*made.values(), row["kind"], row["threads"])
                yield problem, data["rounds"], {**made, "speedup": round(found["median"], 3)}


def measurements_of_gpu(
    data: dict[str, Any],
) -> Iterator[tuple[tuple[Any, ...], int, dict[str, Any]]]:
    """The same of ``attention_gpu.py``'s results."""
    for row in data["grid"]:
        made = {
            "framework": "torch",
            "device": data["architecture"],
            **{name: row[name] for name in ("dtype", "dim", "rows", "keys")},
        }
        for how in ("captured", "called"):
            found = {**made, "speedup": round(row[how]["over_standard"], 3)}
            yield (*made.values(), row["kind"], how), data["replays"], found


def table() -> str:
    """The table as JSON text."""
    best: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
    for problem, rounds, row in measurements():
        if problem not in best or rounds > best[problem][0]:
            best[problem] = rounds, row
    worst: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _, row in best.values():
        shape = tuple(value for name, value in row.items() if name != "speedup")
        if shape not in worst or row["speedup"] < worst[shape]["speedup"]:
            worst[shape] = row
    body = ",\n".join(f"  {json.dumps(worst[shape])}" for shape in sorted(worst))
    return f'{{"made_by": "benchmarks/dispatch.py", "rows": [\n{body}\n]}}\n'


def main() -> None:
    """Write the table, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    made = table()
    if parser.parse_args().check:
        if not TABLE.is_file() or TABLE.read_text(encoding="utf-8") != made:
            sys.exit(f"{TABLE.name} is stale: run python benchmarks/dispatch.py")
        return
    TABLE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
