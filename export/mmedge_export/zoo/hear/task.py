"""``mmedge-train hear``: requests of a grammar, spoken by espeak-ng."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge_export.zoo import speech, voices
from mmedge_export.zoo.characters import Characters
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.hear.evaluation import figures, torch_writer
from mmedge_export.zoo.hear.training import HearRecipe, HearTrainer
from mmedge_export.zoo.task import Task, TrainingRun
from mmedge_export.zoo.text_model import TOKENIZER

if TYPE_CHECKING:
    import argparse

__all__ = ["TASK"]


class _Run(TrainingRun):
    name = "hear"

    def __init__(self, recipe: HearRecipe, options: argparse.Namespace) -> None:
        self._requests, self._cache = phrases.load(), options.cache
        self._characters = Characters(phrases.characters(), phrases.LANGUAGES)
        known = self._requests.known
        sentences = [phrase.english for phrase in known]
        utterances = voices.draw("train", sentences, recipe.voices, recipe.seed)
        clips = speech.record(utterances, "train", self._cache)
        self.data = f"requests of mmedge's grammar, {speech.version()}"
        self.trainer = self._trainer = HearTrainer(recipe, clips, known, self._characters)

    def companions(self) -> dict[str, str]:
        return {TOKENIZER: self._characters.tokenizer().to_str(pretty=True) + "\n"}

    def evaluate(self) -> dict[str, Any]:
        return dict(figures(torch_writer(self._trainer.average), self._requests, self._cache))

    def facts(self) -> dict[str, Any]:
        clips = self._trainer.corpus
        return {
            "phrases": {
                "known": len(self._requests.known),
                "unseen": len(self._requests.unseen),
            },
            "tokens": len(self._characters),
            "train_clips": len(clips),
            "train_hours": round(len(clips.pcm) / speech.RATE / 3600, 2),
            "versions": {"espeak-ng": speech.version()},
        }


TASK = Task(
    summary=(
        "Train the network that hears requests and writes them in English or Chinese: sentences of "
        "a small grammar, spoken by espeak-ng."
    ),
    recipe=HearRecipe,
    start=_Run,
)
"""Training of ``zoo:hear`` as a subcommand."""
