"""What a modality holds goes over from one network to another: no features of the first are left.

Not thread-safe; the stream's lock is held around every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.stream.sample import Progress

if TYPE_CHECKING:
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Renewed
    from mmedge.stream.sample import Item
    from mmedge.stream.state_sequence import Turn

__all__ = ["renew", "renew_item", "requeue"]


#: Why there is nothing of a modality to use.
RENEWING = "another network encodes it anew"


def requeue(track: ModalityState, item: Item) -> None:
    """Have an item encoded again whose encoding is void, since another network runs by now.

    One from before the modality began anew (it was forgotten, say) is let go of instead: a state
    would take it.
    """
    track.running = None
    if item.epoch == track.epoch:
        _enqueue_in_order(track, item)
    else:
        track.drop_ended(item)


def renew_item(track: ModalityState, item: Item) -> None:
    """Have an item that a trigger brings along encoded by the network that runs now."""
    if track.stages and item.progress is Progress.READY and item is not track.ready:
        item.progress, item.features = Progress.NEW, None


def renew(track: ModalityState, renewed: Renewed | None, why: str, *, carry: bool) -> bool:
    """Go over to another network.

    Args:
        track: what is held of the modality.
        renewed: what that network has encoded of it: the ready item, or an older one, which then
            takes its place until the ready one is encoded, too. None: nothing.
        why: for the states that begin anew.
        carry: whether states go on, which mean the same in both networks.

    Returns:
        Whether something that results can use is there at once, if there was.
    """
    if not track.stages:
        return True
    sequence, ready = track.sequence, track.ready
    if renewed is not None and renewed.item.epoch != track.epoch:
        renewed = None
    if sequence is not None and renewed is not None and renewed.item is not ready:
        # What lies between the two would be missing in the state.
        renewed = None
    if sequence is not None and not carry:
        sequence.renew(why)
    for item in track.newest:
        renew_item(track, item)
    if ready is None:
        return True
    if renewed is None or renewed.item is not ready:
        ready.features = None
        # It was held as the ready one, and is from now on as one of the queue.
        _enqueue_in_order(track, ready)
        track.ready, track.missing = None, RENEWING
    if renewed is None:
        return False
    item = renewed.item
    if item is not ready:
        track.items.hold(item)
    item.features, item.progress = renewed.features, Progress.READY
    track.ready = item
    if sequence is not None and not carry:
        item.turn = _adopt(track, renewed)
    return True


def _adopt(track: ModalityState, renewed: Renewed) -> Turn | None:
    """Have a new state go on from the value that it was begun with."""
    if track.sequence is None:
        return None
    turn = track.sequence.begin(renewed.item.end)
    track.sequence.finish(turn, renewed.states)
    return turn


def _enqueue_in_order(track: ModalityState, item: Item) -> None:
    """Put an item before those of the queue that are newer."""
    item.progress = Progress.QUEUED
    at = sum(other.end < item.end for other in track.queue)
    track.queue.insert(at, item)
