"""False alarms of drift scores in 24 simulated hours, and how soon planted changes are seen.

A profile is learned of two hours: twelve recordings of ten minutes, spread over a day. Then another
day passes with other pictures, other speakers and other rooms, in which nothing is changed: each
alarm is a false one. Then each change of ``drift_changes.py`` is planted at different times of the
day, after some normal seconds, and it is noted when its sensor's alarm begins.

Sensors are those of ``drift_sensors.py``; the scores are taken by the detector that a stream uses.
Features are those of the vqa network's image encoder. For the 24 hours the encoder runs on a few
thousand frames, of which a scene takes those of the nearest light; for planted changes it runs on
each frame.

``--cost`` measures what a look costs, a stream's push with and without a profile, and how well
levels of short samples hold, and leaves the rest of the results as it is (two minutes).

Run: ``python benchmarks/drift.py`` (about ten minutes on one core; ``--hours 1`` for a trial).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from drift_changes import CHANGES
from drift_sensors import HZ, Camera, Lidar, Microphone, Sensor, StateVector
from easy_vqa import get_test_image_paths, get_train_image_paths
from PIL import Image

import mmedge
from mmedge.bench.machine import host
from mmedge.drift.detector import Detector
from mmedge.drift.layout import layout_of
from mmedge.drift.learn import LookLog, fit_profile
from mmedge.drift.measure import Measure
from mmedge.drift.tails import return_level
from mmedge.recording import Golden
from mmedge.stream import SimulatedClock
from mmedge_export import export
from mmedge_export.zoo.speech import synthesise
from mmedge_export.zoo.voices import draw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drift_sensors import Change as Planted
    from numpy.typing import NDArray

    from mmedge.drift.detector import Change
    from mmedge.drift.profile import DriftProfile
    from mmedge.pipeline import Pipeline

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "drift.json"
ROBOT = ROOT / "examples" / "robot" / "recording.safetensors"

#: Recordings that the profile is learned of, and seconds of each.
RECORDINGS, RECORDING_SECONDS = 12, 600.0
#: Pictures and clips of each set, and frames of each picture light that are encoded.
PICTURES, CLIPS, ENCODED = 1000, 120, 4000
#: Times that each change is planted, and seconds before and after it.
TRIALS, BEFORE, AFTER = 12, 8.0, 30.0
#: A change is to be found within so many seconds.
SOON = 5.0
DAY = 86_400.0

Make = Callable[[int, float], Sensor]


@dataclass
class World:
    """What sensors see and hear: one part of the data.

    Attributes:
        sensors: makes each sensor of a seed and a time of the day.
        features: looks of the image encoder: light of each frame, and features.
    """

    sensors: dict[str, Make]
    lights: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    features: list[dict[str, Any]] = field(default_factory=list)


def load_world(part: str) -> World:
    """``train`` to learn of, ``test`` for the rest."""
    sys.path.insert(0, str(ROOT / "examples"))
    from robot.recording import unpack_frames
    from safetensors.numpy import load_file

    paths = get_train_image_paths() if part == "train" else get_test_image_paths()
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in list(paths.values())]
    data = load_file(ROBOT)
    frames = list(unpack_frames(data[f"{part}.png"], data[f"{part}.ends"]))
    room = data[f"{part}.room"]
    rooms = [np.flatnonzero(room == number) for number in np.unique(room)]
    states, scans = (data[f"{part}.{n}"].astype(np.float32) for n in ("state", "lidar"))
    sentences = [
        "what shape is in the image", "what color is the shape", "is there a red shape",
        "does the image contain a circle", "is there not a blue triangle", "is a green shape here",
    ]  # fmt: skip
    spoken = draw(part, sentences * 2, CLIPS // 12)
    clips = [synthesise(utterance).astype(np.float32) / 32768.0 for utterance in spoken]
    chosen = pictures[:PICTURES]
    return World(
        {
            "image": lambda seed, start: Camera(seed, start, chosen),
            "camera": lambda seed, start: Camera(
                seed, start, frames, rooms=rooms, warmth=1.06 if seed >= 900_000 else 1.0
            ),
            "audio": lambda seed, start: Microphone(seed, start, clips),
            "state": lambda seed, start: StateVector(seed, start, states, rooms),
            "lidar": lambda seed, start: Lidar(seed, start, scans, rooms),
        }
    )


class Sink(Protocol):
    """What takes values: a detector, or a log of each modality."""

    def __call__(
        self, modality: str, source: str, values: Mapping[str, Any], t: float, /
    ) -> Change | None:
        """Take in what came at a time in seconds."""


def take(sink: Sink, name: str, sensor: Sensor, t: float) -> Change | None:
    """Hand the next look of a sensor to a learner or a detector; the value before it first."""
    value, last = next(sensor)
    return hand(sink, name, value, last, t)


def hand(
    sink: Sink, name: str, value: NDArray[Any], last: NDArray[Any] | None, t: float
) -> Change | None:
    """One look, and the value before it."""
    if last is not None:
        sink(name, "inputs", {name: last}, t - 0.02)  # too soon for a look
    return sink(name, "inputs", {name: value}, t)


class Encoder:
    """The image encoder of the vqa network."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        stages = pipe.bundle.manifest.in_order("cut")
        self._stages = [stage for stage in stages if stage.modality == "image"]

    def __call__(self, frames: list[NDArray[np.generic]]) -> list[dict[str, Any]]:
        """Features of each frame [1, 64, 64, 3]."""
        given: list[dict[str, Any]] = []
        for begin in range(0, len(frames), 32):
            tensors: dict[str, Any] = {"image": np.concatenate(frames[begin : begin + 32])}
            for stage in self._stages:
                feeds = {spec.name: tensors[spec.name] for spec in stage.inputs}
                tensors |= self._pipe.run_stage(stage.name, feeds)
            del tensors["image"]
            given += [
                {name: value[k : k + 1] for name, value in tensors.items()}
                for k in range(len(frames[begin : begin + 32]))
            ]
        return given


def encode_some(world: World, encoder: Encoder, seed: int) -> None:
    """Fill the world's features: frames at all times of a day."""
    times = np.linspace(0.0, DAY, ENCODED, endpoint=False)
    frames, lights = [], []
    for index, time in enumerate(times):
        camera = world.sensors["image"](seed + index, float(time))
        frames.append(camera.look()[0])
        lights.append(camera.light)  # type: ignore[attr-defined]
    order = np.argsort(lights)
    encoded = encoder(frames)
    world.lights = np.array(lights)[order]
    world.features = [encoded[index] for index in order]


class FeatureScenes:
    """Features as scenes follow each other: for some seconds those of frames of one light."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._rng = world, np.random.default_rng([seed, 9])
        self._until, self._index = -1.0, 0

    def look(self, light: float, time: float) -> dict[str, Any]:
        """What the encoder gives at a time in seconds."""
        if time >= self._until:
            nearest = int(np.searchsorted(self._world.lights, light))
            low, high = max(0, nearest - 60), min(len(self._world.lights), nearest + 60)
            self._index = int(self._rng.integers(low, high))
            self._until = time + 1.0 + float(self._rng.exponential(3.0))
        return self._world.features[self._index]


def learn(world: World, bundle: mmedge.Bundle) -> tuple[DriftProfile, float]:
    """The profile of some recordings, and the seconds that fitting it took."""
    logs = {(name, "inputs"): LookLog(("audio",)) for name in world.sensors}
    logs["image", "features"] = LookLog(is_feature=True)

    def sink(name: str, source: str, values: Mapping[str, Any], t: float) -> None:
        logs[name, source].take(values, t)

    for number in range(RECORDINGS):
        start = DAY * number / RECORDINGS
        sensors = {name: make(100 + number, start) for name, make in world.sensors.items()}
        scenes = FeatureScenes(world, 100 + number)
        for log in logs.values():
            log.begin()
        for step in range(round(RECORDING_SECONDS * HZ)):
            t = start + step / HZ
            for name, sensor in sensors.items():
                take(sink, name, sensor, t)
            light = sensors["image"].light  # type: ignore[attr-defined]
            sink("image", "features", scenes.look(light, t), t)
    began = perf_counter()
    profile = fit_profile(bundle.manifest, bundle.digest, logs)
    return profile, perf_counter() - began


def run_hours(
    world: World, profile: DriftProfile, start: float, hours: float, seed: int
) -> dict[str, Any]:
    """Nothing is changed: the alarms, and how high scores are."""
    detector = Detector(profile)
    sensors = {name: make(seed, start) for name, make in world.sensors.items()}
    scenes = FeatureScenes(world, seed)
    alarms: list[dict[str, Any]] = []
    highest: dict[str, float] = {}
    above = dict.fromkeys(sensors, 0)
    steps = round(hours * 3600.0 * HZ)
    for step in range(steps):
        t = start + step / HZ
        changes = [take(detector.take, name, sensor, t) for name, sensor in sensors.items()]
        light = sensors["image"].light  # type: ignore[attr-defined]
        changes.append(detector.take("image", "features", scenes.look(light, t), t))
        alarms += [
            {"modality": change.modality, "hour": t / 3600.0, "message": str(change)}
            for change in changes
            if change is not None and change.kind == "drift"
        ]
        for name, score in detector.scores().items():
            highest[name] = max(highest.get(name, 0.0), score)
            above[name] += score >= 1.0
    print(f"  {start / 3600:.0f} h on: {len(alarms)} alarms", file=sys.stderr, flush=True)
    return {"alarms": alarms, "highest": highest, "above": above, "steps": steps}


#: What forked children find.
_SHARED: list[Any] = []


def _run_part(part: tuple[float, float, int]) -> dict[str, Any]:
    return run_hours(_SHARED[0], _SHARED[1], *part)


def run_day(world: World, profile: DriftProfile, hours: float, processes: int) -> dict[str, Any]:
    """Nothing is changed for some hours, in eight parts on so many processors."""
    _SHARED[:] = [world, profile]
    count = 8
    length = hours / count
    parts = [(DAY * k / count, length, 700 + k) for k in range(count)]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        ran = pool.map(_run_part, parts, chunksize=1)
    names = list(world.sensors)
    steps = sum(part["steps"] for part in ran)
    return {
        "hours": hours,
        "alarms": [alarm for part in ran for alarm in part["alarms"]],
        "highest_score": {name: max(part["highest"][name] for part in ran) for name in names},
        "share_above_1": {
            name: sum(part["above"][name] for part in ran) / steps for name in names
        },
    }  # fmt: skip


def plant(
    world: World, profile: DriftProfile, change: Planted, encoder: Encoder, trials: int
) -> dict[str, Any]:
    """Seconds until the alarm of the changed sensor, in each trial; None: none came."""
    delays: list[float | None] = []
    in_alarm_before = 0
    message = ""
    for trial in range(trials):
        rng = np.random.default_rng([trial, 21])
        start = float(rng.uniform(0.0, DAY))
        make = world.sensors[change.sensor]
        sensor = make(10_000 + trial, start)
        other = None if not change.swap else world.sensors[change.swap](900_000 + trial, start)
        detector = Detector(profile)
        before = round((BEFORE + float(rng.random())) * HZ)
        looks = []
        for step in range(before + round(AFTER * HZ)):
            if step == before:
                sensor.change = change
                sensor = sensor if other is None else other
            looks.append(next(sensor))
        features = encoder([look[0] for look in looks]) if change.sensor == "image" else None
        # The change comes at any time between two looks.
        instant = before - float(rng.random())
        delay: float | None = None
        for step, look in enumerate(looks):
            t = step / HZ
            events = [hand(detector.take, change.sensor, *look, t)]
            if features is not None:
                events.append(detector.take("image", "features", features[step], t))
            told = [event for event in events if event is not None]
            began = any(event.kind == "drift" for event in told)
            if began and step < before:
                in_alarm_before += 1
                break
            if began:
                delay = (step - instant) / HZ
                message = str(told[0])
            updates = [event for event in told if event.kind == "drift_update"]
            if updates:
                message = str(updates[0])
                break
        if delay is not None or step >= before:
            delays.append(delay)
    seen = sorted(delay for delay in delays if delay is not None)
    return {
        "sensor": change.sensor,
        "kind": change.kind,
        "strength": change.strength,
        "trials": len(delays),
        "in_alarm_before": in_alarm_before,
        "found_within_5_s": sum(delay <= SOON for delay in seen),
        "found_within_30_s": len(seen),
        "median_s": float(np.median([np.inf if d is None else d for d in delays]))
        if 2 * len(seen) > len(delays) else None,
        "latest_s": seen[-1] if seen else None,
        "message": message,
    }  # fmt: skip


def best_of(call: Callable[[], object], repeat: int = 60, number: int = 30) -> float:
    """Microseconds of a call: the least mean of some runs."""
    best = np.inf
    for _ in range(repeat):
        began = perf_counter()
        for _ in range(number):
            call()
        best = min(best, (perf_counter() - began) / number)
    return float(best * 1e6)


def measure_cost(world: World, profile: DriftProfile, pipe: Pipeline) -> dict[str, Any]:
    """Microseconds of looks, of scores, and of pushes that are looked at or not."""
    rng = np.random.default_rng(0)
    looks: dict[str, float] = {}
    values: dict[str, list[NDArray[np.generic]]] = {
        name: [make(1, 0.0).look()[0] for _ in range(8)] for name, make in world.sensors.items()
    }
    for size in ((480, 640), (1080, 1920)):
        name = f"picture {size[1]} x {size[0]}"
        values[name] = [rng.integers(0, 256, (1, *size, 3), np.uint8) for _ in range(2)]
    for name, some in values.items():
        layout = layout_of(name, some, is_sound=name == "audio")
        if isinstance(layout, str):
            raise SystemExit(f"{name}: {layout}")
        measure = Measure(layout)
        looks[name] = best_of(lambda m=measure, s=some: m(s[0], s[1]))  # type: ignore[misc]
    layouts = {reference.source: reference for reference in profile.references
               if reference.modality == "image"}  # fmt: skip
    feature = Measure(layouts["features"].layouts[0])
    tensor = world.features[0][layouts["features"].layouts[0].tensor]
    looks["features of image"] = best_of(lambda: feature(tensor))
    detector = Detector(profile)
    times = iter(range(10**9))
    scored = best_of(
        lambda: detector.take("image", "inputs", {"image": values["image"][0]}, float(next(times)))
    )
    detector.take("image", "inputs", {"image": values["image"][0]}, 2e9)
    passed = best_of(
        lambda: detector.take("image", "inputs", {"image": values["image"][0]}, 2e9), number=2000
    )
    return {
        "look_us": looks,
        "look_and_score_of_image_us": scored,
        "passed_over_us": passed,
        "stream_us": _stream_cost(pipe, profile),
    }


def _stream_cost(pipe: Pipeline, profile: DriftProfile) -> dict[str, Any]:
    """Microseconds of processor time from a picture's push to its result, one thread."""
    golden = list(Golden(pipe.bundle, seconds=20.0))
    own = type(profile)(
        profile.bundle, profile.digest, profile.false_alarm_hours,
        tuple(r for r in profile.references if r.modality == "image"), profile.unwatched,
    )  # fmt: skip

    def play(drift: DriftProfile | None) -> tuple[float, float]:
        clock = SimulatedClock()
        spent: list[float] = []
        with pipe.stream(trigger="image", clock=clock, drift=drift) as stream:
            for sample in golden:
                clock.advance_to(sample.arrival)
                began = thread_time()
                stream.push(sample.modality, sample.value, sample.t)
                if sample.modality == "image":
                    stream.result(0.0)
                    spent.append(thread_time() - began)
        return float(np.mean(spent) * 1e6), float(np.quantile(spent, 0.95) * 1e6)

    play(None)
    pairs = [(play(None), play(own)) for _ in range(7)]
    bare, watched = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    return {
        "push_to_result_mean": float(np.median(bare[:, 0])),
        "push_to_result_mean_with_profile": float(np.median(watched[:, 0])),
        "push_to_result_p95": float(np.median(bare[:, 1])),
        "push_to_result_p95_with_profile": float(np.median(watched[:, 1])),
        "added_mean": float(np.median(watched[:, 0] - bare[:, 0])),
        "repeats": len(pairs),
    }


def measure_tails() -> dict[str, Any]:
    """How often independent values pass the level, as a share of how often they should.

    Each level is made of 3,000 values, for one in 300,000.
    """
    rng = np.random.default_rng(0)
    count, times, repeats = 3000, 100, 40
    draws: dict[str, Callable[[int], NDArray[np.float64]]] = {
        "normal": lambda n: np.abs(rng.standard_normal(n)),
        "exponential": rng.standard_exponential,
        "Student's t, 6 degrees": lambda n: np.abs(rng.standard_t(6, n)),
        "uniform": rng.random,
    }
    found = {}
    for name, draw_values in draws.items():
        many = np.sort(draw_values(30_000_000))
        ratios = []
        for _ in range(repeats):
            square = np.square(draw_values(count))
            level = float(np.sqrt(return_level([square], 1.0 / (count * times), 1)))
            share = 1.0 - np.searchsorted(many, level) / many.size
            ratios.append(share * count * times)
        found[name] = {"mean": float(np.mean(ratios)), "median": float(np.median(ratios)),
                       "share_above_3": float(np.mean(np.array(ratios) > 3.0))}  # fmt: skip
    return {"values": count, "times": times, "repeats": repeats, "ratios": found}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--cost", action="store_true", help="measure cost and tails alone")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    began = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vqa.mmedge"
        export("zoo:vqa-attention", path, split=True).close()
        with mmedge.load(path, plan="cut", threads=1) as pipe:
            encoder = Encoder(pipe)
            train = load_world("train")
            encode_some(train, encoder, 1_000_000)
            profile, fit_seconds = learn(train, pipe.bundle)
            result: dict[str, Any] = {}
            if options.cost:
                result = json.loads(options.output.read_text())
            else:
                result = evaluate(profile, encoder, options)
                result |= {"fit_seconds": fit_seconds, "seconds": perf_counter() - began}
            result |= {
                "cost": measure_cost(train, profile, pipe),
                "tails": measure_tails(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "device": host.state(),
            }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {options.output} in {perf_counter() - began:.0f} s", file=sys.stderr)


def evaluate(
    profile: DriftProfile, encoder: Encoder, options: argparse.Namespace
) -> dict[str, Any]:
    """The day without a change, and the planted changes."""
    test = load_world("test")
    encode_some(test, encoder, 2_000_000)
    day = run_day(test, profile, options.hours, options.processes)
    print(f"{len(day['alarms'])} false alarms in {options.hours:g} h", file=sys.stderr)
    for alarm in day["alarms"]:
        print(f"  {alarm['hour']:.2f} h: {alarm['message']}", file=sys.stderr)
    rows = []
    for change in CHANGES:
        rows.append(plant(test, profile, change, encoder, options.trials))
        row = rows[-1]
        print(
            f"{row['sensor']} {row['kind']} {row['strength']}: {row['found_within_5_s']} and "
            f"{row['found_within_30_s']} of {row['trials']}, {row['median_s']} s; {row['message']}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return {
        "learned_hours": RECORDINGS * RECORDING_SECONDS / 3600.0,
        "recordings": RECORDINGS,
        "false_alarm_hours": profile.false_alarm_hours,
        "window_s": {f"{r.modality} {r.source}": r.looks * r.interval for r in profile.references},
        "statistics": {f"{r.modality} {r.source}": len(r.statistics()) for r in profile.references},
        "levels": {f"{r.modality} {r.source}": list(r.model.level) for r in profile.references},
        "day": day,
        "changes": rows,
    }


if __name__ == "__main__":
    main()
