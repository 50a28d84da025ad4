"""``zoo:hear`` as the toolchain takes it: inputs, loop, samples, metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.quantize.metrics import word_accuracy
from mmedge_export.zoo import data_files, weight_file
from mmedge_export.zoo.characters import Characters
from mmedge_export.zoo.hear import sample_set
from mmedge_export.zoo.hear.evaluation_set import Evaluation
from mmedge_export.zoo.hear.network import SAMPLES, SIZE, HearNet
from mmedge_export.zoo.hear.phrases import LANGUAGES
from mmedge_export.zoo.logmel import RATE
from mmedge_export.zoo.text_model import TOKENIZER, prompt, prompt_input, writing_loop

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["describe", "factory"]

BATCH = (1, 64)
"""Smallest and largest batch."""


def factory(name: str, weights: Path | None) -> Model:
    """The shipped network, or that of a weight file with its tokenizer beside it.

    Raises:
        ExportError: there are no weights, or no tokenizer beside them.
    """
    path = data_files.weight_path(name, weights, name)
    return describe(weight_file.load(path, HearNet), name, path.with_suffix(TOKENIZER))


def describe(net: HearNet, name: str, tokenizer: Path) -> Model:
    """The network with its contract: a clip and the token of a language.

    The metric counts words. Chinese has no spaces, so a text of it is one word there, right or
    wrong.
    """
    characters = Characters(net.parts["characters"], LANGUAGES)
    samples = [
        (
            {
                "audio": sample.pcm()[None],
                "language": prompt(characters, sample.language),
            },
            sample.text,
        )
        for sample in sample_set.load()
    ]
    example: dict[str, Any] = samples[0][0]
    return Model(
        net,
        inputs={
            "audio": Input(
                example["audio"],
                modality="audio",
                dynamic={0: "batch", 1: "samples"},
                sample_rate_hz=RATE,
            ),
            "language": prompt_input(example["language"], tokenizer),
        },
        outputs=[*(f"cross_{name}" for name in SIZE.states), "cross_bias"],
        samples=samples,
        evaluation=Evaluation(characters),
        metric=word_accuracy,
        dims={"batch": BATCH, "samples": SAMPLES, "new": (1, SIZE.places)},
        name=name,
        loop=writing_loop(net, SIZE, tokenizer),
    )
