"""The table of what a signature adds to opening a bundle, for ``docs/generate.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["signatures"]

RESULT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "signatures.json"


def signatures() -> str:
    """What a signature adds."""
    data = json.loads(RESULT.read_text("utf-8"))
    device = data["device"]
    lines = [
        (
            f"{device['cores']} cores of {device['cpu']}, {data['date']}, load of the machine "
            f"{device['load_average'][0]:.1f} (`benchmarks/signatures.py`). Medians, quartiles in "
            "parentheses:"
        ),
        "",
        "| a small bundle | opened once more | first load of a process, processor time |",
        "|---|---|---|",
        *_rows(data),
        "",
        "| in libmmedge | opened once more | first opening of a process, processor time |",
        "|---|---|---|",
        *_rows(data["native"]),
    ]
    return "\n".join(lines)


def _rows(data: dict[str, Any]) -> list[str]:
    rows = []
    for name in data["again_us"]:
        again, cpu = data["again_us"][name], data["first"][name]["cpu_ms"]
        rows.append(
            f"| {name} | {again['median']:.0f} us "
            f"({again['quartiles'][0]:.0f} to {again['quartiles'][1]:.0f}) "
            f"| {cpu['median']:.1f} ms ({cpu['quartiles'][0]:.1f} to {cpu['quartiles'][1]:.1f}) |"
        )
    return rows
