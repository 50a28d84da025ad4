"""What mmedge costs over a bare ONNX Runtime session on the same graph.

Two figures, each from blocks of calls taken in turn, A B B A, in one process, on the same inputs:

- ``network``: the reference network, uncut, at batch 1. Its ratio of medians says what a user pays.
- ``tiny``: a graph with the same inputs and next to no work, so that the difference of medians is
  mmedge's own time per call and not the noise of a convolution.

The bare session is made with ONNX Runtime's defaults and gets exactly the tensors that the stage
gets. Outputs are compared before anything is timed. Run: ``python benchmarks/overhead.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import platform
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

import mmedge
from mmedge.bench.machine import host
from mmedge_export import export

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Array

RESULTS = Path(__file__).parent / "results" / "overhead.json"
BOOTSTRAP = 2000
#: Pairs of sessions that are measured.
PAIRS = 6
#: Timed calls of a block, untimed ones before them, and the pause before those in seconds.
BLOCK, UNTIMED, PAUSE_S = 20, 5, 0.02

Times = NDArray[np.int64]


def interleaved(
    ours: Callable[[], object], bare: Callable[[], object], rounds: int
) -> tuple[Times, Times]:
    """Nanoseconds of each call, int64 ``[2 * rounds, BLOCK]``: blocks in the order A B B A.

    A drift of the machine hits both alike. A block starts after a pause and some untimed calls:
    the other session's idle threads spin for a while after their last call, and would take the
    cores from whoever comes next.
    """
    times: tuple[list[list[int]], list[list[int]]] = ([], [])
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for which in (0, 1, 1, 0):
                call = bare if which else ours
                sleep(PAUSE_S)
                for _ in range(UNTIMED):
                    call()
                block = []
                for _ in range(BLOCK):
                    start = perf_counter_ns()
                    call()
                    block.append(perf_counter_ns() - start)
                times[which].append(block)
    finally:
        gc.enable()
    return np.array(times[0]), np.array(times[1])


def compare(ours: Times, bare: Times) -> dict[str, Any]:
    """Medians, their ratio and difference, with a 95% bootstrap interval over blocks of calls.

    Blocks are drawn whole, and the same ones of both: calls that stand together share the
    machine's mood, and drawing them singly would make the interval too narrow.
    """
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(ours), (BOOTSTRAP, len(ours)))
    medians = np.array([[np.median(ours[i]), np.median(bare[i])] for i in drawn])
    ratio, difference = medians[:, 0] / medians[:, 1], medians[:, 0] - medians[:, 1]
    return {
        "calls": ours.size,
        "median_us": {"mmedge": float(np.median(ours)) / 1e3, "bare": float(np.median(bare)) / 1e3},
        "iqr_us": {
            "mmedge": float(np.subtract(*np.percentile(ours, [75, 25]))) / 1e3,
            "bare": float(np.subtract(*np.percentile(bare, [75, 25]))) / 1e3,
        },
        "ratio": float(np.median(ours) / np.median(bare)),
        "ratio_95": np.percentile(ratio, [2.5, 97.5]).tolist(),
        "difference_us": float(np.median(ours) - np.median(bare)) / 1e3,
        "difference_us_95": (np.percentile(difference, [2.5, 97.5]) / 1e3).tolist(),
    }


def measure(bundle: Path, rounds: int, threads: int | None) -> dict[str, Any]:
    """Mmedge on ``bundle`` beside a bare session on its graph, at batch 1.

    Two sessions on one graph differ by a few per cent, by where their memory happens to lie. So
    several pairs are made, in turn the one and the other first, and their blocks are put together.
    """
    blocks: tuple[list[Times], list[Times]] = ([], [])
    for pair in range(PAIRS):
        options = ort.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(mmedge.Bundle.open(bundle))
            graph = opened.file(opened.manifest.stages[0].graph)
            providers = ["CPUExecutionProvider"]
            if pair % 2:
                session = ort.InferenceSession(graph, options, providers=providers)
            pipe = stack.enter_context(
                mmedge.load(bundle, backend="ort", precision="fp32", device="cpu", threads=threads)
            )
            if not pair % 2:
                session = ort.InferenceSession(graph, options, providers=providers)
            feeds: Mapping[str, Array] = opened.samples()[0].inputs
            names = list(opened.manifest.outputs)
            for name, expected in zip(names, session.run(names, dict(feeds)), strict=True):
                np.testing.assert_array_equal(pipe.run(feeds)[name], expected)
            ours, bare = partial(pipe.run, feeds), partial(session.run, names, feeds)
            for found, collected in zip(interleaved(ours, bare, rounds), blocks, strict=True):
                collected.append(found)
    return compare(np.concatenate(blocks[0]), np.concatenate(blocks[1]))


def tiny_graph(like: mmedge.Bundle, path: Path) -> Path:
    """A graph with the inputs of ``like`` that only counts their elements."""
    specs = like.manifest.inputs()
    nodes = [helper.make_node("Size", [name], [f"{name}_size"]) for name in specs]
    nodes += [
        helper.make_node("Cast", [f"{name}_size"], [f"{name}_float"], to=TensorProto.FLOAT)
        for name in specs
    ]
    nodes.append(helper.make_node("Sum", [f"{name}_float" for name in specs], ["total"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape
            )
            for spec in specs.values()
        ],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of A B B A for each pair")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder, "network")
        with export("zoo:vqa-attention", network, split=False) as bundle:
            graph = tiny_graph(bundle, Path(folder, "tiny.onnx"))
        tiny = Path(folder, "tiny")
        export(str(graph), tiny).close()
        for threads in arguments.threads:
            for name, path, rounds in (
                ("network", network, arguments.rounds),
                ("tiny", tiny, arguments.rounds),
            ):
                rows.append({"graph": name, "threads": threads, **measure(path, rounds, threads)})
                print(json.dumps(rows[-1]))
    result = {
        "pairs": PAIRS,
        "what": "mmedge beside a bare ONNX Runtime session, same graph and inputs, batch 1",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "device": host.state(),
        "rows": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
