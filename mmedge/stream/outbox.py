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
        made: results so far.
        missed: fresh ones among them that were later than the deadline.
        lost: those that nobody fetched.
    """

    def __init__(self, keep: int) -> None:
        self.results: deque[tuple[Result, float]] = deque()
        self.made = self.missed = self.lost = 0
        self._keep = keep

    def put(self, result: Result, now: float) -> None:
        """Add a result; of too many, the oldest is lost."""
        self.made += 1
        self.missed += result.fresh and result.met is False
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
        lost = [r for r, _ in self.results if modality is None or modality in r.samples]
        kept = [
            (r, since)
            for r, since in self.results
            if modality is not None and modality not in r.samples
        ]
        self.lost += len(lost)
        self.results.clear()
        self.results.extend(kept)
        return [result.dropped for result in lost]

    def _pass_over(self) -> None:
        """Drop the oldest of several results; what it tells of drops goes over to the next."""
        passed, _ = self.results.popleft()
        kept, since = self.results[0]
        self.lost += 1
        dropped = {name: Counter(counts) for name, counts in passed.dropped.items()}
        for name, counts in kept.dropped.items():
            dropped.setdefault(name, Counter()).update(counts)
        if passed.dropped:
            told = {name: dict(counts) for name, counts in dropped.items()}
            self.results[0] = replace(kept, dropped=told), since
