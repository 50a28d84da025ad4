"""This checkout beside another one: a call, loading, exporting and importing, in turn.

Each checkout runs in a process of its own environment and answers one question after the other,
A B B A, so that a drift of the machine hits both alike. Each exports the bundles that it runs:
an older checkout cannot read a newer format. Outputs are compared before anything is timed.

Run: ``python benchmarks/versions.py --other PATH/TO/OTHER/.venv/bin/python``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from peer_process import PeerProcess, answer_as

if TYPE_CHECKING:
    from mmedge.spec import Array

RESULTS = Path(__file__).parent / "results" / "versions.json"
#: Timed calls of a block, and untimed ones before them.
BLOCK, UNTIMED = 200, 20
BOOTSTRAP = 2000
#: Next to no work; the reference network as one stage; the same, cut by modality.
NETWORKS = ("small", "whole", "cut")
IMPORT = (
    "import time\nstart = time.process_time()\nfrom mmedge import load\n"
    "print(time.process_time() - start)"
)


def small_model() -> Any:  # noqa: ANN401 - torch is imported where it is used
    """Three sensors and next to no work: what is left is mmedge's own time."""
    import torch
    from torch import nn

    from mmedge_export import Input, Model

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(6, 8), nn.Linear(24, 4)

        def forward(
            self, state: torch.Tensor, ranges: torch.Tensor, image: torch.Tensor
        ) -> torch.Tensor:
            pooled = image.float().mean((1, 2))
            joined = [self.a(state), self.b(ranges), pooled.repeat(1, 8)[:, :8]]
            action: torch.Tensor = self.c(torch.cat(joined, 1))
            return action

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    batch = {0: "batch"}
    return Model(
        Small(),
        {
            "state": Input(rng.standard_normal((1, 8)).astype(np.float32), dynamic=batch),
            "ranges": Input(rng.standard_normal((1, 6)).astype(np.float32), dynamic=batch),
            "image": Input(rng.integers(0, 256, (1, 8, 8, 3), np.uint8), dynamic=batch),
        },
        ["action"],
    )


class Checkout:
    """One version of mmedge: exports, loads and calls when asked."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.folder = tempfile.TemporaryDirectory()
        self.stack = ExitStack()
        self.pipes: dict[str, Any] = {}
        self.feeds: dict[str, dict[str, Array]] = {}

    def path(self, name: str) -> Path:
        """Where the bundle of a network lies."""
        return Path(self.folder.name, f"{name}.mmedge")

    def export(self, name: str) -> dict[str, Any]:
        """Export a network anew; milliseconds."""
        from mmedge_export import export

        source = small_model() if name == "small" else "zoo:vqa-attention"
        start = perf_counter_ns()
        export(source, self.path(name), split=name != "whole", overwrite=True).close()
        return {"times": [perf_counter_ns() - start]}

    def load(self, name: str) -> dict[str, Any]:
        """Load a bundle and give it back."""
        import mmedge

        start = perf_counter_ns()
        with mmedge.load(
            self.path(name), backend="ort", precision="fp32", device="cpu", threads=self.threads
        ):
            took = perf_counter_ns() - start
        return {"times": [took]}

    def call(self, name: str) -> dict[str, Any]:
        """Nanoseconds of a block of calls on the first golden sample."""
        import mmedge

        if name not in self.pipes:
            pipe = mmedge.load(
                self.path(name), backend="ort", precision="fp32", device="cpu", threads=self.threads
            )
            self.pipes[name] = self.stack.enter_context(pipe)
            with mmedge.Bundle.open(self.path(name)) as bundle:
                self.feeds[name] = dict(bundle.samples()[0].inputs)
        run, feeds = self.pipes[name].run, self.feeds[name]
        for _ in range(UNTIMED):
            outputs = run(feeds, cached=False)
        times = []
        gc.collect()
        gc.disable()
        for _ in range(BLOCK):
            start = perf_counter_ns()
            run(feeds, cached=False)
            times.append(perf_counter_ns() - start)
        gc.enable()
        answers = {key: value.tolist() for key, value in outputs.items()}
        return {"times": times, "outputs": answers}


def serve(checkout: Checkout, answers: TextIO) -> None:
    """Answer questions until there are no more."""
    from importlib import metadata

    print(json.dumps({"version": {"mmedge": metadata.version("mmedge")}}), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        answer = getattr(checkout, question["what"])(question["network"])
        print(json.dumps(answer), file=answers, flush=True)
    checkout.stack.close()
    checkout.folder.cleanup()


def compare(this: list[list[int]], other: list[list[int]]) -> dict[str, Any]:
    """Medians and their ratio with a 95 % bootstrap interval over blocks, drawn in pairs."""
    a, b = np.array(this, float), np.array(other, float)
    drawn = np.random.default_rng(0).integers(0, len(a), (BOOTSTRAP, len(a)))
    ratios = [np.median(a[i]) / np.median(b[i]) for i in drawn]
    return {
        "median_us": {"this": float(np.median(a)) / 1e3, "other": float(np.median(b)) / 1e3},
        "ratio": float(np.median(a) / np.median(b)),
        "ratio_95": np.percentile(ratios, [2.5, 97.5]).tolist(),
        "blocks": len(a),
    }


def imported(python: str) -> list[int]:
    """Processor nanoseconds of the import in a fresh process, with bytecode at hand."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run(
        [python, "-c", IMPORT], capture_output=True, text=True, check=True, env=environment
    )
    return [round(float(run.stdout) * 1e9)]


def main() -> None:
    """Measure, print and write the results."""
    if len(sys.argv) > 1 and sys.argv[1] == "checkout":
        answer_as({"checkout": Checkout}, serve)
        return
    from mmedge.bench.machine import host

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--other", required=True, help="Python of the other checkout's environment")
    parser.add_argument("--name", default="", help="of the other checkout, for the results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20, help="rounds A B B A of calls")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    pythons = {"this": sys.executable, "other": arguments.other}
    rows = []

    def add(what: str, network: str, times: dict[str, list[list[int]]]) -> None:
        rows.append({"what": what, "network": network, **compare(times["this"], times["other"])})
        print(json.dumps(rows[-1]), flush=True)

    with ExitStack() as stack:
        script = [str(Path(__file__).resolve()), "checkout", str(arguments.threads)]
        peers = {
            name: stack.enter_context(PeerProcess([python, *script]))
            for name, python in pythons.items()
        }
        plan = [
            (what, name, max(1, arguments.rounds // every))
            for what, every in (("export", 4), ("load", 1), ("call", 1))
            for name in arguments.networks
        ]
        for what, network, rounds in plan:
            times: dict[str, list[list[int]]] = {"this": [], "other": []}
            last: dict[str, Any] = {}
            for name in ("this", "other"):  # caches are filled, and outputs compared
                last[name] = peers[name].ask(what=what, network=network)
            for key, value in last["this"].get("outputs", {}).items():
                np.testing.assert_allclose(value, last["other"]["outputs"][key], 1e-4, 1e-4)
            for _ in range(rounds):
                for name in ("this", "other", "other", "this"):
                    times[name].append(peers[name].ask(what=what, network=network)["times"])
            add(what, network, times)
    times = {"this": [], "other": []}
    for _ in range(arguments.rounds):
        for name in ("this", "other", "other", "this"):
            times[name].append(imported(pythons[name]))
    add("import", "", times)
    result = {
        "what": "this checkout beside another, in turn; processor time for import, else wall time",
        "date": datetime.now(UTC).date().isoformat(),
        "other": arguments.name,
        "threads": arguments.threads,
        "device": host.state(),
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
