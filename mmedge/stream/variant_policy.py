"""Which of several variants is to run: down when something is too much, up when it stays calm.

A state machine without clock, thread or sensor: it is told the time and the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mmedge.errors import InputError
from mmedge.stream.clock import read_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Ceiling", "Decision", "PolicyOptions", "VariantPolicy"]

#: Defaults of :class:`PolicyOptions`: shares of the deadline, and seconds.
RISK, MARGIN, DWELL, HOLD = 0.9, 0.6, 1.0, 10.0
#: Times that the hold doubles after one failed probe after another, at most.
MOST_DOUBLINGS = 6


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A figure of the machine that must not stay above a limit, such as a temperature.

    Attributes:
        name: what it is, for events.
        read: returns it, or None where it cannot be read; called in a thread of its own.
        above: above this a cheaper variant is chosen.
        below: a better one is chosen only if it is below this, which is less than ``above``.

    Raises:
        InputError: ``below`` is not less than ``above``, or one of them is no number.
    """

    name: str
    read: Callable[[], float | None]
    above: float
    below: float

    def __post_init__(self) -> None:
        """Refuse what would switch up and down at one figure."""
        above = read_seconds(self.above, f"ceiling {self.name!r}: above")
        below = read_seconds(self.below, f"ceiling {self.name!r}: below")
        if not below < above:
            raise InputError(
                f"ceiling {self.name!r}: below must be less than above, got {below:g} and {above:g}"
            )


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """How fast it reacts.

    Attributes:
        risk: a cheaper variant is chosen once 95 % of results take more than this share of the
            deadline.
        margin: a better one is chosen only if they take no more than this share.
        dwell: least seconds between two switches.
        hold: seconds that all has to be calm before a better variant is tried. If that has to be
            given up within so many seconds, the hold doubles, up to 64 times; it is as before once
            the better variant has lasted.

    Raises:
        InputError: numbers that do not go together.
    """

    risk: float = RISK
    margin: float = MARGIN
    dwell: float = DWELL
    hold: float = HOLD

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 < self.margin < self.risk <= 1:
            raise InputError(
                f"variants: expected 0 < margin < risk <= 1, got margin={self.margin!r} and "
                f"risk={self.risk!r}"
            )
        if not 0 <= self.dwell <= self.hold < float("inf"):
            raise InputError(
                f"variants: expected 0 <= dwell <= hold, got dwell={self.dwell!r} and "
                f"hold={self.hold!r} seconds"
            )


class Decision(NamedTuple):
    """Another variant, by its place from the best, 0; why, and the figures that say so."""

    level: int
    reason: str
    figures: Mapping[str, float]


class VariantPolicy:
    """See the module. Whoever switches calls :meth:`switch` when that is done.

    Args:
        levels: how many variants there are, from the best to the cheapest.
        has_deadline: whether there is a share of it to look at.
        ceilings: figures that must not stay above a limit.
        options: how fast it reacts.

    Attributes:
        level: the variant that runs.
        hold: seconds of calm before a better one is tried.
    """

    def __init__(
        self,
        levels: int,
        ceilings: Iterable[Ceiling],
        options: PolicyOptions,
        *,
        has_deadline: bool,
    ) -> None:
        self._levels, self._options, self._has_deadline = levels, options, has_deadline
        self._ceilings = tuple(ceilings)
        self.level = 0
        self.hold = options.hold
        self._switched: float | None = None
        #: Since when all has been calm; None: it is not.
        self._calm: float | None = None
        #: When a better variant was begun that has not lasted yet.
        self._probe: float | None = None

    def look(
        self, now: float, share: float | None, readings: Mapping[str, float | None]
    ) -> Decision | None:
        """Another variant to switch to, or None to stay.

        Args:
            now: in seconds; it does not go backward.
            share: what 95 % of results take, as a share of the deadline; None: not known.
            readings: of the ceilings by name; what is missing or None is not known.
        """
        options = self._options
        if self._probe is not None and now - self._probe >= self.hold:
            self._probe, self.hold = None, options.hold
        reasons, figures = list[str](), dict[str, float]()
        # What is not known is no reason to take a risk.
        is_calm = share is not None or not self._has_deadline
        if share is not None:
            figures["share"] = share
            if share > options.risk:
                reasons.append(
                    f"95 % of results take up to {share:.3g} of the deadline, {options.risk:g} is "
                    "allowed"
                )
            is_calm = share <= options.margin
        for ceiling in self._ceilings:
            value = readings.get(ceiling.name)
            if value is None:
                is_calm = False
                continue
            figures[ceiling.name] = value
            if value > ceiling.above:
                reasons.append(f"{ceiling.name} is {value:.4g}, {ceiling.above:g} is allowed")
            is_calm = is_calm and value < ceiling.below
        if not is_calm:
            self._calm = None
        elif self._calm is None:
            self._calm = now
        if self._switched is not None and now - self._switched < options.dwell:
            return None
        if reasons:
            if self.level + 1 >= self._levels:
                return None
            return Decision(self.level + 1, "; ".join(reasons), figures)
        if self.level and self._calm is not None and now - self._calm >= self.hold:
            why = f"calm for {now - self._calm:.3g} s"
            return Decision(self.level - 1, why, figures)
        return None

    def switch(self, level: int, now: float) -> None:
        """Another variant runs from now on."""
        if level > self.level and self._probe is not None:
            longest = self._options.hold * 2**MOST_DOUBLINGS
            self.hold, self._probe = min(2 * self.hold, longest), None
        elif level < self.level:
            self._probe = now
        self.level, self._switched, self._calm = level, now, None

    def fail(self, now: float) -> None:
        """The switch that was decided could not be made: try nothing for a while."""
        self._switched, self._calm = now, None
