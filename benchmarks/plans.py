"""Default exports with both plans beside ONNX Runtime: calls, streams, disk, fresh processes.

Four networks as ``mmedge export`` makes them by default: the reference network, the example robot,
an ACT-like policy and a detector with two cameras, lidar and IMU. Of each:

- ``single_call``: a call as ``mmedge.load`` takes it, beside a bare session on the graph of an
  uncut export. Blocks of calls in turn (``overhead.py``).
- ``stream``: with every sensor at its rate on a simulated clock, how often each stage ran for a
  result, and the share of the uncut network's operations that this is. ``promised`` is the same
  share from the rates alone: an encoder runs once for each value of its sensor that can be used.
- ``disk``: bytes of the weights, in this bundle and in one that is whole alone.
- ``fresh_process``: from the first line of Python to the first result, and peak memory, beside a
  bare session, each in processes of its own, in turn. Where the network takes text, both start from
  the text: the bare program loads the bundle's tokenizer with the ``tokenizers`` library.
- ``fresh_process_arrays``: of such a network the same from token ids. mmedge loads the tokenizer
  there too, so that the first text does not wait for it; the bare program does not.

Run on a quiet machine: ``python benchmarks/plans.py``. Where others work on it, ``--realtime`` (as
root) gives fresh processes the cores before all others; the results say so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import torch
from overhead import PAIRS, compare, interleaved
from torch import Tensor, nn

import mmedge
from mmedge.bench.machine import host
from mmedge.stream import SimulatedClock
from mmedge_export import Input, Model, export
from mmedge_export.sources.loader import load_source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Array, Manifest

RESULTS = Path(__file__).parent / "results" / "plans.json"

EXAMPLES = Path(__file__).parents[1] / "examples"

#: Seconds of a stream, and rate of a modality that states none.
STREAM_S, RATE_HZ = 4.0, 10.0

#: Runs a command before all processes of the usual kind.
REALTIME = ("chrt", "--fifo", "10")

#: Fresh processes of each kind.
PROCESSES = 11

#: A process answers with milliseconds to the first result and bytes of memory at its highest.
OURS = """
import time
start = time.perf_counter()
import json, re, sys
from mmedge import load
imported = time.perf_counter()
pipe = load(sys.argv[1], backend="ort", precision="fp32", device="cpu", threads=1)
inputs = dict(pipe.bundle.samples()[0].inputs)
if len(sys.argv) > 2:
    inputs[sys.argv[2]] = sys.argv[3]
pipe.run(inputs)
end = time.perf_counter()
peak = 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps([1e3 * (end - start), 1e3 * (end - imported), peak]))
"""
BARE = """
import time
start = time.perf_counter()
import json, re, sys
import numpy, onnxruntime
from safetensors.numpy import load_file
imported = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
stored = load_file(sys.argv[2])
inputs = {value.name: stored["0.in." + value.name] for value in session.get_inputs()}
if len(sys.argv) > 3:
    from tokenizers import Tokenizer
    ids = Tokenizer.from_file(sys.argv[5]).encode(sys.argv[4]).ids
    inputs[sys.argv[3]] = numpy.array([ids], numpy.int64)
session.run(None, inputs)
end = time.perf_counter()
peak = 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps([1e3 * (end - start), 1e3 * (end - imported), peak]))
"""


class Camera(nn.Module):
    """uint8 [B, H, W, 3] to tokens [B, (H / 16) * (W / 16), d]."""

    def __init__(self, d: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, d)
        self.layers = nn.Sequential(
            *(
                layer
                for taken, made in pairwise(widths)
                for layer in (nn.Conv2d(taken, made, 3, 2, 1), nn.BatchNorm2d(made), nn.ReLU())
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        """Tokens of the picture."""
        features: Tensor = self.layers(image.permute(0, 3, 1, 2).float() / 255.0)
        return features.flatten(2).transpose(1, 2)


class Policy(nn.Module):
    """As ACT: two cameras and the joints into a transformer that decodes a chunk of actions."""

    def __init__(self, d: int = 128, chunk: int = 16) -> None:
        super().__init__()
        self.left, self.right, self.state = Camera(d), Camera(d), nn.Linear(14, d)
        self.positions = nn.Parameter(torch.randn(1, 2 * 48 + 1, d) / 10)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(d, 4, 2 * d, batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        )
        self.queries = nn.Parameter(torch.randn(1, chunk, d) / 10)
        self.decoder = nn.TransformerDecoderLayer(d, 4, 2 * d, batch_first=True, norm_first=True)
        self.head = nn.Linear(d, 14)

    def forward(self, left: Tensor, right: Tensor, state: Tensor) -> Tensor:
        """Actions [B, chunk, 14]."""
        tokens = [self.left(left), self.right(right), self.state(state)[:, None]]
        memory = self.encoder(torch.cat(tokens, 1) + self.positions)
        queries = self.queries.expand(state.shape[0], -1, -1)
        actions: Tensor = self.head(self.decoder(queries, memory))
        return actions


class Detector(nn.Module):
    """Queries that look at two cameras, a lidar's scan and half a second of IMU."""

    def __init__(self, d: int = 128, boxes: int = 32) -> None:
        super().__init__()
        self.front, self.rear = Camera(d), Camera(d)
        self.lidar = nn.Sequential(
            nn.Conv1d(2, 64, 5, 4, 2), nn.ReLU(), nn.Conv1d(64, d, 5, 4, 2), nn.ReLU()
        )
        self.imu = nn.GRU(6, d, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, boxes, d) / 10)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(d, 4, 2 * d, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.box, self.kind = nn.Linear(d, 7), nn.Linear(d, 10)

    def forward(
        self, front: Tensor, rear: Tensor, lidar: Tensor, imu: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes [B, boxes, 7] and scores of their classes."""
        scan = self.lidar(lidar).transpose(1, 2)
        motion = self.imu(imu)[0][:, -1:]
        memory = torch.cat([self.front(front), self.rear(rear), scan, motion], 1)
        queries = self.queries.expand(front.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, memory)
        return self.box(queries), self.kind(queries)


def robot() -> Model:
    """The example's network."""
    sys.path.insert(0, str(EXAMPLES))
    return load_source("robot.network:factory").model


def policy() -> Model:
    """The policy, its sensors at their rates."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, 96, 128, 3), dtype=np.uint8)
    joints = rng.standard_normal((1, 14)).astype(np.float32)
    return Model(
        Policy().eval(),
        {
            "left": Input(frame, rate_hz=30),
            "right": Input(frame[:, ::-1].copy(), rate_hz=10),
            "state": Input(joints, rate_hz=50),
        },
        ["actions"],
        name="act-like",
    )


def detector() -> Model:
    """The detector, its sensors at their rates."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, 96, 160, 3), dtype=np.uint8)
    return Model(
        Detector().eval(),
        {
            "front": Input(frame, rate_hz=30),
            "rear": Input(frame[:, ::-1].copy(), rate_hz=15),
            "lidar": Input(rng.standard_normal((1, 2, 1024)).astype(np.float32), rate_hz=10),
            "imu": Input(rng.standard_normal((1, 50, 6)).astype(np.float32), rate_hz=10),
        },
        ["box", "kind"],
        name="detector",
    )


#: What networks that take text are asked in a fresh process.
TEXTS = {"zoo:vqa-attention": "what color is the shape?", "robot": "go to the red pillar"}

#: By name, what makes the model, and what triggers its stream.
NETWORKS: Mapping[str, tuple[Callable[[], Model], str]] = {
    "zoo:vqa-attention": (lambda: load_source("zoo:vqa-attention").model, "image"),
    "robot": (robot, "camera"),
    "ACT-like": (policy, "left"),
    "detector": (detector, "front"),
}


def single_call(bundle: Path, graph: Path, rounds: int) -> dict[str, Any]:
    """A call as loaded by default beside a bare session on the uncut graph, one thread."""
    ours_all, bare_all = [], []
    for pair in range(PAIRS):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        with contextlib.ExitStack() as stack:
            providers = ["CPUExecutionProvider"]
            if pair % 2:
                session = ort.InferenceSession(graph, options, providers=providers)
            pipe = stack.enter_context(
                mmedge.load(bundle, backend="ort", precision="fp32", device="cpu", threads=1)
            )
            if not pair % 2:
                session = ort.InferenceSession(graph, options, providers=providers)
            feeds = pipe.bundle.samples()[0].inputs
            names = list(pipe.bundle.manifest.outputs)
            for name, expected in zip(names, session.run(names, dict(feeds)), strict=True):
                np.testing.assert_array_equal(pipe.run(feeds)[name], expected)
            ours, bare = interleaved(
                partial(pipe.run, feeds), partial(session.run, names, feeds), rounds
            )
            ours_all.append(ours)
            bare_all.append(bare)
            plan = pipe.plan
    return {"plan": plan, **compare(np.concatenate(ours_all), np.concatenate(bare_all))}


def another(value: Array, rng: np.random.Generator) -> Array:
    """The same elements in another order: other content, within what the sensor may give."""
    shuffled: Array = rng.permutation(value.ravel()).reshape(value.shape)
    return shuffled


def stream(bundle: Path, trigger: str) -> dict[str, Any]:
    """How often stages ran in a stream for each result, and what share of the work that is."""
    rng = np.random.default_rng(0)
    clock = SimulatedClock()
    with mmedge.load(bundle, backend="ort", precision="fp32", plan="cut", threads=1) as pipe:
        manifest = pipe.bundle.manifest
        # Of each input a sample that is not all alike: what stays the same is not encoded again.
        samples = [sample.inputs for sample in pipe.bundle.samples()]
        sample = {
            name: next((s[name] for s in samples if np.ptp(s[name])), samples[0][name])
            for name in manifest.inputs()
        }
        rates = {m.name: m.rate_hz or RATE_HZ for m in manifest.modalities}
        arrivals = sorted(
            (k / rate, rate == rates[trigger] and name == trigger, name)
            for name, rate in rates.items()
            for k in range(int(STREAM_S * rate))
        )
        with pipe.stream(trigger=trigger, clock=clock) as running:
            results = 0
            for moment, _, name in arrivals:
                clock.advance_to(moment)
                inputs = next(m.inputs for m in manifest.modalities if m.name == name)
                values = {key: another(sample[key], rng) for key in inputs}
                running.push(name, values, t=moment)
                with contextlib.suppress(TimeoutError):
                    while running.result(timeout=0.0):
                        results += 1
            health = running.health()
    encodes = {name: track.encodes for name, track in health.modalities.items()}
    runs = {
        stage.name: (encodes[stage.modality] if stage.modality else results) / results
        for stage in manifest.in_order("cut")
    }
    usable = {name: min(1.0, rates[name] / rates[trigger]) for name in rates}
    promise = {
        stage.name: usable[stage.modality] if stage.modality else 1.0
        for stage in manifest.in_order("cut")
    }
    return {
        "results": results,
        "runs_per_result": runs,
        "work": share(manifest, runs),
        "promised": share(manifest, promise),
    }


def share(manifest: Manifest, runs: Mapping[str, float]) -> float:
    """Operations of so many runs of each stage, as a share of the uncut network's."""
    (whole,) = manifest.in_order("whole")
    return sum(stage.flops * runs[stage.name] for stage in manifest.in_order("cut")) / whole.flops


def weights(bundle: mmedge.Bundle) -> int:
    """Bytes of files that hold weights beside graphs."""
    return sum(len(bundle.read(name)) for name in bundle.manifest.files if name.endswith(".data"))


def fresh_process(
    bundle: Path, folder: Path, graph: Path, text: str | None, *, realtime: bool
) -> dict[str, Any]:
    """Milliseconds to the first result, and memory, of a default load beside a bare session."""
    with mmedge.Bundle.open(bundle) as opened:
        stored = folder / "samples.safetensors"
        stored.write_bytes(opened.read("samples.safetensors"))
        tokenizers = [m.tokenizer for m in opened.manifest.modalities if m.tokenizer]
    commands = {"mmedge": [OURS, str(bundle)], "bare": [BARE, str(graph), str(stored)]}
    if text is not None:
        (tokenizer,) = tokenizers
        commands["mmedge"] += [tokenizer.ids, text]
        commands["bare"] += [tokenizer.ids, text, str(bundle / tokenizer.file)]
    rows: dict[str, list[list[float]]] = {name: [] for name in commands}
    # As installed: without compiled modules Python would compile mmedge's anew in each process.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    # mmedge turns it off by itself; the bare program would open a database and look up a host.
    environment["ORT_DISABLE_TELEMETRY"] = "1"
    for number in range(PROCESSES + 1):
        order = list(commands) if number % 2 else list(reversed(commands))
        for name in order:
            done = subprocess.run(
                [*(REALTIME if realtime else ()), sys.executable, "-c", *commands[name]],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            if number:  # the first of each compiles modules, and reads files from the disk
                rows[name].append(json.loads(done.stdout))
    medians = {name: np.median(values, axis=0) for name, values in rows.items()}
    ratios = np.divide(rows["mmedge"], rows["bare"])
    return {
        key: {
            "mmedge": float(medians["mmedge"][at]),
            "bare": float(medians["bare"][at]),
            "ratio": float(medians["mmedge"][at] / medians["bare"][at]),
            "range": [float(ratios[:, at].min()), float(ratios[:, at].max())],
        }
        for at, key in enumerate(("total_ms", "after_import_ms", "peak_bytes"))
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="rounds of A B B A for each pair")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--realtime", action="store_true", help="fresh processes under SCHED_FIFO")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        make, trigger = NETWORKS[name]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            bundle, alone = folder / "both", folder / "alone"
            with export(make(), bundle) as both, export(make(), alone, split=False) as uncut:
                graph = uncut.file(uncut.manifest.stages[0].graph)
                fresh = partial(fresh_process, bundle, folder, graph, realtime=arguments.realtime)
                disk = {"both": weights(both), "whole_alone": weights(uncut)}
                stages = [stage.name for stage in both.manifest.in_order()]
            rows.append(
                {
                    "network": name,
                    "stages": stages,
                    "disk": disk,
                    "single_call": single_call(bundle, graph, arguments.rounds),
                    "stream": stream(bundle, trigger),
                    "fresh_process": fresh(TEXTS.get(name)),
                }
            )
            if name in TEXTS:
                rows[-1]["fresh_process_arrays"] = fresh(None)
            print(json.dumps(rows[-1]))
    result = {
        "what": "default exports with both plans beside a bare ONNX Runtime session, batch 1",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "device": host.state(),
        "realtime": arguments.realtime,
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
