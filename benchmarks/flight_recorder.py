"""What a flight recorder costs: latency of results with and without it, memory, processor time.

Two networks, batch 1, on real threads: ``driver`` of benchmarks/streaming.py, whose result takes
milliseconds, and ``tiny``, which adds up its inputs, so that the difference is the recorder's own
time. One process has two streams on one pipeline, one of them with a recorder, and they take turns
step by step, A B B A. A step pushes three states and a picture, and waits for the result of that
picture. Timed are the picture's push, the time from it until the result is there, and the whole
step. ``real_time`` are steps at 30 pictures a second, which find the caches cold, as on a robot;
``back_to_back`` are steps without a pause. The recorder's window is full before anything is timed.
Garbage is collected as in any program; how long that took in the steps of either is said.

``writing`` are steps while a dump is written. ``memory`` pushes five times what the recorder may
keep, and looks at the resident memory. ``processor`` is the time of the process at 30 pictures a
second. What is measured runs in a process of its own, without torch.

Run: ``python benchmarks/flight_recorder.py`` (about six minutes).
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import tempfile
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, perf_counter_ns, process_time, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import mmedge
from mmedge.bench.machine import host
from mmedge.bench.machine.neighbours import Neighbours
from mmedge.machine import resident_bytes
from mmedge.recording import FlightRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.pipeline import Pipeline
    from mmedge.stream import Stream

RESULTS = Path(__file__).parent / "results" / "flight_recorder.json"
BOOTSTRAP = 2000
#: Pairs of steps of a block by network; blocks at 30 pictures a second, and their pairs.
BLOCKS, SLOW_BLOCKS, SLOW_BLOCK = {"driver": 50, "tiny": 300}, 40, 25
#: Untimed steps of either before all others.
UNTIMED = 50
#: Seconds that the recorder keeps. They are full before anything is timed: from then on it lets go
#: of as much as it takes, as it does for all but the first minute of a robot's day.
WINDOW = 3.0
#: Bytes that it may keep where memory is measured, and how many times as many are pushed.
MEMORY, TIMES = 16 << 20, 5
#: Pictures a second, and seconds of a block, where processor time is measured.
RATE, SECONDS = 30.0, 4.0

Times = NDArray[np.int64]


class Sensors:
    """Values for each modality: pictures that differ, and the rest as it comes."""

    def __init__(self, pipe: Pipeline) -> None:
        sample = pipe.bundle.samples()[0].inputs
        self.names = [modality.name for modality in pipe.bundle.manifest.modalities]
        self.values = {
            modality.name: np.array(sample[modality.inputs[0]])
            for modality in pipe.bundle.manifest.modalities
        }
        self.count = 0

    def begin(self, stream: Stream) -> None:
        """Push what comes once."""
        for name in self.names:
            stream.push(name, self.values[name])

    def step(self, stream: Stream) -> tuple[int, int, int]:
        """Push states and a picture, wait for its result; ns of its push, from it, and of all."""
        self.count += 1
        begun = perf_counter_ns()
        for _ in range(3):
            self.values["state"].flat[0] = self.count % 97 / 97
            stream.push("state", self.values["state"])
        camera = self.values["camera"]
        camera.flat[0] = self.count % 251
        start = perf_counter_ns()
        number = stream.push("camera", camera)
        pushed = perf_counter_ns()
        # The result of a picture before may only now be there.
        while all(used.seq != number for used in stream.result(60.0).samples.get("camera", ())):
            pass
        end = perf_counter_ns()
        return pushed - start, end - start, end - begun


class Collections:
    """Seconds that the garbage collector took, by what was measured then."""

    def __init__(self) -> None:
        self.seconds = {"plain": [0.0], "recorded": [0.0]}
        self.current = "plain"
        self._begun = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._begun = perf_counter()
        else:
            self.seconds[self.current].append(perf_counter() - self._begun)


def measure_latency(pipe: Pipeline, network: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Nanoseconds of pushes and steps by block, of both streams; and while a dump is written."""
    sensors = Sensors(pipe)
    collections = Collections()
    with (
        pipe.stream(trigger="camera") as plain,
        pipe.stream(trigger="camera") as recorded,
        FlightRecorder(recorded, folder / "dumps", seconds=WINDOW) as recorder,
    ):
        streams = {"plain": plain, "recorded": recorded}
        for stream in streams.values():
            sensors.begin(stream)
            for _ in range(UNTIMED):
                sensors.step(stream)
        while recorder._memory.ring.is_whole:  # noqa: SLF001
            sensors.step(recorded)

        def measure_blocks(count: int, pairs: int, pause: float) -> dict[str, list[Any]]:
            times: dict[str, list[Any]] = {"plain": [], "recorded": []}
            due = perf_counter()
            for _ in range(count):
                block: dict[str, list[tuple[int, int, int]]] = {"plain": [], "recorded": []}
                for pair in range(pairs):
                    for which in ("recorded", "plain") if pair % 2 else ("plain", "recorded"):
                        due = max(due + pause, perf_counter())
                        if pause:
                            sleep(max(0.0, due - perf_counter()))
                        collections.current = which
                        block[which].append(sensors.step(streams[which]))
                for which, steps in block.items():
                    times[which].append(steps)
            return times

        with Neighbours() as others:
            times = {
                "real_time": measure_blocks(SLOW_BLOCKS, SLOW_BLOCK, 1 / RATE),
                "back_to_back": measure_blocks(rounds, BLOCKS[network], 0.0),
            }
        writing = []
        start = perf_counter()
        recorder.dump("measure", wait=False)
        cut = perf_counter() - start
        records = len(recorder._memory.ring.records)  # noqa: SLF001
        while not recorder.dumps and not recorder.failures:
            writing.append(sensors.step(recorded)[1])
        took = perf_counter() - start
        if recorder.failures:
            raise OSError(recorder.failures[0])
        size = recorder.dumps[0].stat().st_size
    return {
        "times": times,
        "writing_ns": writing,
        "dump": {"seconds": took, "bytes": size, "records": records, "cut_us": 1e6 * cut},
        "collector": {
            name: {"seconds": sum(each), "longest_ms": 1e3 * max(each), "runs": len(each) - 1}
            for name, each in collections.seconds.items()
        },
        "others_share": others.share,
    }


def measure_memory(pipe: Pipeline, way: str, folder: Path) -> dict[str, Any]:
    """Memory of the process while five times the bound is pushed.

    ``way``: ``steps``, or ``samples``: states alone, whose records are mostly Python's objects.
    Growth of the resident memory is that of the whole process; ``traced`` is what Python and NumPy
    have asked for and not given back (tracemalloc), looked at in a second run.
    """
    sensors = Sensors(pipe)
    with pipe.stream(trigger="camera") as stream:
        sensors.begin(stream)
        ways: dict[str, Callable[[], object]] = {
            "steps": lambda: sensors.step(stream),
            "samples": lambda: stream.push("state", sensors.values["state"]),
        }
        for _ in range(200):
            ways[way]()

        def fill(look: Callable[[], int]) -> tuple[int, int, int]:
            gc.collect()
            before, most = look(), 0
            with FlightRecorder(stream, folder, seconds=1e6, memory_bytes=MEMORY) as recorder:
                ring = recorder._memory.ring  # noqa: SLF001
                for _ in range(50):
                    ways[way]()
                count = int(TIMES * MEMORY / (ring.nbytes / 50))
                for index in range(count):
                    ways[way]()
                    if index % 50 == 0:
                        most = max(most, look() - before)
                return count, ring.nbytes, most

        count, kept, resident = fill(lambda: resident_bytes() or 0)
        tracemalloc.start()
        traced = fill(lambda: tracemalloc.get_traced_memory()[0])[2]
        tracemalloc.stop()
    return {
        "pushed": way, "count": count, "memory_bytes": MEMORY, "kept_bytes": kept,
        "resident_growth": resident, "traced_growth": traced,
    }  # fmt: skip


def measure_processor(pipe: Pipeline, folder: Path, blocks: int) -> dict[str, Any]:
    """Processor seconds in a second of real time at 30 pictures a second, by block."""
    sensors = Sensors(pipe)
    shares: dict[str, list[float]] = {"plain": [], "recorded": []}
    for number in range(blocks):
        for which in ("plain", "recorded") if number % 2 else ("recorded", "plain"):
            with pipe.stream(trigger="camera") as stream:
                recorder = None
                if which == "recorded":
                    recorder = FlightRecorder(stream, folder / "idle", seconds=WINDOW)
                sensors.begin(stream)
                start, begun, due = perf_counter(), process_time(), perf_counter()
                while perf_counter() - start < SECONDS:
                    sensors.step(stream)
                    due += 1 / RATE
                    sleep(max(0.0, due - perf_counter()))
                shares[which].append((process_time() - begun) / (perf_counter() - start))
                if recorder is not None:
                    recorder.close()
    return shares


def compare(recorded: Times, plain: Times, q: float) -> dict[str, Any]:
    """A percentile of both in us, their ratio and difference, with 95 % bootstrap intervals.

    Blocks are drawn whole, the same ones of both: what stands together shares the machine's mood.
    """
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(plain), (BOOTSTRAP, len(plain)))
    figures = np.array([[np.percentile(recorded[i], q), np.percentile(plain[i], q)] for i in drawn])
    a, b = float(np.percentile(recorded, q)), float(np.percentile(plain, q))
    return {
        "recorded_us": a / 1e3,
        "plain_us": b / 1e3,
        "ratio": a / b,
        "ratio_95": np.percentile(figures[:, 0] / figures[:, 1], [2.5, 97.5]).tolist(),
        "difference_us": (a - b) / 1e3,
        "difference_us_95": (
            np.percentile(figures[:, 0] - figures[:, 1], [2.5, 97.5]) / 1e3
        ).tolist(),
    }


def child(bundle: str, what: str, rounds: int) -> None:
    """Measure in this process, and print JSON."""
    with tempfile.TemporaryDirectory() as name, mmedge.load(bundle, threads=1) as pipe:
        folder = Path(name)
        found: dict[str, Any]
        if what in BLOCKS:
            found = {
                "latency": measure_latency(pipe, what, rounds, folder),
                "processor": measure_processor(pipe, folder, 4),
            }
        else:
            found = measure_memory(pipe, what, folder)
    print(json.dumps(found))


def in_child(bundle: Path, what: str, rounds: int) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, __file__, "--child", str(bundle), what, str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tiny() -> Any:  # noqa: ANN401
    """A network of the same inputs that adds them up."""
    import torch
    from torch import nn

    from mmedge_export import Input, Model

    class Sums(nn.Module):
        def forward(self, camera: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
            seen = camera.float().mean(dim=(1, 2, 3)) / 255.0
            total: torch.Tensor = (seen + state.mean(dim=1))[:, None]
            return total

    rng = np.random.default_rng(0)
    return Model(
        Sums(),
        {
            "camera": Input(rng.integers(0, 256, (1, 64, 64, 3), np.uint8), rate_hz=30.0),
            "state": Input(rng.normal(size=(1, 16)).astype(np.float32), rate_hz=100.0),
        },
        outputs=("total",),
        name="tiny",
    )


def measure(network: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Export a network, measure it in a process of its own, and compare."""
    from streaming import driver

    from mmedge_export import export

    bundle = folder / f"{network}.mmedge"
    if not bundle.exists():
        export(driver() if network == "driver" else tiny(), bundle)
    found = in_child(bundle, network, rounds)
    latency, shares = found["latency"], found["processor"]
    parts = {"push": 0, "result": 1, "step": 2}
    ways = {}
    for way, blocks in latency["times"].items():
        plain, recorded = np.array(blocks["plain"]), np.array(blocks["recorded"])
        ways[way] = {
            "pairs": int(plain[..., 0].size),
            "blocks": len(plain),
            **{
                f"{part}_p{q}": compare(recorded[..., i], plain[..., i], q)
                for part, i in parts.items()
                for q in (50, 99)
            },
        }
    return {
        "network": network,
        "threads": 1,
        **ways,
        "writing": {
            "steps": len(latency["writing_ns"]),
            "p50_us": float(np.percentile(latency["writing_ns"], 50)) / 1e3,
            "p99_us": float(np.percentile(latency["writing_ns"], 99)) / 1e3,
            "worst_us": max(latency["writing_ns"]) / 1e3,
            **latency["dump"],
        },
        "collector": latency["collector"],
        "memory": [in_child(bundle, way, 0) for way in ("steps", "samples")],
        "processor": {
            "rate_hz": RATE,
            **{f"{name}_share": float(np.median(each)) for name, each in shares.items()},
            "difference_range": [
                float(f(np.subtract(shares["recorded"], shares["plain"]))) for f in (min, max)
            ],
        },
        "others_share": latency["others_share"],
    }


def main() -> None:
    """Measure both networks and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--bundles", type=Path, help="keep the exported bundles in this folder")
    options = parser.parse_args()
    if options.child:
        bundle, what, rounds = options.child
        child(bundle, what, int(rounds))
        return
    state = host.state()
    with tempfile.TemporaryDirectory() as name:
        folder = options.bundles or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        networks = [measure(network, options.rounds, folder) for network in BLOCKS]
    keys = ("name", "cpu", "machine", "system", "python", "cores", "load_average", "libraries")
    report = {
        "what": "a stream with a flight recorder beside the same without",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": platform.machine(),
        "device": {key: state[key] for key in keys},
        "window_s": WINDOW,
        "networks": networks,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in networks:
        print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
