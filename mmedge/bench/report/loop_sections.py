"""The sections of a report of a bundle with a loop; as :mod:`mmedge.bench.report.sections`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from mmedge.bench.report.sections import Amount, Count, Interval, PositiveCount, Summary

__all__ = ["LoopIntervals", "LoopSection", "LoopSeries", "StepFigures", "StreamLoopSection"]


class LoopIntervals(TypedDict):
    """95 % confidence intervals, ms: lower and upper end.

    None where the figure itself is None or carries no interval.

    Attributes:
        p50: of the 50th percentile, ms.
        p99: of the 99th percentile, ms.
    """

    p50: Interval | None
    p99: Interval | None


class StepFigures(TypedDict):
    """Each step over all calls; of more than 512 steps, stretches of steps in a row.

    Attributes:
        step: number of the step in its call, from 0; of a stretch, of its first.
        p50_ms: median over calls, ms.
        p99_ms: 99th percentile over calls, ms; None where the calls cannot carry it.
        max_ms: slowest over calls, ms.
        slowest_call_ms: in the call whose steps together took longest, ms; of a stretch, its
            slowest step.
    """

    step: list[Count]
    p50_ms: list[Amount]
    p99_ms: list[Amount | None]
    max_ms: list[Amount]
    slowest_call_ms: list[Amount]


class LoopSeries(TypedDict):
    """A value for each call of the series of latencies, in its order.

    Attributes:
        first_ms: time to the first step's end, ms.
        step_ms: median of the call's steps, ms; empty where a call has none.
        steps_ms: all of its steps together, ms; empty where a call has none.
    """

    first_ms: list[float]
    step_ms: list[float]
    steps_ms: list[float]


class LoopSection(TypedDict):
    """Steps of a loop, in calls that all have the same number of them.

    Attributes:
        kind: ``generate``: tokens, one a step. denoise: a latent over a schedule.
        stage: the stage that runs in each step.
        steps: steps of a call; of a loop that generates, tokens, of which the first comes with the
            first tokens' run.
        rows: rows of a call's batch, which a step advances together; None where samples differ.
        first_ms: time from a call's arrival to the end of its first step, ms, with nothing in the
            cache: of a loop that generates, time to the first token.
        first_confidence_ms: its 95 % confidence intervals.
        encoders_ms: its part up to the loop's first run, ms: waiting, inputs, encoders, other
            stages before the loop.
        prefill_ms: its part after that, ms: the run of the first tokens, up to the first choice;
            None for a loop that denoises.
        first_cached_ms: time to the first step's end where the same inputs came just before, ms.
        first_cached_by_modality_ms: by modality, the same where its inputs came just before, and
            all others are new (another permutation of their elements in each call), ms; empty where
            there is one modality.
        step_ms: time of a step, ms: of a loop that generates, between two tokens. All steps of all
            calls; None where a call has one token.
        step_confidence_ms: its 95 % confidence intervals, for which whole calls are drawn.
        steps_per_s: steps a second once the loop runs: one over the mean of step_ms; None like it.
        state_bytes: states of stages at the end of a call, bytes, of the largest sample; of a loop
            that denoises, its latent and the states of stages before it.
        real_time_factor: mean time of a call over the length of the sound in it, all rows together;
            with the fixed number of steps, whatever is said. None where no input is sound.
        by_step: each step by its number, over all calls.
        series: values of each call.
        blocks: what is drawn as a whole for the intervals, in words; never single steps.
        not_measured: figures that are missing, and why, in words.
    """

    kind: Literal["generate", "denoise"]
    stage: str
    steps: PositiveCount
    rows: PositiveCount | None
    first_ms: Summary
    first_confidence_ms: LoopIntervals
    encoders_ms: Summary
    prefill_ms: Summary | None
    first_cached_ms: Summary | None
    first_cached_by_modality_ms: dict[str, Summary]
    step_ms: Summary | None
    step_confidence_ms: LoopIntervals
    steps_per_s: Amount | None
    state_bytes: Count
    real_time_factor: Amount | None
    by_step: StepFigures
    series: LoopSeries
    blocks: str
    not_measured: list[str]


class StreamLoopSection(TypedDict):
    """Runs of a loop in a stream, each as long as its stop, its limit or a deadline let it be.

    Attributes:
        kind: ``generate``: tokens, one a step. denoise: a latent over a schedule.
        stage: the stage that runs in each step.
        runs: runs that were begun.
        steps: steps of all runs.
        fewest_steps: steps of the shortest run.
        most_steps: steps of the longest run.
        finish: runs by why they ended: ``stop``, ``limit``, ``schedule``, ``deadline`` or
            ``cancel``.
        first_ms: from where a run begins, behind the encoders, to the end of its first step, ms;
            None where no run took one.
        between_ms: from the end of a step to that of the next one in its run, ms, with what the
            stream did meanwhile: of a loop that generates, between two tokens. None where no run
            took two.
        between_confidence_ms: its 95 % confidence intervals.
        steps_per_s: steps a second while a loop runs: one over the mean of between_ms; None like
            it.
    """

    kind: Literal["generate", "denoise"]
    stage: str
    runs: Count
    steps: Count
    fewest_steps: Count
    most_steps: Count
    finish: dict[str, Count]
    first_ms: Summary | None
    between_ms: Summary | None
    between_confidence_ms: LoopIntervals
    steps_per_s: Amount | None
