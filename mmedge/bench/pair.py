"""Two bundles measured in one go, their sessions in turn.

The speed of a machine that is not quiet, or not real, drifts: two runs one after the other differ
by more than either shows. Sessions that are neighbours in time see the same of it, and
:func:`mmedge.bench.compare.compare` goes by their ratios.
"""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING

from mmedge.bench.arrivals import Load
from mmedge.bench.measure import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.bench.report import Report

__all__ = ["CALLS", "SESSIONS", "bench_pair"]

#: Pairs of sessions. Short ones that lie near each other say more than few long ones.
SESSIONS = 16
#: Timed calls of each bundle: enough for a p99 in every session.
CALLS = SESSIONS * 100


def bench_pair(
    paths: tuple[str, str],
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    threads: int | None = None,
    calls: int = CALLS,
    sessions: int = SESSIONS,
    warmup: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Report, Report]:
    """Measure two bundles with sessions in turn, each bundle first in every second pair.

    Each session loads its bundle anew and warms up. Calls are those of
    :func:`mmedge.bench.measure.bench` in a closed loop; there is no profile by operator.

    Args:
        paths: the baseline's, and that of what is compared with it; they may be the same.
        backend: as for :func:`mmedge.load`, for both, like the next three.
        precision: the same.
        device: the same.
        threads: the same.
        calls: timed calls of each bundle, in all sessions together.
        sessions: of each bundle.
        warmup: untimed calls of each session; None: until latency is steady.
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
        Run(
            path, backend, precision, device,
            threads=threads, load=Load(calls=calls), sessions=sessions, warmup=warmup,
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
        for run in turns:
            run.session()
        if progress is not None:
            progress("pairs of sessions", number + 1, sessions)
    a, b = (run.finish(profiled=False, beside=name)[0] for run in (first, second))
    return a, b
