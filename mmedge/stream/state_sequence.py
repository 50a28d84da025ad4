"""What a state in a stream has taken, in order: every value once, what it missed, when it began.

A state is a modality's, which takes each value of it, or a fusion stage's, which takes each result.
Not thread-safe; the stream's lock is held around every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmedge.spec import Array

__all__ = ["FusionStates", "StateSequence", "Turn"]


class Turn(NamedTuple):
    """One run in the sequence: the states that it takes, and what was counted until then.

    ``epoch`` tells runs apart that began before and after the state began anew.
    """

    states: Mapping[str, Mapping[str, Array]]
    epoch: int
    missed: int
    resets: int


class StateSequence:
    """The states of the stages that run together, from run to run.

    Args:
        reset_after: seconds between two values after which the state begins anew; None: it never
            does by itself.

    Attributes:
        missed: values that came and that the state has not taken.
        resets: how often it began anew by itself.
    """

    def __init__(self, reset_after: float | None) -> None:
        self._reset_after = reset_after
        self._states: Mapping[str, Mapping[str, Array]] = {}
        self.missed = self.resets = 0
        self._epoch = 0
        #: Time of the newest value that a run began on.
        self._last: float | None = None
        self._why_missed = self._why_reset = ""
        self._told = (0, 0)

    def begin(self, t: float) -> Turn:
        """The turn of a value of time ``t``, whose run begins now."""
        gap = None if self._last is None else t - self._last
        if gap is not None and self._reset_after is not None and gap > self._reset_after:
            self.renew(f"{gap:.6g} s lie between its value and the one before")
        self._last = t
        return Turn(self._states, self._epoch, self.missed, self.resets)

    def finish(self, turn: Turn, states: Mapping[str, Mapping[str, Array]]) -> bool:
        """Keep the states that a run made; say whether they count, and are not of another epoch."""
        if turn.epoch != self._epoch:
            return False
        self._states = states
        return True

    def fail(self, turn: Turn, why: str) -> None:
        """Note that a run gave no states: those before it stay."""
        if turn.epoch == self._epoch:
            self.miss(1, why)

    def miss(self, count: int, why: str) -> None:
        """Note values that the state will not take."""
        if count:
            self.missed += count
            self._why_missed = why

    def jump(self) -> None:
        """The clock that its values are stamped with was set back: no gap can be told."""
        self._last = None
        if self._reset_after is not None:
            self.renew("its source's clock was set back")

    def renew(self, why: str) -> None:
        """Begin anew by itself, and tell why."""
        self.restart()
        self.resets += 1
        self._why_reset = why

    def restart(self) -> None:
        """Begin with the initial values, as if nothing had come."""
        self._states, self._last = {}, None
        self._epoch += 1

    def follow_clock(self, ahead: float) -> None:
        """Leave a jump of the time out of the gap that is under way, in seconds."""
        if self._last is not None:
            self._last += ahead

    def counts(self) -> dict[str, Any]:
        """Counters, as :class:`mmedge.stream.ModalityHealth` has them."""
        return {"state_missed": self.missed, "state_resets": self.resets}

    def tell(self, turn: Turn) -> str:
        """What a result that uses a run should say of the state and no result before it has said.

        Empty where that is nothing.
        """
        missed, resets = turn.missed - self._told[0], turn.resets - self._told[1]
        self._told = max(turn.missed, self._told[0]), max(turn.resets, self._told[1])
        remarks = []
        if resets > 0:
            remarks.append(f"its state began anew: {self._why_reset}")
        if missed > 0:
            values = "a value" if missed == 1 else f"{missed} values"
            remarks.append(f"its state missed {values}, the last as {self._why_missed}")
        return "; ".join(remarks)


class FusionStates:
    """The states of fusion stages, which take the results that are made.

    Args:
        sequences: by stage.
    """

    def __init__(self, sequences: Mapping[str, StateSequence]) -> None:
        self._sequences = sequences
        #: Modalities that the states have taken values of.
        self._modalities: set[str] = set()

    @property
    def resets(self) -> int:
        """How often states began anew by themselves."""
        return sum(sequence.resets for sequence in self._sequences.values())

    def begin(self, t: float) -> dict[str, Turn]:
        """The turn of each stage in a run for time ``t``."""
        return {name: sequence.begin(t) for name, sequence in self._sequences.items()}

    def finish(
        self,
        turns: Mapping[str, Turn],
        states: Mapping[str, Mapping[str, Array]],
        modalities: Iterable[str],
    ) -> None:
        """Keep the states of a result that is made, of values of ``modalities``."""
        for name, turn in turns.items():
            self._sequences[name].finish(turn, {name: states[name]})
        self._modalities.update(modalities)

    def tell(self, turns: Mapping[str, Turn]) -> dict[str, str]:
        """What a result should say of them, by stage; see :meth:`StateSequence.tell`."""
        remarks = {name: self._sequences[name].tell(turn) for name, turn in turns.items()}
        return {name: remark for name, remark in remarks.items() if remark}

    def forget(self, modality: str | None = None) -> None:
        """Begin anew, if they have taken values of a modality; None: whatever they have taken."""
        if modality is None or modality in self._modalities:
            self._modalities.clear()
            for sequence in self._sequences.values():
                sequence.restart()

    def renew(self, why: str) -> None:
        """Begin anew by themselves; see :meth:`StateSequence.renew`."""
        self._modalities.clear()
        for sequence in self._sequences.values():
            sequence.renew(why)

    def follow_clock(self, ahead: float) -> None:
        """See :meth:`StateSequence.follow_clock`."""
        for sequence in self._sequences.values():
            sequence.follow_clock(ahead)
