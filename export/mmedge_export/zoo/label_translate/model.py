"""``zoo:label-translate`` as the toolchain takes it: inputs, loop, samples, metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.inputs import Input
from mmedge_export.loops import Generate, StateInput
from mmedge_export.model import Model
from mmedge_export.quantize.metrics import exact_match
from mmedge_export.zoo import data_files, weight_file
from mmedge_export.zoo.label_translate import sample_set
from mmedge_export.zoo.label_translate.characters import END, Characters
from mmedge_export.zoo.label_translate.evaluation_set import Evaluation
from mmedge_export.zoo.label_translate.network import HEADS, PLACES, STATES, D, LabelNet

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TOKENIZER", "describe", "factory"]

FRAME_HZ = 30.0
"""Nominal rate of the camera."""

BATCH = (1, 64)
"""Smallest and largest batch."""

TOKENIZER = ".tokenizer.json"
"""What a tokenizer's file has in place of the ending of the weights."""


def factory(name: str, weights: Path | None) -> Model:
    """The shipped network, or that of a weight file with its tokenizer beside it.

    Raises:
        ExportError: there are no weights, or no tokenizer beside them.
    """
    path = data_files.weight_path(name, weights, name)
    return describe(weight_file.load(path, LabelNet), name, path.with_suffix(TOKENIZER))


def describe(net: LabelNet, name: str, tokenizer: Path) -> Model:
    """The network with its contract: a picture and the token of a language."""
    characters = Characters(net.parts["characters"])
    samples = [
        (
            {
                "image": sample.picture()[None],
                "language": np.array([[characters.language(sample.language)]]),
            },
            sample.text,
        )
        for sample in sample_set.load()
    ]
    example: dict[str, Any] = samples[0][0]
    state = ("batch", HEADS, "past", D // HEADS)
    return Model(
        net,
        inputs={
            "image": Input(
                example["image"], modality="image", dynamic={0: "batch"}, rate_hz=FRAME_HZ
            ),
            "language": Input(
                example["language"],
                modality="language",
                dynamic={0: "batch", 1: "new"},
                tokenizer=tokenizer,
            ),
        },
        outputs=[f"cross_{state}" for state in STATES],
        samples=samples,
        evaluation=Evaluation(characters),
        metric=exact_match,
        dims={"batch": BATCH, "new": (1, PLACES)},
        name=name,
        loop=Generate(
            net.step,
            token="language",  # noqa: S106 - the name of an input
            position="position",
            position_shape=("new",),
            state={
                f"past_{name}": StateInput(f"present_{name}", state, grows="past")
                for name in STATES
            },
            stop=[END],
            limit=PLACES - 1,
            dims={"past": (0, PLACES)},
            tokenizer=tokenizer,
        ),
    )
