"""What the gate does to twenty networks with one layer each that int8 breaks.

The networks are those of ``tests/hostile_networks.py``. Each is quantised for size, so that every
node is tried, with a limit of 2 points of accuracy: once with all that there is, and once by search
alone (``search``: no smoothing, and only the forms that the planted layers were made to break).
``found`` says that part of the planted layer stays float32 or, where products would saturate, has
weights of 7 bits; ``others`` is the share of all other weights that stays float32.

Run: ``python benchmarks/hostile.py``; needs torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import onnx_ir as ir

from mmedge.errors import AccuracyError
from mmedge_export import export
from mmedge_export.quantize import QuantizeOptions, Task, quantize, stage_work
from mmedge_export.targets import onnxruntime
from mmedge_export.targets.onnxruntime.schemes import find_sites

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

hostile_networks: Any = importlib.import_module("hostile_networks")

LIMIT = 0.02


def judge(
    hostile: Any,  # noqa: ANN401
    folder: Path,
    *,
    everything: bool,
) -> dict[str, Any]:
    """Quantise one network and say what became of its planted layer."""
    task = Task(list(hostile.model.samples or ()), hostile.calibration, hostile.model.metric)
    bundle = export(hostile.model, folder / "bundle", split=True)
    work = folder / "work"
    schemes = onnxruntime.SCHEMES["int8"]
    if not everything:
        schemes = tuple(scheme for scheme in schemes if scheme.name in ("static", "dynamic"))
    outlying = stage_work.OUTLYING if everything else float("inf")
    with (
        mock.patch.dict(onnxruntime.SCHEMES, {"int8": schemes}),
        mock.patch.object(stage_work, "OUTLYING", outlying),
    ):
        try:
            bundle, report = quantize(
                bundle, task, QuantizeOptions(goal="size", max_drop=LIMIT, threads=1), resume=work
            )
        except AccuracyError as error:
            bundle.close()
            return {"passed": False, "why": str(error)}
    sizes: dict[str, int] = {}
    planted: set[str] = set()
    for stage in bundle.manifest.stages:
        graph = work / f"{stage.name}.onnx"
        sizes |= {site.node: site.size for site in find_sites(ir.load(graph))}
        planted |= set(
            hostile_networks.planted_nodes(onnx.load(graph, load_external_data=False), hostile)
        )
    bundle.close()
    planted &= sizes.keys()
    kept = {node for stage in report.stages for node in stage.kept}
    narrow = {node for stage in report.stages for node in stage.reduce_range}
    others = sum(size for node, size in sizes.items() if node not in planted)
    drop = report.verdict.drop if report.verdict is not None else None
    return {
        "passed": drop is not None and drop.bound <= LIMIT,
        "drop": None if drop is None else drop.drop,
        "bound": None if drop is None else drop.bound,
        "planted": sorted(planted),
        "kept": sorted(kept),
        "narrow": sorted(narrow),
        "found": bool(planted & (narrow if hostile.kind == "saturation" else kept)),
        "others": sum(sizes[node] for node in kept - planted) / others,
        "attempts": report.attempts,
    }


def main() -> None:
    """Judge all of them and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "hostile.json")
    options = parser.parse_args()
    rows = []
    for name, make in hostile_networks.HOSTILE.items():
        row: dict[str, Any] = {"network": name}
        for mode in ("everything", "search"):
            hostile = make()
            row["kind"] = hostile.kind
            with tempfile.TemporaryDirectory() as folder:
                row[mode] = judge(hostile, Path(folder), everything=mode == "everything")
            print(name, mode, json.dumps(row[mode]), flush=True)
        rows.append(row)
    totals = {
        mode: {
            "passed": sum(row[mode]["passed"] for row in rows),
            "found, with at most 10 % of the others": sum(
                row[mode].get("found", False) and row[mode]["others"] <= 0.1 for row in rows
            ),
            "at most 10 % of the others": sum(row[mode].get("others", 1.0) <= 0.1 for row in rows),
        }
        for mode in ("everything", "search")
    }
    result = {
        "what": "twenty networks with a planted layer that int8 breaks, through the gate",
        "date": datetime.now(UTC).date().isoformat(),
        "limit": LIMIT,
        "totals": totals,
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(totals, indent=1))


if __name__ == "__main__":
    main()
