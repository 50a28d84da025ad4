"""A network of transformers that takes tokens some of which stand for a picture or a sound.

What the sensor's encoder makes is constant in a call. A step puts it in the places of the tokens
that stand for it, however many of them came before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.inputs import Input
from mmedge_export.loops import StateInput
from mmedge_export.model import Model
from mmedge_export.sources.huggingface.caches import (
    cache_tensors,
    has_recurrence,
    past_length,
)
from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.decoder_only import (
    DecoderCall,
    continuation,
    continuation_limits,
    first_states,
    prompt_input,
)
from mmedge_export.sources.huggingface.example_prompt import call, make_prompt, nothing_stays
from mmedge_export.sources.huggingface.examples import options_of, result_fields
from mmedge_export.sources.huggingface.feature_encoder import find_encoders
from mmedge_export.sources.huggingface.features import feature_function
from mmedge_export.sources.huggingface.generation import compare_tokens, read_generation
from mmedge_export.sources.huggingface.placed_tokens import find_way
from mmedge_export.sources.huggingface.sensors import tell_left_out
from mmedge_export.sources.huggingface.single_run import make_inputs
from mmedge_export.sources.huggingface.text_places import place_token
from mmedge_export.sources.huggingface.tokenizer import tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers.cache_utils import DynamicCache

    from mmedge_export.inputs import Limits
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.example_prompt import Prompt
    from mmedge_export.sources.huggingface.feature_encoder import FeatureEncoder
    from mmedge_export.sources.huggingface.placed_tokens import PlacedTokens
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["placed_sensor", "prefixed_model"]

#: Most tokens of a text that is taken at once where no answer follows.
_LONGEST = 1024


class _ContinueAfter(nn.Module):
    """Tokens to scores of the one after the last; some tokens stand for features.

    Args:
        placed: how the network is called.
    """

    def __init__(self, placed: PlacedTokens) -> None:
        super().__init__()
        self.placed = placed
        self.call = DecoderCall(placed.network)

    def forward(
        self, input_ids: Tensor, places: Tensor, position: Tensor | None = None, **tensors: Tensor
    ) -> dict[str, Tensor]:
        """``places`` [batch] counts the tokens before these that stand for features.

        ``position`` [batch] is where the first of these tokens stands.
        """
        cache = self.call.cache(tensors, is_begun=not self.placed.sees_ahead)
        result = self.run(cache, input_ids, tensors, places, position)
        return {**result, **cache_tensors(cache, "present_")}

    def run(
        self,
        cache: DynamicCache,
        input_ids: Tensor,
        tensors: Mapping[str, Tensor],
        places: Tensor,
        position: Tensor | None,
    ) -> dict[str, Tensor]:
        """All that a run gives but what is in the cache."""
        past = past_length(cache)
        taken, seen = self.placed.arguments(input_ids, tensors, places, position, past)
        logits = self.placed(lambda **v: self.call.scores(v, cache), taken)
        return {"logits": logits, **seen}


class _RunOnce(nn.Module):
    """Tokens and a sensor's values to the fields of the network's result."""

    def __init__(self, encoder: nn.Module, placed: PlacedTokens, fields: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.placed, self._fields = encoder, placed, tuple(fields)
        self._options = options_of(placed.network)

    def forward(self, input_ids: Tensor, **sensors: Tensor) -> dict[str, Tensor]:
        """The fields, by name."""
        zero = torch.zeros_like(input_ids[:, 0])
        taken, _ = self.placed.arguments(input_ids, self.encoder(**sensors), zero, zero)
        result = self.placed(lambda **v: self.placed.network(**v, **self._options), taken)
        return {name: result[name] for name in self._fields}


def placed_sensor(network: Any, sensors: Sequence[Sensor]) -> tuple[Sensor, int] | None:  # noqa: ANN401
    """The sensor that tokens of a network stand for, with the token; None: there is none."""
    if all(sensor.modality != "text" for sensor in sensors):
        return None
    for sensor in sensors:
        token = None if sensor.modality == "text" else place_token(network, sensor.modality)
        if isinstance(token, int) and feature_function(network, sensor.modality) is not None:
            return sensor, token
    return None


def prefixed_model(checkpoint: Checkpoint, sensors: Sequence[Sensor]) -> Model:
    """The model of a network that takes tokens and the values of one sensor.

    Raises:
        ExportError: it does not say which tokens stand for what a sensor gives.
    """
    network = checkpoint.network
    what = type(network).__name__
    others = [sensor for sensor in sensors if sensor.modality != "text"]
    usable = [s for s in others if feature_function(network, s.modality) is not None]
    if not usable:
        raise ExportError(
            f"{what} takes text and {', '.join(s.modality for s in others)} and has no "
            "get_..._features that makes tokens of the latter; write a factory with mmedge init"
        )
    sensor, encoder, prompt, placed = _first_that_joins(checkpoint, usable)
    for other in others:
        if other.modality != sensor.modality and other.name not in encoder.texts:
            checkpoint.remarks.append(
                f"{other.modality} is left out: one input beside text is taken"
            )
    token = place_token(network, sensor.modality)
    checkpoint.remarks.append(
        f"a prompt has {prompt.count} tokens {token} in the places of one {sensor.modality}, as "
        "the processor writes them"
    )
    held = placed.network_values
    text = [each for each in sensors if each.modality == "text"]
    tell_left_out(checkpoint, [*text, replace(sensor, companions=tuple(held))])
    inputs, dims, encoder.module.fronts = make_inputs(
        checkpoint, [sensor], encoder.values, one_batch=True
    )
    _add_texts(checkpoint, encoder, inputs, dims)
    name = checkpoint.folder.resolve().name
    if not network.can_generate():
        longest = look_up(network.config, "max_position_embeddings") or _LONGEST
        inputs["input_ids"] = Input(
            prompt.tokens.numpy(),
            modality="text",
            dynamic={0: "batch", 1: "tokens"},
            tokenizer=tokenizer_file(checkpoint, longest, pads=False),
        )
        fields = _common_fields(checkpoint, call(network, held), placed, prompt, encoder)
        return Model(
            _RunOnce(encoder.module, placed, fields).eval(),
            inputs=inputs,
            outputs=list(fields),
            dims={**dims, "tokens": (1, min(longest, _LONGEST))},
            name=name,
        )
    limits = continuation_limits(checkpoint, prompt.tokens.shape[1])
    inputs["input_ids"] = prompt_input(checkpoint, prompt.tokens, limits)
    with nothing_stays(network):
        rules = read_generation(network, held).rules
    checkpoint.remarks.extend(rules.remarks)
    step = _ContinueAfter(placed).eval()
    states = _states(checkpoint, step, prompt.tokens, encoder.constants)
    whole = placed.sees_ahead
    model = Model(
        encoder.module,
        inputs=inputs,
        outputs=list(encoder.constants),
        dims={**dims, "new": (1, limits.prompt)},
        name=name,
        loop=continuation(step, states, rules, limits, whole_prompt=whole),
    )
    with nothing_stays(network):
        compare_tokens(checkpoint, rules, model, held, encoder.values)
    return model


def _common_fields(
    checkpoint: Checkpoint,
    result: Any,  # noqa: ANN401
    placed: PlacedTokens,
    prompt: Prompt,
    encoder: FeatureEncoder,
) -> list[str]:
    """Fields that a network gives for its inputs, and for features in the places of tokens."""
    zero = torch.zeros(prompt.tokens.shape[0], dtype=torch.int64)
    taken, _ = placed.arguments(prompt.tokens, encoder.constants, zero, zero)
    again = placed(lambda **v: call(placed.network, v), taken)
    fields = result_fields(again)
    if missing := [name for name in result_fields(result) if name not in fields]:
        checkpoint.remarks.append(f"left out of the result: {', '.join(missing)}")
    return fields


def _add_texts(
    checkpoint: Checkpoint,
    encoder: FeatureEncoder,
    inputs: dict[str, Input],
    dims: dict[str, Limits],
) -> None:
    """Add the texts that an encoder sees beside its sensor; each is a modality of its own."""
    for name in encoder.texts:
        modality = name.split("_")[0]
        checkpoint.remarks.append(f"{name} is a text without padding, beside that of input_ids")
        part = getattr(checkpoint.config, f"{modality}_config", checkpoint.config)
        inputs[name] = Input(
            encoder.values[name].numpy(),
            modality=modality,
            dynamic={0: "batch", 1: f"{modality}_tokens"},
        )
        dims[f"{modality}_tokens"] = (1, look_up(part, "max_position_embeddings") or _LONGEST)


def _first_that_joins(
    checkpoint: Checkpoint, sensors: Sequence[Sensor]
) -> tuple[Sensor, FeatureEncoder, Prompt, PlacedTokens]:
    """The first sensor whose features the network takes in places of tokens, and how.

    Raises:
        ExportError: of the first, where it takes none so.
    """
    errors: list[ExportError] = []
    for sensor in sensors:
        remarks = len(checkpoint.remarks)
        try:
            return _join(checkpoint, sensor)
        except ExportError as error:
            del checkpoint.remarks[remarks:]
            errors.append(error)
    raise errors[0]


def _join(
    checkpoint: Checkpoint, sensor: Sensor
) -> tuple[Sensor, FeatureEncoder, Prompt, PlacedTokens]:
    network = checkpoint.network
    token = place_token(network, sensor.modality)
    if not isinstance(token, int):
        raise ExportError(
            f"{type(network).__name__}: its configuration names no {sensor.modality}_token_id: "
            "which tokens stand for what the sensor gives is not known; write a factory with "
            "mmedge init"
        )
    remarks = len(checkpoint.remarks)
    failure: ExportError | None = None
    # An encoder may take a form of pictures that the network's own call reads in another way.
    for encoder in find_encoders(checkpoint, sensor):
        try:
            prompt = make_prompt(network, encoder, token)
            placed = find_way(network, token, encoder, prompt, sensor.modality)
            break
        except ExportError as error:
            del checkpoint.remarks[remarks:]
            failure = failure or error
    else:
        assert failure is not None  # noqa: S101 - there is an encoder, or an error of its own
        raise failure
    beside = tuple(n for n in encoder.values if n != sensor.name and n not in encoder.texts)
    return replace(sensor, companions=beside), encoder, prompt, placed


def _states(
    checkpoint: Checkpoint,
    step: _ContinueAfter,
    tokens: Tensor,
    constants: Mapping[str, Tensor],
) -> dict[str, StateInput]:
    """What a step hands to the next.

    Raises:
        ExportError: it cannot be given what it needs.
    """
    zero = torch.zeros(tokens.shape[0], dtype=torch.int64)
    states = first_states(
        checkpoint, step.call, lambda cache: step.run(cache, tokens, constants, zero, zero)
    )
    if step.placed.sees_ahead and has_recurrence(states):
        raise ExportError(
            f"{type(step.placed.network).__name__}: tokens of a prompt see later ones, and layers "
            "have recurrent states, which take one token after another: write a factory with "
            "mmedge init"
        )
    states["places"] = StateInput("places_seen", ("batch",), dtype="int64")
    if step.placed.table is not None:
        states["position"] = StateInput("position_seen", ("batch",), dtype="int64")
    return states
