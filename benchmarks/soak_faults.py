"""Faults that robots give their streams, planted on a schedule, and each result held against them.

The network gives back what it is given: each sample holds a number, so that the outputs themselves
tell which samples a result was made of, whatever the result says. What is planted, again and again
every 36 s: sensors that fall silent; encoders that raise; an optional encoder that is slow; the
stream's clock set back, ahead, and wrong for one reading (in real time alone: a simulated clock
cannot be set); a source's clock set back; single stamps ahead; stamps in a loop; chunks lost from a
window; values twice, late, NaN; a fusion that is too slow for the deadline, while sensors fall
silent; a withdrawn instruction. Two streams get all of it, one triggered by the camera's frames and
one by a timer.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise
from math import inf, nan
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

import mmedge
from mmedge.bundle import Bundle
from mmedge.spec import (
    Dimension,
    Manifest,
    Modality,
    Sample,
    Stage,
    TensorSpec,
    Tolerance,
    Variant,
)
from mmedge.stream import SimulatedClock, Stream, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array
    from mmedge.stream import Result

__all__ = [
    "CYCLE",
    "LEAST",
    "TRIGGERS",
    "Faulty",
    "Judge",
    "Robot",
    "collect",
    "make_graph",
    "soak_faults",
    "write_bundle",
]

#: Seconds after which the schedule of faults begins again.
CYCLE = 36.0
#: What happens from when to when in a cycle, in seconds.
PHASES: tuple[tuple[str, float, float], ...] = (
    ("lidar silent", 2.0, 3.5),
    ("camera silent", 4.0, 4.6),
    ("camera's encoder raises", 5.0, 6.5),
    ("lidar's encoder raises", 7.0, 8.5),
    ("lidar's encoder slow", 9.0, 12.0),
    ("imu silent", 12.2, 12.6),
    ("lidar's clock set back", 18.0, 19.5),
    ("stamps in a loop", 21.0, 25.0),
    ("odd samples", 25.0, 26.5),
    ("nothing", 26.5, 30.0),
    ("fusion slow", 30.0, 35.0),
    ("lidar silent", 31.0, 32.5),
    ("camera silent", 33.0, 34.5),
)
#: What is done to the stream's clock: at a time of the cycle, seconds it is set by.
CLOCK_SET: Mapping[float, float] = {13.0: -10.0, 14.5: 3600.0, 15.5: -3590.0}
#: One wrong reading each.
CLOCK_WRONG: Mapping[float, float] = {16.2: 3600.0, 16.4: inf, 16.6: nan, 16.8: -3600.0}
#: One stamp ahead each: time of the cycle -> modality.
AHEAD: Mapping[float, str] = {17.0: "camera", 17.3: "lidar", 17.6: "state"}
#: Seconds of a loop, and how far the lidar's clock is set back: both beyond all age limits.
LOOP, SET_BACK = 2.0, 5.0

#: Samples a second, and the oldest age in seconds that may be used; None: any.
RATES: Mapping[str, float] = {"camera": 30.0, "lidar": 10.0, "state": 100.0, "imu": 50.0}
LIMITS: Mapping[str, float | None] = {
    "camera": 0.2,
    "lidar": 0.3,
    "state": 0.1,
    "imu": 0.2,
    "text": None,
}
DEADLINE_MS, SLOW, SLOW_FUSION = 50.0, 0.25, 0.08
#: What triggers each of the streams.
TRIGGERS: tuple[str | float, ...] = ("camera", 30.0)
#: Rows of a window, of a hop, and of a chunk.
ROWS, CHUNK = 20, 10
#: Seconds by which times may be off that are read one after another on a busy machine.
SLACK = 0.05
#: Seconds that nothing here takes, that a busy machine may stop a thread for, and of rounding.
LONGEST, BUSY, ROUNDING = 5.0, 0.5, 1e-5
#: Shares of the frames that make a fresh result where nothing is wrong, and with a slow lidar.
#: Real time gets less: the machine may be busy with other things.
LEAST = {"simulated": 0.95, "real": 0.5}


def write_bundle(path: Path, encoder_shift: float = 0.0, fusion_shift: float = 0.0) -> None:
    """Write the network: an encoder for each modality but the state, and a fusion of them all.

    Args:
        path: where.
        encoder_shift: what each encoder adds to the numbers that it is given.
        fusion_shift: what the fusion takes from them (and adds to those of the state).
    """
    files: dict[str, bytes] = {}
    stages: list[Stage] = []
    ins: list[TensorSpec] = []
    outs: list[TensorSpec] = []
    inputs: dict[str, Array] = {}
    golden: dict[str, Array] = {}
    for name in LIMITS:
        shape: tuple[int | str, ...] = (1, "rows") if name == "imu" else (1, 4)
        x = TensorSpec(f"x_{name}", "float32", shape)
        f = TensorSpec(f"f_{name}", "float32", shape)
        zeros = np.zeros((1, ROWS if name == "imu" else 4), np.float32)
        inputs[x.name] = zeros
        shift = -fusion_shift if name == "state" else encoder_shift - fusion_shift
        golden[f"o_{name}"] = zeros + np.float32(shift)
        if name == "state":
            ins.append(x)
        else:
            golden[f.name] = zeros - np.float32(encoder_shift)
            graph = f"onnx/{name}.onnx"
            files[graph] = make_graph([(x, f)], encoder_shift)
            stages.append(Stage(f"encode_{name}", graph, (x,), (f,), modality=name))
            ins.append(f)
        outs.append(TensorSpec(f"o_{name}", "float32", shape))
    files["onnx/fuse.onnx"] = make_graph(list(zip(ins, outs, strict=True)), fusion_shift)
    stages.append(Stage("fuse", "onnx/fuse.onnx", tuple(ins), tuple(outs)))
    modalities = tuple(
        Modality(
            name,
            (f"x_{name}",),
            required=name == "camera",
            rate_hz=RATES.get(name),
            max_age_ms=None if limit is None else 1e3 * limit,
        )
        for name, limit in LIMITS.items()
    )
    manifest = Manifest(
        name="soak",
        modalities=modalities,
        stages=tuple(stages),
        outputs=tuple(spec.name for spec in outs),
        variants=(
            Variant("ort", "fp32", "cpu", {s.name: s.graph for s in stages}, Tolerance(0.0, 1e-6)),
        ),
        files={},
        dimensions={"rows": Dimension(1, ROWS, 64)},
    )
    Bundle.write(path, manifest, files, samples=[Sample(inputs, golden)]).close()


def make_graph(pairs: list[tuple[TensorSpec, TensorSpec]], shift: float) -> bytes:
    """A graph that takes each tensor from ``-shift``; the state alone comes out negative."""
    zero = helper.make_tensor("shift", TensorProto.FLOAT, (), [-shift])
    nodes = [helper.make_node("Sub", ["shift", a.name], [b.name]) for a, b in pairs]
    inputs, outputs = (
        [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, s.shape) for s in specs]
        for specs in zip(*pairs, strict=True)
    )
    model = helper.make_model(
        helper.make_graph(nodes, "soak", inputs, outputs, [zero]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    data: bytes = model.SerializeToString()
    return data


@dataclass(frozen=True)
class Pushed:
    """One sample: the number it holds, its stamp, and the true time at which it was measured."""

    number: int
    stamp: float
    true: float


class PushLog:
    """All that was pushed of a modality, in 24 bytes each: the memory of the run is watched."""

    def __init__(self) -> None:
        self._columns = array("d"), array("d"), array("d")

    def append(self, pushed: Pushed) -> None:
        """Add one."""
        for column, value in zip(self._columns, astuple(pushed), strict=True):
            column.append(value)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: int) -> Pushed:
        number, stamp, true = (column[index] for column in self._columns)
        return Pushed(int(number), stamp, true)

    def last(self, count: int) -> list[Pushed]:
        """The newest, oldest first."""
        return [self[index] for index in range(max(0, len(self) - count), len(self))]


class RobotClock:
    """Real time, but set back and ahead, and wrong for one reading of the stream's."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.wrong: list[float] = []

    def stamp(self) -> float:
        """What sensors stamp their samples with."""
        return monotonic() + self.offset

    def __call__(self) -> float:
        """What the stream reads."""
        return self.stamp() + (self.wrong.pop() if self.wrong else 0.0)


class Robot:
    """The sensors, and what is wrong with them and the stages at the moment."""

    def __init__(self, pipe: Pipeline, clock: SimulatedClock | None) -> None:
        self.pipe, self.clock = pipe, clock
        self.reader = RobotClock()
        self.pushed = {name: PushLog() for name in LIMITS}
        self.phases: frozenset[str] = frozenset()
        #: When the text was withdrawn last.
        self.forgotten = -inf
        self.begun = self.now()

    def now(self) -> float:
        """True time in seconds."""
        return monotonic() if self.clock is None else self.clock()

    def push(
        self, streams: Iterable[Stream], name: str, *, late: float = 0.0, fault: str = ""
    ) -> None:
        """Push the next sample of a modality, whose stamp is ``late`` seconds behind its time."""
        number = self.pushed[name][-1].number + 1 if len(self.pushed[name]) else 1
        size = CHUNK if name == "imu" else 4
        value = np.full((1, size), number, np.float32)
        if fault == "nan":
            value[0, 1] = np.nan
        true = self.now()
        stamp = (true if self.clock is not None else self.reader.stamp()) - late
        for _ in range(2 if fault == "twice" else 1):
            self.pushed[name].append(Pushed(number, stamp, true))
            for stream in streams:
                stream.push(name, value, t=stamp)

    def enter(self, time: float) -> None:
        """Be in the phases of a time of the schedule."""
        at = time % CYCLE
        self.phases = frozenset(name for name, begin, end in PHASES if begin <= at < end)
        if self.clock is not None:
            self.clock.costs = {
                "encode_camera": 0.005,
                "fuse": SLOW_FUSION if "fusion slow" in self.phases else 0.003,
                "encode_lidar": SLOW if "lidar's encoder slow" in self.phases else 0.01,
            }


class Faulty:
    """The pipeline of one stream, whose stages fail and are slow.

    Args:
        robot: says what is wrong.
        pipe: the pipeline.
        is_quick: whether its fusion is never slow, as that of a cheaper network would be.
    """

    def __init__(self, robot: Robot, pipe: Pipeline, *, is_quick: bool = False) -> None:
        self._robot, self._pipe, self._is_quick = robot, pipe, is_quick
        self.bundle, self.variant = pipe.bundle, pipe.variant
        #: By modality, the numbers of samples that could not be encoded, and when.
        self.failed: dict[str, list[tuple[int, float]]] = {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """All else is the pipeline's own: golden samples are replayed before a swap."""
        return getattr(self._pipe, name)

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run one stage, or raise, or take long."""
        robot, name = self._robot, stage.removeprefix("encode_")
        if name != stage and any(np.any(value) for value in feeds.values()):  # no stand-in
            if f"{name}'s encoder raises" in robot.phases:
                number = int(next(iter(feeds.values())).flat[0])
                self.failed.setdefault(name, []).append((number, robot.now()))
                raise RuntimeError("device lost")
            if f"{name}'s encoder slow" in robot.phases and robot.clock is None:
                sleep(SLOW)
        is_slow = "fusion slow" in robot.phases and not self._is_quick
        if stage == "fuse" and is_slow and robot.clock is None:
            sleep(SLOW_FUSION)
        return self._pipe.run_stage(stage, feeds)


def schedule(seconds: float) -> Iterator[tuple[float, str, int]]:
    """Time, modality and number of each sample of the whole run, in order; texts and clocks too."""
    events = [
        (k / rate, name, k) for name, rate in RATES.items() for k in range(1, int(seconds * rate))
    ]
    for cycle in range(int(seconds / CYCLE) + 1):
        base = cycle * CYCLE
        events += [(base + at, "text", 0) for at in (1.0, 11.0, 20.2)]
        events.append((base + 20.0, "forget", 0))
        events += [(base + at, "clock", 0) for at in (*CLOCK_SET, *CLOCK_WRONG)]
    yield from sorted(event for event in events if event[0] < seconds)


def play(
    robot: Robot, streams: Iterable[Stream], seconds: float, fetch: Callable[[], None]
) -> None:
    """Do all that is scheduled, at its time; ``fetch`` takes the results on a simulated clock."""
    done: set[tuple[int, float]] = set()
    for time, name, k in schedule(seconds):
        if robot.clock is not None:
            robot.clock.advance_to(robot.begun + time)
            fetch()
        else:
            sleep(max(0.0, robot.begun + time - monotonic()))
        at = time % CYCLE
        robot.enter(time)
        if name == "clock":
            if robot.clock is None:
                near = min((*CLOCK_SET, *CLOCK_WRONG), key=lambda when: abs(when - at))
                robot.reader.offset += CLOCK_SET.get(near, 0.0)
                robot.reader.wrong += [CLOCK_WRONG[near]] if near in CLOCK_WRONG else []
            continue
        if name == "forget":
            for stream in streams:
                stream.forget("text")
            robot.forgotten = robot.now()
            continue
        if f"{name} silent" in robot.phases:
            continue
        late, fault = 0.0, ""
        if name != "text":
            for when, which in AHEAD.items():
                if name == which and at >= when and (int(time / CYCLE), when) not in done:
                    done.add((int(time / CYCLE), when))
                    late = -0.95 if at < when + 0.2 else 0.0
            if name == "lidar" and "lidar's clock set back" in robot.phases:
                late = SET_BACK
            if "stamps in a loop" in robot.phases:
                begun = next(begin for what, begin, _ in PHASES if what == "stamps in a loop")
                late = LOOP * (1 + int((at - begun) / LOOP))
            if "odd samples" in robot.phases:
                fault = {10: "twice", 20: "nan"}.get(k % 30, "")
                late = 0.06 if k % 30 == 15 else 0.0  # out of order, and not too old
        robot.push(streams, name, late=late, fault=fault)


class Judge:
    """A stream, each of whose results is held against what the sensors truly did."""

    def __init__(self, robot: Robot, trigger: str | float, **options: Any) -> None:  # noqa: ANN401
        self.robot, self.trigger, self.stages = robot, trigger, Faulty(robot, robot.pipe)
        self.stream = Stream(
            self.stages,
            trigger=trigger,
            deadline_ms=DEADLINE_MS,
            align={"imu": Window(ROWS, CHUNK)},
            clock=robot.reader if robot.clock is None else robot.clock,
            **options,
        )
        self.faults: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.kinds: Counter[str] = Counter()
        self.fresh: Counter[str] = Counter()
        self.latencies = array("d")

    def tell(self, fault: str, result: Result, detail: str = "") -> None:
        """Note what is wrong with a result."""
        fault = f"trigger {self.trigger}: {fault}"
        self.faults[fault] += 1
        at = (self.robot.now() - self.robot.begun) % CYCLE
        self.examples.setdefault(fault, f"{at:.3f} s into the cycle: {detail}; {result!r:.600}")

    def take(self, result: Result) -> None:
        """Judge one result, just fetched."""
        robot, now = self.robot, self.robot.now()
        kind = "fresh" if result.fresh else "empty" if result.outputs is None else "repeated"
        self.kinds[kind] += 1
        if not result.fresh and not result.reason:
            self.tell("a result without outputs, or with old ones, has no reason", result)
        if result.met and (not result.fresh or result.latency > DEADLINE_MS / 1e3):
            self.tell("a result is met that is late or not fresh", result)
        # Both on the clock as it was when the result was made, whatever was done to it before; but
        # a camera's stamps come in a loop, and are ahead, and its latency then counts otherwise.
        if self.trigger != "camera" and abs(result.made - result.t - result.latency) > ROUNDING:
            self.tell("its latency is not the time from its trigger to its making", result)
        if not -ROUNDING < result.latency < LONGEST:
            self.tell("a latency that cannot be", result)
        if result.outputs is None:
            return
        trigger = self._true_time(result)
        if trigger is None:
            self.tell("no frame has the trigger's time", result)
            return
        if result.fresh:
            self.latencies.append(result.latency)
            for phase in robot.phases or {"other"}:
                self.fresh[phase] += 1
            took = now - result.lateness - trigger
            # It counts from the arrival where a stamp is ahead, and a frame may wait for its push.
            if self.trigger == "camera" and abs(took - result.latency) > SLACK + BUSY:
                self.tell("another latency than in truth", result, f"{took:.3f} s")
            # Its reading of the time may be a moment after its making.
            if result.met and now - result.lateness - trigger > DEADLINE_MS / 1e3 + SLACK:
                self.tell("a result is met that was late in truth", result)
        for name, limit in LIMITS.items():
            self._judge_modality(result, name, limit, trigger)

    def _true_time(self, result: Result) -> float | None:
        """The true time of what triggered."""
        if self.trigger != "camera":
            return self.robot.now() - result.lateness - result.latency
        frames = self.robot.pushed["camera"]
        if result.fresh:
            used = result.samples["camera"]
            return frames[used[-1].seq].true
        alike = [f.true for f in frames.last(400) if abs(f.stamp - result.t) < 1e-6]
        return alike[-1] if alike else None

    def _judge_modality(
        self, result: Result, name: str, limit: float | None, trigger: float
    ) -> None:
        numbers = self.read_numbers(result, name)
        used, absent = result.samples.get(name, ()), result.absent.get(name)
        if not used:
            if absent is None:
                self.tell(f"{name}: neither used nor absent", result)
            if numbers.any():
                self.tell(f"{name}: said not to be used, and was", result)
            return
        samples = [self.robot.pushed[name][u.seq] for u in used]
        if {float(s.number) for s in samples} != set(numbers.tolist()):
            self.tell(f"{name}: other samples than it says", result, str(numbers))
            return
        first, last = min(s.number for s in samples), max(s.number for s in samples)
        times = [s.true for s in samples]
        apart = max((b - a for a, b in pairwise(times)), default=0.0)
        if name == "imu" and (last - first > 1 or apart > 2 / RATES["imu"] + SLACK):
            self.tell("imu: a window over a gap", result)
        made = self.robot.now() - result.lateness
        if name == "text" and times[0] < self.robot.forgotten < made:
            self.tell("text: used after it was withdrawn", result)
        if absent is not None:
            if name == "camera":
                self.tell("camera: outputs although it is absent", result)
            return
        age = max(trigger - s.true for s in samples)
        # A window's oldest row came a chunk's time before its chunk's stamp.
        if limit is not None and age > limit + SLACK:
            self.tell(f"{name}: older than its limit in truth", result, f"{age:.3f} s")
        said = result.ages[name]
        if said is None or (limit is not None and abs(said - age) > limit + SLACK):
            self.tell(f"{name}: another age than in truth", result, f"{age:.3f} s")
        if result.fresh and name == self.trigger and age != 0.0:
            self.tell("camera: an older frame than the one that triggered", result)
        failed = self.stages.failed.get(name, ())
        if any(first < number and at < made - 0.1 for number, at in failed[-50:]):
            self.tell(f"{name}: from before a failed encoding, without a word", result)

    def read_numbers(self, result: Result, name: str) -> Array:
        """The numbers that the outputs say were used of a modality."""
        outputs = result.outputs or {}
        numbers: Array = np.abs(outputs[f"o_{name}"][0])
        return numbers

    def check_shares(self, seconds: float, least: float) -> None:
        """Note phases in which less than a share ``least`` of triggers made a fresh result."""
        cycles = range(int(seconds / CYCLE) + 1)
        for phase in ("nothing", "lidar's encoder slow", "lidar's encoder raises"):
            begin, end = next((begin, end) for name, begin, end in PHASES if name == phase)
            spans = (
                min(seconds, c * CYCLE + end) - min(seconds, c * CYCLE + begin) for c in cycles
            )
            triggers = sum(spans) * RATES["camera"]
            if self.fresh[phase] < least * triggers - 2 * len(cycles):
                what = f"trigger {self.trigger}: few fresh results in phase {phase!r}"
                self.faults[what] += 1
                self.examples[what] = f"{self.fresh[phase]} of {triggers:.0f}"

    def record(self) -> dict[str, Any]:
        """What came of the stream."""
        ordered = sorted(self.latencies)
        return {
            "trigger": self.trigger,
            "results": dict(self.kinds),
            "latency_ms": {"p50": 1e3 * ordered[len(ordered) // 2], "max": 1e3 * ordered[-1]},
            "health": asdict(self.stream.health()),
        }


def soak_faults(
    bundle: Path, seconds: float, *, simulated: bool
) -> tuple[dict[str, Any], list[Judge]]:
    """Run both streams with faults planted; what came of it, and their judges."""
    with mmedge.load(bundle, plan="cut", threads=1) as pipe:
        robot = Robot(pipe, SimulatedClock(start=1000.0) if simulated else None)
        robot.enter(0.0)
        judges = [Judge(robot, trigger) for trigger in TRIGGERS]
        with ExitStack() as closing:
            streams = [closing.enter_context(judge.stream) for judge in judges]
            if robot.clock is not None:
                play(robot, streams, seconds, lambda: _fetch(judges))
                robot.clock.advance(1.0)
                _fetch(judges)
            else:
                collect(robot, judges, seconds)
    for judge in judges:
        judge.check_shares(seconds, LEAST["simulated" if simulated else "real"])
    return {
        "seconds": seconds,
        "clock": "simulated" if simulated else "real",
        "planted": sorted({name for name, *_ in PHASES} | {"stamps ahead"}),
        "stream_clock_set": not simulated,
        "pushed": {name: len(pushed) for name, pushed in robot.pushed.items()},
        "streams": [judge.record() for judge in judges],
    }, judges


def _fetch(judges: list[Judge]) -> None:
    for judge in judges:
        with suppress(TimeoutError):
            while True:
                judge.take(judge.stream.result(0.0))


def collect(robot: Robot, judges: Sequence[Judge], seconds: float) -> None:
    """In real time: a thread is the sensors, and one reads each stream."""
    done = threading.Event()

    def read(judge: Judge) -> None:
        while not done.is_set() or judge.stream.health().triggers_pending:
            with suppress(TimeoutError):
                judge.take(judge.stream.result(0.2))
            if done.is_set() and judge.trigger != "camera":
                return  # a timer goes on for ever

    with ThreadPoolExecutor(len(judges)) as readers:
        reading = [readers.submit(read, judge) for judge in judges]
        try:
            play(robot, [judge.stream for judge in judges], seconds, lambda: None)
        finally:
            done.set()
        for future in reading:
            future.result()
