"""Results of a replay on a simulated clock, as lines of JSON.

libmmedge's tool ``mmedge-replay`` writes the same lines, to the byte where both run the same ONNX
Runtime with as many threads. docs/howto/record.md says what they hold.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmedge.recording.playback import Playback, check_fits
from mmedge.recording.ros import say_changes
from mmedge.recording.timeline import plan_replay
from mmedge.stream import result_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmedge.pipeline import Pipeline
    from mmedge.recording import Recording
    from mmedge.stream import Policy, Result, Stream

__all__ = ["result_lines"]


def result_lines(
    pipe: Pipeline,
    recording: Recording,
    *,
    trigger: str | float,
    deadline_ms: float | None = None,
    align: Mapping[str, Policy] | None = None,
    skip_gaps: bool = False,
    say: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """Play a recording on a simulated clock, on which stages take no time.

    The clock stands at 0 at the first arrival. The first line says what is played, each one behind
    it is a result, and the last one says what came of it all.

    Args:
        pipe: a loaded pipeline with the recording's modalities.
        recording: from :func:`mmedge.recording.open_recording`.
        trigger: as for :class:`mmedge.Stream`.
        deadline_ms: see above.
        align: see above. libmmedge's tool plays without.
        skip_gaps: leave a second of each time of more than 10 s without any sample.
        say: called before the first push with how much comes.

    Raises:
        InputError: the recording does not fit the bundle, lacks what triggers, or cannot be read.
    """
    check_fits(pipe, recording, trigger)
    manifest = pipe.bundle.manifest
    played = plan_replay(recording, skip_gaps=skip_gaps, say=say, waits=False)
    say_changes(recording, say)
    with Playback(pipe, played, trigger=trigger, deadline_ms=deadline_ms, align=align) as playback:
        yield _json(
            {
                "replay": 1,
                "bundle": manifest.name,
                "digest": pipe.bundle.digest,
                "variant": pipe.variant.id,
                "plan": pipe.plan,
                "recording": recording.name,
                "origin": playback.origin,
                "missing": played.missing,
                "trigger": trigger if isinstance(trigger, str) else float(trigger),
                "deadline_ms": None if deadline_ms is None else float(deadline_ms),
            }
        )
        lines = _Lines(playback.stream, tuple(playback.pushed))
        for result in playback:
            yield lines.line(result)
        yield lines.end(playback.pushed)


class _Lines:
    """Lines of what a stream hands out."""

    def __init__(self, stream: Stream, modalities: tuple[str, ...]) -> None:
        self._stream, self._modalities = stream, modalities
        self._told: dict[str, dict[str, int]] = {name: {} for name in modalities}

    def line(self, result: Result) -> str:
        """The line of one result, which was fetched just now."""
        return _json(self._result(result))

    def end(self, pushed: Mapping[str, int]) -> str:
        """The last line; ``pushed``: samples by modality."""
        health = self._stream.health()
        counts = ("triggers", "results", "stale", "empty", "deadline_misses", "results_dropped")
        end = {name: getattr(health, name) for name in counts}
        end["latency_p95"] = health.latency_p95
        dropped = {
            name: dict(sorted(state.dropped.items()))
            for name, state in health.modalities.items()
            if state.dropped
        }
        return _json({"end": {**end, "pushed": dict(pushed), "dropped": dropped}})

    def _result(self, result: Result) -> dict[str, Any]:
        return {**result_line(result, self._modalities), "dropped": self._new_drops()}

    def _new_drops(self) -> dict[str, dict[str, int]]:
        """Samples that were dropped since the last line."""
        new: dict[str, dict[str, int]] = {}
        for name, state in self._stream.health().modalities.items():
            told = self._told[name]
            counts = {k: n - told.get(k, 0) for k, n in sorted(state.dropped.items())}
            counts = {reason: count for reason, count in counts.items() if count}
            if counts:
                new[name], self._told[name] = counts, dict(state.dropped)
        return new


def _json(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False)
