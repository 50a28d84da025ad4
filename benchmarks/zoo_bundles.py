"""What benchmarks of reference networks' bundles share: quantization behind the gate, and bench."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import mmedge
from mmedge.errors import AccuracyError
from mmedge_export.quantize import QuantizeOptions, Task, quantize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmedge_export.model import Model


def quantize_bundle(model: Model, bundle: Path, max_drop: float) -> dict[str, Any]:
    """Add an int8 variant that loses at most ``max_drop``, for speed, or else for size."""
    task = Task.of(model)
    for goal in ("speed", "size"):
        try:
            opened, report = quantize(
                bundle, task, QuantizeOptions(max_drop=max_drop, goal=goal), progress=tell
            )
        except AccuracyError as error:
            return {"refused": str(error)}
        opened.close()
        if report.variant:
            break
    return {
        "goal": goal,
        "variant": report.variant,
        "max_drop": max_drop,
        "samples": report.samples,
        "others_share": report.others_share,
        "metric_fp32": report.metric,
        "metric_int8": report.verdict.metric if report.verdict else None,
        "bytes": [report.bytes_before, report.bytes_after],
        "summary": dict(report.summary()),
    }


def precisions(bundle: Path) -> list[str]:
    """Those that the bundle has variants of."""
    with mmedge.Bundle.open(bundle) as opened:
        return list(dict.fromkeys(variant.precision for variant in opened.manifest.variants))


def bench(bundle: Path, precision: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What ``mmedge bench`` says of a variant with one thread."""
    report = bundle.with_name(f"report-{precision}.json")
    command = [sys.executable, "-m", "mmedge", "bench", str(bundle), "--precision", precision]
    command += ["--threads", "1", "--no-profile", "--output", str(report), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    measured: dict[str, Any] = json.loads(report.read_text())
    return measured


def tell(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
