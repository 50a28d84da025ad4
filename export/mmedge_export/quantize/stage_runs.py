"""What a stage does in one call, and how long that takes.

A stage of a loop runs many times in a call: first on a prompt, say, then token by token. Which form
is fastest depends on both, in the proportion in which a call has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mmedge.bench.stats.block_timer import Timing, interleave

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.execution.plan import Run
    from mmedge.spec import Array

__all__ = ["StageRun", "time_runs", "typical_runs"]


@dataclass(frozen=True)
class StageRun:
    """What a stage takes, and how many runs of a call are like it."""

    feeds: Mapping[str, Array]
    count: int = 1


def typical_runs(feeds: Sequence[Mapping[str, Array]], total: int) -> list[StageRun]:
    """The first run and the middle one, which stands for all others.

    Args:
        feeds: of both, or of one where there is no other.
        total: runs of the call.
    """
    if not feeds:
        return []
    first, middle = feeds[0], feeds[-1]
    if len(feeds) == 1 or all(value.shape == middle[name].shape for name, value in first.items()):
        return [StageRun(middle, total)]
    return [StageRun(first), StageRun(middle, total - 1)]


def time_runs(
    ways: Mapping[str, Run], *, runs: Sequence[StageRun], rounds: int, seed: int = 0
) -> dict[str, Timing]:
    """How long each of ``ways`` takes for the runs of a call; they are timed one by one.

    Args:
        ways: how the stage may be run.
        runs: of the call.
        rounds: as for :func:`mmedge.bench.stats.block_timer.interleave`, like ``seed``.
        seed: of the order.
    """
    separate = {
        f"{number} {name}": partial(way, run.feeds)
        for name, way in ways.items()
        for number, run in enumerate(runs)
    }
    times = interleave(separate, rounds=rounds, seed=seed)
    counts = np.array([run.count for run in runs])
    sums = {
        name: counts @ np.array([times[f"{number} {name}"].blocks for number in range(len(runs))])
        for name in ways
    }
    return {name: Timing(tuple(blocks.tolist())) for name, blocks in sums.items()}
