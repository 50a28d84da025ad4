"""What a second load does to a pipeline, and what cores and priority of its own help.

``.venv/bin/python benchmarks/isolation.py`` writes ``benchmarks/results/isolation.json`` (about 3
minutes). The pipeline is the robot's network of ``examples/robot``, called at 30 Hz from a thread
that is placed as the pipeline is. The load is a process for each core that multiplies matrices.
Also measured: what a second session on the same weights takes in memory, with ONNX Runtime's packed
copies of them and without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np

import mmedge
from mmedge.device import cpu_model

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "results" / "isolation.json"
#: Calls a second, calls of a trial and trials of each case, and untimed calls before each trial.
HZ, CALLS, TRIALS, WARMUP = 30.0, 300, 3, 30
#: Layers of the network whose weights are loaded twice, and their width.
LAYERS, WIDTH, WEIGHT_CALLS = 8, 2048, 60
#: Rows of what goes through them; and whether ONNX Runtime packs the weights when it loads them.
ROWS, KINDS = (1, 64), ("packed", "unpacked")

LOAD = """
import os, sys
import numpy as np
os.sched_setaffinity(0, [int(core) for core in sys.argv[1].split(",")])
rows = np.random.default_rng(0).standard_normal((256, 256), np.float32)
while True:
    rows @ rows
"""
WEIGHTS = """
import json, re, sys
import onnxruntime as ort
def memory():
    text = open("/proc/self/smaps_rollup").read()
    return int(re.search(r"^Anonymous:\\s+(\\d+)", text, re.M)[1]) * 1024
sessions, private = [], [memory()]
for _ in range(2):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if sys.argv[2] == "unpacked":
        options.add_session_config_entry("session.disable_prepacking", "1")
    sessions.append(ort.InferenceSession(sys.argv[1], options))
    private.append(memory())
print(json.dumps([private[1] - private[0], private[2] - private[1]]))
"""


class Case(NamedTuple):
    """A pipeline and what runs beside it.

    Attributes:
        name: in the result.
        options: of :func:`mmedge.load`.
        load: cores of the load, one process for each of the machine's; empty: none.
    """

    name: str
    options: dict[str, Any]
    load: list[int]


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("cores cannot be set apart on a machine of one")
    mine, others = [cores[-1]], cores[:-1]
    cases = [
        Case("alone", {"threads": 1}, []),
        Case("load on all cores", {"threads": 1}, cores),
        Case("load on all cores, pipeline on one core", {"cores": mine}, cores),
        Case("load on the other cores", {"cores": mine}, others),
        Case("load on all cores, niceness -10", {"threads": 1, "priority": -10}, cores),
        Case("load on all cores, real time", {"threads": 1, "priority": "fifo:10"}, cores),
    ]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "robot.mmedge"
        export(bundle)
        latency: dict[str, list[list[float]]] = {case.name: [] for case in cases}
        refused: dict[str, str] = {}
        for _ in range(TRIALS):
            for case in cases:
                try:
                    latency[case.name].append(trial(bundle, case, options.calls))
                except mmedge.BackendError as error:
                    refused[case.name] = str(error)
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "device": {
                "cpu": cpu_model(),
                "cores": len(cores),
                "onnxruntime": metadata.version("onnxruntime"),
                "load_average": list(os.getloadavg()),
                "niceness": os.nice(0),
            },
            "calls": options.calls,
            "trials": TRIALS,
            "rate_hz": HZ,
            "latency_ms": {name: summary(trials) for name, trials in latency.items() if trials},
            "refused": refused,
            "weights": weights(Path(folder)),
        }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def export(bundle: Path) -> None:
    """Export the robot's network."""
    command: list[str | Path] = [
        sys.executable, "-m", "mmedge", "--quiet", "export", "robot.network:factory", "-o", bundle,
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT / "examples", check=True, stdout=subprocess.DEVNULL)


def trial(bundle: Path, case: Case, calls: int) -> list[float]:
    """Latencies of calls in ms, at a steady rate, from a thread that is placed as the pipeline is.

    Raises:
        BackendError: this machine does not allow what the case asks for.
    """
    with mmedge.load(bundle, plan="whole", **case.options) as pipe:
        samples = [sample.inputs for sample in pipe.bundle.samples()]
        words = ",".join(map(str, case.load))
        command = [sys.executable, "-c", LOAD, words]
        # As many as the machine has cores: each competitor has one's worth of work.
        loads = [
            subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
            for _ in case.load and range(os.cpu_count() or 1)
        ]
        times: list[float] = []

        def run() -> None:
            if pipe.placement is not None:
                pipe.place_thread()
            due = perf_counter()
            for call in range(WARMUP + calls):
                due += 1 / HZ
                sleep(max(0.0, due - perf_counter()))
                # From the time at which it was due: waking up late is part of it.
                pipe.run(samples[call % len(samples)], cached=False)
                if call >= WARMUP:
                    times.append((perf_counter() - due) * 1e3)

        try:
            sleep(1.0 if loads else 0.0)  # numpy's import
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        finally:
            for load in loads:
                load.kill()
                load.wait()
    return times


def summary(trials: list[list[float]]) -> dict[str, Any]:
    """Quantiles of each trial: medians and ranges over the trials."""
    figures: dict[str, Any] = {}
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        values = [float(np.quantile(times, share)) for times in trials]
        figures[name] = {"median": statistics.median(values), "range": [min(values), max(values)]}
    return figures


def weights(folder: Path) -> dict[str, Any]:
    """Memory of two sessions on one file of weights, packed or not, and their latencies in turn."""
    import onnxruntime as ort

    result: dict[str, Any] = {"private_bytes": {}, "latency_ms": {}}
    for rows in ROWS:
        path = write_layers(folder, rows)
        sessions = {}
        for kind in KINDS:
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = 1
            if kind == "unpacked":
                settings.add_session_config_entry("session.disable_prepacking", "1")
            sessions[kind] = ort.InferenceSession(path, settings)
        feeds = {"x": np.ones((rows, WIDTH), np.float32)}
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(WEIGHT_CALLS):
            for kind, session in sessions.items():
                started = perf_counter()
                session.run(None, feeds)
                times[kind].append((perf_counter() - started) * 1e3)
        result["latency_ms"][str(rows)] = {k: statistics.median(ms) for k, ms in times.items()}
        result["file_bytes"] = (folder / "weights.data").stat().st_size
        for kind in KINDS:
            command: list[str | Path] = [sys.executable, "-c", WEIGHTS, path, kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result["private_bytes"][kind] = json.loads(done.stdout)
    return result


def write_layers(folder: Path, rows: int) -> Path:
    """A chain of linear layers, as torch's become, with its weights in a file beside it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = folder / "weights.onnx"
    (folder / "weights.data").unlink(missing_ok=True)  # onnx would append to it
    random = np.random.default_rng(0)
    nodes, tensors = [], []
    for layer in range(LAYERS):
        matrix = random.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
        tensors.append(numpy_helper.from_array(matrix, f"w{layer}"))
        source = "x" if layer == 0 else f"h{layer - 1}"
        nodes.append(helper.make_node("Gemm", [source, f"w{layer}"], [f"h{layer}"], transB=1))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, WIDTH])
        for name in ("x", f"h{LAYERS - 1}")
    ]
    graph = helper.make_graph(nodes, "layers", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="weights.data")
    return path


if __name__ == "__main__":
    main()
