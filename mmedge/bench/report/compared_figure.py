"""One line of a comparison of two reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ComparedFigure", "Verdict"]

Verdict = Literal["faster", "slower", "better", "worse", "same", "no difference shown", "not shown"]


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of both reports.

    Attributes:
        name: such as ``p99`` or ``stage camera p50``; gates use it.
        unit: of ``a``, ``b`` and ``difference``: ``ms``, ``Hz``, ``bytes``, ``J``, ``share`` (of
            calls), or ``""`` for the metric's own.
        a: the first report's, None where it has none.
        b: the second's.
        higher_is_better: as with throughput and the metric.
        ratio: b / a, None where one is missing or a is 0; of runs whose calls took turns the
            geometric mean over pairs of sessions.
        ratio_95: 95 % interval of the ratio, where calls could be resampled.
        difference_95: 95 % interval of b - a, for the share of missed deadlines alone.
        verdict: ``faster`` or ``slower`` (``better`` or ``worse`` where the figure is no speed)
            when that is shown, and ``no difference shown`` when it is not; ``same`` for equal
            numbers that are exact; ``not shown`` where no confidence can be given.
        note: why there is no interval, or no figure; empty otherwise.
        paired: whether sessions were compared one by one.
    """

    name: str
    unit: str
    a: float | None
    b: float | None
    higher_is_better: bool = False
    ratio: float | None = None
    ratio_95: tuple[float, float] | None = None
    difference_95: tuple[float, float] | None = None
    verdict: Verdict = "not shown"
    note: str = ""
    paired: bool = False

    @property
    def difference(self) -> float | None:
        """``b - a``, None where one is missing; as much as ``ratio`` says where pairs tell it."""
        if self.a is None or self.b is None:
            return None
        if self.paired and self.ratio is not None:
            return self.a * (self.ratio - 1.0)
        return self.b - self.a

    @property
    def worsening(self) -> float | None:
        """How much worse ``b`` is, in the unit; negative when it is better."""
        difference = self.difference
        return -difference if difference is not None and self.higher_is_better else difference
