"""A stream in real time for as long as asked: latency, memory, and every sample counted.

The reference network, a thread for each sensor (camera 30 Hz, voice 2 Hz, a new question now and
then), and faults on a fixed schedule: the voice is lost for a while, samples come twice, late, out
of order, or with NaN. The run is divided into windows; what is written is the latency's p50 and p99
and the resident memory of each, and the counters at the end.

Exit status 1 where counts do not add up, a thread is left, or a result has neither outputs nor a
reason. Run: ``python benchmarks/soak.py --seconds 1800``.

With ``--faults``, another stream gets the faults of robots planted (:mod:`soak_faults`): outages,
encoders that die or are slow, clocks that are set, stamps that are ahead or come again. Exit status
1 also where a result used a sample of the wrong age, or another than it says. Run for ten minutes:
``python benchmarks/soak.py --faults --seconds 600``, or on a simulated clock with ``--simulated``.

With ``--field``, the same with a flight recorder, metrics, a swap every 20 s and variants that
adapt, between two quarters without (:mod:`soak_field`); it takes half as long again.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
from soak_faults import Judge, soak_faults, write_bundle
from soak_field import soak_field

import mmedge
from mmedge.bench.machine import host
from mmedge.bench.stats.summary import percentile
from mmedge.machine import resident_bytes
from mmedge_export import export

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.spec import Array
    from mmedge.stream import Health, Result, Stream

RESULTS = Path(__file__).parent / "results" / "soak.json"
FAULT_RESULTS = RESULTS.with_name("soak_faults.json")
FIELD_RESULTS = RESULTS.with_name("soak_field.json")

#: Seconds of a window of a long run; a short one has at least this many windows.
WINDOW_S, LEAST_WINDOWS = 60.0, 6


class Sensors:
    """Threads that push to a stream until told to stop."""

    def __init__(self, stream: Stream, samples: list[dict[str, Any]]) -> None:
        self.stream = stream
        self.samples: list[dict[str, Any]] = samples
        self.stop = threading.Event()
        self.pushed = dict.fromkeys(("image", "text", "audio"), 0)
        self.threads = [
            threading.Thread(target=self._run, args=(name, rate), name=f"sensor {name}")
            for name, rate in (("image", 30.0), ("audio", 2.0), ("text", 0.2))
        ]

    def _run(self, name: str, rate: float) -> None:
        begun = monotonic()
        number = 0
        rng = np.random.default_rng(len(name))
        while not self.stop.wait(max(begun + number / rate - monotonic(), 0.0)):
            number += 1
            # Every 40 s the voice is gone for 10.
            if name == "audio" and number % 80 >= 60:
                continue
            value = self.samples[number % len(self.samples)][name].copy()
            if name == "image":
                # No two frames are alike.
                value = np.bitwise_xor(value, rng.integers(0, 2, value.shape, np.uint8))
            stamp = monotonic()
            kind = number % 50
            if kind == 10 and name == "audio":
                value[0, :3] = np.nan
            if kind == 20:
                stamp -= 0.5  # late, and behind the one before
            self._push(name, value, stamp)
            if kind == 30:
                self._push(name, value, stamp)  # the same again

    def _push(self, name: str, value: Array, stamp: float) -> None:
        self.stream.push(name, value, t=stamp)
        self.pushed[name] += 1

    def start(self) -> None:
        """Begin."""
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        """Stop pushing."""
        self.stop.set()
        for thread in self.threads:
            thread.join()


def account(health: Health, pushed: dict[str, int], fetched: int) -> list[str]:
    """What does not add up after the stream was closed; empty when all does."""
    faults = []
    for name, track in health.modalities.items():
        total = track.used + sum(track.dropped.values()) + track.pending
        if not pushed[name] == track.pushed == total:
            faults.append(f"{name}: {pushed[name]} pushed, {track.pushed} counted, {total} told")
        if track.pending:
            faults.append(f"{name}: {track.pending} still pending after close")
    ended = health.results + health.triggers_superseded + health.triggers_closed
    if health.triggers != ended + health.triggers_pending:
        faults.append(f"{health.triggers} triggers, {ended} ended")
    if health.results < fetched + health.results_dropped:
        faults.append(f"{health.results} results, {fetched} fetched")
    return faults


def trend(values: list[float], minutes: list[float]) -> dict[str, float]:
    """Least-squares slope per hour and its standard error."""
    x, y = np.array(minutes) / 60.0, np.array(values)
    design = np.stack([x - x.mean(), np.ones_like(x)], axis=1)
    fit, *_ = np.linalg.lstsq(design, y, rcond=None)
    rest = y - design @ fit
    error = np.sqrt(rest @ rest / max(len(y) - 2, 1) / ((x - x.mean()) ** 2).sum())
    return {"per_hour": float(fit[0]), "standard_error": float(error)}


def soak(bundle: Path, seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Run the stream; what was measured, and what was wrong."""
    before = {thread.ident for thread in threading.enumerate()}
    windows: list[dict[str, Any]] = []
    faults: list[str] = []
    fetched = 0
    length = min(WINDOW_S, seconds / LEAST_WINDOWS)
    with mmedge.load(bundle, plan="cut") as pipe:
        samples = [dict(sample.inputs) for sample in pipe.bundle.samples()]
        with pipe.stream(trigger="image", deadline_ms=100.0) as stream:
            sensors = Sensors(stream, samples)
            sensors.start()
            begun = monotonic()
            while (past := monotonic() - begun) < seconds:
                latencies: list[float] = []
                kinds = {"fresh": 0, "stale": 0, "empty": 0}
                while monotonic() - begun < past + length:
                    result: Result = stream.result(timeout=5.0)
                    fetched += 1
                    if result.fresh:
                        latencies.append(1e3 * result.latency)
                    kinds[_kind(result)] += 1
                    if not result.fresh and not result.reason:
                        faults.append(f"a result at {result.t} has no reason")
                window = {
                    "minute": past / 60.0,
                    "p50_ms": percentile(latencies, 50.0),
                    "p99_ms": percentile(latencies, 99.0),
                    "results": kinds,
                    "resident_mib": (resident_bytes() or 0) / 2**20,
                }
                windows.append(window)
                print(json.dumps(window), flush=True)
            sensors.join()
        health = stream.health()
    faults += account(health, sensors.pushed, fetched)
    faults += _left(before)
    # The first windows hold what is allocated once: arenas, caches, the first of each kind.
    steady = windows[max(1, len(windows) // 6) :]
    minutes = [window["minute"] for window in steady]
    measured = {
        "seconds": seconds,
        "windows": windows,
        "trend": {
            key: trend([window[key] for window in steady], minutes)
            for key in ("p50_ms", "p99_ms", "resident_mib")
            if all(window[key] is not None for window in steady)
        },
        "health": asdict(health),
        "faults": faults,
    }
    return measured, faults


def _kind(result: Result) -> str:
    if result.outputs is None:
        return "empty"
    return "fresh" if result.fresh else "stale"


def _left(before: set[int | None]) -> list[str]:
    """The threads that are still there after a moment."""
    until = monotonic() + 5.0
    while (alive := _others(before)) and monotonic() < until:
        sleep(0.05)
    return [f"thread {name!r} is left" for name in alive]


def _others(before: set[int | None]) -> list[str]:
    return [t.name for t in threading.enumerate() if t.ident not in before]


def _with_faults(
    bundle: Path, seconds: float, *, simulated: bool
) -> tuple[dict[str, Any], list[str]]:
    """Run :mod:`soak_faults`; what was measured, and what was wrong."""
    before = {thread.ident for thread in threading.enumerate()}
    write_bundle(bundle)
    measured, judges = soak_faults(bundle, seconds, simulated=simulated)
    faults = [*_left(before), *_judged(judges, measured["pushed"])]
    return {**measured, "faults": faults}, faults


def _in_the_field(folder: Path, seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Run :mod:`soak_field`; what was measured, and what was wrong."""
    before = {thread.ident for thread in threading.enumerate()}
    measured, runs, faults = soak_field(folder, seconds)
    faults += _left(before)
    for judges, run in zip(runs, measured["runs"], strict=True):
        faults += _judged(judges, run["pushed"])
    resident = next(run["resident_mib"] for run in measured["runs"] if run["watched"])
    steady = resident[max(1, len(resident) // 6) :]
    if len(steady) > 2:
        minutes = [at / 60.0 for at, _ in steady]
        measured["resident_trend"] = trend([size for _, size in steady], minutes)
    return {**measured, "faults": faults}, faults


def _judged(judges: Sequence[Judge], pushed: dict[str, int]) -> list[str]:
    """What judges found, and what does not add up."""
    faults = []
    for judge in judges:
        faults += [
            f"{count} x {what}: {judge.examples[what]}" for what, count in judge.faults.items()
        ]
        faults += account(judge.stream.health(), pushed, judge.kinds.total())
        print(json.dumps({"trigger": judge.trigger, "results": dict(judge.kinds)}))
    return faults


def main() -> None:
    """Run, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--faults", action="store_true", help="plant faults (see above)")
    parser.add_argument(
        "--simulated", action="store_true", help="with --faults, as fast as the stages run"
    )
    parser.add_argument("--field", action="store_true", help="with all that watches (see above)")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.name} beside the others")
    arguments = parser.parse_args()
    if arguments.simulated and not arguments.faults:
        parser.error("--simulated goes with --faults")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle")
        if arguments.field:
            measured, faults = _in_the_field(Path(folder), arguments.seconds)
        elif arguments.faults:
            measured, faults = _with_faults(
                bundle, arguments.seconds, simulated=arguments.simulated
            )
        else:
            export("zoo:vqa-attention", bundle, split=True).close()
            measured, faults = soak(bundle, arguments.seconds)
    result = {
        "what": "a stream in real time with faults: latency, memory and counts over time",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "device": host.state(),
        **measured,
    }
    default = FAULT_RESULTS if arguments.faults else FIELD_RESULTS if arguments.field else RESULTS
    output = arguments.output or default
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {output}")
    if faults:
        raise SystemExit("\n".join(["this is wrong:", *faults]))


if __name__ == "__main__":
    main()
