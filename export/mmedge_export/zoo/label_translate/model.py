"""``zoo:label-translate`` as the toolchain takes it: inputs, loop, samples, metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.quantize.metrics import exact_match
from mmedge_export.zoo import data_files, weight_file
from mmedge_export.zoo.label_translate import sample_set
from mmedge_export.zoo.label_translate.characters import Characters
from mmedge_export.zoo.label_translate.evaluation_set import Evaluation
from mmedge_export.zoo.label_translate.network import PLACES, SIZE, STATES, LabelNet
from mmedge_export.zoo.text_model import TOKENIZER, prompt, prompt_input, writing_loop

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["describe", "factory"]

FRAME_HZ = 30.0
"""Nominal rate of the camera."""

BATCH = (1, 64)
"""Smallest and largest batch."""


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
            "image": Input(
                example["image"], modality="image", dynamic={0: "batch"}, rate_hz=FRAME_HZ
            ),
            "language": prompt_input(example["language"], tokenizer),
        },
        outputs=[f"cross_{state}" for state in STATES],
        samples=samples,
        evaluation=Evaluation(characters),
        metric=exact_match,
        dims={"batch": BATCH, "new": (1, PLACES)},
        name=name,
        loop=writing_loop(net, SIZE, tokenizer),
    )
