"""What a request to Triton costs beside a call of the same bundle in the client's own process.

Of each bundle, calls, requests over HTTP and requests over gRPC take turns by blocks, in random
order in each round; both the client and the one instance of the server run one thread a stage, on
one machine, over the loopback, one request at a time. Nothing is cached: the plan ``whole`` has no
feature cache, and Triton's response cache is off. Answers are compared first, to the last bit.

Ratios and differences are those of the medians of blocks that stood side by side; their intervals
count a round as one (:func:`mmedge.bench.stats.resample.pairs`). ``small`` is a bundle with next to
no work and a few hundred bytes, so that its request is the way there and back.

``make triton`` makes the environment: ``.venv-triton/bin/python benchmarks/serve_triton.py``. The
reference network is exported by ``.venv``, unless ``--bundle`` names one.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

import mmedge
from mmedge.bench.machine import host
from mmedge.bench.stats.block_timer import turns
from mmedge.bench.stats.resample import half_width, pairs
from mmedge.bench.stats.student import student_t
from mmedge.bench.stats.summary import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "serve_triton.json"
SMALL = ROOT / "conformance" / "cases" / "bundles" / "tiny.mmedge"
#: Rounds, timed calls of a block, untimed ones before them.
ROUNDS, BLOCK, UNTIMED = 20, 200, 10

sys.path[:0] = [str(ROOT / "integrations" / "triton"), str(ROOT / "integrations/triton/tests")]


def time_ways(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """A report's series for each way: ``start_s``, ``latency_ms`` and ``part``, the round."""
    series: dict[str, Any] = {name: {"start_s": [], "latency_ms": [], "part": []} for name in ways}
    begun = perf_counter_ns()
    for number, name in turns(list(ways), rounds):
        way, one = ways[name], series[name]
        for _ in range(UNTIMED):
            way()
        for _ in range(BLOCK):
            start = perf_counter_ns()
            way()
            one["latency_ms"].append((perf_counter_ns() - start) / 1e6)
            one["start_s"].append((start - begun) / 1e9)
            one["part"].append(number)
    return series


def compare(series: Mapping[str, Any]) -> dict[str, Any]:
    """Percentiles of each way, and how it differs from ``local``."""
    figures: dict[str, Any] = {}
    medians = {}
    for name, one in series.items():
        latency, part = np.asarray(one["latency_ms"]), np.asarray(one["part"])
        whole = summary(latency)
        figures[name] = {key: whole[key] for key in ("p50", "p90", "p99")}
        medians[name] = np.array([np.median(latency[part == each]) for each in np.unique(part)])
    for name in series:
        if name == "local":
            continue
        change, spread = pairs(series["local"], series[name])[0]["p50"]
        half = half_width(spread)
        more = medians[name] - medians["local"]
        error = float(np.std(more, ddof=1)) / math.sqrt(len(more))
        reach = student_t(0.975, len(more) - 1.0) * error
        figures[name] |= {
            "ratio": math.exp(change),
            "ratio_95": [math.exp(change - half), math.exp(change + half)],
            "more_ms": float(more.mean()),
            "more_ms_95": [float(more.mean()) - reach, float(more.mean()) + reach],
        }
    return figures


def measure(bundle: Path, rounds: int) -> dict[str, Any]:
    """One bundle, served and local."""
    from clients import PROTOCOLS, Client
    from server import serve

    from mmedge_triton import write_model

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(bundle, folder / "models", name="served", plan="whole", threads=1)
        with (
            mmedge.load(bundle, plan="whole", threads=1) as pipe,
            serve(folder / "models", folder / "server") as server,
        ):
            inputs = pipe.bundle.samples()[0].inputs
            expected = pipe.run(inputs)
            ways: dict[str, Callable[[], object]] = {"local": lambda: pipe.run(inputs)}
            for protocol in PROTOCOLS:
                client = Client(server, protocol)
                if protocol == "http":
                    tritonserver = client.connection.get_server_metadata()["version"]
                answer = client.call("served", inputs)
                for name, array in expected.items():
                    np.testing.assert_array_equal(answer[name], array)
                ways[protocol] = lambda client=client: client.call("served", inputs)  # type: ignore[misc]
            series = time_ways(ways, rounds)
            return {
                "network": pipe.bundle.manifest.name,
                "variant": pipe.variant.id,
                "tritonserver": tritonserver,
                "bytes_in": sum(array.nbytes for array in inputs.values()),
                "bytes_out": sum(array.nbytes for array in expected.values()),
                "ways": compare(series),
            }


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="in place of zoo:vqa-attention")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = host.state()
    with tempfile.TemporaryDirectory() as temporary:
        bundle = options.bundle
        if bundle is None:
            bundle = Path(temporary) / "vqa.mmedge"
            program = ROOT / ".venv" / "bin" / "mmedge"
            command = [program, "export", "zoo:vqa-attention", "--output", bundle, "--quiet"]
            subprocess.run([str(word) for word in command], check=True)
        rows = {"small": measure(SMALL, options.rounds), "network": measure(bundle, options.rounds)}
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device,
        "load_at_end": host.state()["load_average"],
        "server": {
            "nvidia-pytriton": version("nvidia-pytriton"),
            "tritonserver": rows["small"]["tritonserver"],
            "tritonclient": version("tritonclient"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "rounds": options.rounds,
        "calls": options.rounds * BLOCK,
        "rows": rows,
    }
    print(json.dumps(rows, indent=2))
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
