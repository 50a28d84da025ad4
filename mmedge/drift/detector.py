"""Scores what modalities bring against a profile, and says when that is normal no more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mmedge.drift.learn import LOOK_SECONDS, gap_seconds, take_look
from mmedge.drift.measure import Measure
from mmedge.drift.model import Reduction, quantile_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mmedge.drift.model import Finding
    from mmedge.drift.profile import DriftProfile, Reference

__all__ = ["Change", "Detector", "ModalityDrift"]

Kind = Literal["drift", "drift_update", "drift_end"]

#: An alarm ends once the score has been below this for a window's length.
END_SCORE = 0.8


class Change(NamedTuple):
    """An alarm began, is better understood, or ended.

    Attributes:
        modality: its name.
        kind: ``drift``: it began. ``drift_update``: it has lasted for a window, which says better
            what it comes from. ``drift_end``: it ended.
        t: when, in seconds.
        score: of the modality then.
        source: ``inputs`` or ``features``, which have the higher score.
        finding: what the score comes from.
        resembles: other modalities of the same layout for which the values would be normal.
    """

    modality: str
    kind: Kind
    t: float
    score: float
    source: str
    finding: Finding
    resembles: tuple[str, ...]

    def __str__(self) -> str:
        where = "" if self.source == "inputs" else " (what its encoder gives)"
        if self.kind == "drift_end":
            return (
                f"modality {self.modality!r} is as calibrated again{where}, score {self.score:.3g}"
            )
        words = f"modality {self.modality!r} drifts{where}, score {self.score:.3g}: {self.finding}"
        if self.resembles:
            others = ", ".join(map(repr, self.resembles))
            words += f"; the values would be normal for {others}: are sensors swapped?"
        return words


class _Watch:
    """The window of one reference, and its score."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.statistics = reference.statistics()
        self.groups = quantile_groups(self.statistics)
        self.measures = {layout.tensor: Measure(layout) for layout in reference.layouts}
        self._reduction = Reduction(self.statistics)
        self._gap = gap_seconds(reference.interval)
        #: Seconds of a window.
        self.span = reference.looks * reference.interval
        self._looks = np.empty((reference.looks, len(self.statistics)))
        self.window: NDArray[np.float64] | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew, as if nothing had come."""
        self._count, self._due, self._newest = 0, -math.inf, -math.inf
        self._last: Mapping[str, Any] = {}
        self.score: float | None = None
        self.window = None

    def see(self, values: Mapping[str, Any], t: float) -> NDArray[np.float64] | None:
        """The statistics of what came, if it is time for a look and they can be told."""
        last, self._last = self._last, values
        if t < self._due:
            return None
        self._due = t + 0.95 * LOOK_SECONDS
        # A look that is not finite is passed over: an overflow on the way there is no news.
        with np.errstate(all="ignore"):
            return take_look(self.measures, values, last)

    def look(self, look: NDArray[np.float64], t: float) -> bool:
        """Take in the statistics of a look; whether there is a new score."""
        if t - self._newest > self._gap:
            self._count = 0
        self._newest = t
        self._looks[self._count % len(self._looks)] = look
        self._count += 1
        if self._count < len(self._looks):
            return False
        self.window = self._reduction.window(self._looks)
        self.score = float(self.reference.model.scores(self.window[None], self.groups)[0])
        return True

    def explain(self) -> Finding:
        """What the score comes from."""
        assert self.window is not None  # noqa: S101 - there is a score
        return self.reference.model.explain(self.window, self.statistics, self.groups)

    def would_fit(self, other: _Watch) -> bool:
        """Whether what came would be normal for another modality."""
        layouts = zip(self.reference.layouts, other.reference.layouts, strict=False)
        if len(self.statistics) != len(other.statistics) or self.window is None:
            return False
        if not all(mine.fits(theirs) for mine, theirs in layouts):
            return False
        return bool(other.reference.model.scores(self.window[None], other.groups)[0] < 1.0)


class ModalityDrift:
    """What there is to know of one modality.

    Attributes:
        score: 0 or a little above: as calibrated; 1 and above: an alarm; None: nothing is known,
            because less than a window has come since the begin. It stays while nothing comes.
        since: when its alarm began, in seconds of the stream's clock; None: there is none.
        reason: the alarm in words; empty if there is none.
    """

    def __init__(self) -> None:
        self.watches: dict[str, _Watch] = {}
        self.forget()

    def forget(self) -> None:
        """Begin anew, without an alarm."""
        self.score: float | None = None
        self.since: float | None = None
        self.reason = ""
        self._below: float | None = None
        self._is_settled = False
        for watch in self.watches.values():
            watch.forget()

    def judge(self, t: float) -> Kind | None:
        """What becomes of the alarm now that there is a new score."""
        scores = [watch.score for watch in self.watches.values() if watch.score is not None]
        if not scores:
            return None
        self.score = max(scores)
        span = self.worst().span
        if self.since is None:
            if self.score < 1.0:
                return None
            self.since, self._below, self._is_settled = t, None, False
            return "drift"
        if self.score >= END_SCORE:
            self._below = None
        elif self._below is None:
            self._below = t
        elif t - self._below >= span:
            self.since, self.reason = None, ""
            return "drift_end"
        if self._is_settled or self.score < 1.0 or t - self.since < span:
            return None
        self._is_settled = True
        return "drift_update"

    def worst(self) -> _Watch:
        """Of inputs and features, what has the highest score."""
        return max(
            self.watches.values(), key=lambda watch: -1.0 if watch.score is None else watch.score
        )


class Detector:
    """Scores modalities against a profile. It knows no stream and reads no clock.

    Its memory does not grow: a window of looks for each reference.

    Args:
        profile: what is normal.

    Attributes:
        modalities: what there is to know, by modality that is watched.
    """

    def __init__(self, profile: DriftProfile) -> None:
        self.modalities: dict[str, ModalityDrift] = {}
        self._watches: dict[tuple[str, str], _Watch] = {}
        for reference in profile.references:
            state = self.modalities.setdefault(reference.modality, ModalityDrift())
            watch = _Watch(reference)
            state.watches[reference.source] = watch
            self._watches[reference.modality, reference.source] = watch

    def see(
        self, modality: str, source: str, values: Mapping[str, Any], t: float
    ) -> NDArray[np.float64] | None:
        """The statistics of what came, for :meth:`take_look`; None for most, and what is unwatched.

        Several threads may call it at a time, each for other modalities.

        Args:
            modality: its name.
            source: ``inputs`` or ``features``.
            values: array by tensor.
            t: when they came, in seconds that never go back but at :meth:`forget`.
        """
        watch = self._watches.get((modality, source))
        return None if watch is None else watch.see(values, t)

    def take_look(
        self, modality: str, source: str, look: NDArray[np.float64] | None, t: float
    ) -> Change | None:
        """Take in the statistics of a look; an alarm that begins, is explained or ends by them."""
        watch = self._watches.get((modality, source))
        if look is None or watch is None or not watch.look(look, t):
            return None
        return self._judge(modality, t)

    def take(
        self, modality: str, source: str, values: Mapping[str, Any], t: float
    ) -> Change | None:
        """:meth:`see` and :meth:`take_look` in one."""
        return self.take_look(modality, source, self.see(modality, source, values, t), t)

    def forget(self, modality: str | None = None) -> list[str]:
        """Begin anew, as if nothing had come of a modality, or of all.

        Returns:
            The modalities whose alarms end by that.
        """
        ended = []
        for name, state in self.modalities.items():
            if modality is None or name == modality:
                if state.since is not None:
                    ended.append(name)
                state.forget()
        return ended

    def scores(self) -> dict[str, float]:
        """The score by modality; those of which nothing is known are left out."""
        return {
            name: state.score for name, state in self.modalities.items() if state.score is not None
        }

    def _judge(self, modality: str, t: float) -> Change | None:
        state = self.modalities[modality]
        kind = state.judge(t)
        if kind is None or state.score is None:
            return None
        worst = state.worst()
        resembles: tuple[str, ...] = ()
        if kind == "drift_update" and worst.reference.source == "inputs":
            others = (
                (name, w) for (name, source), w in self._watches.items() if source == "inputs"
            )
            resembles = tuple(
                name for name, other in others if name != modality and worst.would_fit(other)
            )
        change = Change(
            modality, kind, t, state.score, worst.reference.source, worst.explain(), resembles
        )
        if kind != "drift_end":
            state.reason = str(change)
        return change
