"""Tables of libmmedge beside the Python runtime, for ``docs/generate.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["native_allocations", "native_runtime"]

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def load(name: str) -> dict[str, Any] | None:
    """A result; None: it was not measured yet."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return data


def unmeasured(name: str) -> str:
    """What stands in the place of a table until its figures are there."""
    return f"`python benchmarks/{name}.py` makes this table on a quiet machine; not measured yet."


def native_runtime() -> str:
    """What libmmedge takes beside the Python runtime."""
    data = load("native_runtime")
    if data is None:
        return unmeasured("native_runtime")
    device, rows = data["device"], []
    for what, found, name in (
        ("work around four stages of a call", data["call"], "around"),
        ("the whole call", data["call"], "call"),
        (f"greedy choice of {data['choice']['vocabulary']:,} words", data["choice"], "around"),
    ):
        times = found[name]
        low, high = times["ratio_95"]
        ours, theirs = (
            f"{times['median_us'][runtime]:.1f} us ({times['iqr_us'][runtime]:.1f})"
            for runtime in ("native", "python")
        )
        rows.append((what, ours, theirs, f"{times['ratio']:.3f} [{low:.3f}, {high:.3f}]"))
    for form, words in (("file", "a `.mmedge` file"), ("folder", "a folder")):
        for key, what, unit, scale in (
            ("first_result_ms", "start of a process to the first result", "ms", 1.0),
            ("peak_bytes", "most memory of that process", "MB", 1e-6),
        ):
            found = data["fresh_process"][form][key]
            low, high = found["range"]
            ours, theirs = (f"{scale * found[name]:.0f} {unit}" for name in ("native", "python"))
            ratio = f"{found['ratio']:.3f} [{low:.3f}, {high:.3f}]"
            rows.append((f"{what}, of {words}", ours, theirs, ratio))
    lines = [
        (
            f"One thread, {device['cores']} cores of {device['cpu']}, onnxruntime "
            f"{device['libraries']['onnxruntime']}, {data['date']}, load of the machine at the end "
            f"{device['load_average'][0]:.1f} (`benchmarks/native_runtime.py`). Medians, "
            "interquartile ranges in parentheses; 95 % intervals of calls and ranges of processes "
            "in brackets:"
        ),
        "",
        f"| {data['call']['network']} | libmmedge | Python runtime | ratio |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"The library has {data['library']['bytes'] / 1e6:.2f} MB, stripped.",
    ]
    return "\n".join(lines)


def native_allocations() -> str:
    """What calls and a stream allocated, freed and locked."""
    data = load("native_allocations")
    if data is None:
        return unmeasured("native_allocations")
    lines = [
        (
            f"{data['network']}, onnxruntime {data['device']['libraries']['onnxruntime']}, "
            f"{data['date']} (`benchmarks/native_allocations.py`):"
        ),
        "",
        "| | allocations | frees | locks | ONNX Runtime's allocations | its locks |",
        "|---|---|---|---|---|---|",
    ]
    for name, words in (
        ("calls", f"{data['calls']['count']:,} calls"),
        (
            "stream",
            f"{data['stream']['minutes']:g} minutes, {data['stream']['count']:,} results",
        ),
    ):
        found = data[name]
        numbers = (found["own"][key] for key in ("allocations", "frees", "locks"))
        theirs = (found["engine"][key] for key in ("allocations", "locks"))
        cells = (f"{number:,}" for number in (*numbers, *theirs))
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)
