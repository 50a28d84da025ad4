"""``mmedge-train label-translate``: names of ``iso-codes``, rendered in Debian's fonts."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mmedge_export.zoo.label_translate import names, pictures, scenery
from mmedge_export.zoo.label_translate.backgrounds import LARGEST_PHOTO
from mmedge_export.zoo.label_translate.characters import Characters
from mmedge_export.zoo.label_translate.evaluation import figures, torch_writer
from mmedge_export.zoo.label_translate.training import LabelRecipe, LabelTrainer
from mmedge_export.zoo.task import Task, TrainingRun
from mmedge_export.zoo.text_model import TOKENIZER
from mmedge_export.zoo.training import COMPUTE

if TYPE_CHECKING:
    import argparse

__all__ = ["TASK"]


class _Run(TrainingRun):
    name = "label-translate"

    def __init__(self, recipe: LabelRecipe, options: argparse.Namespace) -> None:
        self._names, self._cache = names.load(), options.cache
        data = pictures.training_letterings(self._names, recipe.pictures, recipe.seed, self._cache)
        self._characters = Characters(self._names.characters())
        self.data = f"iso-codes {_version_of_names()}"
        photos = scenery.load_photos(scenery.TRAIN, largest=LARGEST_PHOTO)
        self.trainer = self._trainer = LabelTrainer(recipe, data, self._characters, photos)

    def companions(self) -> dict[str, str]:
        return {TOKENIZER: self._characters.tokenizer().to_str(pretty=True) + "\n"}

    def evaluate(self) -> dict[str, Any]:
        return dict(figures(torch_writer(self._trainer.average), self._names, self._cache))

    def facts(self) -> dict[str, Any]:
        return {
            "names": {
                "dictionary": len(self._names.dictionary),
                "reading": len(self._names.reading),
                "unseen": len(self._names.unseen),
            },
            "tokens": len(self._characters),
            "train_pictures": len(self._trainer.data),
            "families": len(scenery.TRAIN.families),
            "photos": len(scenery.TRAIN.photos),
            "versions": {
                "iso-codes": _version_of_names(),
                **{package: version(package) for package in ("pillow", "scikit-image")},
            },
        }


def _version_of_names() -> str:
    """That of the Debian package."""
    query = shutil.which("dpkg-query")
    if query is None:
        return "of unknown version"
    process = subprocess.run(  # noqa: S603 - arguments are a list, no shell
        [query, "--show", "--showformat=${Version}", "iso-codes"],
        capture_output=True,
        check=False,
        text=True,
    )
    return process.stdout or "of unknown version"


TASK = Task(
    summary=(
        "Train the network that reads and translates labels: names of iso-codes, rendered in "
        "Debian's fonts over photos of Debian and scikit-image."
    ),
    recipe=LabelRecipe,
    start=_Run,
    choices={"compute": COMPUTE},
)
