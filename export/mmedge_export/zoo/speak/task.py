"""``mmedge-train speak``: requests of a grammar, read by one voice of espeak-ng."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.zoo import speech
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.speak import espeak, evaluation, readings
from mmedge_export.zoo.speak.training import SpeakRecipe, SpeakTrainer
from mmedge_export.zoo.task import Task, TrainingRun

if TYPE_CHECKING:
    import argparse

__all__ = ["TASK"]


class _Run(TrainingRun):
    name = "speak"

    def __init__(self, recipe: SpeakRecipe, options: argparse.Namespace) -> None:
        self._requests, self._cache = phrases.load(), options.cache
        known = [phrase.english for phrase in self._requests.known]
        self.data = f"requests of mmedge's grammar, {speech.version()}, voice {espeak.VOICE}"
        self.trainer = self._trainer = SpeakTrainer(recipe, readings.load(known, self._cache))

    def evaluate(self) -> dict[str, Any]:
        unseen = [phrase.english for phrase in self._requests.unseen]
        net = self._trainer.average
        results: dict[str, Any] = {
            "distances": evaluation.distances(net, readings.load(unseen, self._cache))
        }
        try:
            results["unseen"] = evaluation.understood(evaluation.torch_speaker(net), unseen)
            results["espeak"] = evaluation.understood(evaluation.espeak_speaker, unseen)
        except ExportError as error:
            # The network is trained; only who is to listen to it is missing.
            results["not_understood_because"] = str(error)
        return results

    def facts(self) -> dict[str, Any]:
        frames = sum(len(target.frames) for target in self._trainer.targets)
        return {
            "sentences": {
                "known": len(self._requests.known),
                "unseen": len(self._requests.unseen),
            },
            "train_minutes": round(frames / 6000, 1),
            "sample_rate_hz": speech.RATE,
            "versions": {"espeak-ng": speech.version()},
        }


TASK = Task(
    summary=(
        "Train the network that speaks: sentences of a small grammar, read by one voice of "
        "espeak-ng."
    ),
    recipe=SpeakRecipe,
    start=_Run,
)
"""Training of ``zoo:speak`` as a subcommand."""
