"""Replay of a recording through a stream, in an open loop: samples come when they came.

A closed loop asks for the next call when the last one is done, and so never sees a queue. Here each
sample is pushed at its recorded arrival whether the pipeline is ready or not, and latency counts
from that arrival: what a sample waited for is part of it.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from mmedge.bench.copies import copies
from mmedge.bench.loop_section import stream_loop_section
from mmedge.bench.machine import host
from mmedge.bench.machine.monitor import Monitor
from mmedge.bench.progress import silent
from mmedge.bench.report.report import Report
from mmedge.bench.stats.summary import confidence, jitter, summary, thin
from mmedge.bench.stream_run import ResultCollector, StreamRun, Timed
from mmedge.bench.untimed import FirstCall, run_fresh
from mmedge.bench.warmup import warm_up
from mmedge.errors import InputError
from mmedge.loader import load
from mmedge.recording import Golden, open_recording
from mmedge.recording.pace import Pace, pace
from mmedge.recording.playback import check_fits
from mmedge.recording.ros import Bag, policies, say_changes
from mmedge.recording.timeline import plan_replay
from mmedge.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmedge.bench.progress import Progress
    from mmedge.pipeline import Pipeline
    from mmedge.recording import Recording
    from mmedge.recording.ros import Topic
    from mmedge.stream.clock import SimulatedClock
    from mmedge.stream.policies import Policy

__all__ = ["SECONDS", "StreamRun", "bench_stream", "replay"]

#: Default seconds of golden samples.
SECONDS = 10.0
#: Results that may wait to be fetched: more than can come between two looks.
KEEP = 65536
#: Seconds between two looks whether all is done, and most of them after the last push.
LOOK, DRAIN = 0.1, 60.0


def replay(
    pipe: Pipeline,
    recording: Recording,
    *,
    trigger: str | float,
    deadline_ms: float | None = None,
    align: Mapping[str, Policy] | None = None,
    speed: float = 1.0,
    clock: SimulatedClock | None = None,
    skip_gaps: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> StreamRun:
    """Push a recording's samples into a new stream at their recorded arrivals; collect its results.

    Stamps are shifted by as much as arrivals, so that a sample is as old when it is pushed as it
    was. One thread pushes, another reads ahead; results are fetched in the caller's.

    Args:
        pipe: a loaded pipeline with the recording's modalities.
        recording: from :func:`mmedge.recording.open_recording`, or golden samples.
        trigger: as for :class:`mmedge.Stream`, like the next two. With a number, results end soon
            after the last sample.
        deadline_ms: see above.
        align: see above.
        speed: how many recorded seconds pass in one second, above 0. Ages shrink by it, too.
        clock: None: real time. On a simulated clock no thread is used, and the same recording gives
            the same run.
        skip_gaps: what becomes of more than 10 s without any sample, in real time. True: a second
            is left of them, and samples keep their ages. False: they are waited for. None: they are
            refused, with where they are.
        say: called before the first push with how much comes and how long it takes.

    Raises:
        InputError: the recording does not fit the bundle, lacks what triggers, or cannot be read;
            it has gaps, or most of it is gaps; or a number that cannot be.
    """
    if not 0.0 < speed < float("inf"):
        raise InputError(f"speed must be above 0, got {speed}")
    check_fits(pipe, recording, trigger)
    pipe.use_plan(pipe.bundle.manifest.stream_plan(pipe.variant))
    recording = plan_replay(
        recording, speed=speed, skip_gaps=skip_gaps, say=say, waits=clock is None
    )
    return _run(pipe, recording, trigger, deadline_ms, align, speed, clock)


def _run(
    pipe: Pipeline,
    recording: Recording,
    trigger: str | float,
    deadline_ms: float | None,
    align: Mapping[str, Policy] | None,
    speed: float,
    clock: SimulatedClock | None,
) -> StreamRun:
    timer = Timed(pipe)
    with Stream(
        pipe if clock is not None else timer,
        trigger=trigger,
        deadline_ms=deadline_ms,
        align=align,
        clock=clock,
        keep=KEEP,
    ) as stream:
        collector = ResultCollector(stream, trigger)
        if clock is None:
            pace_report = _in_threads(collector, recording, speed)
        else:
            pace_report = _simulated(collector, recording, speed, clock)
        return collector.summary(pace_report, timer if clock is None else None)


def bench_stream(
    path: str,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    trigger: str | float,
    recording: str | Path | None = None,
    topics: Mapping[str, Topic] | None = None,
    seconds: float = SECONDS,
    deadline_ms: float | None = None,
    threads: int | None = None,
    warmup: int | None = None,
    profiled: bool = True,
    skip_gaps: bool | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Measure a stream over one variant of the bundle at ``path`` on this machine.

    Outputs are checked against the golden samples first, and the pipeline is warmed up by whole
    calls. ``latency_ms``, its intervals and ``series`` are of fresh results, as
    :class:`StreamRun` defines them; ``deadline`` counts each trigger, one with a stale, an empty or
    no result as missed (:meth:`StreamRun.deadline`). ``stages`` are their runs in the stream, which
    may overlap. Cold start and peak memory are those of a fresh process that makes one-shot calls;
    operators and copies are of one such call as well, in which every stage runs once.

    Args:
        path: as for :func:`mmedge.load`, like the next three and ``threads``.
        backend: which one may run.
        precision: which variants may run.
        device: for what they were made.
        trigger: what a result is made for; as for :class:`mmedge.Stream`.
        recording: replayed as it came. None: golden samples at each modality's nominal rate
            (:class:`mmedge.recording.Golden`).
        topics: by modality, where ``recording`` is a ROS 2 bag; modalities are aligned as they say.
        seconds: how long golden samples are pushed; not used with a recording.
        deadline_ms: from a trigger to its result.
        threads: intra-op threads of each stage on the CPU.
        warmup: untimed calls; None: until latency is steady.
        profiled: whether to run the stages once more for their operators.
        skip_gaps: as for :func:`replay`.
        progress: called with the phase's name, steps done and steps in all.
        say: called with a line of text: how much is replayed, and how long it takes.

    Raises:
        AccuracyError: the variant does not reproduce the golden samples.
        BundleError: there are none.
        InputError: as :func:`replay`, or no trigger came to a fresh result.
        MMEdgeError: whatever loading raises.
    """
    tell = progress or silent
    # A bag is opened with the bundle, which says what its messages become.
    opened = None if recording is None or topics else open_recording(recording)
    state = host.state()
    # The first call is timed; that outputs are right is checked after it.
    with load(
        path, backend=backend, precision=precision, device=device, threads=threads,
        allow_unverified=True,
    ) as pipe:  # fmt: skip
        pipe.use_plan(pipe.bundle.manifest.stream_plan(pipe.variant))
        if recording is not None and topics:
            opened = Bag(recording, pipe.bundle, topics)
        last = trigger if isinstance(trigger, str) else None
        source: Recording = opened or Golden(pipe.bundle, seconds=seconds, last=last)
        check_fits(pipe, source, trigger)
        # Before anything takes time: a recording that cannot be replayed is refused at once.
        source = plan_replay(source, skip_gaps=skip_gaps, say=say)
        say_changes(opened, say)
        first = FirstCall.of(pipe, path, tell)
        warmed = warm_up(
            lambda call: pipe.run(first.inputs[call % len(first.inputs)], cached=False),
            warmup,
            tell=lambda step, most: tell("warm up", step, most),
        )
        tell("stream", 0, 1)
        with Monitor() as monitor:
            run = _run(pipe, source, trigger, deadline_ms, policies(topics), 1.0, None)
        tell("stream", 1, 1)
        if not run.latency_ms:
            raise InputError(
                f"{source.name}: no trigger came to a fresh result, of {run.results}; dropped: "
                f"{run.drops}. Look for a required modality that is missing or too old"
            )
        tensors = copies(pipe, first.inputs[0])
        loop = pipe.bundle.manifest.loop
    cold, profile = run_fresh(
        path, first, threads=threads, calls=len(first.inputs), profiled=profiled, tell=tell
    )
    deadline = None if deadline_ms is None else run.deadline(deadline_ms)
    # One count of misses: the stream itself counts fresh results alone.
    missed = 0 if deadline is None else deadline["missed"]
    return Report(
        **first.keys,
        **cold,
        load={
            "kind": "rate" if opened is None else "replay",
            "mode": "stream",
            "calls": len(run.latency_ms),
            "seconds": seconds if opened is None else None,
            "plan": first.plan,
            "threads": first.threads,
            "inputs": _words(source, trigger, run),
            "rate_hz": _rate(source, trigger),
            "gap_ms": None,
            "recording": None if opened is None else opened.name,
            "beside": None,
            "interference": None,
        },
        warmup={"calls": warmed.calls, "settled": warmed.settled, "rule": warmed.rule},
        latency_ms=summary(run.latency_ms),
        confidence_ms=confidence(run.latency_ms),
        jitter_ms=jitter(run.latency_ms),
        deadline=deadline,
        throughput_hz=len(run.latency_ms) / run.seconds,
        series=thin(run.start_s, run.latency_ms),
        stages={stage: summary(ms) for stage, ms in run.stages_ms.items()},
        stream_loop=stream_loop_section(run.loops, loop) if loop is not None else None,
        **profile.report_keys(),
        copies=tensors,
        ages_ms={modality: summary(ages) for modality, ages in run.ages_ms.items()},
        drops=run.drops,
        results={**run.results, "deadline_misses": missed},
        device=host.describe(state, monitor.record()),
        energy=monitor.energy(len(run.latency_ms)),
    )


def _simulated(
    collector: ResultCollector, recording: Recording, speed: float, clock: SimulatedClock
) -> Pace:
    start, origin, due, count = clock(), 0.0, clock(), 0
    for sample in recording:
        if not count:
            origin = sample.arrival
        due = start + (sample.arrival - origin) / speed
        clock.advance_to(due)
        collector.push(sample, due, start + (sample.t - origin) / speed)
        count += 1
        while collector.collect(0.0):
            pass
    # A timer never ends; what its last tick began is left under way, as in real time.
    while (
        not collector.ticks
        and collector.stream.health().triggers_pending
        and clock.step(float("inf"))
    ):
        pass
    return Pace(count, 0, 0.0, due - start)


def _in_threads(collector: ResultCollector, recording: Recording, speed: float) -> Pace:
    stop = threading.Event()
    ended: list[Pace] = []
    failed: list[BaseException] = []

    def feed() -> None:
        try:
            ended.append(pace(recording, collector.push, stop=stop, speed=speed))
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            failed.append(error)

    feeder = threading.Thread(target=feed, name="mmedge replay", daemon=True)
    feeder.start()
    try:
        until: float | None = None
        while not failed:
            fetched = collector.collect(LOOK)
            if feeder.is_alive():
                continue
            until = monotonic() + DRAIN if until is None else until
            # A timer goes on for ever; of modalities' triggers each comes to a result.
            under_way = not collector.ticks and collector.stream.health().triggers_pending
            if (not fetched and not under_way) or collector.ticks or monotonic() > until:
                break
    finally:
        stop.set()
        feeder.join()
    if failed:
        raise failed[0]
    return ended[0]


def _words(source: Recording, trigger: str | float, run: StreamRun) -> str:
    """What was pushed, and how well its times were kept."""
    what = f"recording {source.name!r} of bundle {source.bundle!r}"
    if isinstance(source, Golden):
        rates = ", ".join(
            f"{name} {rate:g} Hz{' (assumed)' * (name in source.assumed)}"
            for name, rate in source.rates.items()
        )
        what = f"golden samples at constant rates, least step changed in every second: {rates}"
    by = f"{trigger:g} Hz" if not isinstance(trigger, str) else trigger
    timeliness = f"{run.pace.late} of {run.pace.pushed} pushes over 1 ms late"
    latest = f", the latest by {run.pace.latest_ms:.3g} ms" if run.pace.late else ""
    missing = f"; {source.missing}" if source.missing else ""
    return f"{what}; trigger {by}; {timeliness}{latest}{missing}"


def _rate(source: Recording, trigger: str | float) -> float | None:
    if not isinstance(trigger, str):
        return float(trigger)
    return source.rates.get(trigger) if isinstance(source, Golden) else None
