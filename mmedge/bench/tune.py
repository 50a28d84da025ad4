"""Which variant of a bundle, with how many threads, is fastest on this machine's processor.

More threads are not always faster: a network of a few hundred microseconds may lose more by handing
work over than it gains. What was found goes into the manifest, and :func:`mmedge.load` goes by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.bench.apart import time_apart
from mmedge.device import probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.bundle import Bundle
    from mmedge.spec import Variant

__all__ = ["TIE", "thread_counts", "tune"]

#: Times that lie nearer than this share are called equal: fewer threads are taken, which leaves
#: cores to others.
TIE = 0.03


def tune(
    bundle: Bundle, *, threads: int | None = None, tell: Callable[[str], None] | None = None
) -> tuple[Bundle, dict[str, tuple[float, int]]]:
    """Time every variant that this CPU runs, and write that into the manifest.

    For each variant the number of threads is found first, then all variants are timed in one go,
    each in processes of its own (:mod:`mmedge.bench.apart`), on the golden samples. The metrics
    ``latency_ms``, ``threads`` and ``cores`` of a variant are what was found: the first orders
    :meth:`mmedge.bundle.Bundle.select`, the second is what :func:`mmedge.load` takes on a machine
    of as many cores.

    Args:
        bundle: with golden samples, open; it is closed.
        threads: most intra-op threads of a stage to try; None: one for each core.
        tell: told what is being done, a line at a time.

    Returns:
        The new bundle, open, and by the variant's id the milliseconds of a call, and the threads.

    Raises:
        BackendError: a variant does not run after all.
    """
    say = tell or (lambda _line: None)
    device = probe()
    path = str(bundle.path)
    runnable = [
        variant
        for variant in bundle.manifest.variants
        if variant.target == "cpu" and variant.reject_reason(device) is None
    ]
    counts = thread_counts(device.cores if threads is None else threads)
    cells: list[tuple[Variant, int]] = []
    for variant in runnable:
        if len(counts) > 1:
            say(f"{variant.id}: timing it with {', '.join(map(str, counts))} threads")
        cells.append((variant, _best(path, variant, counts)))
    if len(cells) > 1:
        say("timing the variants in processes of their own")
    times = time_apart(path, cells)
    found = {variant.id: (ms, count) for (variant, count), ms in zip(cells, times, strict=True)}
    metrics = {
        name: {"latency_ms": ms, "threads": float(count), "cores": float(device.cores)}
        for name, (ms, count) in found.items()
    }
    return bundle.with_metrics(metrics), found


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most})


def _best(path: str, variant: Variant, counts: list[int]) -> int:
    if len(counts) == 1:
        return counts[0]
    times = time_apart(path, [(variant, count) for count in counts])
    near = min(times) * (1 + TIE)
    return next(count for count, ms in zip(counts, times, strict=True) if ms <= near)
