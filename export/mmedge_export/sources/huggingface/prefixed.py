"""A network of transformers that continues tokens some of which stand for a picture or a sound.

What the sensor's encoder makes is constant in a call. A step puts it in the places of the tokens
that stand for it, however many of them came before.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.loops import StateInput
from mmedge_export.model import Model
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.caches import cache_tensors, decoder_cache
from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.decoder_only import (
    DecoderCall,
    continuation,
    continuation_limits,
    prompt_input,
)
from mmedge_export.sources.huggingface.examples import find_value
from mmedge_export.sources.huggingface.fronts import Fronts
from mmedge_export.sources.huggingface.generation import compare_tokens, read_generation
from mmedge_export.sources.huggingface.real_pictures import AllPicturesAreReal
from mmedge_export.sources.huggingface.single_run import make_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["prefixed_model"]


class _Features(nn.Module):
    """A sensor's values to what stands in the places of its tokens, [batch, tokens, width].

    Args:
        network: the whole.
        modality: such as ``image``.
    """

    def __init__(self, network: nn.Module, modality: str) -> None:
        super().__init__()
        self.network, self.fronts = network, Fronts(())
        self._modality = modality
        #: Whether the network would leave out what is padding.
        self.drops_padding = False

    def forward(self, **sensors: Tensor) -> dict[str, Tensor]:
        """The features."""
        values = self.fronts(sensors)
        rows = next(iter(values.values())).shape[0]
        encode = feature_function(self.network, self._modality)
        with AllPicturesAreReal() as mode:
            result = encode(**values, return_dict=True)
            pooled = getattr(result, "pooler_output", result)
            if isinstance(pooled, (list, tuple)):
                pooled = torch.cat([part.reshape(-1, part.shape[-1]) for part in pooled])
        self.drops_padding = mode.has_kept_rows
        return {f"{self._modality}_features": pooled.reshape(rows, -1, pooled.shape[-1])}


def feature_function(network: Any, modality: str) -> Any:  # noqa: ANN401
    """The network's own function from values of a modality to features; None: it has none."""
    for owner in (network.base_model, network):
        if (function := getattr(owner, f"get_{modality}_features", None)) is not None:
            return function
    return None


class _ContinueAfter(nn.Module):
    """Tokens to scores of the one after the last; some tokens stand for features.

    Args:
        network: the whole.
        token: that stands for a feature.
        features: name of what they are given as.
    """

    def __init__(self, network: nn.Module, token: int, features: str) -> None:
        super().__init__()
        self.call = DecoderCall(network)
        self._token, self._features = token, features

    def forward(self, input_ids: Tensor, places: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """``places`` [batch] counts the tokens before these that stand for features."""
        features = tensors[self._features]
        stands = input_ids == self._token
        order = places[:, None] + stands.long().cumsum(1) - 1
        last = features.shape[1] - 1
        index = order.clamp(min=0).clamp(max=last)[..., None].expand(-1, -1, features.shape[2])
        words = self.call.embed(input_ids)
        words = torch.where(
            (stands & (order <= last))[..., None], features.gather(1, index).to(words.dtype), words
        )
        cache = decoder_cache(tensors, "past_")
        logits = self.call.scores({"inputs_embeds": words}, cache)
        return {
            "logits": logits,
            "places_seen": places + stands.long().sum(1),
            **cache_tensors(cache, "present_"),
        }


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
    sensor = usable[0]
    if len(others) > 1:
        checkpoint.remarks.append(
            f"of {', '.join(s.modality for s in others)} it takes {sensor.modality} alone"
        )
    token = look_up(network.config, f"{sensor.modality}_token_id", f"{sensor.modality}_token_index")
    if not isinstance(token, int):
        raise ExportError(
            f"{what}: its configuration names no {sensor.modality}_token_id: which tokens stand "
            "for what the sensor gives is not known; write a factory with mmedge init"
        )
    _refuse_further_arguments(network, sensor)
    module = _Features(network, sensor.modality).eval()
    values = {sensor.name: find_value(checkpoint, sensor, module)}
    with quiet(), torch.no_grad():
        constants = module(**values)
    (name,) = constants
    if module.drops_padding:
        checkpoint.remarks.append(
            f"each {sensor.modality} of a call counts: one of zeros alone, which the network would "
            "leave out as padding, is not"
        )
    count = constants[name].shape[1]
    rows = constants[name].shape[0]
    text = torch.randint(3, 9, (rows, 5), generator=torch.Generator().manual_seed(0))
    places = torch.full((rows, count), token)
    prompt = torch.cat([text[:, :1], places, text[:, 1:]], 1)
    held = {**values, "input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    generation = read_generation(network, held)
    rules = generation.rules
    checkpoint.remarks.extend(rules.remarks)
    checkpoint.remarks.append(
        f"a prompt has {count} tokens {token} in the places of one {sensor.modality}, as the "
        "processor writes them"
    )
    step = _ContinueAfter(network, token, name).eval()
    with quiet(), torch.no_grad():
        first = step(prompt, torch.zeros(rows, dtype=torch.int64), **constants)
    states = {
        key.replace("present_", "past_"): StateInput(
            key, ("batch", value.shape[1], "past", value.shape[3]), grows="past"
        )
        for key, value in first.items()
        if key.startswith("present_")
    }
    states["places"] = StateInput("places_seen", ("batch",), dtype="int64")
    limits = continuation_limits(checkpoint, count + text.shape[1])
    inputs, dims, module.fronts = make_inputs(checkpoint, [sensor], values, one_batch=True)
    inputs["input_ids"] = prompt_input(checkpoint, prompt, limits)
    model = Model(
        module,
        inputs=inputs,
        outputs=list(constants),
        dims={**dims, "new": (1, limits.prompt)},
        name=checkpoint.folder.resolve().name,
        loop=continuation(step, states, rules, limits),
    )
    compare_tokens(checkpoint, rules, model, held)
    return model


def _refuse_further_arguments(network: Any, sensor: Sensor) -> None:  # noqa: ANN401
    """Refuse a function of features that needs more than the sensor's values."""
    signature = inspect.signature(feature_function(network, sensor.modality))
    needed = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name != sensor.name
    ]
    if needed:
        raise ExportError(
            f"{type(network).__name__}.get_{sensor.modality}_features needs {', '.join(needed)} "
            "beside the values of the sensor; write a factory with mmedge init"
        )
