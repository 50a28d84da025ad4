"""What is in a picture, as ``zoo:vqa-attention`` answers when it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmedge_export.zoo import data_files, weight_file
from mmedge_export.zoo.draw.measure import measure
from mmedge_export.zoo.vqa import tokenizer
from mmedge_export.zoo.vqa.network import ANSWERS, VqaNet
from mmedge_export.zoo.vqa.sample_set import SILENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmedge_export.zoo.draw.captions import Caption
    from mmedge_export.zoo.draw.measure import Box

__all__ = ["QUESTIONS", "Verdict", "judge"]

QUESTIONS = ("what color is the shape?", "what shape is in the image?")
"""What is asked about each picture."""

_NETWORK = "vqa-attention"


@dataclass(frozen=True)
class Verdict:
    """What a picture shows.

    Attributes:
        color: the answer to the first of :data:`QUESTIONS`, one of ``ANSWERS``.
        shape: the answer to the second.
        box: as measured; None where nothing stands out.
    """

    color: str
    shape: str
    box: Box | None

    def right(self, caption: Caption) -> dict[str, bool]:
        """For each part that a caption has, whether the picture is as it says."""
        box, right = self.box, {}
        if caption.color is not None:
            right["color"] = self.color == caption.color
        if caption.shape is not None:
            right["shape"] = self.shape == caption.shape
        if caption.size is not None:
            right["size"] = box is not None and box.has_size(caption.size)
        if caption.place is not None:
            right["place"] = box is not None and box.has_place(caption.place)
        return right


@cache
def _network() -> VqaNet:
    return weight_file.load(data_files.weight_path(_NETWORK, None, "vqa"), VqaNet)


@torch.inference_mode()
def judge(pictures: NDArray[np.uint8], batch: int = 128) -> Sequence[Verdict]:
    """Ask about pictures, and measure them.

    Args:
        pictures: uint8 ``[pictures, 64, 64, 3]``, RGB.
        batch: pictures that are looked at together.

    Raises:
        ExportError: mmedge-zoo, which has the weights, is not installed.
    """
    net = _network()
    ids = torch.from_numpy(tokenizer.encode(QUESTIONS))
    verdicts: list[Verdict] = []
    for start in range(0, len(pictures), batch):
        some = pictures[start : start + batch]
        images, silence = torch.from_numpy(np.array(some)), torch.zeros(len(some), SILENCE)
        color, shape = (
            net(images, question.expand(len(some), -1), silence)["answer"].argmax(dim=1).tolist()
            for question in ids
        )
        for number, picture in enumerate(some):
            answers = (ANSWERS[color[number]], ANSWERS[shape[number]])
            verdicts.append(Verdict(*answers, measure(picture)))
    return verdicts
