"""A robot's stream with recorder, metrics, swaps and adaptive variants: is all still accounted for?

The streams, sensors and faults are those of :mod:`soak_faults`. In the stream that the camera
triggers two networks take turns, every 20 s by a guarded swap: from a loaded pipeline, from a file,
and once in a while from an altered file, which must be refused. The stream of the timer has a
cheaper variant, whose fusion is never slow, and which gives what the second network does. The
encoders and the fusion of the second network add numbers of their own to
what they are given, so that the outputs themselves tell which encoder and which fusion made them:
none may be of both networks, or of another one than the result says.

The same streams run before and after without any of it, for a quarter of the time each.
"""

from __future__ import annotations

import shutil
import threading
from array import array
from collections import Counter
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from soak_faults import (
    CYCLE,
    LEAST,
    TRIGGERS,
    Faulty,
    Judge,
    Robot,
    collect,
    make_graph,
    write_bundle,
)

import mmedge
from mmedge.machine import resident_bytes
from mmedge.metrics import Metrics
from mmedge.recording import DumpTriggers, FlightRecorder
from mmedge.recording.flight.reader import FlightDump
from mmedge.recording.flight.replay import replay_dump
from mmedge.spec import Tolerance, Variant
from mmedge.stream import Adaptive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array
    from mmedge.stream import Result

__all__ = ["soak_field"]

#: What the second network's encoders add, and its fusion takes away: whatever parts made an output,
#: its fraction tells them.
ENCODER_SHIFT, FUSION_SHIFT = 0.25, 0.5
#: Variants of the stream of the timer.
BEST, CHEAPER = "ort-fp32-cpu", "ort-int8-cpu"
#: Seconds from one swap to the next.
SWAP_S: Final = 20.0
#: Where the network that comes next comes from, in turn.
SOURCES: Final = ("pipeline", "file", "pipeline", "altered file")
#: Results compared before a switch, and watched after it: 2 s at 30 Hz in all.
SHADOW, PROBATION = 30, 30
#: Phases in which nothing is planted that takes time: latencies of these are compared.
CALM: Final[tuple[frozenset[str], ...]] = (frozenset({"nothing"}), frozenset())
#: Seconds and bytes that the flight recorder keeps.
KEPT_S, KEPT_BYTES = 30.0, 64 << 20
#: Missed deadlines within ten seconds that make a dump.
MISSES = 5
#: Resamples of a bootstrap.
RESAMPLES: Final = 2000


class FieldJudge(Judge):
    """Also holds the outputs against the network that a result says made them."""

    def __init__(
        self,
        robot: Robot,
        trigger: str | float,
        second: str,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(robot, trigger, **options)
        self._second = second
        self.networks: Counter[str] = Counter()
        #: Times and latencies of results while nothing was planted, in turn.
        self.calm = array("d")

    def take(self, result: Result) -> None:
        """Judge one result, and keep its latency where nothing was planted."""
        if result.outputs is not None:
            self.networks[self._name(result)] += 1
        if result.fresh and self.robot.phases in CALM:
            self.calm.extend((self.robot.now() - self.robot.begun, result.latency))
        super().take(result)

    def read_numbers(self, result: Result, name: str) -> Array:
        """The numbers that the network named in the result was given, by what it gave."""
        outputs = result.outputs or {}
        raw = outputs[f"o_{name}"][0]
        encoder, fusion = (0.0, 0.0)
        if self._name(result) == "second":
            encoder, fusion = ENCODER_SHIFT, FUSION_SHIFT
        numbers: Array = -raw - fusion if name == "state" else raw - encoder + fusion
        if np.any(numbers != np.rint(numbers)):
            self.tell(f"{name}: outputs of mixed origin", result, str(raw))
        return numbers

    def _name(self, result: Result) -> str:
        network = result.network
        return "second" if network.digest == self._second or network.variant == CHEAPER else "first"


class Swapper:
    """Swaps the network of streams every :data:`SWAP_S`, in a thread.

    Args:
        judges: have the streams.
        pipes: the two networks, loaded.
        paths: their bundles, and that of the altered one.
    """

    def __init__(
        self, judges: list[FieldJudge], pipes: tuple[Pipeline, Pipeline], paths: dict[str, Path]
    ) -> None:
        self.ends: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.faults: list[str] = []
        self.resident: list[tuple[float, int]] = []
        self._judges, self._pipes, self._paths = judges, pipes, paths
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swaps")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        begun, turn = monotonic(), 0
        while not self._stop.wait(max(0.0, begun + (turn + 0.5) * SWAP_S - monotonic())):
            source = SOURCES[turn % len(SOURCES)]
            turn += 1
            swaps = [(judge, self._swap(judge, source)) for judge in self._judges]
            for judge, swap in swaps:
                self._finish(judge, swap, source, begun + (turn + 0.4) * SWAP_S)
            self.resident.append((monotonic() - begun, resident_bytes() or 0))

    def _swap(self, judge: FieldJudge, source: str) -> Any:  # noqa: ANN401
        first = judge.stream.pipe.bundle.digest == self._pipes[0].bundle.digest
        if source == "pipeline":
            stages = Faulty(judge.robot, self._pipes[first])
            stages.failed = judge.stages.failed
            return judge.stream.swap(stages, shadow=SHADOW, probation=PROBATION)
        name = source if source == "altered file" else ("second" if first else "first")
        return judge.stream.swap(
            self._paths[name], variant=BEST, shadow=SHADOW, probation=PROBATION, threads=1
        )

    def _finish(self, judge: FieldJudge, swap: Any, source: str, until: float) -> None:  # noqa: ANN401
        try:
            end = swap.wait(max(0.0, until - monotonic()))
        except TimeoutError as error:
            end = "canceled"
            self.reasons[f"{error}"[:120]] += 1
            swap.cancel()
        self.ends[end] += 1
        if end != "confirmed":
            self.reasons[f"{source}: {end}: {swap.report.reason}"[:160]] += 1
        # Others are refused, too, where a fault was planted that the shadow met.
        if source == "altered file" and end != "refused":
            self.faults.append(f"trigger {judge.trigger}: a swap from an altered file was {end}")


@contextmanager
def watched(
    judges: list[FieldJudge], folder: Path
) -> Iterator[tuple[list[FlightRecorder], Metrics]]:
    """Streams with a flight recorder each, and metrics that are read all the time."""
    metrics = Metrics()
    with ExitStack() as closing:
        recorders = []
        for judge in judges:
            metrics.watch(judge.stream, str(judge.trigger))
            recorder = FlightRecorder(
                judge.stream, folder / f"dumps-{judge.trigger}", seconds=KEPT_S,
                memory_bytes=KEPT_BYTES, triggers=DumpTriggers(deadline_misses=MISSES),
            )  # fmt: skip
            recorders.append(closing.enter_context(recorder))
        yield recorders, metrics


def soak_field(
    folder: Path, seconds: float
) -> tuple[dict[str, Any], list[list[FieldJudge]], list[str]]:
    """Run without, with and without; what was measured, each run's judges, what else was wrong."""
    paths = {"first": folder / "first", "second": folder / "second"}
    write_bundle(paths["first"])
    add_variant(paths["first"])
    write_bundle(paths["second"], ENCODER_SHIFT, FUSION_SHIFT)
    paths["altered file"] = folder / "altered"
    shutil.copytree(paths["second"], paths["altered file"])
    graph = paths["altered file"] / "onnx/fuse.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    runs: list[dict[str, Any]] = []
    judges: list[list[FieldJudge]] = []
    faults: list[str] = []
    calm: dict[bool, list[list[float]]] = {False: [], True: []}
    for is_watched, length in ((False, seconds / 4), (True, seconds), (False, seconds / 4)):
        run, run_judges, run_faults = _run(paths, folder, length, is_watched=is_watched)
        runs.append(run)
        judges.append(run_judges)
        faults += run_faults
        calm[is_watched] += _by_cycle(run_judges)
    return {"seconds": seconds, "runs": runs, "p99": compare(calm)}, judges, faults


def add_variant(path: Path) -> None:
    """Add a cheaper variant, which gives the second network's numbers to tell the two apart."""
    with mmedge.Bundle.open(path) as bundle:
        files, graphs = {}, {}
        for stage in bundle.manifest.stages:
            shift = ENCODER_SHIFT if stage.modality else FUSION_SHIFT
            files[stage.name] = graph = f"onnx/cheaper/{stage.name}.onnx"
            graphs[graph] = make_graph([*zip(stage.inputs, stage.outputs, strict=True)], shift)
        variant = Variant("ort", "int8", "cpu", files, Tolerance(0.0, 1.0))
        bundle.with_variant(variant, graphs).close()


def compare(calm: dict[bool, list[list[float]]]) -> dict[str, Any]:
    """99th percentiles of latencies in milliseconds, and their ratio with a 95 % interval.

    Args:
        calm: latencies in seconds of each cycle, without (False) and with everything (True). Cycles
            are resampled whole, since results that follow one another are alike.
    """
    rng = np.random.default_rng(0)

    def pooled(cycles: list[list[float]], which: Array) -> float:
        return 1e3 * float(np.percentile(np.concatenate([cycles[i] for i in which]), 99.0))

    ratios = []
    for _ in range(RESAMPLES):
        with_all, without = (
            pooled(calm[key], rng.integers(0, len(calm[key]), len(calm[key])))
            for key in (True, False)
        )
        ratios.append(with_all / without)
    p99 = {key: pooled(cycles, np.arange(len(cycles))) for key, cycles in calm.items()}
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {
        "without_ms": p99[False],
        "with_ms": p99[True],
        "ratio": p99[True] / p99[False],
        "ratio_interval": [float(low), float(high)],
        "cycles": {"without": len(calm[False]), "with": len(calm[True])},
        "results": {
            "without": sum(map(len, calm[False])), "with": sum(map(len, calm[True])),
        },
    }  # fmt: skip


def _by_cycle(judges: list[FieldJudge]) -> list[list[float]]:
    cycles: dict[tuple[str, int], list[float]] = {}
    for judge in judges:
        for t, latency in zip(judge.calm[::2], judge.calm[1::2], strict=True):
            cycles.setdefault((str(judge.trigger), int(t / CYCLE)), []).append(latency)
    return list(cycles.values())


def _run(
    paths: dict[str, Path], folder: Path, seconds: float, *, is_watched: bool
) -> tuple[dict[str, Any], list[FieldJudge], list[str]]:
    """One run of both streams."""
    with ExitStack() as closing:
        pipes = [
            closing.enter_context(mmedge.load(paths[name], BEST, plan="cut", threads=1))
            for name in ("first", "second")
        ]
        robot = Robot(pipes[0], None)
        robot.enter(0.0)
        second = pipes[1].bundle.digest
        cheaper = closing.enter_context(mmedge.load(paths["first"], CHEAPER, plan="cut", threads=1))
        variants = Adaptive([Faulty(robot, cheaper, is_quick=True)], hold_s=3.0)
        judges = [
            FieldJudge(robot, TRIGGERS[0], second),
            FieldJudge(robot, TRIGGERS[1], second, variants=variants if is_watched else None),
        ]
        with ExitStack() as streams:
            for judge in judges:
                streams.enter_context(judge.stream)
            if not is_watched:
                collect(robot, judges, seconds)
                run: dict[str, Any] = {}
                faults = []
            else:
                recorders, metrics = streams.enter_context(watched(judges, folder))
                with Swapper(judges[:1], (pipes[0], pipes[1]), paths) as swapper:
                    collect(robot, judges, seconds)
                faults = swapper.faults
                metrics.text()
                for recorder in recorders:
                    recorder.dump("the end of the run")
                replays = [
                    replay_dump(pipes[0], FlightDump.open(path)).counts
                    for path in recorders[1].dumps
                ]
                if any(counts.get("different") for counts in replays):
                    faults.append(f"a dump was replayed to other results: {replays}")
                run = {
                    "swaps": dict(swapper.ends),
                    "swaps_not_confirmed": dict(swapper.reasons),
                    "resident_mib": [[t, size / 2**20] for t, size in swapper.resident],
                    "dumps": sum(len(recorder.dumps) for recorder in recorders),
                    "dumps_replayed": replays,
                    "dump_failures": [str(f) for r in recorders for f in r.failures],
                    "networks": {str(j.trigger): dict(j.networks) for j in judges},
                }
    for judge in judges:
        judge.check_shares(seconds, LEAST["real"])
    return (
        {
            "watched": is_watched,
            "seconds": seconds,
            "pushed": {name: len(pushed) for name, pushed in robot.pushed.items()},
            **run,
            "streams": [judge.record() for judge in judges],
        },
        judges,
        faults,
    )
