"""``mmedge-train draw``: pictures of easy-vqa, with captions of what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge_export.zoo.draw import evaluation, pictures
from mmedge_export.zoo.draw.captions import HELD_OUT
from mmedge_export.zoo.draw.drawing import torch_artist
from mmedge_export.zoo.draw.training import DrawRecipe, DrawTrainer
from mmedge_export.zoo.task import Task, TrainingRun
from mmedge_export.zoo.training import COMPUTE
from mmedge_export.zoo.vqa.questions import VERSION

if TYPE_CHECKING:
    import argparse

__all__ = ["TASK"]


class _Run(TrainingRun):
    name = "draw"

    def __init__(self, recipe: DrawRecipe, options: argparse.Namespace) -> None:  # noqa: ARG002
        self.data = f"easy-vqa {VERSION}"
        self.trainer = self._trainer = DrawTrainer(recipe, pictures.load("train"))

    def evaluate(self) -> dict[str, Any]:
        return {**evaluation.figures(torch_artist(self._trainer.average)), **evaluation.real()}

    def facts(self) -> dict[str, Any]:
        return {
            "train_pictures": len(self._trainer.data),
            "held_out": sorted(" ".join(pair) for pair in HELD_OUT),
            "versions": {"easy-vqa": VERSION},
        }


TASK = Task(
    summary=(
        "Train the network that draws pictures from captions: shapes of easy-vqa, captions of "
        "their color, shape, size and place."
    ),
    recipe=DrawRecipe,
    start=_Run,
    choices={"compute": COMPUTE},
)
