"""Makes the table by which attention is dispatched from what was measured.

Reads ``results/attention*.json`` and writes ``mmedge/native/dispatch.json``; ``--check`` fails where
that is stale. Of several measurements of one shape (threads, hidden keys) the least favourable
counts, at its lower quartile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TABLE = HERE.parent / "mmedge" / "native" / "dispatch.json"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of one results file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return [
        {
            "device": f"cpu-{data['versions']['instruction set']}",
            "dtype": "float32",
            "dim": row["dim"],
            "rows": row["rows"],
            "keys": row["keys"],
            "speedup": row["kernel_over_body"]["low"],
        }
        for row in data["rows"]
    ]


def table() -> str:
    """The table as JSON text."""
    worst: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted((HERE / "results").glob("attention*.json")):
        for row in rows_of(path):
            key = tuple(value for name, value in row.items() if name != "speedup")
            if key not in worst or row["speedup"] < worst[key]["speedup"]:
                worst[key] = row
    ordered = [worst[key] for key in sorted(worst)]
    for row in ordered:
        row["speedup"] = round(row["speedup"], 3)
    body = ",\n".join(f"  {json.dumps(row)}" for row in ordered)
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
