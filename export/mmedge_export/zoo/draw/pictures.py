"""Training pictures: those of easy-vqa, with what their questions and answers say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo.draw.captions import COLORS, HELD_OUT, SHAPES, Caption
from mmedge_export.zoo.draw.measure import SIDE, measure
from mmedge_export.zoo.vqa import questions
from mmedge_export.zoo.vqa.network import ANSWERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmedge_export.zoo.vqa.questions import Questions, Split

__all__ = ["Pictures", "facts", "load", "move"]


@dataclass(frozen=True)
class Pictures:
    """Pictures, and the color and the shape in each.

    Attributes:
        images: uint8 ``[pictures, 64, 64, 3]``, RGB.
        captions: color and shape; one is None where no question tells it.
    """

    images: NDArray[np.uint8]
    captions: tuple[Caption, ...]

    def __len__(self) -> int:
        return len(self.captions)


def facts(data: Questions) -> list[Caption]:
    """Color and shape of each picture, as far as its questions tell.

    "What color is the circle?" tells the shape too. A question for yes or no tells what it asks
    for, unless it is negated or the answer is no: "Is no circle present?" "No." tells it.
    """
    words: list[set[str]] = [set() for _ in data.images]
    for image, text, answer in zip(data.image, data.text, data.answer, strict=True):
        question = {*data.texts[text].rstrip("?").split()}
        reply = ANSWERS[answer]
        if reply in ("yes", "no"):
            is_negated = bool(question & {"no", "not"})
            if (reply == "yes") == is_negated:
                continue
        words[image] |= question | {reply}
    captions = []
    for told in words:
        color, shape = (
            next((word for word in known if word in told), None) for known in (COLORS, SHAPES)
        )
        captions.append(Caption(color, shape))
    return captions


def _may_be_held_out(caption: Caption) -> bool:
    """Whether it is a held-out combination, or could be one for all that its questions tell."""
    return any(
        caption.color in (None, color) and caption.shape in (None, shape)
        for color, shape in HELD_OUT
    )


def load(split: Split) -> Pictures:
    """Pictures of a split of easy-vqa without those that have, or may have, a held-out combination.

    Raises:
        ExportError: easy-vqa is not installed.
    """
    data = questions.load(split)
    captions = facts(data)
    rows = [n for n, caption in enumerate(captions) if not _may_be_held_out(caption)]
    return Pictures(data.images[rows], tuple(captions[n] for n in rows))


def move(
    picture: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], str | None, str | None]:
    """A picture as training shows it: mirrored or not, and its shape moved in half of the cases.

    A shape is moved to any place where it is whole. One that touches the edge stays, since it may
    be cut off there.

    Args:
        picture: uint8 ``[64, 64, 3]``, RGB; not changed.
        rng: what is drawn from.

    Returns:
        The picture, and the size and the place that its caption may say; of several places one at
        random.
    """
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    box = measure(picture)
    if box is None:
        return picture, None, None
    has_room = box.top > 0 and box.left > 0 and box.bottom < SIDE and box.right < SIDE
    # A cyclic shift is exact: the background is of one color.
    if has_room and rng.random() < 0.5:
        down = int(rng.integers(1 - box.top, SIDE - box.bottom))
        right = int(rng.integers(1 - box.left, SIDE - box.right))
        picture = np.roll(picture, (down, right), axis=(0, 1))
        box = measure(picture) or box
    places = box.places()
    place = places[int(rng.integers(len(places)))] if places else None
    return picture, box.size, place
