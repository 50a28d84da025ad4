"""What a stream asks of whoever changes its network: a swap, or a choice of variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mmedge.stream.choose import Active
    from mmedge.stream.compute import Encoded, Fused
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.result import Result

__all__ = ["Change"]


class Change(Protocol):
    """What looks after a stream's networks. The state machine calls it with the lock held.

    Attributes:
        title: why there can be no other at the same time, and what to do.
    """

    title: str

    def on_encoded(self, track: ModalityState, outcome: Encoded, now: float) -> None:
        """An encoding by the network that runs came to an end; it may be switched now."""

    def on_fused(self, active: Active, outcome: Fused, now: float) -> bool:
        """A fusion came to an end. False: its network was switched, and it is to be made anew."""

    def on_result(self, result: Result, now: float) -> None:
        """A result was made."""

    def on_idle(self, now: float) -> None:
        """No fusion runs at this moment: the network may be switched."""

    def close(self, now: float) -> None:
        """The stream is closed."""
