"""What networks that write text have in common as the toolchain takes them: prompt and loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.inputs import Input
from mmedge_export.loops import Generate, StateInput
from mmedge_export.zoo.characters import END

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge.spec import Array
    from mmedge_export.zoo.characters import Characters
    from mmedge_export.zoo.text_decoder import DecoderSize, TextNet

__all__ = ["TOKENIZER", "prompt", "prompt_input", "writing_loop"]

TOKENIZER = ".tokenizer.json"
"""What a tokenizer's file has in place of the ending of the weights."""


def prompt(characters: Characters, language: str) -> Array:
    """The token that chooses a language, int64 ``[1, 1]``."""
    return np.array([[characters.language(language)]])


def prompt_input(example: Array, tokenizer: Path) -> Input:
    """The input ``language``: the tokens that a text begins with, int64 ``[batch, new]``."""
    return Input(example, modality="language", dynamic={0: "batch", 1: "new"}, tokenizer=tokenizer)


def writing_loop(net: TextNet, size: DecoderSize, tokenizer: Path) -> Generate:
    """The decoder's step until the end of the text, or to ``size.places`` tokens."""
    state = ("batch", size.heads, "past", size.width // size.heads)
    return Generate(
        net.step,
        token="language",  # noqa: S106 - the name of an input
        position="position",
        position_shape=("new",),
        state={
            f"past_{name}": StateInput(f"present_{name}", state, grows="past")
            for name in size.states
        },
        stop=[END],
        limit=size.places - 1,
        dims={"past": (0, size.places)},
        tokenizer=tokenizer,
    )
