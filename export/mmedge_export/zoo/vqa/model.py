"""A trained reference network as the toolchain takes it: inputs, samples, metric, labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.zoo import data_files, weight_file
from mmedge_export.zoo.logmel import RATE
from mmedge_export.zoo.vqa import sample_set, tokenizer
from mmedge_export.zoo.vqa.audio import SAMPLES
from mmedge_export.zoo.vqa.evaluation import Evaluation
from mmedge_export.zoo.vqa.network import ANSWERS, VqaNet

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FRAME_HZ = 30.0
"""Nominal rate of the camera."""

BATCH = (1, 64)
"""Smallest and largest batch."""


def factory(name: str, weights: Path | None) -> Model:
    """``vqa-FUSION`` with the shipped weights, or those of a file.

    Raises:
        ExportError: there are none, or they are those of another fusion.
    """
    fusion = name.removeprefix("vqa-")
    path = data_files.weight_path(name, weights, f"vqa --fusion {fusion}")
    net = weight_file.load(path, VqaNet)
    if net.parts["fusion"] != fusion:
        file_fusion = net.parts["fusion"]
        raise ExportError(f"{path} holds a {file_fusion} fusion, not the {fusion} of {name}")
    return describe(net, name)


def accuracy(outputs: list[dict[str, NDArray[Any]]], targets: list[Any]) -> float:
    """Share of outputs ``{"answer": logits [1, 13]}`` whose largest logit is the target's index."""
    hits = [int(out["answer"][0].argmax()) == t for out, t in zip(outputs, targets, strict=True)]
    return hits.count(True) / len(hits)


def describe(net: VqaNet, name: str) -> Model:
    """The network with its contract: an image at 30 Hz is required, text and voice are optional."""
    samples = sample_set.golden()
    example = samples[2][0]  # the first question, asked by text and by voice
    return Model(
        net,
        inputs={
            "image": Input(
                example["image"], modality="image", dynamic={0: "batch"}, rate_hz=FRAME_HZ
            ),
            "text": Input(
                example["text"],
                modality="text",
                dynamic={0: "batch"},
                required=False,
                absent="zeros",
                tokenizer=tokenizer.PATH,
            ),
            "audio": Input(
                example["audio"],
                modality="audio",
                dynamic={0: "batch", 1: "samples"},
                required=False,
                absent="zeros",
                sample_rate_hz=RATE,
            ),
        },
        outputs=["answer"],
        samples=samples,
        evaluation=Evaluation(),
        metric=accuracy,
        labels={"answer": ANSWERS},
        dims={"batch": BATCH, "samples": SAMPLES},
        name=name,
    )
