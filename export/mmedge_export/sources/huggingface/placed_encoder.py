"""An encoder whose tokens stand for a picture in part, for a decoder that looks at what it makes.

The network puts features in the places of tokens by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.encoder_decoder import encoder_decoder_model
from mmedge_export.sources.huggingface.example_prompt import make_prompt
from mmedge_export.sources.huggingface.examples import (
    DECODER_TOKENS,
    options_of,
    result_fields,
    runs,
)
from mmedge_export.sources.huggingface.feature_encoder import find_encoder
from mmedge_export.sources.huggingface.features_by_row import FeaturesByRow
from mmedge_export.sources.huggingface.places import traceable
from mmedge_export.sources.huggingface.sensors import parameters_of
from mmedge_export.sources.huggingface.single_run import MOST_ROWS
from mmedge_export.sources.huggingface.tokenizer import tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge_export.inputs import Limits
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["placed_encoder_model"]

#: Most tokens of a text, where nothing states a number.
_LONGEST = 1024


class _RunOnce(nn.Module):
    """What a network takes to the named fields of its result."""

    def __init__(self, network: nn.Module, fields: Sequence[str]) -> None:
        super().__init__()
        self.network, self._fields = network, tuple(fields)
        self._options = options_of(network)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The fields, by name."""
        with FeaturesByRow(), traceable():
            result = self.network(**inputs, **self._options)
        return {name: result[name] for name in self._fields}


def placed_encoder_model(checkpoint: Checkpoint, sensor: Sensor, token: int) -> Model:
    """The model of a network with a decoder whose encoder takes a text with places for features.

    Args:
        checkpoint: the network.
        sensor: the one whose features stand in places.
        token: that stands for a feature.

    Raises:
        ExportError: the network's encoder takes nothing that was made up for it.
    """
    network = checkpoint.network
    encoder = find_encoder(checkpoint, sensor)
    prompt = make_prompt(network, encoder, token)
    checkpoint.remarks.append(
        f"a text has {prompt.count} tokens {token} in the places of one {sensor.modality}, as the "
        "processor writes them"
    )
    example = {**prompt.network_values, **encoder.network_values[0]}
    longest = look_up(network.config, "max_position_embeddings") or _LONGEST
    longest = max(min(longest, _LONGEST), prompt.tokens.shape[1])
    dims: dict[str, Limits] = {"batch": (1, MOST_ROWS), "tokens": (1, longest)}
    inputs: dict[str, Input] = {}
    for name, value in example.items():
        is_text = value.shape == prompt.tokens.shape
        inputs[name] = Input(
            value.numpy(),
            modality="text" if is_text else sensor.modality,
            dynamic={0: "batch", 1: "tokens"} if is_text else {0: "batch"},
            tokenizer=tokenizer_file(checkpoint, longest) if name == "input_ids" else None,
        )
    if network.can_generate():
        return encoder_decoder_model(checkpoint, [], example, known=(inputs, dims))
    if DECODER_TOKENS in parameters_of(network):
        example[DECODER_TOKENS] = prompt.tokens[:, -4:]
        inputs[DECODER_TOKENS] = Input(
            example[DECODER_TOKENS].numpy(),
            modality="decoder",
            dynamic={0: "batch", 1: "decoder_tokens"},
        )
        dims["decoder_tokens"] = (1, longest)
    fields = result_fields(runs(network, example))
    return Model(
        _RunOnce(network, fields).eval(),
        inputs=inputs,
        outputs=list(fields),
        dims=dims,
        name=checkpoint.folder.resolve().name,
    )
