"""Which variant of a bundle, with which plan and how many threads, is fastest on this processor.

More threads are not always faster: a network of a few hundred microseconds may lose more by handing
work over than it gains. The network cut by modality may gain by its smaller graphs what it loses
between them. What was measured is kept beside the bundle, and :func:`mmedge.load` goes by it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from mmedge.backends import check_threads
from mmedge.backends.registry import probe
from mmedge.bench.loop_calls import loop_options
from mmedge.bench.machine.neighbours import Neighbours, busy_words
from mmedge.bench.subprocesses import Cell, time_apart
from mmedge.bundle.device_cache import Measurement
from mmedge.errors import BundleError, MMEdgeError
from mmedge.execution.verify import verify
from mmedge.loader import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.bundle import Bundle
    from mmedge.spec import Device

__all__ = ["TIE", "thread_counts", "tune"]

#: Times that lie nearer than this share are called equal: fewer threads are taken, which leaves
#: cores to others.
TIE = 0.03


def tune(
    bundle: Bundle,
    *,
    threads: int | None = None,
    tokens: int | None = None,
    tell: Callable[[str], None] | None = None,
    leave: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
    in_place: bool = False,
) -> tuple[Bundle, dict[str, Measurement]]:
    """Time every variant that this CPU runs, and keep that for loading.

    For each plan of each variant the number of threads is measured first. Then all of them are
    timed in one go, each in processes of its own (:mod:`mmedge.bench.subprocesses`), on the golden
    samples. The time orders :meth:`mmedge.bundle.Bundle.select`; plan and threads are what
    :func:`mmedge.load` takes.

    Every plan is verified with each number of threads before it is timed with it: what does not
    load or verify so is left out, however fast. A plan is in memory once for each number of threads
    while these are timed, and all plans of all variants at once after that.

    Args:
        bundle: with golden samples, open.
        threads: most intra-op threads of a stage to try; None: one for each core. With fewer than
            there are cores only the time is kept.
        tokens: of a call of a loop that generates; None: its limit or 64, whichever is less.
        tell: told what is being done, a line at a time.
        leave: told what is left out and why, a line at a time; None: ``tell`` is.
        warn: told what makes the times doubtful; None: ``tell``.
        in_place: write it into the manifest, where it counts on every machine of as many cores, and
            not into the cache folder of this device. ``bundle`` is closed then.

    Returns:
        The bundle, open, and what was measured, by the variant's id.

    Raises:
        ValueError: ``threads`` is not a whole number from 1.
        InputError: ``tokens`` does not fit the bundle's loop.
        BackendError: a process that times a variant ended.
        BundleError: the bundle's folder cannot be written to.
    """
    check_threads(threads)
    say = tell or (lambda _line: None)
    device = probe()
    most = device.cores if threads is None else threads
    try:
        with Neighbours() as neighbours:
            # Before anything takes time: what does not fit is refused at once.
            loop_options(bundle.manifest, tokens)
            counts = thread_counts(most)
            measurements = _measure(bundle, device, counts, tokens, say, leave or say)
        if words := busy_words(neighbours.share):
            (warn or say)(
                f"{words}: another choice may be faster on a quiet machine; tune it there"
            )
        if most < device.cores:
            # Of some of the cores alone nothing is known of the others.
            measurements = {
                name: replace(measurement, threads=None, plan=None)
                for name, measurement in measurements.items()
            }
        if measurements and in_place:
            bundle = bundle.with_measurements(measurements, device)
        elif measurements:
            bundle.keep_measurements(measurements, device)
    except BaseException:
        bundle.close()
        raise
    return bundle, measurements


def _measure(
    bundle: Bundle,
    device: Device,
    counts: list[int],
    tokens: int | None,
    say: Callable[[str], None],
    leave: Callable[[str], None],
) -> dict[str, Measurement]:
    """What is fastest of each variant that runs here and is right, by its id."""
    path = str(bundle.path)
    if not os.access(bundle.path.parent, os.W_OK):
        raise BundleError(
            f"{path}: what is measured cannot be kept: its folder cannot be written to; copy the "
            "bundle to one that can"
        )
    cells: list[Cell] = []
    for variant in bundle.manifest.variants:
        if variant.target != "cpu" or variant.reject_reason(device) is not None:
            continue
        for plan in bundle.manifest.plan_names(variant):
            right_cells = []
            for count in counts:
                cell = Cell(variant, plan, count, tokens)
                try:
                    _check(path, cell)
                except MMEdgeError as error:
                    leave(f"{cell}: left out: {error}")
                else:
                    right_cells.append(cell)
            if len(right_cells) > 1:
                numbers = ", ".join(str(cell.threads) for cell in right_cells)
                say(f"{variant.id}, {plan}: timing it with {numbers} threads")
            if right_cells:
                cells.append(_best(path, right_cells))
    if len(cells) > 1:
        say("timing the variants in processes of their own")
    times = time_apart(path, cells) if cells else []
    fastest: dict[str, Measurement] = {}
    for cell, ms in sorted(zip(cells, times, strict=True), key=lambda pair: pair[1]):
        measurement = Measurement(ms, cell.threads, cell.plan)
        before = fastest.setdefault(cell.variant.id, measurement)
        # One graph takes less memory, and leaves the cores to others, where it is as fast.
        if before.plan == "cut" and ms <= before.latency_ms * (1 + TIE):
            fastest[cell.variant.id] = measurement
    return fastest


def _check(path: str, cell: Cell) -> None:
    """See that it loads, and computes what it should: no speed makes up for that.

    With so many threads: kernels cut their work by them, and some are wrong with some numbers only.
    """
    with load(
        path, cell.variant.id, plan=cell.plan, threads=cell.threads, allow_unverified=True
    ) as pipe:
        verify(pipe).check()


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most})


def _best(path: str, cells: list[Cell]) -> Cell:
    """Of one plan with several numbers of threads, the smallest number that is as fast as any."""
    if len(cells) == 1:
        return cells[0]
    times = time_apart(path, cells)
    near = min(times) * (1 + TIE)
    return next(cell for cell, ms in zip(cells, times, strict=True) if ms <= near)
