"""The stamps of one source: which are refused, and when they show that its clock was set back."""

from __future__ import annotations

from collections import deque

from mmedge.stream.sample import SLACK

__all__ = ["SourceClock"]

#: So many samples in a row behind the newest, increasing among themselves, show a clock set back.
SET_BACK_SAMPLES = 3
#: Least ratio of the time in which they come to the time that their stamps span. What was held up
#: on its way, or is delivered again, comes faster than it was measured.
PACE = 0.5
#: Where the stream's clock stood still meanwhile, which tells of no pace: seconds that they are all
#: behind.
FAR = 1.0
#: A stamp that is ahead of its arrival by more seconds than this, and by so much more than any of
#: the last LEADS was, is a wrong one unless so many in a row are: one that were taken for right
#: would make all that are behind it, and right, look out of order.
AHEAD, AHEAD_SAMPLES, LEADS = 0.05, 3, 32


class SourceClock:
    """Stamps of a modality's samples, in order of arrival; all times in seconds.

    Args:
        limit: oldest age that may be used; None: any.
        future: how far a stamp may be ahead of now.
    """

    def __init__(self, limit: float | None, future: float) -> None:
        self._limit, self._future = limit, future
        self._suspects: list[tuple[float, float]] = []
        #: How far the stamps of the last samples were ahead of their arrival.
        self._leads: deque[float] = deque(maxlen=LEADS)
        #: Stamps in a row that were ahead of all before them, and of their arrival.
        self._ahead: list[float] = []
        #: Newest stamp of this history; None before there is one.
        self.newest: float | None = None
        #: How far the source's clock is behind the stream's since it was set back, if it makes a
        #: sample look too old on arrival.
        self.behind = 0.0
        #: How far the source's clock is behind since it was set back, by the quickest of its
        #: samples since then.
        self.lag = 0.0

    def fault(self, t: float, now: float) -> str | None:
        """Why a sample of this stamp is refused whatever it holds; None: it is not."""
        if t > now + self._future or self._is_ahead(t, now):
            return "future"
        if self.is_set_back(t, now):
            return None
        if self._limit is not None and now - self.behind - t > self._limit + SLACK:
            return "too_old"
        suspects = self._suspects
        if t == self.newest or (suspects and any(t == stamp for stamp, _ in suspects)):
            return "duplicate"
        return None

    def is_set_back(self, t: float, now: float) -> bool:
        """Whether a sample of stamp ``t`` at ``now`` shows that the clock was set back."""
        if self.newest is None or t >= self.newest or len(self._suspects) + 1 < SET_BACK_SAMPLES:
            return False
        first, came = self._suspects[0]
        if t <= self._suspects[-1][0]:
            return False
        if now == came:
            return self.newest - t > FAR
        return now - came >= PACE * (t - first)

    def _is_ahead(self, t: float, now: float) -> bool:
        """Whether a stamp is a wrong one, ahead of its time, as far as one can tell by now."""
        if t - now <= AHEAD or not self._leads or t - now <= max(self._leads) + AHEAD:
            return False
        in_a_row = self._ahead and t > self._ahead[-1]
        return not in_a_row or len(self._ahead) + 1 < AHEAD_SAMPLES

    @property
    def suspects(self) -> frozenset[tuple[float, float]]:
        """Stamp and arrival of the samples behind the newest, that came in a row."""
        return frozenset(self._suspects)

    def suspect(self, t: float, now: float) -> None:
        """Note a sample that was dropped or came late."""
        if self._is_ahead(t, now):
            self._ahead = [*self._ahead, t] if self._ahead and t > self._ahead[-1] else [t]
        if self.newest is None or t >= self.newest:
            return
        if self._suspects and t <= self._suspects[-1][0]:
            if t == self._suspects[-1][0]:
                return
            self._suspects = []
        self._suspects = [*self._suspects, (t, now)][1 - SET_BACK_SAMPLES :]

    def accept(self, t: float, now: float) -> None:
        """Note a sample that is newer than all before it."""
        self.newest = t
        self._suspects = []
        self._ahead = []
        self._leads.append(t - now)
        self.lag = min(self.lag, max(0.0, now - t))
        # The source may have been set right again.
        self.behind = min(self.behind, max(0.0, now - t))

    def restart(self, t: float, now: float) -> None:
        """Begin anew with the sample that showed that the clock was set back."""
        self.clear()
        self.newest = t
        self.lag = max(0.0, now - t)
        if self._limit is not None and now - t > self._limit:
            self.behind = now - t

    def clear(self) -> None:
        """Forget all stamps."""
        self._suspects = []
        self._ahead = []
        self._leads.clear()
        self.newest = None
        self.behind = self.lag = 0.0
