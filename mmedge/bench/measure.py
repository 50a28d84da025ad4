"""The measurement behind ``mmedge bench``: verify, warm up, time calls, and say what else was seen.

Everything that is not timed (the profile by operator, the count of copies, the cold start) runs
after the timed calls, and on sessions of its own where it would change them.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from math import ceil
from typing import TYPE_CHECKING, Any

from mmedge.bench.arrivals import Load
from mmedge.bench.call_trace import claim_file, draw_calls
from mmedge.bench.copies import copies
from mmedge.bench.loop_calls import CachedTimes, LoopCalls, loop_options, time_cached
from mmedge.bench.machine import host
from mmedge.bench.machine.background_load import Interference
from mmedge.bench.machine.energy import no_energy
from mmedge.bench.progress import silent
from mmedge.bench.report.report import Report
from mmedge.bench.sessions import (
    TimedSession,
    energy,
    overload,
    record,
    shares,
    summarize_sessions,
    time_session,
)
from mmedge.bench.untimed import FirstCall, run_fresh
from mmedge.loader import load as open_pipeline

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmedge.backends.profile import Profile
    from mmedge.bench.progress import Progress
    from mmedge.bench.report.sections import CopiedTensor
    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array, PlanName

__all__ = ["CALLS", "SESSIONS", "BenchRun", "bench"]

#: Default number of timed calls: the fewest that carry a p99.9.
CALLS = 1000
#: Sessions of ``mmedge bench``. Two runs of one session each differ by more than either shows:
#: where memory lies is chosen anew at each load.
SESSIONS = 6
#: Why a run beside another has no energy.
NOT_APART = "calls of two bundles took turns: counters tell theirs apart no more; mmedge bench each"
#: Calls (steps, of a loop) after which the fresh process's peak memory is read.
MEMORY_CALLS = 50


def bench(
    path: str,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    plan: PlanName | None = None,
    threads: int | None = None,
    calls: int = CALLS,
    load: Load | None = None,
    sessions: int = 1,
    warmup: int | None = None,
    tokens: int | None = None,
    deadline_ms: float | None = None,
    interference: str | None = None,
    profiled: bool = True,
    trace: str | os.PathLike[str] | None = None,
    on_report: Callable[[Report], None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure one variant of the bundle at ``path`` on this machine.

    Outputs are checked against the golden samples first: a variant that computes something else is
    not worth timing. Calls then take the golden samples in turn, one at a time, each timed from its
    arrival (see :mod:`mmedge.bench.arrivals`) to when the outputs are on the host. The same samples
    come again and again, so nothing is taken from the feature cache; encoders run one after
    another. With a loop a call is a whole run of it, with as many steps each time
    (:mod:`mmedge.bench.loop_calls`).

    Args:
        path: as for :func:`mmedge.load`, like the next four and ``threads``.
        backend: which one may run.
        precision: which variants may run.
        device: for what they were made.
        plan: of the variant.
        threads: intra-op threads of each stage on the CPU.
        calls: timed calls of a closed loop, where ``load`` is None. Percentiles that need more
            calls are None.
        load: when calls are made, and how many or for how long.
        sessions: times that the bundle is loaded anew, each for an equal share of the calls. What
            differs from session to session (placement in memory) is in the intervals from 5 on
            (see :mod:`mmedge.bench.stats.resample`); reports that are to be compared want
            :data:`SESSIONS`.
        warmup: untimed calls before them in each session; None: until latency is steady.
        tokens: of a call of a loop that generates; None: its limit or 64, whichever is less.
        deadline_ms: time from arrival to outputs that a call should not take longer than.
        interference: a second load that runs during all sessions (see
            :class:`mmedge.bench.machine.background_load.Interference`).
        profiled: whether to run the stages once more for their operators.
        trace: file to write the timed calls to, in the Trace Event Format.
        on_report: called with the report before the trace is written: a caller that keeps it
            does not lose it where the disk refuses the trace.
        progress: called with the phase's name, what is done and what there is in all.

    Raises:
        AccuracyError: the variant does not reproduce the golden samples.
        BundleError: there are none.
        InputError: ``interference`` cannot be started, ``trace`` cannot be written, or ``tokens``
            do not fit the bundle's loop.
        ValueError: ``calls`` < 1, ``warmup`` < 0 or ``deadline_ms`` <= 0, or more sessions than
            calls.
        MMEdgeError: whatever loading raises.
    """
    # Before anything is measured, so that what cannot be done fails first.
    second_load = Interference(interference) if interference is not None else None
    run = BenchRun(
        path, backend, precision, device, plan=plan,
        threads=threads, load=load or Load(calls=calls), sessions=sessions, warmup=warmup,
        tokens=tokens, deadline_ms=deadline_ms, progress=progress,
    )  # fmt: skip
    if trace is not None:
        claim_file(trace)
    with second_load or nullcontext():
        for _ in range(sessions):
            run.session()
    words = second_load.words if second_load is not None else None
    report, operators = run.finish(profiled=profiled, interference=words)
    if on_report is not None:
        on_report(report)
    if trace is not None:
        draw_calls(trace, report, run.timed[0], operators)
    return report


class BenchRun:
    """A measurement of one variant that is made a session at a time.

    Calls of two runs may take turns (:mod:`mmedge.bench.interleaved`). ``path`` is the bundle's,
    ``timed`` its sessions so far, ``loop`` how calls are made where it has a loop.

    Args:
        path: as for :func:`bench`, like all others.
        backend: the same.
        precision: the same.
        device: the same.
        plan: the same.
        threads: the same.
        load: of all sessions together.
        sessions: how many there will be.
        warmup: the same.
        tokens: the same.
        deadline_ms: the same.
        progress: the same.
        spin: as for :func:`mmedge.load`.

    Raises:
        ValueError: as :func:`bench`.
    """

    def __init__(
        self,
        path: str,
        backend: str = "auto",
        precision: str | None = None,
        device: str | None = None,
        *,
        plan: PlanName | None = None,
        threads: int | None,
        load: Load,
        sessions: int,
        warmup: int | None = None,
        tokens: int | None = None,
        deadline_ms: float | None = None,
        progress: Progress | None = None,
        spin: bool | None = None,
    ) -> None:
        self._shares = iter(shares(load, sessions))
        if warmup is not None and warmup < 0:
            raise ValueError(f"warmup must be >= 0 or None, got {warmup}")
        if deadline_ms is not None and not deadline_ms > 0.0:
            raise ValueError(f"deadline_ms must be > 0, got {deadline_ms}")
        self.path = path
        self._choice: dict[str, Any] = {
            "backend": backend,
            "precision": precision,
            "device": device,
            "plan": plan,
        }
        self._threads, self._load, self._spin = threads, load, spin
        self._warmup, self._deadline_ms = warmup, deadline_ms
        self._tell = progress or silent
        self._machine = host.state()
        self._first: FirstCall | None = None
        self._copies: Sequence[CopiedTensor] = []
        self._tokens = tokens
        self._cached: CachedTimes | None = None
        self.loop: LoopCalls | None = None
        self.timed: list[TimedSession] = []

    def session(self) -> None:
        """Load the bundle, warm up and make the timed calls of the next session.

        The first session verifies too.

        Raises:
            AccuracyError: the variant does not reproduce the golden samples.
            BundleError: there are none.
            MMEdgeError: whatever loading raises.
        """
        share = self.share()
        with self.opened() as (pipe, inputs):
            session = time_session(pipe, inputs, share, self._warmup, self._tell, self.loop)
            self.add(session, pipe, inputs)
            if self.loop is not None:
                self._cached = self._cached or CachedTimes()
                self._cached.add(time_cached(pipe, inputs, self.loop, seed=len(self.timed)))

    def limit_tokens(
        self, other: LoopCalls | None, pipe: Pipeline, inputs: Sequence[Mapping[str, Array]]
    ) -> None:
        """Make calls no longer than those of ``other``, where both generate."""
        loop = self.loop
        if loop is None or other is None or {loop.kind, other.kind} != {"generate"}:
            return
        if loop.steps > other.steps:
            self.loop = LoopCalls.of(pipe, inputs, other.steps)

    def share(self) -> Load:
        """What the next session does of the load; each is given out once."""
        return next(self._shares)

    def add(
        self, session: TimedSession, pipe: Pipeline, inputs: Sequence[Mapping[str, Array]]
    ) -> None:
        """Count a session that was timed on what :meth:`opened` gave; it is still open."""
        self.timed.append(session)
        if len(self.timed) == 1:
            self._copies = copies(pipe, inputs[0])

    @contextmanager
    def opened(self) -> Iterator[tuple[Pipeline, Sequence[Mapping[str, Array]]]]:
        """The bundle loaded anew, and the inputs of its calls; verified the first time.

        Raises:
            AccuracyError: the variant does not reproduce the golden samples.
            BundleError: there are none.
            MMEdgeError: whatever loading raises.
        """
        # The first call is timed; that outputs are right is checked after it.
        # Encoders one after another, so that parts of a call add up.
        with open_pipeline(
            self.path, threads=self._threads, spin=self._spin, allow_unverified=True,
            concurrent=False, **self._choice,
        ) as pipe:  # fmt: skip
            if self._first is None:
                # Before anything takes time: what does not fit is refused at once.
                loop_options(pipe.bundle.manifest, self._tokens)
                self._first = FirstCall.of(pipe, self.path, self._tell)
                self.loop = LoopCalls.of(pipe, self._first.inputs, self._tokens)
                # The same each time.
                self._choice = {"variant": pipe.variant.id, "plan": pipe.plan}
            yield pipe, self._first.inputs

    def finish(
        self, *, profiled: bool, interference: str | None = None, beside: str | None = None
    ) -> tuple[Report, Profile]:
        """What all sessions came to, with a cold start, and operators where ``profiled``.

        Args:
            profiled: as for :func:`bench`.
            interference: the second load in words.
            beside: name of the pair of runs that this is one of; their energy is not told apart.

        Raises:
            ValueError: there was no session.
            MMEdgeError: whatever loading raises.
        """
        first, sessions, load = self._first, self.timed, self._load
        if first is None:
            raise ValueError("a run needs a session")
        count = sum(len(session.series.latency_ns) for session in sessions)
        steps = 1 if self.loop is None else self.loop.steps
        cold, profile = run_fresh(
            self.path,
            first,
            threads=self._threads,
            calls=min(count, max(len(first.inputs), ceil(MEMORY_CALLS / steps))),
            profiled=profiled,
            tell=self._tell,
            loop=self.loop,
        )
        remark = first.remark if self.loop is None else self.loop.words
        report = Report(
            **first.keys,
            **cold,
            **summarize_sessions(sessions, self._deadline_ms, self.loop, self._cached),
            load={
                "kind": load.kind,
                "mode": "one-shot",
                "calls": count,
                "seconds": load.seconds,
                "plan": first.plan,
                "threads": first.threads,
                "inputs": f"{len(first.inputs)} golden samples in turn{remark}{overload(sessions)}",
                "rate_hz": load.rate_hz,
                "gap_ms": load.gap_ms,
                "recording": None,
                "interference": interference,
                "beside": beside,
            },
            **profile.report_keys(),
            copies=self._copies,
            device=host.describe(self._machine, record(sessions)),
            energy=energy(sessions) if beside is None else no_energy(NOT_APART),
        )
        return report, profile
