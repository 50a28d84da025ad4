"""Two bundles measured in one go, their calls in turn.

The speed of a machine that is not quiet, or not real, drifts, within a second and over minutes: two
runs one after the other differ by more than either shows. Calls that are neighbours in time see the
same of it, and :func:`mmedge.bench.report.compare.compare` goes by the ratios of sessions whose
calls took turns.
"""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING

from mmedge.bench.arrivals import Load
from mmedge.bench.measure import BenchRun
from mmedge.bench.sessions import time_in_turn

if TYPE_CHECKING:
    from mmedge.bench.progress import Progress
    from mmedge.bench.report.report import Report

__all__ = ["CALLS", "SESSIONS", "bench_pair"]

#: Pairs of sessions: where memory lies is chosen anew at each load. Even, so that each bundle is
#: first as often.
SESSIONS = 16
#: Timed calls of each bundle: enough for a p99 in every session.
CALLS = SESSIONS * 100
#: Untimed calls of each session. What is not steady yet is so for both, and leaves their ratio.
WARMUP = 40


def bench_pair(
    paths: tuple[str, str],
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    threads: int | None = None,
    calls: int = CALLS,
    sessions: int = SESSIONS,
    warmup: int = WARMUP,
    tokens: int | None = None,
    progress: Progress | None = None,
) -> tuple[Report, Report]:
    """Measure two bundles with calls in turn.

    For each pair of sessions both bundles are loaded anew, each first as often, and warmed up in
    turn; so both are in memory at once. Then they are called in turn, A B A B. Calls are those of
    :func:`mmedge.bench.measure.bench` in a closed loop, but each finds the caches full of the
    other's data, and idle threads do not spin, which would take the cores from the other: both may
    be slower than by themselves. There is no profile by operator, no deadline and no energy.

    Args:
        paths: the baseline's, and that of what is compared with it; they may be the same.
        backend: as for :func:`mmedge.load`, for both, like the next three.
        precision: the same.
        device: the same.
        threads: the same.
        calls: timed calls of each bundle, in all sessions together.
        sessions: of each bundle.
        warmup: untimed calls of each session.
        tokens: of a call of a loop that generates; None: what both take, at most 64.
        progress: called with the phase's name, what is done and what there is in all.

    Returns:
        Their reports, with one name in ``load["beside"]``.

    Raises:
        AccuracyError: a variant does not reproduce its bundle's golden samples.
        BundleError: there are none.
        ValueError: as :func:`mmedge.bench.measure.bench`.
        MMEdgeError: whatever loading raises.
    """
    first, second = (
        BenchRun(
            path, backend, precision, device,
            threads=threads, load=Load(calls=calls), sessions=sessions, warmup=warmup,
            tokens=tokens, spin=False,
        )
        for path in paths
    )  # fmt: skip
    name = secrets.token_hex(8)
    order = random.Random(name)  # noqa: S311 - an order of measurement, no secret
    turns = [first, second]
    for number in range(sessions):
        # Every second pair mirrors the one before: each bundle comes first as often.
        if number % 2:
            turns.reverse()
        else:
            order.shuffle(turns)
        one, other = turns
        with one.opened() as (pipe, inputs), other.opened() as (second_pipe, second_inputs):
            one.limit_tokens(other.loop, pipe, inputs)
            other.limit_tokens(one.loop, second_pipe, second_inputs)
            pair = time_in_turn(
                (pipe, second_pipe),
                (inputs, second_inputs),
                one.share().calls or 0,
                warmup,
                (one.loop, other.loop),
            )
            other.share()
            one.add(pair[0], pipe, inputs)
            other.add(pair[1], second_pipe, second_inputs)
        if progress is not None:
            progress("pairs of sessions", number + 1, sessions)
    a, b = (run.finish(profiled=False, beside=name)[0] for run in (first, second))
    return a, b
