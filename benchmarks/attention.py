"""Segmented attention on the CPU beside the attention of torch, ONNX Runtime and OpenVINO.

Each problem (8 heads of 64 elements, batch 1, float32) comes with all keys valid, with half of them
hidden at random, and with a third of the segments lost. Peers that take one buffer get it made,
with a mask where keys are hidden; only ``torch: concat`` puts the segments together itself. Every
output is held against a float64 reference before anything is timed. Each framework runs in a
process of its own, and blocks of calls of all ways alternate in random order.

Run: ``pip install openvino``, then ``python benchmarks/attention.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from peer_process import PeerProcess

from mmedge.bench.machine import host
from mmedge.errors import AccuracyError
from mmedge.testing import CASES, AttentionCase

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "attention.json"

#: Largest absolute error of an output whose values are of order 1.
ATOL = 2e-5

#: Milliseconds of a block, and most calls in it.
BLOCK_MS, MOST_CALLS = 25.0, 200

#: Ways that are ours: every other is a peer.
OURS = ("mmedge", "mmedge in ONNX Runtime")
#: What the function's kernel takes the place of in ONNX Runtime.
BODY = "ONNX Runtime: body"
#: By framework: standard operators on segments, and the way to the kernel from there.
STANDARD = {
    "onnxruntime": (BODY, "mmedge in ONNX Runtime"),
    "torch": ("torch: concat + mask + SDPA", "mmedge"),
}

Cell = tuple[AttentionCase, tuple[int, ...], str]


def cells(rows: list[int], keys: list[int]) -> list[Cell]:
    """Problems: the case, its lost segments, and what is special about it."""
    found: list[Cell] = []
    for lq in rows:
        for lk in keys:
            halves, thirds = (lk - lk // 2, lk // 2), (lk // 3, lk // 3, lk - 2 * (lk // 3))
            name = f"{lq} x {lk}"
            found += [
                (AttentionCase(name, halves, rows=lq), (), "all valid"),
                (AttentionCase(name, halves, rows=lq, valid=(0.5, 0.5)), (), "half hidden"),
                (AttentionCase(name, thirds, rows=lq), (1,), "a third lost"),
            ]
    return found


class Peer(PeerProcess):
    """The process of one framework."""

    def __init__(self, framework: str, threads: int, isa: str | None) -> None:
        command = [sys.executable, str(HERE / "attention_peers.py"), framework, str(threads)]
        super().__init__(command + ([] if isa is None else ["--isa", isa]))


def measure(peers: list[Peer], cell: Cell, rounds: int, rng: random.Random) -> dict[str, Any]:
    """Medians of one problem, and how much faster than the best peer ours are."""
    case, absent, kind = cell
    owners: dict[str, Peer] = {}
    for peer in peers:
        errors = peer.ask(case=asdict(case), absent=list(absent))["errors"]
        for name, error in errors.items():
            if not error <= ATOL:
                raise AccuracyError(f"{case.name}, {kind}: {name} is off by {error:.3g}")
            owners[name] = peer
    calls = {}
    for name, peer in owners.items():
        once = float(np.median(peer.ask(way=name, calls=3)["ns"])) / 1e6
        calls[name] = int(np.clip(BLOCK_MS / once, 3, MOST_CALLS))
    blocks: dict[str, list[float]] = {name: [] for name in owners}
    for _ in range(rounds):
        order = list(owners)
        rng.shuffle(order)
        for name in order:
            found = owners[name].ask(way=name, calls=calls[name])["ns"]
            blocks[name].append(float(np.median(found)) / 1e3)
    medians = {name: float(np.median(values)) for name, values in blocks.items()}
    best = min((name for name in medians if name not in (*OURS, BODY)), key=medians.__getitem__)
    return {
        "case": case.name,
        "rows": case.rows,
        "keys": case.keys,
        "dim": case.dim,
        "kind": kind,
        "median_us": medians,
        "best_peer": best,
        "times_faster": {name: ratio(blocks[best], blocks[name]) for name in OURS},
        "over_standard": {
            framework: ratio(blocks[theirs], blocks[ours])
            for framework, (theirs, ours) in STANDARD.items()
            if theirs in blocks and ours in blocks
        },
    }


def ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Median of the ratios of blocks of the same round, and their quartiles."""
    ratios = np.array(theirs) / np.array(ours)
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4, 16, 64, 256])
    parser.add_argument("--keys", type=int, nargs="*", default=[64, 256, 1024, 4096])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument(
        "--named", nargs="*", default=[], help="cases of mmedge.testing, such as 'A action'"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa", help="instruction set of our kernel; peers use their best")
    parser.add_argument(
        "--peers", nargs="*", default=["mmedge", "onnxruntime", "torch", "openvino"]
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rng = random.Random(0)  # noqa: S311 - an order, no secret
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for threads in arguments.threads:
        with contextlib.ExitStack() as stack:
            peers = [
                stack.enter_context(Peer(name, threads, arguments.isa)) for name in arguments.peers
            ]
            for peer in peers:
                versions |= peer.version
            named = [(case, (), case.name) for case in CASES if case.name in arguments.named]
            for cell in [*cells(arguments.rows, arguments.keys), *named]:
                row = {"threads": threads, **measure(peers, cell, arguments.rounds, rng)}
                rows.append(row)
                faster = " ".join(
                    f"{name}: {found['median']:.2f}" for name, found in row["times_faster"].items()
                )
                print(
                    f"{threads} threads, {row['case']}, {row['kind']}: {faster} of "
                    f"{row['best_peer']}; of standard operators "
                    + " ".join(f"{x['median']:.2f}" for x in row["over_standard"].values()),
                    flush=True,
                )
    result = {
        "what": "segmented attention on the CPU beside its peers, float32",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "device": host.state(),
        "versions": versions,
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
