"""Goals and limits by name, for those who must not load the rest."""

from __future__ import annotations

__all__ = ["ALPHA", "BUDGET", "GOALS", "MAX_DROP", "MAX_ERROR"]

#: ``speed`` keeps what is measurably faster on this device, ``size`` what is smaller.
GOALS = ("speed", "size")

#: Chance of accepting a network that drops by more than the limit, over all attempts together.
ALPHA = 0.05

#: Limits where none is given: of the metric's drop, and without a metric of the relative error of
#: the worst output on any golden sample.
MAX_DROP, MAX_ERROR = 0.01, 0.05

#: Candidates that are judged at most.
BUDGET = 40
