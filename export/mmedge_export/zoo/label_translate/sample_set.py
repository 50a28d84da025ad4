"""The shipped samples: pictures in fonts and over photos that no training picture has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmedge_export.zoo import data_files
from mmedge_export.zoo.label_translate.names import LANGUAGES, Names
from mmedge_export.zoo.label_translate.rendering import render
from mmedge_export.zoo.label_translate.scenery import HELD_OUT, load_scenery

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["LabelSample", "folder", "load", "write"]

_KNOWN, _UNSEEN = 9, 3


@dataclass(frozen=True)
class LabelSample:
    """One picture and what is to be written.

    Attributes:
        image: name of the PNG file.
        language: one of ``LANGUAGES``.
        text: the right answer.
        label: what stands on the picture, English.
        is_known: whether training showed the name, in other pictures.
    """

    image: str
    language: str
    text: str
    label: str
    is_known: bool

    def picture(self) -> NDArray[np.uint8]:
        """uint8 ``[32, 192, 3]``, RGB."""
        with Image.open(folder() / self.image) as picture:
            return np.array(picture.convert("RGB"))


def folder() -> Path:
    """Where they are."""
    return data_files.samples("label-translate")


def load() -> list[LabelSample]:
    """The shipped samples."""
    index = json.loads((folder() / "samples.json").read_text(encoding="utf-8"))
    return [LabelSample(**entry) for entry in index["samples"]]


def write(names: Names, directory: Path, seed: int = 3) -> None:
    """Draw the samples and write them; nothing but the seed chooses.

    Nine names of the dictionary, three for each language, and three names never seen, to read.

    Args:
        names: of the installed ``iso-codes``.
        directory: for the files.
        seed: of names and pictures.

    Raises:
        ExportError: a font or scikit-image is not installed.
    """
    scenery, rng = load_scenery(HELD_OUT), np.random.default_rng(seed)
    known = [names.dictionary[n] for n in rng.permutation(len(names.dictionary))[:_KNOWN]]
    unseen = [names.unseen[n] for n in rng.permutation(len(names.unseen))[:_UNSEEN]]
    directory.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, name in enumerate([*known, *unseen]):
        language = LANGUAGES[number % len(LANGUAGES)] if number < _KNOWN else "en"
        file = f"{number:02d}.png"
        Image.fromarray(render(name.english, scenery, rng)).save(directory / file, optimize=True)
        text = name.text(language)
        samples.append(LabelSample(file, language, text, name.english, number < _KNOWN))
    index = {
        "data": "names of Debian's iso-codes; fonts and photos held out of training",
        "seed": seed,
        "samples": [asdict(sample) for sample in samples],
    }
    text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    (directory / "samples.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the shipped samples anew."""
    from mmedge_export.zoo.label_translate import names

    write(names.load(), folder())


if __name__ == "__main__":
    main()
