"""How well texts are written: greedy decoding by torch, words and characters by edit distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmedge_export.quantize.metrics import edit_distance
from mmedge_export.zoo.characters import END

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge_export.zoo.text_decoder import TextNet

__all__ = ["characters_right", "word_error_rate", "write"]


def characters_right(texts: Sequence[str], expected: Sequence[str]) -> float:
    """1 minus the edit distance for each expected character."""
    distance = sum(edit_distance(b, a) for a, b in zip(texts, expected, strict=True))
    return 1 - distance / sum(len(text) for text in expected)


def word_error_rate(texts: Sequence[str], expected: Sequence[str]) -> float:
    """Words put in, left out or changed, for each expected word; words are cut at spaces."""
    pairs = [(text.split(), right.split()) for text, right in zip(texts, expected, strict=True)]
    distance = sum(edit_distance(right, words) for words, right in pairs)
    return distance / sum(len(right) for _, right in pairs)


@torch.inference_mode()
def write(
    net: TextNet, inputs: torch.Tensor, start: int, limit: int | None = None
) -> list[list[int]]:
    """The likeliest token after the other, by the network's step, until all texts have ended.

    Args:
        net: in evaluation mode.
        inputs: ``[batch, ...]``, what its encoder takes.
        start: token of a language.
        limit: most tokens; None: as many as the decoder has places.
    """
    seen = net(inputs)
    batch = len(inputs)
    past = net.past(seen)
    token = torch.full((batch, 1), start)
    ended = torch.zeros(batch, dtype=torch.bool)
    columns: list[torch.Tensor] = []
    for place in range(net.size.places if limit is None else limit):
        outputs = net.step(token, torch.tensor([place]), **past, **seen)
        past = {f"past_{name}": outputs[f"present_{name}"] for name in net.size.states}
        chosen = outputs["logits"][:, -1].argmax(dim=-1)
        columns.append(chosen.masked_fill(ended, END))
        ended |= chosen == END
        if bool(ended.all()):
            break
        token = chosen[:, None]
    return torch.stack(columns, dim=1).tolist()
