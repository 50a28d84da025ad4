"""What a stream tells whoever watches it: pushes, encodings, results and events, as they happen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmedge.errors import InputError
from mmedge.stream.result import Used

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.stream.compute import Encoded, Fused
    from mmedge.stream.result import Result
    from mmedge.stream.sample import Item
    from mmedge.stream.state_sequence import Turn

__all__ = ["Event", "Observer", "Observers"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a stream, other than a sample or a result.

    Attributes:
        kind: its name. The stream itself tells of ``forget`` and ``reset`` (the application's
            calls), ``clock_jump``, ``failure``, ``observer_error`` (an observer raised, and is
            told nothing more) and ``close``, and :meth:`Stream.swap` of ``swap_started``,
            ``swap_refused``, ``swapped``, ``rolled_back`` and ``swap_confirmed``. Others come by
            :meth:`Stream.tell`.
        t: when, in seconds of the stream's clock.
        message: what happened, in words.
        details: the same by name, for programs: numbers and short texts.
    """

    kind: str
    t: float
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Observer:
    """Is told what happens to a stream; override what you want to know (:meth:`Stream.observe`).

    Calls come one at a time and in order, in whichever thread did the work, with the stream's lock
    held. So a method returns at once, keeps what it needs for a thread of its own, calls no method
    of the stream, and writes to nothing that it is given. All times are in seconds of the stream's
    clock.
    """

    def on_push(
        self,
        modality: str,
        seq: int,
        value: Mapping[str, Any] | str,
        t: float,
        arrival: float,
        fault: str | None,
    ) -> None:
        """A sample was pushed.

        Args:
            modality: its name.
            seq: the sample's number within its modality.
            value: the text that was pushed, or arrays by input. They are the stream's own copies,
                or with ``copy=False`` what the caller promised not to change.
            t: its stamp.
            arrival: when it was pushed.
            fault: why it was dropped at once; None: it was accepted.
        """

    def on_encoded(
        self,
        modality: str,
        samples: Sequence[Used],
        values: Mapping[str, Any],
        features: Mapping[str, Any] | None,
        now: float,
    ) -> None:
        """A modality was encoded.

        Args:
            modality: its name.
            samples: what was encoded.
            values: the encoder's inputs by name, those of a window joined; empty where nobody has
                them any more.
            features: what the encoder gave, by tensor; None: it failed.
            now: when it was done.
        """

    def on_state_run(self, modality: str, item: Item) -> None:
        """An encoder with state ran; told before :meth:`on_encoded` is of the same run.

        Args:
            modality: its name.
            item: what was encoded. Its ``turn`` has the states that the run began with.
        """

    def on_fused(
        self,
        items: Mapping[str, Item | None],
        sizes: Mapping[str, int],
        turns: Mapping[str, Turn],
        outcome: Fused,
    ) -> None:
        """The fusion of the result that is told next was run: what is needed to run it again.

        Args:
            items: what it used of each modality; None: its stand-in.
            sizes: of the dynamic dimensions of what is present, which stand-ins have too.
            turns: of its stages with state, the states that they began with.
            outcome: what came of it.
        """

    def on_result(self, result: Result) -> None:
        """A result was made, of any kind, whether or not somebody fetches it.

        ``lateness`` is not known yet, and ``dropped`` is what was dropped since the result before.
        """

    def on_event(self, event: Event) -> None:
        """Something else happened."""


class Observers:
    """Those of one stream; one that raises is left out from then on, and an event says so.

    Attributes:
        events: count by kind so far.
    """

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()
        self.events: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._observers)

    def __contains__(self, observer: Observer) -> bool:
        return any(other is observer for other in self._observers)

    def add(self, observer: Observer) -> None:
        """Tell this one, too, from now on.

        Raises:
            InputError: it is no observer, such as a plain function.
        """
        if not isinstance(observer, Observer):
            raise InputError(
                f"observe: expected a mmedge.stream.Observer, got {type(observer).__name__}; make "
                "a class of it that overrides the methods you need, such as on_result"
            )
        self._observers = (*self._observers, observer)

    def remove(self, observer: Observer) -> None:
        """Tell this one nothing more; nothing happens if it is not told anyway."""
        self._observers = tuple(other for other in self._observers if other is not observer)

    def tell(self, event: Event) -> None:
        """Count an event and tell of it."""
        self.events[event.kind] = self.events.get(event.kind, 0) + 1
        self.call("on_event", event.t, event)

    def encoded(
        self, modality: str, item: Item, outcome: Encoded, now: float, offset: float
    ) -> None:
        """Tell of an encoding; ``offset`` is what the time is ahead of the clock's seconds."""
        if item.turn is not None:
            self.call("on_state_run", now, modality, item)
        samples = tuple([Used(sample.seq, sample.t - offset) for sample in item.samples])
        encoding = modality, samples, outcome.values, outcome.features, now - offset
        self.call("on_encoded", now, *encoding)

    def call(self, method: str, now: float, *args: Any) -> None:  # noqa: ANN401
        """Call this method of each; ``now`` is the time for the event of one that raises."""
        for observer in self._observers:
            if observer not in self:
                continue  # it raised at the event that another one's error is
            try:
                getattr(observer, method)(*args)
            except Exception as error:  # noqa: BLE001  # a stream outlives whoever watches it
                self.remove(observer)
                name = type(observer).__name__
                self.tell(
                    Event(
                        "observer_error",
                        now,
                        f"{name}.{method} raised {type(error).__name__}: {error}; it is told "
                        "nothing more",
                        {"observer": name, "method": method},
                    )
                )
