"""``mmedge-train vqa``: questions of easy-vqa, spoken by espeak-ng."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.zoo.speech import corpus
from mmedge_export.zoo.task import Task, TrainingRun
from mmedge_export.zoo.vqa import questions
from mmedge_export.zoo.vqa.evaluate import accuracy, held_out
from mmedge_export.zoo.vqa.network import AUDIO, FUSION, IMAGE, TEXT
from mmedge_export.zoo.vqa.training import Recipe, Trainer

if TYPE_CHECKING:
    import argparse

__all__ = ["TASK"]


class _Run(TrainingRun):
    def __init__(self, recipe: Recipe, options: argparse.Namespace) -> None:
        data, self._test = questions.load("train"), questions.load("test")
        if options.limit is not None:
            data = data.first(options.limit)
        self._unheard = held_out(self._test.texts, options.cache)
        readings = corpus("train", data.texts, options.cache, takes=recipe.takes)
        if not 0 < recipe.share <= 1:
            raise ExportError(f"--share is above 0 and at most 1, not {recipe.share}")
        if recipe.share < 1:
            data = data.draw(recipe.share, recipe.seed)
            readings = readings.draw(recipe.share, recipe.seed)
        self.name = f"vqa-{recipe.fusion}"
        self.data = f"easy-vqa {questions.VERSION}"
        self.trainer = self._trainer = Trainer(recipe, data, readings)

    def evaluate(self) -> dict[str, Any]:
        return dict(accuracy(self._trainer.average, self._test, self._unheard))

    def facts(self) -> dict[str, Any]:
        return {
            "train_images": len(self._trainer.data.images),
            "train_questions": len(self._trainer.data),
            "train_clips": len(self._trainer.corpus),
            "test_questions": len(self._test),
            "test_clips": len(self._unheard),
            "versions": {"easy-vqa": questions.VERSION},
        }


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=None, help="train on the first images only")


TASK = Task(
    summary="Train a reference network on easy-vqa, with questions spoken by espeak-ng.",
    recipe=Recipe,
    start=_Run,
    choices={
        field: sorted(parts)
        for field, parts in (("image", IMAGE), ("text", TEXT), ("audio", AUDIO), ("fusion", FUSION))
    },
    add_options=_add_options,
)
