"""Fills the marked blocks of the docs from results and docstrings, and makes the report's schema.

``python docs/generate.py`` rewrites them; ``--check`` changes nothing and fails when one is stale.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark_tables import (
    agreement,
    attention,
    attention_gpu,
    bundle_accuracy,
    hostile,
    import_time,
    overhead,
    peers,
    peers_short,
    plans,
    quantization,
    soak,
    streaming,
    zoo,
)
from c_reference import c_reference, real_time_calls
from draw_tables import (
    draw_accuracy,
    draw_quantization,
    draw_speed,
    draw_spread,
    draw_training,
)
from drift_tables import drift_changes, drift_cost, drift_day, drift_tails
from families_table import export_time, families, families_short, real_checkpoints, real_files
from flight_table import flight_recorder
from front_end_tables import front_ends, front_ends_bundle, front_ends_kinds
from hear_tables import (
    hear_accuracy,
    hear_quantization,
    hear_speed,
    hear_training,
    hear_whisper,
)
from isolation_table import isolation, isolation_weights
from json_schema import report_schema
from label_tables import label_accuracy, label_quantization, label_speed, label_training
from loadgen_table import loadgen
from logs_tables import logs_fleet, logs_hour, logs_ray
from loop_table import loops
from native_tables import native_allocations, native_runtime
from ros2_table import ros2
from signature_table import signatures
from speak_tables import (
    speak_accuracy,
    speak_quantization,
    speak_speed,
    speak_training,
    speak_whisper,
)
from swap_table import swap
from triton_table import triton_latency

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent

#: Folders whose source files stand in the code map, in this order.
SOURCES = (
    "mmedge", "export/mmedge_export", "zoo", "integrations", "cpp_ext", "conformance", "examples",
    "benchmarks", "docs",
)  # fmt: skip

#: What lines of a first comment begin with, by a file's suffix; Python files have docstrings.
COMMENTS = {
    ".h": "//", ".cuh": "//", ".cpp": "//", ".cu": "//", ".cmake": "#", ".txt": "#",
}  # fmt: skip


def code_map() -> str:
    """One line a source file: the first sentence of its docstring or first comment."""
    lines = []
    for folder in SOURCES:
        files = [ROOT / name for name in tracked(folder) if Path(name).suffix in (".py", *COMMENTS)]
        lines += [f"`{folder}/`", ""] if files else []
        for path in files:
            text = path.read_text(encoding="utf-8")
            mark = COMMENTS.get(path.suffix)
            words = ast.get_docstring(ast.parse(text)) if mark is None else comment(text, mark)
            if not words:
                raise SystemExit(
                    f"{path.relative_to(ROOT)} has no docstring or first comment for the code map"
                )
            first = re.split(r"(?<=[.?!:])\s", " ".join(words.split("\n\n")[0].split()))[0]
            first = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", first).replace("``", "`")
            lines.append(f"- `{path.relative_to(ROOT / folder)}` {first.rstrip(':')}")
        lines += [""] if files else []
    return "\n".join(lines).strip()


def comment(text: str, mark: str) -> str:
    """The first comment of a file, of lines that begin with ``mark``, or in ``/* */``."""
    if text.startswith("/*"):
        lines = text[2 : text.index("*/")].splitlines()
        return "\n".join(line.strip().removeprefix("*").strip() for line in lines)
    lines = [line.strip() for line in text.splitlines()]
    first = itertools.takewhile(lambda line: line.startswith(mark), lines)
    return "\n".join(line.removeprefix(mark).strip() for line in first)


def tracked(folder: str) -> list[str]:
    """Files of a folder that git tracks or would take, sorted."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder]
    # Fixed program and arguments.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return sorted(name for name in done.stdout.splitlines() if (ROOT / name).exists())


#: (page, block's name) -> what stands between its markers.
BLOCKS: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/explanation/benchmarks.md", "loadgen"): loadgen,
    ("docs/howto/serve.md", "triton"): triton_latency,
    ("docs/howto/stream.md", "isolation"): isolation,
    ("docs/howto/stream.md", "isolation weights"): isolation_weights,
    ("docs/howto/logs.md", "logs hour"): logs_hour,
    ("docs/howto/logs.md", "logs ray"): logs_ray,
    ("docs/howto/logs.md", "logs fleet"): logs_fleet,
    ("docs/explanation/benchmarks.md", "overhead"): overhead,
    ("docs/howto/flight-recorder.md", "flight recorder"): flight_recorder,
    ("docs/howto/update.md", "swap"): swap,
    ("docs/explanation/benchmarks.md", "import time"): import_time,
    ("docs/explanation/benchmarks.md", "signatures"): signatures,
    ("docs/explanation/benchmarks.md", "plans"): plans,
    ("docs/howto/cpp.md", "native runtime"): native_runtime,
    ("docs/howto/cpp.md", "native allocations"): native_allocations,
    ("docs/explanation/benchmarks.md", "loops"): loops,
    ("docs/explanation/benchmarks.md", "streaming"): streaming,
    ("docs/howto/huggingface.md", "families short"): families_short,
    ("docs/reference/huggingface.md", "families"): families,
    ("docs/reference/huggingface.md", "real checkpoints"): real_checkpoints,
    ("docs/reference/huggingface.md", "export time"): export_time,
    ("docs/howto/onnx.md", "real files"): real_files,
    ("docs/explanation/attention.md", "attention"): attention,
    ("docs/explanation/attention.md", "attention gpu"): attention_gpu,
    ("docs/explanation/quantization.md", "quantization"): quantization,
    ("docs/explanation/drift.md", "drift day"): drift_day,
    ("docs/explanation/drift.md", "drift changes"): drift_changes,
    ("docs/explanation/drift.md", "drift cost"): drift_cost,
    ("docs/explanation/drift.md", "drift tails"): drift_tails,
    ("docs/explanation/quantization.md", "hostile"): hostile,
    ("docs/explanation/benchmarks.md", "agreement"): agreement,
    ("docs/explanation/benchmarks.md", "peers"): peers,
    ("docs/explanation/benchmarks.md", "peers short"): peers_short,
    ("docs/code-map.md", "code map"): code_map,
    ("docs/reference/c.md", "real-time calls"): real_time_calls,
    ("docs/reference/c.md", "headers"): c_reference,
    ("docs/explanation/benchmarks.md", "ros2"): ros2,
    ("docs/explanation/benchmarks.md", "soak"): soak,
    ("docs/reference/zoo.md", "bundle accuracy"): bundle_accuracy,
    ("docs/reference/zoo.md", "zoo accuracy"): zoo,
    ("docs/reference/zoo.md", "front ends"): front_ends,
    ("docs/reference/zoo.md", "front ends kinds"): front_ends_kinds,
    ("docs/reference/zoo.md", "front ends bundle"): front_ends_bundle,
    ("docs/reference/zoo.md", "label accuracy"): label_accuracy,
    ("docs/reference/zoo.md", "label speed"): label_speed,
    ("docs/reference/zoo.md", "label quantization"): label_quantization,
    ("docs/reference/zoo.md", "label training"): label_training,
    ("docs/reference/zoo.md", "hear accuracy"): hear_accuracy,
    ("docs/reference/zoo.md", "hear speed"): hear_speed,
    ("docs/reference/zoo.md", "hear quantization"): hear_quantization,
    ("docs/reference/zoo.md", "hear training"): hear_training,
    ("docs/reference/zoo.md", "hear whisper"): hear_whisper,
    ("docs/reference/zoo.md", "speak accuracy"): speak_accuracy,
    ("docs/reference/zoo.md", "speak whisper"): speak_whisper,
    ("docs/reference/zoo.md", "speak quantization"): speak_quantization,
    ("docs/reference/zoo.md", "speak speed"): speak_speed,
    ("docs/reference/zoo.md", "speak training"): speak_training,
    ("docs/reference/zoo.md", "draw accuracy"): draw_accuracy,
    ("docs/reference/zoo.md", "draw spread"): draw_spread,
    ("docs/reference/zoo.md", "draw speed"): draw_speed,
    ("docs/reference/zoo.md", "draw quantization"): draw_quantization,
    ("docs/reference/zoo.md", "draw training"): draw_training,
}

#: Generated files -> what they hold.
FILES: dict[str, Callable[[], str]] = {
    "mmedge/bench/report/report.schema.json": report_schema,
}


def fill(page: str, name: str, body: str) -> str:
    """``page`` with the block ``name`` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"no block {begin} ... {end}")
    return f"{before}{begin}\n{body}\n{end}{after}"


def main() -> None:
    """Rewrite the blocks and files, or with ``--check`` only compare them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for (page, name), make in BLOCKS.items():
        path = ROOT / page
        old = path.read_text(encoding="utf-8")
        new = fill(old, name, make())
        if new != old:
            stale.append(f"{page}: {name}")
            if not check:
                path.write_text(new, encoding="utf-8")
    for name, make in FILES.items():
        path, new = ROOT / name, make()
        if path.read_text(encoding="utf-8") != new:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"stale: {'; '.join(stale)}. Run python docs/generate.py")


if __name__ == "__main__":
    main()
