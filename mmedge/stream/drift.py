"""Watches a stream for drift against a profile, and collects what a profile is learned of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.drift.detector import Detector
from mmedge.drift.learn import LookLog
from mmedge.stream.observer import Event, Observer, Observers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mmedge.drift.detector import Change
    from mmedge.drift.profile import DriftProfile
    from mmedge.spec import Manifest
    from mmedge.stream.result import Used

__all__ = ["DriftLearner", "DriftObserver"]


class DriftObserver(Observer):
    """Scores what comes to a stream, and changes nothing of it.

    Samples that are dropped are not looked at. It tells the events ``drift``, ``drift_update`` and
    ``drift_end``.

    Args:
        profile: what is normal.

    Attributes:
        detector: has the scores.
    """

    def __init__(self, profile: DriftProfile) -> None:
        self.detector = Detector(profile)
        self._observers = Observers()
        #: What was seen of the sample that is being pushed, or the error that this raised.
        self._seen: dict[str, NDArray[np.float64] | Exception | None] = {}

    def see(self, modality: str, values: Mapping[str, Any], t: float) -> None:
        """Look at a sample before it is told of, where no lock but its modality's is held."""
        if self not in self._observers:
            return  # an error has ended it
        try:
            self._seen[modality] = self.detector.see(modality, "inputs", values, t)
        except Exception as error:  # noqa: BLE001  # it raises where an observer's error is told
            self._seen[modality] = error

    def attach(self, observers: Observers) -> None:
        """Be told of what happens to a stream, and have it tell of drift."""
        self._observers = observers
        observers.add(self)

    def scores(self) -> dict[str, float]:
        """The score by modality; empty also once a fault of its own has ended it."""
        return self.detector.scores() if self in self._observers else {}

    def health(self, modality: str) -> dict[str, Any]:
        """What :class:`mmedge.stream.ModalityHealth` says of a modality."""
        state = self.detector.modalities.get(modality)
        if state is None or self not in self._observers:
            return {}
        return {
            "drift": state.score, "drift_since": state.since, "drift_reason": state.reason,
        }  # fmt: skip

    def on_push(
        self,
        modality: str,
        seq: int,  # noqa: ARG002
        value: Mapping[str, Any] | str,  # noqa: ARG002
        t: float,  # noqa: ARG002
        arrival: float,
        fault: str | None,
    ) -> None:
        """Take in what was seen of a sample that was accepted."""
        look = self._seen.pop(modality, None)
        if isinstance(look, Exception):
            raise look
        if fault is None and look is not None:
            self._report(self.detector.take_look(modality, "inputs", look, arrival))

    def on_encoded(
        self,
        modality: str,
        samples: Sequence[Used],  # noqa: ARG002
        values: Mapping[str, Any],  # noqa: ARG002
        features: Mapping[str, Any] | None,
        now: float,
    ) -> None:
        """Look at what an encoder gave."""
        if features is not None:
            self._report(self.detector.take(modality, "features", features, now))

    def on_event(self, event: Event) -> None:
        """Begin anew where the stream does."""
        if event.kind not in ("forget", "reset", "clock_jump"):
            return
        for modality in self.detector.forget(event.details.get("modality")):
            words = f"the alarm of modality {modality!r} ends, since its window begins anew: "
            self._observers.tell(
                Event("drift_end", event.t, words + event.message, {"modality": modality})
            )

    def _report(self, change: Change | None) -> None:
        if change is None:
            return
        finding = change.finding
        details = {
            "modality": change.modality,
            "score": change.score,
            "source": change.source,
            "statistic": finding.name,
            "value": finding.value,
            "low": finding.low,
            "high": finding.high,
            "together": finding.together,
            "resembles": ", ".join(change.resembles),
        }
        self._observers.tell(Event(change.kind, change.t, str(change), details))


class DriftLearner(Observer):
    """Collects looks at what comes to streams of normal operation, one after the other.

    Args:
        manifest: of the bundle.

    Attributes:
        logs: by modality and source, for :func:`mmedge.drift.learn.fit_profile`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.logs: dict[tuple[str, str], LookLog] = {}
        for modality in manifest.modalities:
            sound = modality.inputs if modality.sample_rate_hz is not None else ()
            self.logs[modality.name, "inputs"] = LookLog(sound)
            if any(stage.modality == modality.name for stage in manifest.stages):
                self.logs[modality.name, "features"] = LookLog(is_feature=True)

    def begin(self) -> None:
        """Begin another recording."""
        for log in self.logs.values():
            log.begin()

    def on_push(
        self,
        modality: str,
        seq: int,  # noqa: ARG002
        value: Mapping[str, Any] | str,
        t: float,  # noqa: ARG002
        arrival: float,
        fault: str | None,
    ) -> None:
        """Look at a sample that was accepted."""
        if fault is None and not isinstance(value, str):
            self.logs[modality, "inputs"].take(value, arrival)

    def on_encoded(
        self,
        modality: str,
        samples: Sequence[Used],  # noqa: ARG002
        values: Mapping[str, Any],  # noqa: ARG002
        features: Mapping[str, Any] | None,
        now: float,
    ) -> None:
        """Look at what an encoder gave."""
        if features is not None and (modality, "features") in self.logs:
            self.logs[modality, "features"].take(features, now)
