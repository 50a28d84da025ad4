"""What a replay through a stream came to, and the book that is kept for it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Unpack

from mmedge.bench.stats import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.bench.report.sections import DeadlineSection, ResultsSection
    from mmedge.execution.call_options import CallOptions
    from mmedge.execution.loop_run import LoopRun
    from mmedge.pipeline import Pipeline
    from mmedge.recording.pace import Pace
    from mmedge.recording.sample import Recorded
    from mmedge.spec import Array
    from mmedge.stream import Health, Result, Stream

__all__ = ["LoopTimes", "ResultCollector", "StreamRun", "Timed", "TimedSteps"]

#: A stamp that comes again within this many seconds is a repetition; later, the source's clock was
#: set back.
JUMP = 1.0
#: Triggering samples whose times are kept: more than can be under way.
MOST_DUE = 100_000


@dataclass(slots=True)
class LoopTimes:
    """One run of a loop in a stream.

    Attributes:
        first_ms: from its beginning, behind the encoders, to the end of its first step; None: it
            took none.
        between_ms: from the end of each step to that of the next, with what the stream did between.
        finish: why it ended; ``cancel`` where it was left.
    """

    first_ms: float | None = None
    between_ms: list[float] = field(default_factory=list)
    finish: str = "cancel"


@dataclass(frozen=True, slots=True)
class StreamRun:
    """What a replay came to.

    Latency is ``made`` of the result minus the time at which the sample that triggered it was due
    to be pushed (its recorded arrival on the replay's clock), or minus the tick's time. It counts
    fresh results alone: repeating old outputs takes no time, and would flatter it.

    Attributes:
        start_s: of each fresh result, the time it counts from, in seconds from the first sample's.
        latency_ms: of each fresh result.
        answers_ms: of each result in order, its latency; infinite for a stale or an empty one,
            which is no answer to its trigger.
        ages_ms: by modality, the ages of what went into each result that has outputs.
        drops: by modality, samples dropped by reason.
        pending: by modality, samples still held at the end.
        used: by modality, samples that went into a computation.
        results: ``triggers``, ``results``, ``fresh``, ``stale``, ``empty``, ``deadline_misses`` (as
            the stream counts them, from stamps), ``superseded``.
        pace: how well samples were pushed at their times.
        seconds: from the first sample's time to the last result.
        stages_ms: by stage, the time of each of its runs, in real time alone; of a loop's stage, of
            each step.
        health: the stream's, at the end.
        loops: each run of the loop, in real time alone.
    """

    start_s: tuple[float, ...]
    latency_ms: tuple[float, ...]
    answers_ms: tuple[float, ...]
    ages_ms: Mapping[str, tuple[float, ...]]
    drops: Mapping[str, Mapping[str, int]]
    pending: Mapping[str, int]
    used: Mapping[str, int]
    results: ResultsSection
    pace: Pace
    seconds: float
    stages_ms: Mapping[str, tuple[float, ...]]
    health: Health
    loops: tuple[LoopTimes, ...] = ()

    def deadline(self, ms: float) -> DeadlineSection:
        """The verdict of :func:`mmedge.bench.stats.summary.deadline` on all triggers.

        A trigger that came to no result, superseded or still under way at the end (of a timer
        at most two ticks, which the end cut off), is a miss: it counts in ``missed`` and in
        ``rate``. Those under way come after all results. Where among the results a superseded one
        was is not known, so ``longest_run`` is a lower bound.

        Raises:
            ValueError: there was no trigger, or ``ms`` is not above 0.
        """
        superseded = self.results["superseded"]
        answers = (*self.answers_ms, *[float("inf")] * self.health.triggers_pending)
        verdict = summary.deadline(answers, ms)
        triggers, missed = len(answers) + superseded, verdict["missed"] + superseded
        # If none was answered in time, their order does not matter.
        longest = triggers if missed == triggers else verdict["longest_run"]
        return {"ms": ms, "missed": missed, "rate": missed / triggers, "longest_run": longest}


class TimedSteps:
    """A loop for a stream, that keeps the time of each step, and of a decoder behind the last.

    Args:
        run: the loop, which is given how to begin.
        times: kept of this run.
        step_ms: kept of each step of all runs.
        decoder_ms: of each run of the decoder.
    """

    def __init__(
        self,
        run: Callable[[], LoopRun],
        times: LoopTimes,
        step_ms: list[float],
        decoder_ms: list[float] | None = None,
    ) -> None:
        self._last = perf_counter_ns()
        self._run = run()
        self._times, self._step_ms, self._decoder_ms = times, step_ms, decoder_ms

    @property
    def finish(self) -> str | None:
        """See :attr:`mmedge.execution.loop_run.LoopRun.finish`."""
        return self._run.finish

    def advance(self) -> bool:
        """See :meth:`mmedge.execution.loop_run.LoopRun.advance`."""
        start = perf_counter_ns()
        is_step = self._run.advance()
        times, end = self._times, perf_counter_ns()
        if is_step:
            self._step_ms.append((end - start) / 1e6)
            since_ms = (end - self._last) / 1e6
            if times.first_ms is None:
                times.first_ms = since_ms
            else:
                times.between_ms.append(since_ms)
            self._last = end
        times.finish = self._run.finish or "cancel"
        return is_step

    def result(self) -> dict[str, Any]:
        """See :meth:`mmedge.execution.loop_run.LoopRun.result`."""
        start = perf_counter_ns()
        outputs = self._run.result()
        if self._decoder_ms is not None:
            self._decoder_ms.append((perf_counter_ns() - start) / 1e6)
        return outputs


class Timed:
    """A pipeline for a stream, that keeps the time of each run of a stage."""

    def __init__(self, pipe: Pipeline) -> None:
        self.bundle, self.variant = pipe.bundle, pipe.variant
        self._run_stage, self._start_loop = pipe.run_stage, pipe.start_loop
        manifest = pipe.bundle.manifest
        self._ms: dict[str, list[float]] = {
            stage.name: [] for stage in (*manifest.in_order(pipe.plan), *manifest.loop_stages())
        }
        #: Each run of the loop.
        self.loops: list[LoopTimes] = []

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """See :meth:`mmedge.Pipeline.run_stage`."""
        start = perf_counter_ns()
        outputs = self._run_stage(stage, feeds)
        self._ms[stage].append((perf_counter_ns() - start) / 1e6)
        return outputs

    def start_loop(self, tensors: Mapping[str, Any], **options: Unpack[CallOptions]) -> TimedSteps:
        """See :meth:`mmedge.Pipeline.start_loop`."""
        names = [stage.name for stage in self.bundle.manifest.loop_stages()]
        self.loops.append(LoopTimes())
        return TimedSteps(
            partial(self._start_loop, tensors, **options),
            self.loops[-1],
            *(self._ms[name] for name in names),
        )

    @property
    def stages_ms(self) -> dict[str, tuple[float, ...]]:
        """Milliseconds of each run, by stage; stages that did not run are not in it."""
        return {stage: tuple(ms) for stage, ms in self._ms.items() if ms}


class ResultCollector:
    """Pushes into a stream and keeps figures of its results. One pusher, one collector."""

    def __init__(self, stream: Stream, trigger: str | float) -> None:
        self.stream = stream
        self.ticks = not isinstance(trigger, str)
        self._trigger = trigger
        # By modality, too: two sensors of one clock often have equal stamps.
        self._due: dict[tuple[str, float], float] = {}
        self._keys: deque[tuple[str, float]] = deque()
        self._first: float | None = None
        self._made = 0.0
        self._start: list[float] = []
        self._latency: list[float] = []
        self._answers: list[float] = []
        self._ages: dict[str, list[float]] = {}
        self._empty = 0

    def push(self, sample: Recorded, due: float, stamp: float) -> None:
        """Push one sample that is due at ``due`` and was measured at ``stamp``."""
        if self._first is None:
            self._first = self._made = due
        # Before the push: its result may be there before the push returns.
        if self._trigger in ("any", sample.modality):
            key = sample.modality, stamp
            last_due = self._due.get(key)
            if last_due is None or due - last_due > JUMP:
                self._due[key] = due
                self._keys.append(key)
                if len(self._keys) > MOST_DUE:
                    self._due.pop(self._keys.popleft(), None)
        self.stream.push(sample.modality, sample.value, stamp, copy=False)

    @property
    def collected(self) -> int:
        """Results so far."""
        return len(self._answers)

    def collect(self, timeout: float) -> bool:
        """Take in the next result; say whether there was one."""
        try:
            result = self.stream.result(timeout)
        except TimeoutError:
            return False
        self._add(result)
        return True

    def _add(self, result: Result) -> None:
        begin = result.t
        if result.trigger is not None:
            begin = self._due.pop((result.trigger, result.t), begin)
        self._made = max(self._made, result.made)
        latency = (result.made - begin) * 1e3
        if result.fresh:
            self._start.append(begin - (self._first or 0.0))
            self._latency.append(latency)
        self._answers.append(latency if result.fresh else float("inf"))
        if result.outputs is None:
            self._empty += 1
            return
        for name, age in result.ages.items():
            if age is not None:
                self._ages.setdefault(name, []).append(age * 1e3)

    def summary(self, pace: Pace, timer: Timed | None) -> StreamRun:
        """All of it; the stream is still open. ``timer``: of its stages, in real time."""
        health = self.stream.health()
        while self.collected < health.results - health.results_dropped:
            self.collect(0.0)
        fresh = len(self._latency)
        return StreamRun(
            start_s=tuple(self._start),
            latency_ms=tuple(self._latency),
            answers_ms=tuple(self._answers),
            ages_ms={name: tuple(ages) for name, ages in self._ages.items()},
            drops={name: dict(m.dropped) for name, m in health.modalities.items()},
            pending={name: m.pending for name, m in health.modalities.items()},
            used={name: m.used for name, m in health.modalities.items()},
            results={
                "triggers": health.triggers,
                "results": health.results,
                "fresh": fresh,
                "stale": health.stale,
                "empty": health.empty,
                "deadline_misses": health.deadline_misses,
                "superseded": health.triggers_superseded,
            },
            pace=pace,
            seconds=self._made - (self._first or 0.0),
            stages_ms={} if timer is None else timer.stages_ms,
            health=health,
            loops=() if timer is None else tuple(timer.loops),
        )
