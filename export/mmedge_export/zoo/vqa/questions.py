"""The easy-vqa data set: images, questions and answers, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from mmedge.errors import ExportError
from mmedge_export.zoo.vqa.network import ANSWERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = "1.0"
"""Version of the data package."""

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Questions:
    """One split: which question is asked about which image, and the answer.

    Attributes:
        images: uint8 ``[images, 64, 64, 3]``.
        ids: int64 ``[images]``, the data set's own image numbers, ascending.
        texts: the distinct questions of both splits, in alphabetical order.
        image: int64 ``[questions]``, rows of ``images``.
        text: int64 ``[questions]``, indices into ``texts``.
        answer: int64 ``[questions]``, indices into ``ANSWERS``.
    """

    images: NDArray[np.uint8]
    ids: NDArray[np.int64]
    texts: list[str]
    image: NDArray[np.int64]
    text: NDArray[np.int64]
    answer: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.answer)

    def first(self, images: int) -> Questions:
        """The questions about the first ``images`` images only."""
        return self._about(np.arange(len(self.images))[:images])

    def draw(self, share: float, seed: int) -> Questions:
        """The questions about a share of the images only, drawn uniformly.

        By one seed, a smaller share is part of a larger one.

        Args:
            share: of the images, rounded to whole ones, above 0 and at most 1.
            seed: of the draw.
        """
        order = np.random.default_rng(seed).permutation(len(self.images))
        return self._about(np.sort(order[: max(1, round(share * len(order)))]))

    def _about(self, rows: NDArray[np.int64]) -> Questions:
        keep = np.isin(self.image, rows)
        return Questions(
            self.images[rows],
            self.ids[rows],
            self.texts,
            np.searchsorted(rows, self.image[keep]),
            self.text[keep],
            self.answer[keep],
        )


def load(split: Split) -> Questions:
    """Read a split of easy-vqa.

    Raises:
        ExportError: when the package is not installed; the message says how to install it.
    """
    try:
        import easy_vqa
    except ImportError as error:
        raise ExportError(f"this needs easy-vqa: pip install easy-vqa=={VERSION}") from error
    if split == "train":
        columns, paths = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    else:
        columns, paths = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    texts = sorted({*easy_vqa.get_train_questions()[0], *easy_vqa.get_test_questions()[0]})
    ids = sorted(paths)
    images = np.stack([np.asarray(Image.open(paths[i]).convert("RGB")) for i in ids])
    row = {image_id: n for n, image_id in enumerate(ids)}
    column = {text: n for n, text in enumerate(texts)}
    return Questions(
        images,
        np.array(ids, dtype=np.int64),
        texts,
        np.array([row[i] for i in columns[2]], dtype=np.int64),
        np.array([column[t] for t in columns[0]], dtype=np.int64),
        np.array([ANSWERS.index(a) for a in columns[1]], dtype=np.int64),
    )
