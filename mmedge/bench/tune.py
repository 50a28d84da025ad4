"""Which variant of a bundle, with how many threads, is fastest on this machine's processor.

More threads are not always faster: a network of a few hundred microseconds may lose more by handing
work over than it gains. What was found goes into the manifest, and :func:`mmedge.load` goes by it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mmedge.backends.registry import probe
from mmedge.bench.machine.neighbours import Neighbours, busy_words
from mmedge.bench.subprocesses import time_apart
from mmedge.errors import BundleError, MMEdgeError
from mmedge.execution.verify import verify
from mmedge.pipeline import check_threads, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.bundle import Bundle
    from mmedge.spec import Variant

__all__ = ["TIE", "thread_counts", "tune"]

#: Times that lie nearer than this share are called equal: fewer threads are taken, which leaves
#: cores to others.
TIE = 0.03


def tune(
    bundle: Bundle,
    *,
    threads: int | None = None,
    tell: Callable[[str], None] | None = None,
    leave: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> tuple[Bundle, dict[str, tuple[float, int]]]:
    """Time every variant that this CPU runs, and write that into the manifest.

    For each variant the number of threads is found first, then all variants are timed in one go,
    each in processes of its own (:mod:`mmedge.bench.subprocesses`), on the golden samples. The
    metrics ``latency_ms``, ``threads`` and ``cores`` of a variant are what was found: the first
    orders :meth:`mmedge.bundle.Bundle.select`, the second is what :func:`mmedge.load` takes on a
    machine of as many cores.

    Every variant is verified with each number of threads before it is timed with it: what does not
    load or verify so is left out, however fast. A variant is in memory once for each number of
    threads while these are timed, and all variants at once after that.

    Args:
        bundle: with golden samples, open; it is closed.
        threads: most intra-op threads of a stage to try; None: one for each core. With fewer than
            there are cores only ``latency_ms`` is kept.
        tell: told what is being done, a line at a time.
        leave: told what is left out and why, a line at a time; None: ``tell`` is.
        warn: told what makes the times doubtful; None: ``tell``.

    Returns:
        The new bundle, open, and by the variant's id the milliseconds of a call, and the threads.

    Raises:
        ValueError: ``threads`` is not a whole number from 1.
        BackendError: a process that times a variant ended.
        BundleError: the bundle's folder cannot be written to.
    """
    check_threads(threads)
    say = tell or (lambda _line: None)
    cores, most = probe().cores, threads
    if most is None:
        most = cores
    try:
        with Neighbours() as others:
            found = _measure(bundle, thread_counts(most), say, leave or say)
    except BaseException:
        bundle.close()
        raise
    if words := busy_words(others.share):
        (warn or say)(f"{words}: another choice may be faster on a quiet machine; tune it there")
    metrics: dict[str, dict[str, float | None]] = {
        # Of some of the cores alone nothing is known of the others.
        name: {
            "latency_ms": ms,
            "threads": float(count) if most >= cores else None,
            "cores": float(cores) if most >= cores else None,
        }
        for name, (ms, count) in found.items()
    }
    return (bundle.with_metrics(metrics) if found else bundle), found


def _measure(
    bundle: Bundle,
    counts: list[int],
    say: Callable[[str], None],
    leave: Callable[[str], None],
) -> dict[str, tuple[float, int]]:
    """Milliseconds and threads by the id of each variant that runs here and is right."""
    path, device = str(bundle.path), probe()
    if not os.access(bundle.path.parent, os.W_OK):
        raise BundleError(
            f"{path}: what is found cannot be kept: its folder cannot be written to; copy the "
            "bundle to one that can"
        )
    cells: list[tuple[Variant, int]] = []
    for variant in bundle.manifest.variants:
        if variant.target != "cpu" or variant.reject_reason(device) is not None:
            continue
        right = []
        for count in counts:
            try:
                _check(path, variant, count)
            except MMEdgeError as error:
                threads = "1 thread" if count == 1 else f"{count} threads"
                leave(f"{variant.id} with {threads}: left out: {error}")
            else:
                right.append(count)
        if not right:
            continue
        if len(right) > 1:
            say(f"{variant.id}: timing it with {', '.join(map(str, right))} threads")
        cells.append((variant, _best(path, variant, right)))
    if len(cells) > 1:
        say("timing the variants in processes of their own")
    times = time_apart(path, cells) if cells else []
    return {variant.id: (ms, count) for (variant, count), ms in zip(cells, times, strict=True)}


def _check(path: str, variant: Variant, threads: int) -> None:
    """See that it loads, and computes what it should: no speed makes up for that.

    With so many threads: kernels cut their work by them, and some are wrong with some numbers only.
    """
    with load(path, variant.id, threads=threads, allow_unverified=True) as pipe:
        verify(pipe).check()


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most})


def _best(path: str, variant: Variant, counts: list[int]) -> int:
    if len(counts) == 1:
        return counts[0]
    times = time_apart(path, [(variant, count) for count in counts])
    near = min(times) * (1 + TIE)
    return next(count for count, ms in zip(counts, times, strict=True) if ms <= near)
