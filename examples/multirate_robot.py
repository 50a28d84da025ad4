"""A robot's network fed by four sensors, each at its own rate, while one of them dies and returns.

Replays a recorded drive: camera at 30 Hz, lidar at 10 Hz, state at 100 Hz, an instruction now and
then. Every frame triggers a result from the newest of everything. For five seconds in the middle
the lidar says nothing.

    python examples/multirate_robot.py [--bundle robot.mmedge] [--real-time]

Without a bundle the network in ``robot/network.py`` is exported first, which needs torch; nothing
else here does. In simulated time, which is the default, computations cost nothing, every run gives
the same results, and the same seconds are replayed once more with the lidar alive.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from robot.expert import SWERVES
from robot.recording import Recording, Replay

import mmedge
from mmedge.stream import SimulatedClock, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmedge.stream import Health, Result

__all__ = ["DEAD_S", "Event", "Verdict", "events", "judge", "main", "replay"]

DEAD_S = (7.0, 12.0)
"""From when to when the lidar is silent, in seconds of the drive."""

DEADLINE_MS = 50.0


class Event(NamedTuple):
    """A sensor delivers: seconds since the drive's start, which sensor, and what."""

    t: float
    modality: str
    value: Any


class Verdict(NamedTuple):
    """A result's time, whether it is the expert's choice, and whether that was to swerve."""

    t: float
    right: bool
    swerve: bool


def events(drive: Replay, dead: tuple[float, float] = DEAD_S) -> list[Event]:
    """Everything that the sensors deliver, in order; the lidar is silent in ``[from, to)``."""
    lidar = [
        Event(float(t), "lidar", scan[None])
        for t, scan in zip(drive.lidar_t, drive.lidar, strict=True)
        if not dead[0] <= t < dead[1]
    ]
    state = [
        Event(float(t), "state", value[None])
        for t, value in zip(drive.state_t, drive.state, strict=True)
    ]
    text = [
        Event(float(t), "text", words)
        for t, words in zip(drive.text_t, drive.instructions(), strict=True)
    ]
    camera = [
        Event(float(t), "camera", frame[None])
        for t, frame in zip(drive.camera_t, drive.frame, strict=True)
    ]
    # Sorting is stable: of one time, the camera comes last, so that its result has the rest.
    return sorted([*state, *lidar, *text, *camera], key=lambda event: event.t)


def replay(
    pipe: mmedge.Pipeline,
    drive: Replay,
    *,
    dead: tuple[float, float] = DEAD_S,
    real_time: bool = False,
) -> tuple[list[Result], Health]:
    """Push the drive through a stream; its results, with times from the drive's start.

    Args:
        pipe: the loaded network.
        drive: what the sensors delivered.
        dead: from when to when the lidar is silent.
        real_time: at the pace of the wall clock; otherwise as fast as this machine computes, and
            every run gives the same results.
    """
    simulated = None if real_time else SimulatedClock()
    now = simulated or time.monotonic
    results: list[Result] = []
    with Stream(pipe, trigger="camera", deadline_ms=DEADLINE_MS, clock=simulated) as stream:
        start = now()
        for event in events(drive, dead):
            at = start + event.t
            if simulated is None:
                time.sleep(max(at - now(), 0.0))
            else:
                simulated.advance_to(at)
            stream.push(event.modality, event.value, t=at)
            results += _ready(stream, wait_s=0.0)
        results += _ready(stream, wait_s=0.2)
        health = stream.health()
    return [replace(result, t=result.t - start) for result in results], health


def _ready(stream: Stream, *, wait_s: float) -> Iterator[Result]:
    """The results that are there, or come within ``wait_s`` of one another."""
    with contextlib.suppress(TimeoutError):
        while True:
            yield stream.result(wait_s)


def judge(drive: Replay, results: list[Result]) -> list[Verdict]:
    """What the expert did at each result's frame, and whether the network would have.

    The replayed room was never trained on. Where there are no outputs nothing was chosen. The
    expert drove, with a lidar that never died: this asks what the network would have done there.
    """
    found: list[Verdict] = []
    for result in results:
        frame = int(np.abs(drive.camera_t - result.t).argmin())
        right = int(drive.manoeuvre[frame])
        chosen = None if result.outputs is None else int(result.outputs["manoeuvre"][0].argmax())
        found.append(Verdict(result.t, chosen == right, right in SWERVES))
    return found


def timeline(results: list[Result], verdicts: list[Verdict], step: float = 2.0) -> list[str]:
    """Every ``step`` seconds: rate of results, greatest age of each input, share of agreement."""
    widths = {"camera": 10, "lidar": 8, "state": 8, "text": 8}
    heads = "".join(f"{name:>{width}}" for name, width in widths.items())
    lines = [
        f"{'':10}{'results':>10}{'greatest age in ms':>{sum(widths.values())}}",
        f"{'seconds':10}{'per s':>10}{heads}{'as expert':>12}",
    ]
    for begin in np.arange(0.0, results[-1].t, step):
        part = [i for i, result in enumerate(results) if begin <= result.t < begin + step]
        cells = [_age([results[i].ages[name] for i in part]) for name in widths]
        ages = "".join(f"{age:>{w}}" for age, w in zip(cells, widths.values(), strict=True))
        right = np.mean([verdicts[i].right for i in part]) if part else 0.0
        span = f"{begin:3.0f} to {begin + step:2.0f}"
        lines.append(f"{span:10}{len(part) / step:10.1f}{ages}{right:12.0%}")
    return lines


def presence(results: list[Result]) -> list[str]:
    """When the lidar went, why, and when it came back."""
    lines = [f"The lidar is silent from {DEAD_S[0]:g} to {DEAD_S[1]:g} s."]
    before = ""
    for result in results:
        why = result.absent.get("lidar", "")
        kind = why.partition(":")[0]  # the rest is the age, which is another each time
        if kind != before:
            lines.append(f"{result.t:8.3f} s  " + (f"absent: {why}" if why else "back in use"))
        before = kind
    return lines


def agreement(verdicts: list[Verdict], undisturbed: list[Verdict] | None) -> list[str]:
    """How good the choices were before, while and after the lidar was silent."""
    end = verdicts[-1].t + 1.0
    phases = [
        ("before", verdicts, (0.0, DEAD_S[0])),
        ("lidar silent", verdicts, DEAD_S),
        ("after", verdicts, (DEAD_S[1], end)),
    ]
    if undisturbed is not None:
        phases.insert(2, ("  had it spoken", undisturbed, DEAD_S))
    lines = [f"{'As the expert':18}{'all manoeuvres':>22}{'where it swerves':>22}"]
    for name, which, (start, stop) in phases:
        phase = [verdict for verdict in which if start <= verdict.t < stop]
        swerves = [verdict for verdict in phase if verdict.swerve]
        lines.append(f"{name:18}{_share(phase):>22}{_share(swerves):>22}")
    return lines


def counters(health: Health) -> list[str]:
    """Where every sample and every trigger went."""
    lines = [f"{'':10}{'pushed':>8}{'used':>8}{'dropped':>10}{'encoder runs':>14}"]
    for name, one in health.modalities.items():
        gone = sum(one.dropped.values())
        lines.append(f"{name:10}{one.pushed:8}{one.used:8}{gone:10}{one.encodes:14}")
    lines.append(
        f"{health.results} results of {health.triggers} frames: {health.stale} stale, "
        f"{health.empty} empty, {health.deadline_misses} later than {DEADLINE_MS:.0f} ms"
    )
    return lines


def _age(ages: list[float | None]) -> str:
    """The largest age of a modality over several results, in ms; ``-`` where it was absent."""
    known = [age for age in ages if age is not None]
    return f"{max(known) * 1e3:.0f}" if known else "-"


def _share(verdicts: list[Verdict]) -> str:
    right = sum(verdict.right for verdict in verdicts)
    return f"{right} of {len(verdicts)} ({right / max(len(verdicts), 1):.0%})"


def main(arguments: list[str] | None = None) -> int:
    """Export if need be, replay, print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--bundle", type=Path, help="a bundle of robot/network.py; else exported")
    options.add_argument("--real-time", action="store_true", help="at the pace of the wall clock")
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        bundle = chosen.bundle or Path(folder) / "robot.mmedge"
        if chosen.bundle is None:
            from mmedge_export import export

            export("robot.network:factory", bundle).close()
        drive = Recording().replay()
        with mmedge.load(bundle, plan="cut") as pipe:
            results, health = replay(pipe, drive, real_time=chosen.real_time)
            undisturbed = None
            if not chosen.real_time:
                undisturbed = judge(drive, replay(pipe, drive, dead=(0.0, 0.0))[0])
    verdicts = judge(drive, results)
    parts = (
        timeline(results, verdicts),
        presence(results),
        agreement(verdicts, undisturbed),
        counters(health),
    )
    print("\n\n".join("\n".join(part) for part in parts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
