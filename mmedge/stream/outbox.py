"""The results that wait to be fetched."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.stream.result import Result

__all__ = ["Outbox"]


class Outbox:
    """At most ``keep`` results, oldest first.

    Attributes:
        results: those that wait, and since when, in seconds of a clock that nobody sets.
        total: results so far.
        misses: fresh ones among them that were later than the deadline.
        losses: those that nobody fetched.
    """

    def __init__(self, keep: int) -> None:
        self.results: deque[tuple[Result, float]] = deque()
        self.total = self.misses = self.losses = 0
        self._keep = keep

    def put(self, result: Result, now: float) -> None:
        """Add a result; of too many, the oldest is lost."""
        self.total += 1
        self.misses += result.fresh and result.met is False
        self.results.append((result, now))
        if len(self.results) > self._keep:
            self._pass_over()

    def take(self, now: float, *, latest: bool) -> Result:
        """Hand out the oldest of the results that there are, or the newest."""
        while latest and len(self.results) > 1:
            self._pass_over()
        result, since = self.results.popleft()
        # Nobody has read it yet, and copying it would take as long as all else here.
        object.__setattr__(result, "lateness", max(0.0, now - since))
        return result

    def drop(self, modality: str | None = None) -> list[Mapping[str, Mapping[str, int]]]:
        """Lose all results, or those that used a modality; return what they told of drops."""
        withdrawn_results = [
            r for r, _ in self.results if modality is None or modality in r.samples
        ]
        others = [
            (r, since)
            for r, since in self.results
            if modality is not None and modality not in r.samples
        ]
        self.losses += len(withdrawn_results)
        self.results.clear()
        self.results.extend(others)
        return [result.dropped for result in withdrawn_results]

    def _pass_over(self) -> None:
        """Drop the oldest of several results; what it tells of drops goes over to the next."""
        oldest, _ = self.results.popleft()
        successor, since = self.results[0]
        self.losses += 1
        drops = {name: Counter(counts) for name, counts in oldest.dropped.items()}
        for name, counts in successor.dropped.items():
            drops.setdefault(name, Counter()).update(counts)
        if oldest.dropped:
            all_drops = {name: dict(counts) for name, counts in drops.items()}
            self.results[0] = replace(successor, dropped=all_drops), since
