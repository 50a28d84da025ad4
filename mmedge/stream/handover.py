"""Hands a stream over to another network between two results, once that has what is held.

What results use is encoded by the new network beside the stream first, so that no result has to
wait for it. The one mechanism of every switch that is planned. Not thread-safe; the stream's lock
is held around every call.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mmedge.stream.network import Renewed
from mmedge.stream.sample import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.stream.background import Background
    from mmedge.stream.compute import Encoded
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Network
    from mmedge.stream.sample import Item
    from mmedge.stream.state_machine import StreamStateMachine

__all__ = ["Handover"]


class Handover:
    """One switch. :meth:`look` is called whenever no fusion runs.

    It switches when nothing is lost by it: the new network has encoded all that is ready, no
    encoder is at work, and no trigger waits with features of the old network. Once ``patience``
    has passed, it does so at the next end of a result all the same: what the encoders are at is
    then encoded again, and an older value stands for one that the new network has not encoded yet.

    Args:
        core: the stream.
        background: encodes.
        time: tells the stream's time in seconds.
        network: the one to come.
        why: for states that begin anew.
        carry: whether states go on.
        patience: seconds.
        low: whether what is held is encoded at low priority.
        done: called after the switch with the time, and the names of the modalities of which
            nothing is ready until their encoder has run.
        failed: called if the network cannot encode what is held, with why and the time.
    """

    def __init__(
        self,
        core: StreamStateMachine,
        background: Background,
        time: Callable[[], float],
        network: Network,
        why: str,
        *,
        carry: bool,
        patience: float,
        done: Callable[[float, list[str]], None],
        failed: Callable[[str, float], None],
        low: bool = True,
    ) -> None:
        self._core, self._background, self._time = core, background, time
        self._network = network
        self._why, self._carry, self._patience = why, carry, patience
        self._done, self._failed, self._low = done, failed, low
        self._until: float | None = None
        self._is_over = False
        #: What is being encoded.
        self._busy: tuple[ModalityState, Item] | None = None
        self._renewed: dict[str, Renewed] = {}
        #: What the network before had encoded at the switch, for going back.
        self.kept: dict[str, Renewed] = {}

    def look(self, now: float) -> None:
        """Encode what is still to be encoded, or switch."""
        if self._is_over:
            return
        if self._until is None:
            self._until = now + self._patience
        missing = [track for track in self._core.tracks.values() if self._is_missing(track)]
        if missing and self._busy is None:
            self._encode(missing[0])
        if self._core.is_fusing or ((missing or not self._is_quiet()) and now < self._until):
            return
        self._is_over = True
        for track in self._core.tracks.values():
            item = track.ready
            if item is not None and item.features is not None:
                self.kept[track.name] = Renewed(item, item.features, {})
        names = self._core.switch(self._network, self._renewed, self._why, carry=self._carry)
        self._release()
        self._done(now, names)

    def cancel(self, reason: str = "superseded") -> None:
        """Leave the stream as it is; ``reason`` is for samples that nothing else holds."""
        self._is_over = True
        self._release(reason)

    def _is_missing(self, track: ModalityState) -> bool:
        """Whether the new network has not encoded what is ready."""
        if not track.stages or track.ready is None:
            return False
        renewed = self._renewed.get(track.name)
        return renewed is None or renewed.item is not track.ready

    def _is_quiet(self) -> bool:
        tracks = self._core.tracks.values()
        if any(track.running is not None for track in tracks):
            return False
        return not any(
            item.progress is Progress.READY and track.stages and item is not track.ready
            for track, item in self._core.waiting_items()
        )

    def _encode(self, track: ModalityState) -> None:
        item = track.ready
        if item is None:
            return
        self._busy = track, item
        track.items.hold(item)
        states = item.turn.states if self._carry and item.turn is not None else {}
        compute = self._network.compute
        self._background.submit(
            partial(compute.encode_aside, track.name, item, states),
            self._encoded,
            low=self._low,
            network=self._network,
        )

    def _encoded(self, outcome: Encoded | Exception) -> None:
        if self._is_over or self._busy is None:
            return
        (track, item), self._busy = self._busy, None
        if isinstance(outcome, Exception) or outcome.features is None:
            track.items.release(item, "superseded")
            self.cancel()
            message = outcome if isinstance(outcome, Exception) else outcome.message
            self._failed(f"its encoder of {track.name!r} failed: {message}", self._time())
            return
        before = self._renewed.get(track.name)
        self._renewed[track.name] = Renewed(item, outcome.features, outcome.states)
        if before is not None:
            track.items.release(before.item, "superseded")
        now = self._time()
        self.look(now)
        self._core.wake(now)

    def _release(self, reason: str = "superseded") -> None:
        """Let go of what was held until the switch; what the stream uses it holds by itself."""
        if self._busy is not None:
            track, item = self._busy
            track.items.release(item, reason)
            self._busy = None
        for name, renewed in self._renewed.items():
            self._core.tracks[name].items.release(renewed.item, reason)
        self._renewed = {}
