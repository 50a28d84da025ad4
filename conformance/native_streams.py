"""Has the C++ runtime play schedules of streams, by a program that links it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from case_files import CASES
from run_python import BUNDLES, compare_schedule

__all__ = ["check_streams", "engine", "play_native"]

#: Memory that a stream in C++ sets aside where nothing states a bound: Python needs none.
LARGEST = {"captioner": {"frames": 5, "new": 1}}
WINDOW = {"chunks": 512, "chunk_rows": 64}


def engine() -> Path:
    """The library of ONNX Runtime that Python uses."""
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("the schedules need ONNX Runtime; install onnxruntime")
    (library,) = (Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*")
    return library


def play_native(program: Path, schedules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What came of schedules.

    Args:
        program: ``stream_probe``, which ``cmake -DMMEDGE_TESTS=ON`` builds.
        schedules: in the form of ``streams/schedules.jsonl``; what they expect is not looked at.
    """
    lines = []
    for schedule in schedules:
        options = dict(schedule["options"])
        options["align"] = {
            name: {**WINDOW, **tree} if tree["policy"] == "Window" else tree
            for name, tree in options["align"].items()
        }
        options.setdefault("largest", LARGEST.get(schedule["bundle"], {}))
        lines.append(json.dumps({**schedule, "options": options}))
    done = subprocess.run(  # noqa: S603
        [program, BUNDLES, engine()],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{program} ended with {done.returncode}: {done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_streams(
    program: Path, schedules: Path = CASES / "streams" / "schedules.jsonl"
) -> list[str]:
    """Every schedule, with every result, age, drop, reason and counter."""
    rows = [json.loads(line) for line in schedules.read_text(encoding="ascii").splitlines()]
    faults = []
    for schedule, got in zip(rows, play_native(program, rows), strict=True):
        if "refused" in got:
            faults.append(f"schedule {schedule['name']} is refused: {got['refused']}")
        else:
            faults += compare_schedule(schedule, got)
    return faults
