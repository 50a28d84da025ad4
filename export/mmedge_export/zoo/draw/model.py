"""``zoo:draw`` as the toolchain takes it: input, loop, samples, metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.inputs import Input
from mmedge_export.loops import Denoise
from mmedge_export.model import Model
from mmedge_export.zoo import data_files, weight_file
from mmedge_export.zoo.draw.captions import TOKENIZER, Caption, encode
from mmedge_export.zoo.draw.drawing import GUIDANCE, SCHEDULE, SHAPE, to_bytes
from mmedge_export.zoo.draw.evaluation_set import Evaluation
from mmedge_export.zoo.draw.judge import judge
from mmedge_export.zoo.draw.network import DrawNet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SAMPLES", "describe", "factory", "follows_caption"]

BATCH = (1, 16)
"""Smallest and largest batch."""

SAMPLES: tuple[Caption, ...] = (
    Caption("teal", "triangle", "big", "at the left"),
    Caption("red", "circle", "small", "in the middle"),
    Caption("yellow", "rectangle", "big", "at the bottom right"),
    Caption("gray", "rectangle", "small", "at the top"),
)
"""Captions of the golden samples; the first is of a combination that training never showed.

They say all four parts: what a caption leaves open is up to the least difference in a latent, and a
lower precision then draws another shape from the same noise, which no tolerance allows.
"""


def factory(name: str, weights: Path | None) -> Model:
    """The shipped network, or that of a weight file.

    Raises:
        ExportError: there are no weights, or not those of this network.
    """
    return describe(weight_file.load(data_files.weight_path(name, weights, name), DrawNet), name)


def follows_caption(
    outputs: Sequence[dict[str, NDArray[Any]]], targets: Sequence[Caption]
) -> float:
    """Share of pictures that are as their caption says, in each of its parts.

    Args:
        outputs: ``image`` float32 ``[1, 64, 64, 3]`` each, 0 to 1.
        targets: their captions.
    """
    pictures = to_bytes(np.concatenate([output["image"] for output in outputs]))
    rights = [
        verdict.right(caption) for verdict, caption in zip(judge(pictures), targets, strict=True)
    ]
    return float(np.mean([all(right.values()) for right in rights]))


def describe(net: DrawNet, name: str) -> Model:
    """The network with its contract: a caption to a picture."""
    samples = [({"text": encode([caption.text])}, caption) for caption in SAMPLES]
    return Model(
        net,
        inputs={
            "text": Input(
                samples[0][0]["text"], modality="text", dynamic={0: "batch"}, tokenizer=TOKENIZER
            )
        },
        outputs=["condition"],
        samples=samples,
        evaluation=Evaluation(),
        metric=follows_caption,
        dims={"batch": BATCH},
        name=name,
        loop=Denoise(
            net.step,
            schedule=SCHEDULE,
            shape=("batch", *SHAPE),
            time="time",
            guidance=GUIDANCE,
            unconditional={"text": encode([""])},
            decoder=net.decoder,
            outputs=["image"],
        ),
    )
