"""CPU time per result: a stream over a cut network beside the uncut network run for every frame.

Two networks, batch 1: a camera at 30 Hz triggers, the other sensors come at their own rates, the
prompt once. The peer holds the newest value of every sensor and runs the whole graph in a bare ONNX
Runtime session at each frame; its threads stop spinning when a run ends, like the stream's. Blocks
of both alternate, so that a drift of the machine hits both. What a block costs is the processor
time of the process; everything that either needs is in it, the pushing included.

Each is measured twice. In ``real_time`` both sleep until the next sample is due, so that each
sample finds the caches cold and each hand-over wakes a thread: what a robot pays. ``back_to_back``
is the same schedule without the sleep, the stream on a simulated clock: what the work itself takes,
which is what counts of floating-point operations can be held against.

Before anything is timed the stream's outputs are held against the peer's on the same samples.
``single calls`` compares the cut network with the uncut one where nothing is kept.

Run: ``python benchmarks/streaming.py``.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic, process_time, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import torch
from overhead import compare, interleaved
from torch import Tensor, nn
from torch.nn import functional as F

import mmedge
from mmedge.bench.machine import host
from mmedge.errors import AccuracyError
from mmedge.stream import SimulatedClock
from mmedge_export import Input, Model, export
from mmedge_export.sources.loader import load_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array

RESULTS = Path(__file__).parent / "results" / "streaming.json"

#: Largest difference of an output between stream and peer, as a share of its largest value.
RTOL = 1e-4


class Encoder(nn.Module):
    """Pre-norm transformer over tokens [B, L, d]."""

    def __init__(self, d: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            d, d // 64, 4 * d, 0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape."""
        encoded: Tensor = self.layers(tokens)
        return encoded


class Cross(nn.Module):
    """One decoder layer: queries [B, Q, d] attend over an unchanging memory [B, L, d]."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.heads = d // 64
        self.norm, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.out = (nn.Linear(d, d) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Queries of the same shape."""
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.q(self.norm(x)), self.k(memory), self.v(memory))
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        fed: Tensor = x + self.feed(self.norm2(x))
        return fed


class Driver(nn.Module):
    """Camera, rasterised map, instruction and state to a short trajectory.

    The instruction's and the map's encoders hold most of the work, the camera's is small: what a
    fleet's network looks like whose language and map models were taken from elsewhere.
    """

    def __init__(self, d: int = 256) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, d, 16, 16)
        self.camera = Encoder(d, 2)
        self.chart = nn.Conv2d(8, d, 8, 8)
        self.map = Encoder(d, 4)
        self.words = nn.Embedding(1000, d)
        self.text = Encoder(d, 6)
        self.state = nn.Sequential(nn.Linear(16, d), nn.ReLU(), nn.Linear(d, d))
        self.queries = nn.Parameter(torch.randn(1, 8, d) * 0.02)
        self.decoder = nn.ModuleList(Cross(d) for _ in range(3))
        self.head = nn.Linear(d, 2)

    def forward(self, camera: Tensor, chart: Tensor, text: Tensor, state: Tensor) -> Tensor:
        """Trajectory [B, 8, 2]."""
        pixels = camera.permute(0, 3, 1, 2).float() / 255.0
        memory = torch.cat(
            [
                self.camera(self.see(pixels).flatten(2).transpose(1, 2)),
                self.map(self.chart(chart).flatten(2).transpose(1, 2)),
                self.text(self.words(text)),
                self.state(state)[:, None],
            ],
            dim=1,
        )
        x = self.queries.expand(memory.shape[0], -1, -1)
        for layer in self.decoder:
            x = layer(x, memory)
        trajectory: Tensor = self.head(x)
        return trajectory


def driver() -> Model:
    """:class:`Driver` with random weights: for time they are as good as any."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    return Model(
        Driver().eval(),
        inputs={
            "camera": Input(rng.integers(0, 256, (1, 96, 128, 3), np.uint8), rate_hz=30.0),
            "chart": Input(rng.standard_normal((1, 8, 96, 96)).astype(np.float32), rate_hz=2.0),
            "text": Input(rng.integers(0, 1000, (1, 64), np.int64)),
            "state": Input(rng.standard_normal((1, 16)).astype(np.float32), rate_hz=100.0),
        },
        outputs=("trajectory",),
        name="driver",
    )


@dataclass(frozen=True)
class Case:
    """A network and the rate of each of its modalities, Hz; 0: once, at the start."""

    name: str
    model: Callable[[], Model]
    rates: Mapping[str, float]


CASES = (
    Case("driver", driver, {"camera": 30.0, "chart": 2.0, "text": 0.0, "state": 100.0}),
    Case(
        "zoo:vqa-attention",
        lambda: load_source("zoo:vqa-attention").model,
        {"image": 30.0, "audio": 1.0, "text": 0.0},
    ),
)


class Sensors:
    """The same values for both sides: a few of each sensor, in turn."""

    def __init__(self, bundle: mmedge.Bundle, case: Case) -> None:
        rng = np.random.default_rng(1)
        first = bundle.samples()[0].inputs
        modalities = {m.name: m.inputs for m in bundle.manifest.modalities}
        self.rates = case.rates
        self.trigger = next(iter(case.rates))
        self.values = {
            key: [{name: _another(first[name], rng) for name in modalities[key]} for _ in range(16)]
            for key in case.rates
        }

    def events(self, seconds: float) -> Iterator[tuple[float, str, int]]:
        """Time, modality and number of each value; at one time the trigger comes last."""
        found = [
            (k / rate, key == self.trigger, key, k)
            for key, rate in self.rates.items()
            if rate
            for k in range(int(seconds * rate))
        ]
        once = [(0.0, False, key, 0) for key, rate in self.rates.items() if not rate]
        for t, _, key, k in sorted([*found, *once]):
            yield t, key, k

    def value(self, key: str, number: int) -> Mapping[str, Array]:
        """Input arrays of one value."""
        values = self.values[key]
        return values[number % len(values)]


def _another(like: Array, rng: np.random.Generator) -> Array:
    if np.issubdtype(like.dtype, np.floating):
        return (0.3 * rng.standard_normal(like.shape)).astype(like.dtype)
    return rng.integers(int(like.min()), int(like.max()) + 1, like.shape, like.dtype)


def wait_until(moment: float) -> None:
    """Sleep; late is late."""
    if (left := moment - monotonic()) > 0:
        sleep(left)


def run_stream(
    pipe: Pipeline, sensors: Sensors, seconds: float, *, paced: bool
) -> tuple[float, int, Any]:
    """Processor seconds, results, and the stream's health."""
    clock = None if paced else SimulatedClock(start=monotonic())
    with pipe.stream(trigger=sensors.trigger, clock=clock) as stream:
        begun, spent = monotonic() if clock is None else clock(), process_time()
        results = 0
        for t, key, number in sensors.events(seconds):
            if clock is None:
                wait_until(begun + t)
            else:
                clock.advance_to(begun + t)
            stream.push(key, sensors.value(key, number), t=begun + t)
            if key == sensors.trigger:
                results += stream.result(timeout=30.0).outputs is not None
        return process_time() - spent, results, stream.health()


def run_peer(
    session: ort.InferenceSession,
    names: list[str],
    sensors: Sensors,
    seconds: float,
    *,
    paced: bool,
) -> tuple[float, int]:
    """Processor seconds and results of the whole graph, run at every frame."""
    begun, spent = monotonic(), process_time()
    results = 0
    held: dict[str, Array] = {}
    for t, key, number in sensors.events(seconds):
        if paced:
            wait_until(begun + t)
        held.update(sensors.value(key, number))
        if key == sensors.trigger:
            session.run(names, held)
            results += 1
    return process_time() - spent, results


def check(pipe: Pipeline, session: ort.InferenceSession, sensors: Sensors) -> None:
    """Hold a second of the stream against the peer on the samples that each result used.

    Raises:
        AccuracyError: they differ.
    """
    names = list(pipe.bundle.manifest.outputs)
    pushed: dict[str, list[Mapping[str, Array]]] = {key: [] for key in sensors.rates}
    with pipe.stream(trigger=sensors.trigger) as stream:
        begun = monotonic()
        for t, key, number in sensors.events(1.0):
            wait_until(begun + t)
            pushed[key].append(sensors.value(key, number))
            stream.push(key, pushed[key][-1], t=begun + t)
            if key != sensors.trigger:
                continue
            result = stream.result(timeout=30.0)
            if result.outputs is None:
                continue
            held: dict[str, Array] = {}
            for modality, used in result.samples.items():
                held.update(pushed[modality][used[-1].seq])
            for name, expected in zip(names, session.run(names, held), strict=True):
                off = np.abs(result.outputs[name] - expected).max() / np.abs(expected).max()
                if not off <= RTOL:
                    raise AccuracyError(f"output {name}: the stream differs by {off:.3g}")


def measure(
    case: Case, cut: Path, whole: Path, *, threads: int, seconds: float, blocks: int
) -> dict[str, Any]:
    """One network at one number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with mmedge.Bundle.open(whole) as opened, mmedge.load(cut, threads=threads) as pipe:
        session = ort.InferenceSession(
            opened.file(opened.manifest.stages[0].graph),
            options,
            providers=["CPUExecutionProvider"],
        )
        names = list(opened.manifest.outputs)
        sensors = Sensors(opened, case)
        check(pipe, session, sensors)
        flops = {stage.modality or "fusion": stage.flops for stage in pipe.bundle.manifest.stages}
        total = opened.manifest.stages[0].flops
        found: dict[str, Any] = {}
        for kind, paced in (("real_time", True), ("back_to_back", False)):
            ours: list[float] = []
            theirs: list[float] = []
            runs: dict[str, float] = {}
            for _ in range(blocks):
                spent, results, health = run_stream(pipe, sensors, seconds, paced=paced)
                ours.append(1e3 * spent / results)
                for key, track in health.modalities.items():
                    runs[key] = runs.get(key, 0.0) + track.encodes / results / blocks
                spent, results = run_peer(session, names, sensors, seconds, paced=paced)
                theirs.append(1e3 * spent / results)
            done = sum(count * runs.get(key, 1.0) for key, count in flops.items())
            ratios = np.array(theirs) / np.array(ours)
            found[kind] = {
                "cpu_ms_per_result": {
                    "uncut": float(np.median(theirs)),
                    "stream": float(np.median(ours)),
                },
                "times_less": float(np.median(theirs) / np.median(ours)),
                "times_less_range": [float(ratios.min()), float(ratios.max())],
                "runs_per_result": runs,
                "flops_removed": 1 - done / total,
                "cpu_removed": float(1 - np.median(ours) / np.median(theirs)),
            }
        return {
            "network": case.name,
            "threads": threads,
            "rates_hz": dict(case.rates),
            "blocks": blocks,
            "seconds": seconds,
            "flops": {"uncut": total, "stages": flops},
            **found,
        }


def single_calls(
    case: Case, cut: Path, whole: Path, *, threads: int, rounds: int
) -> dict[str, Any]:
    """One call of the cut network beside one of the uncut one, nothing kept between calls."""
    with mmedge.load(cut, threads=threads) as ours, mmedge.load(whole, threads=threads) as theirs:
        feeds = theirs.bundle.samples()[0].inputs
        found = interleaved(
            partial(ours.run, feeds, cached=False), partial(theirs.run, feeds), rounds
        )
        row = compare(*found)
        return {
            "network": case.name,
            "threads": threads,
            "median_us": {"cut": row["median_us"]["mmedge"], "uncut": row["median_us"]["bare"]},
            "ratio": row["ratio"],
            "ratio_95": row["ratio_95"],
        }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a block")
    parser.add_argument("--blocks", type=int, default=5, help="of each side")
    parser.add_argument("--rounds", type=int, default=20, help="of single calls, A B B A")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    streams, calls = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            cut, whole = Path(folder, f"cut{number}"), Path(folder, f"whole{number}")
            export(case.model(), cut, split=True).close()
            export(case.model(), whole, split=False).close()
            for threads in arguments.threads:
                streams.append(
                    measure(
                        case,
                        cut,
                        whole,
                        threads=threads,
                        seconds=arguments.seconds,
                        blocks=arguments.blocks,
                    )
                )
                print(json.dumps(streams[-1]))
                calls.append(
                    single_calls(case, cut, whole, threads=threads, rounds=arguments.rounds)
                )
                print(json.dumps(calls[-1]))
    result = {
        "what": "a stream over the cut network beside the uncut graph run for every frame",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "device": host.state(),
        "streams": streams,
        "single_calls": calls,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
