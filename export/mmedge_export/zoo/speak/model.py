"""``zoo:speak`` as the toolchain takes it: input, outputs, samples, metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.zoo import data_files, weight_file
from mmedge_export.zoo.speak.evaluation import words_understood
from mmedge_export.zoo.speak.evaluation_set import Evaluation
from mmedge_export.zoo.speak.network import TOKENS, SpeakNet
from mmedge_export.zoo.speak.text import TOKENIZER, encode

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SAMPLES", "describe", "factory"]

BATCH = (1, 16)
"""Smallest and largest batch."""

SAMPLES: tuple[str, ...] = (
    "put the red box on the table",
    "stop",
    "turn off the light in the kitchen",
    "draw a big teal triangle at the left",
    "no",
    "set the speed to thirty five",
    "what time is it",
    "bring me the newspaper from the living room",
)
"""Sentences of the golden samples, of any length."""


def factory(name: str, weights: Path | None) -> Model:
    """The shipped network, or that of a weight file.

    Raises:
        ExportError: there are no weights, or not those of this network.
    """
    return describe(weight_file.load(data_files.weight_path(name, weights, name), SpeakNet), name)


def describe(net: SpeakNet, name: str) -> Model:
    """The network with its contract: a text to PCM."""
    samples = [({"text": encode([text])}, text) for text in SAMPLES]
    return Model(
        net,
        inputs={
            "text": Input(
                # Two rows: with one, the exported graph would be of batches of one.
                encode(SAMPLES[:2]),
                modality="text",
                dynamic={0: "batch", 1: "tokens"},
                tokenizer=TOKENIZER,
            )
        },
        outputs=["audio", "samples"],
        samples=samples,
        evaluation=Evaluation(),
        metric=words_understood,
        dims={"batch": BATCH, "tokens": TOKENS},
        name=name,
    )
