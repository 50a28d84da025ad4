"""mmedge beside its peers on the same weights and inputs: latency of one call at batch 1.

mmedge exports and quantises each network of :mod:`peers_nets` as a user would; its peers
(:mod:`peers_frameworks`) take the same module. Every way first answers samples: float32 ones must
agree with torch, else they get no time but a reason; int8 ones are held to the limit of mmedge's
gate, and one beyond it is timed but is nobody's rival. Then all are timed in blocks, in turn, in
random order, each framework in a process of its own, or in several one after another
(``--processes``): one differs from the next by where its memory lies. Ratios are of each round's
blocks: median and quartiles, above 1 where the way is faster.

The floor is the time of the network's multiply-adds at the highest float32 rate that a framework
reaches on large square matrices, on as many threads. Int8 may go below it.

Run: what :mod:`peers_nets` asks for, then ``python benchmarks/peers.py``. OpenVINO with NNCF, and
``optimum-onnx[onnxruntime]`` with transformers, may lie in other environments
(``--openvino-python``, ``--optimum-python``); without the latter Optimum is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peers_frameworks import Peer
from peers_nets import BUDGET, MAX_ERROR, NETS, Net
from quantize_peers import inline
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmedge.backends.registry import probe
from mmedge.bench.machine import host
from mmedge.bench.tune import tune
from mmedge.bundle import Bundle
from mmedge.errors import MMEdgeError
from mmedge.spec import Tolerance
from mmedge.tolerance import difference
from mmedge_export import export
from mmedge_export.quantize import QuantizeOptions, quantize
from mmedge_export.targets.openvino.variant import add_openvino

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge.spec import Array

HERE = Path(__file__).parent
GOLDEN = 8
#: Largest difference of a float32 output as a share of the largest value.
FLOAT_ERROR = 1e-3
BLOCK_MS = 40.0
#: The way of each framework whose rate in a product of large matrices is measured.
RATED = {"torch": "torch eager", "onnxruntime": "ort fp32", "openvino": "openvino fp32"}
EAGER = "torch eager"
#: mmedge with as many threads as ``mmedge tune`` found; all other ways have the number given.
TUNED = ", threads as tuned"
#: Needs mmedge, so it is no rival.
OURS_IN_OPENVINO = "openvino, mmedge int8"


@dataclass(frozen=True, slots=True)
class Files:
    """What the frameworks are given of a network.

    ``precisions`` are of each variant of the bundle that runs on this CPU, ``picked`` is what
    ``mmedge.load`` takes, of float32 ones and of all; ``graph`` is the whole network's ONNX file,
    ``product`` that of a product of large matrices; ``chain`` are inlined graphs of mmedge's int8
    variant in order, empty without one; ``twin`` is what Optimum is given, JSON, None where
    transformers has no such network; ``gate`` is what mmedge's gate decided, by backend.
    """

    bundle: Path
    precisions: dict[str, str]
    picked: dict[str, str]
    graph: Path
    product: Path
    chain: list[str]
    twin: str | None
    gate: dict[str, Any]


def make(net: Net, folder: Path, threads: int) -> Files:
    """Export and quantise ``net``."""
    path = folder / "bundle"
    model = replace(net.model, samples=list(net.task.samples)[:GOLDEN])
    export(model, path).close()
    gate = {backend: quantised(path, net, backend, threads) for backend in ("ort", "openvino")}
    tune(Bundle.open(path), threads=threads)[0].close()
    chain = []
    with Bundle.open(path) as bundle:
        manifest, device = bundle.manifest, probe()
        best, decisions = bundle.select(device, target="cpu")
        runs = {decision.variant for decision in decisions if decision.accepted}
        fp32 = bundle.select(device, precision="fp32", target="cpu")[0]
        picked = {"fp32": fp32.id, "best": best.id}
        precisions = {v.id: v.precision for v in manifest.variants if v.id in runs}
        for variant in manifest.variants:
            if variant.id == "ort-int8-cpu":
                for stage in manifest.in_order():
                    chain.append(str(folder / f"int8-{stage.name}.onnx"))
                    inline(bundle.file(variant.files[stage.name]), Path(chain[-1]))
    graph, product, home = (
        folder / name for name in ("model.onnx", "product.onnx", "transformers")
    )
    traced(net, graph)
    traced(NETS["product"](), product)
    twin = None
    if net.twin is not None:
        net.twin.save(home)
        (output,) = net.model.outputs
        given = {"folder": str(home), "inputs": net.twin.inputs, "output": output}
        twin = json.dumps({**given, "task": net.twin.task})
    return Files(path, precisions, picked, graph, product, chain, twin, gate)


def quantised(path: Path, net: Net, backend: str, threads: int) -> dict[str, Any]:
    """Add the variants of a backend to the bundle at ``path``; what the gate decided."""
    try:
        if backend == "openvino":
            add_openvino(Bundle.open(path))[0].close()
        bundle, report = quantize(
            path,
            net.task,
            QuantizeOptions(
                max_drop=net.limit if net.task.metric else None,
                max_error=MAX_ERROR if net.task.metric else net.limit,
                budget=BUDGET,
                threads=threads,
                backend=backend,
            ),
            progress=print,
        )
    except MMEdgeError as error:
        return {"variant": None, "refused": str(error)}
    bundle.close()
    return {"variant": report.variant, "summary": dict(report.summary())}


def traced(net: Net, target: Path) -> None:
    """Write the whole network as ONNX, with the shapes of the example."""
    example = {name: torch.from_numpy(value) for name, value in net.example.items()}
    program = torch.onnx.export(
        net.model.module.eval(),  # type: ignore[union-attr]
        (),
        kwargs=example,
        input_names=list(example),
        output_names=list(net.model.outputs),
        dynamo=True,
        verbose=False,
    )
    graph = program.model.graph  # type: ignore[union-attr]
    for value in (value for node in graph for value in node.outputs):
        # An inner tensor may have the name that an output was given: no runtime loads that.
        if value.name in net.model.outputs and not value.is_graph_output():
            value.name = f"{value.name}_inner"
    program.save(str(target), external_data=False)  # type: ignore[union-attr]


def flops(net: Net) -> int:
    """Operations of the network's products and convolutions, two for each multiply-add."""
    example = {name: torch.from_numpy(value) for name, value in net.example.items()}
    counter = FlopCounterMode(display=False)
    # The fused attention of the CPU is not counted; the one of plain products is.
    with sdpa_kernel(SDPBackend.MATH), counter:
        net.model.module.eval()(**example)  # type: ignore[union-attr]
    return int(counter.get_total_flops())


def ways(name: str, net: Net, files: Files, threads: int) -> dict[str, dict[str, tuple[str, str]]]:
    """Source and precision of each way, by framework."""
    graph = str(files.graph)
    vino = {"openvino fp32": (graph, "fp32"), "nncf": (graph, "int8")}
    if net.transformer:
        vino["nncf transformer"] = (graph, "int8")
    if files.chain:
        vino[OURS_IN_OPENVINO] = (json.dumps(files.chain), "int8")
    ours = {
        f"mmedge {id_}": (str(files.bundle), precision)
        for id_, precision in files.precisions.items()
    }
    if threads == len(os.sched_getaffinity(0)):
        best = files.picked["best"]
        ours[f"mmedge {best}{TUNED}"] = (str(files.bundle), files.precisions[best])
    return {
        "torch": {EAGER: (name, "fp32"), "torch compile": (name, "fp32")},
        "onnxruntime": {"ort fp32": (graph, "fp32")},
        "optimum": {"optimum": (files.twin or "", "fp32")},
        "openvino": vino,
        "mmedge": ours,
    }


def error(got: Sequence[Mapping[str, Array]], right: Sequence[Mapping[str, Array]]) -> float:
    """Largest relative difference of an output on any sample."""
    exact, pairs = Tolerance(rtol=0.0, atol=0.0), zip(got, right, strict=True)
    return max(difference(a[name], b[name], exact).max_rel for a, b in pairs for name in b)


class Judge:
    """What torch answers, and whether another way keeps to it."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.inputs = [dict(given) for given, _ in net.task.samples]
        self.right: list[dict[str, Array]] = []
        self.known: dict[str, dict[str, Any]] = {}

    def __call__(self, way: str, precision: str, peer: Peer) -> dict[str, Any]:
        """Error, metric if there is one, and whether both are within the limit.

        Answers of lower precision are the same on any number of threads: they are judged once.
        """
        metric = self.net.task.metric
        self.right = self.right or peer.answer(way, self.inputs)  # torch eager comes first
        if precision == "fp32":
            found = error(peer.answer(way, self.inputs[:GOLDEN]), self.right[:GOLDEN])
            return {"error": found, "within_limit": found <= FLOAT_ERROR}
        if way not in self.known:
            answers = peer.answer(way, self.inputs)
            row: dict[str, Any] = {"error": error(answers, self.right)}
            row["within_limit"] = row["error"] <= self.net.limit
            if metric is not None:
                row["metric"] = float(metric(answers, self.net.task.targets))
                row["metric_of_torch"] = float(metric(self.right, self.net.task.targets))
                row["within_limit"] = row["metric_of_torch"] - row["metric"] <= self.net.limit
            self.known[way] = row
        return self.known[way]


def measure(
    name: str, net: Net, files: Files, judge: Judge, threads: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Every way with ``threads``: agreement, then speed."""
    rows: dict[str, dict[str, Any]] = {}
    rates: dict[str, float] = {}
    versions: dict[str, str] = {}
    peaks: dict[str, float] = {}
    blocks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.processes):
            with contextlib.ExitStack() as stack:
                processes: dict[str, Peer] = {}
                peers: dict[str, Peer] = {}
                for framework, kinds in ways(name, net, files, threads).items():
                    if framework == "optimum" and (not files.twin or not options.optimum_python):
                        why = "not asked for" if files.twin else "transformers has no such network"
                        rows["optimum"] = {"framework": framework, "failed": why}
                        continue
                    beside = Path(folder) / f"{framework}-{number}"
                    peer = stack.enter_context(_peer(framework, threads, beside, options))
                    processes[framework] = peer
                    if framework in RATED and framework not in rates:
                        rates[framework] = rate(peer, RATED[framework], files.product)
                    for way, (source, precision) in kinds.items():
                        row = rows.setdefault(way, {"framework": framework, "precision": precision})
                        if "failed" not in row:
                            print(f"  {threads} {way}: preparing", flush=True)
                            prepare(row, way, source, peer, judge, files.graph.parent)
                        if "failed" not in row:
                            peers[way] = peer
                for way, taken in timed(peers, options.rounds, seed=number).items():
                    blocks.setdefault(way, []).extend(taken)
                for framework, peer in processes.items():
                    peaks[framework] = max(peer.peak_mib() or 0.0, peaks.get(framework, 0.0))
                versions |= {k: v for peer in processes.values() for k, v in peer.version.items()}
    # One that a later process could not prepare has no pairs of blocks.
    blocks = {way: taken for way, taken in blocks.items() if "failed" not in rows[way]}
    for way, taken in blocks.items():
        rows[way] |= {"us": float(np.median(taken)), "times_eager": ratio(blocks[EAGER], taken)}
    for way, taken in blocks.items():
        for kind, precision in (("best_peer", rows[way]["precision"]), ("any_peer", "any")):
            best = rival(rows, precision)
            rows[way] |= {kind: best, f"times_{kind}": ratio(blocks[best], taken)}
    return {
        "threads": threads,
        "gemm_flops": rates,
        "floor_us": flops(net) / max(rates.values()) * 1e6,
        "picked": {what: f"mmedge {variant}" for what, variant in files.picked.items()},
        "process_peak_mib": peaks,
        "versions": versions,
        "ways": rows,
    }


def _peer(framework: str, threads: int, folder: Path, options: argparse.Namespace) -> Peer:
    """A process of a framework, in its own environment."""
    pythons = {"openvino": options.openvino_python, "optimum": options.optimum_python}
    return Peer(framework, threads, folder, pythons.get(framework) or sys.executable)


def prepare(
    row: dict[str, Any], way: str, source: str, peer: Peer, judge: Judge, home: Path
) -> None:
    """Make a way ready; ``row`` gets what came of it, and ``failed`` where it gets no time."""
    found = peer.prepare(way, source, judge.net.task.calibration)
    if (failed := found.pop("error", None)) is not None:
        # Where the files lay is of no use to who reads it.
        row["failed"] = failed.replace(f"{home}/", "")
        return
    row |= found
    row |= judge(way, row["precision"], peer)
    if row["precision"] == "fp32" and not row["within_limit"]:
        row["failed"] = f"outputs differ from torch eager's by {row['error']:.2g}"


def rate(peer: Peer, way: str, graph: Path) -> float:
    """Float32 operations a second of a large product, at its fastest."""
    net = NETS["product"]()
    peer.prepare(way, "product" if way == EAGER else str(graph), net.task.calibration)
    return flops(net) / min(peer.time(way, BLOCK_MS) for _ in range(4)) * 1e6


def timed(peers: Mapping[str, Peer], rounds: int, seed: int) -> dict[str, list[float]]:
    """Median microseconds of each way in each round."""
    blocks: dict[str, list[float]] = {way: [] for way in peers}
    rng = random.Random(seed)  # noqa: S311 - an order, no secret
    for _ in range(rounds):
        order = rng.sample(list(peers), len(peers))
        for way in order:
            blocks[way].append(peers[way].time(way, BLOCK_MS))
    return blocks


def ratio(others: Sequence[float], own: Sequence[float]) -> dict[str, float]:
    """How many times as fast as another way: median and quartiles over rounds."""
    low, middle, high = np.percentile(np.divide(others, own), (25, 50, 75))
    return {"median": float(middle), "low": float(low), "high": float(high)}


def rival(rows: Mapping[str, Mapping[str, Any]], precision: str) -> str:
    """The fastest way of others: in float32, or in any precision that keeps the limit."""
    peers = {
        way: row["us"]
        for way, row in rows.items()
        if "us" in row and row["within_limit"] and row["framework"] != "mmedge"
        if way != OURS_IN_OPENVINO and (precision != "fp32" or row["precision"] == "fp32")
    }
    return min(peers, key=lambda way: peers[way])


def summary(nets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Geometric means over networks and threads of what ``mmedge.load`` takes, with its losses."""
    found = []
    for picked, peer in (("fp32", "best_peer"), ("best", "any_peer")):
        for against in ("times_eager", f"times_{peer}"):
            cases = []
            for name, net in nets.items():
                for run in net.get("runs", ()):
                    row = run["ways"][run["picked"][picked]]
                    if "us" in row:
                        other = EAGER if against == "times_eager" else row[peer]
                        case = {"net": name, "threads": run["threads"], "against": other}
                        cases.append({**case, "times": row[against]["median"]})
            if cases:
                found.append({
                    "mmedge": picked,
                    "against": EAGER if against == "times_eager" else "the best peer",
                    "geomean": float(np.exp(np.mean(np.log([c["times"] for c in cases])))),
                    "cases": len(cases),
                    "losses": [case for case in cases if case["times"] < 1],
                })  # fmt: skip
    return found


def compare(name: str, options: argparse.Namespace, entry: dict[str, Any]) -> Iterator[None]:
    """Fill ``entry``; yields after each number of threads."""
    net = NETS[name]()
    with tempfile.TemporaryDirectory() as folder:
        files = make(net, Path(folder), max(options.threads))
        entry |= {
            "weights": net.weights,
            "flops": flops(net),
            "judged_by": "metric" if net.task.metric else "error of outputs",
            "limit": net.limit,
            "processes": options.processes,
            "rounds": options.rounds,
            "gate": files.gate,
            "runs": [],
        }
        judge = Judge(net)
        for threads in options.threads:
            run = measure(name, net, files, judge, threads, options)
            entry["runs"].append(run)
            for way, row in run["ways"].items():
                print(f"  {threads} {way}: {row.get('us') or row.get('failed')}", flush=True)
            yield


def main() -> None:
    """Measure what is asked for and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [name for name in NETS if name != "product"]
    parser.add_argument("--nets", nargs="+", default=known, choices=known)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9, help="of blocks, with each process")
    parser.add_argument("--processes", type=int, default=1, help="of each framework, in turn")
    parser.add_argument("--openvino-python", default=sys.executable)
    parser.add_argument("--optimum-python")
    parser.add_argument("--add", action="store_true", help="keep other networks in the output")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "peers.json")
    options = parser.parse_args()
    before = json.loads(options.output.read_text()) if options.add else {}
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": host.state(),
        "rounds": options.rounds,
        "block_ms": BLOCK_MS,
        "nets": before.get("nets", {}),
        "summary": [],
    }

    def write() -> None:
        result["summary"] = summary(result["nets"])
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    for name in options.nets:
        print(name, flush=True)
        start = time.monotonic()
        entry: dict[str, Any] = {}
        result["nets"][name] = entry
        try:
            for _ in compare(name, options, entry):
                write()
        except Exception as failed:  # noqa: BLE001 - a network that fails must not cost the others
            traceback.print_exc()
            entry["failed"] = f"{type(failed).__name__}: {failed}"
        entry["seconds"] = time.monotonic() - start
        write()


if __name__ == "__main__":
    main()
