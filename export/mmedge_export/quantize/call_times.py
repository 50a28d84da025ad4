"""How long whole calls take: of a loop, what is before its first token, and each token after it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mmedge.bench.stats.block_timer import Timing, interleave

if TYPE_CHECKING:
    from mmedge.execution.call_options import CallOptions
    from mmedge.spec import Manifest
    from mmedge_export.quantize.evaluate import BundleNetwork, Call

__all__ = ["CallTimes", "time_calls"]

#: Rounds by which the whole network is timed, and tokens of a run that are timed.
ROUNDS, TIMED = 31, 16


@dataclass(frozen=True, slots=True)
class CallTimes:
    """Milliseconds of a call in float32, and as it was kept.

    Attributes:
        call: the whole.
        speedup: how many times as fast it is, with its confidence interval.
        first: of a loop that generates, up to the first token; else None.
        token: each token after it; else None.
        tokens: how many the call has; 0 without such a loop.
    """

    call: tuple[float, float]
    speedup: tuple[float, float, float]
    first: tuple[float, float] | None = None
    token: tuple[float, float] | None = None
    tokens: int = 0


def time_calls(
    manifest: Manifest, floats: BundleNetwork, kept: BundleNetwork, call: Call
) -> CallTimes:
    """Time a call in both networks.

    A loop is made to choose the tokens that float32 chooses, so that both do the same. Its call is
    put together of the time to the first token and of that of the others, of which
    :data:`TIMED` are timed.
    """
    networks = {"float": floats, "kept": kept}
    loop = manifest.loop
    if loop is None or loop.kind != "generate":
        times = interleave(
            {name: partial(network.answer, call) for name, network in networks.items()},
            rounds=ROUNDS,
        )
        return CallTimes(_medians(times), times["kept"].times_faster(times["float"]))
    forced = call.forced
    if forced is None:
        options: CallOptions = {**call.options, "temperature": 0.0}
        forced = floats.run(call.inputs, **options)["tokens"]
    tokens = max(1, forced.shape[1])
    timed = min(tokens, TIMED + 1)
    ways = {}
    for name, network in networks.items():
        for limit in {1, timed}:
            run = partial(network.run, call.inputs, forced=forced[:, :limit], limit=limit, stop=())
            ways[f"{name} {limit}"] = run
    times = interleave(ways, rounds=ROUNDS)
    first = {name: times[f"{name} 1"] for name in networks}
    if timed == 1:
        return CallTimes(
            _medians(first), first["kept"].times_faster(first["float"]), _medians(first), None, 1
        )
    step = {
        name: Timing(
            tuple(
                (np.subtract(times[f"{name} {timed}"].blocks, first[name].blocks) / (timed - 1))
                .clip(0)
                .tolist()
            )
        )
        for name in networks
    }
    call_times = {
        name: Timing(tuple(np.add(first[name].blocks, (tokens - 1) * np.array(step[name].blocks))))
        for name in networks
    }
    return CallTimes(
        _medians(call_times),
        call_times["kept"].times_faster(call_times["float"]),
        _medians(first),
        _medians(step),
        tokens,
    )


def _medians(times: dict[str, Timing]) -> tuple[float, float]:
    return times["float"].median, times["kept"].median
