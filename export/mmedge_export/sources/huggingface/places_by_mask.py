"""Features whose places in a text a mask says, not tokens: ``<features>_position_mask``."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.model import Model
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.caches import cache_tensors
from mmedge_export.sources.huggingface.candidates import picture
from mmedge_export.sources.huggingface.decoder_only import (
    DecoderCall,
    continuation,
    continuation_limits,
    first_states,
    prompt_input,
)
from mmedge_export.sources.huggingface.feature_encoder import find_encoder
from mmedge_export.sources.huggingface.generation import compare_tokens, read_generation
from mmedge_export.sources.huggingface.places import FeaturesInPlace, traceable
from mmedge_export.sources.huggingface.sensors import parameters_of, tell_left_out
from mmedge_export.sources.huggingface.single_run import make_inputs, single_run_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.cache_utils import DynamicCache

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["masked_places_model", "position_mask_of"]

_SUFFIX = "_position_mask"


def position_mask_of(network: Any) -> str | None:  # noqa: ANN401
    """The parameter that says where in a text features stand; None: there is none."""
    names = parameters_of(network)
    return next(
        (n for n in names if n.endswith(_SUFFIX) and n.removesuffix(_SUFFIX) in names), None
    )


class _Step(nn.Module):
    """Tokens to scores of the one after the last; features stand at fixed places of the prompt.

    Args:
        call: of the network.
        mask: the parameter that says where.
        begin: index of the first place.
        constant: name of the features.
    """

    def __init__(self, call: DecoderCall, mask: str, begin: int, constant: str) -> None:
        super().__init__()
        self.call = call
        self._mask, self._begin, self._constant = mask, begin, constant

    def forward(self, input_ids: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Takes past_key_0 and the like [batch, heads, past, width], and the features."""
        cache = self.call.cache(tensors)
        past = tensors["past_key_0"].shape[2] if "past_key_0" in tensors else 0
        return {
            "logits": self.run(cache, input_ids, tensors[self._constant], past),
            **cache_tensors(cache, "present_"),
        }

    def run(self, cache: DynamicCache, tokens: Tensor, features: Tensor, past: int = 0) -> Tensor:
        """Scores; the cache grows."""
        words = self.call.embed(tokens)
        order = torch.arange(tokens.shape[1]) + past - self._begin
        stands = (order >= 0) & (order < features.shape[1])
        placed = features[:, order.clamp(min=0).clamp(max=features.shape[1] - 1)]
        words = torch.where(stands[None, :, None], placed.to(words.dtype), words)
        values = {
            "inputs_embeds": words,
            # What is put where the mask is true stands there already.
            self._mask.removesuffix(_SUFFIX): words,
            self._mask: stands.long().expand(tokens.shape),
        }
        with FeaturesInPlace(), traceable():
            return self.call.scores(values, cache)


def masked_places_model(checkpoint: Checkpoint, sensors: Sequence[Sensor], mask: str) -> Model:
    """The model of a network that is told by a mask where in a text features stand.

    Args:
        checkpoint: the network.
        sensors: that it takes: a text and another.
        mask: the parameter of the mask.

    Raises:
        ExportError: it takes none of what was made up for it.
    """
    network, what = checkpoint.network, type(checkpoint.network).__name__
    texts = [sensor for sensor in sensors if sensor.modality == "text"]
    others = [sensor for sensor in sensors if sensor.modality != "text"]
    if len(texts) != 1 or len(others) != 1:
        raise ExportError(f"{what} does not take one text and one sensor's values")
    (text,), (sensor,) = texts, others
    encoder = find_encoder(checkpoint, sensor)
    (constant,) = encoder.constants
    rows, count = encoder.constants[constant].shape[:2]
    begin = _first_place(checkpoint, mask)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 9, (rows, begin + count + 5), generator=generator)
    stands = torch.zeros_like(tokens)
    stands[:, begin : begin + count] = 1
    example = {**encoder.network_values[0], text.name: tokens, mask: stands}
    beside = tuple(name for name in encoder.network_values[0] if name != sensor.name)
    if not network.can_generate():
        checkpoint.remarks.append(f"a text has {count} places of one {sensor.modality} ({mask})")
        tried = [text, replace(sensor, companions=(*beside, mask))]
        if text.mask is not None:
            example[text.mask] = torch.ones_like(tokens)
            example[text.mask][-1, -2:] = 0
        tell_left_out(checkpoint, tried)
        return single_run_model(checkpoint, tried, example, places=count)
    checkpoint.remarks.append(
        f"a prompt has {count} places of one {sensor.modality} from its token {begin} on, counted "
        "from 0"
    )
    tell_left_out(checkpoint, [text, replace(sensor, companions=(*beside, mask))])
    inputs, dims, encoder.module.fronts = make_inputs(
        checkpoint, [replace(sensor, companions=beside)], encoder.values, one_batch=True
    )
    limits = continuation_limits(checkpoint, tokens.shape[1])
    inputs[text.name] = prompt_input(checkpoint, tokens, limits)
    held = {**example, "attention_mask": torch.ones_like(tokens)}
    rules = read_generation(network, held).rules
    checkpoint.remarks.extend(rules.remarks)
    step = _Step(DecoderCall(network), mask, begin, constant).eval()
    # A table of positions that grows by a branch has its full length then.
    longest = tokens[:1].repeat(1, (limits.context + limits.prompt) // tokens.shape[1] + 1)
    with contextlib.suppress(Exception), quiet(), torch.no_grad():
        step.run(step.call.cache({}), longest, encoder.constants[constant][:1])
    states = first_states(
        checkpoint, step.call, lambda cache: step.run(cache, tokens, encoder.constants[constant])
    )
    model = Model(
        encoder.module,
        inputs=inputs,
        outputs=list(encoder.constants),
        dims={**dims, "new": (1, limits.prompt)},
        name=checkpoint.folder.resolve().name,
        loop=continuation(step, states, rules, limits),
    )
    compare_tokens(checkpoint, rules, model, held, encoder.values)
    return model


def _first_place(checkpoint: Checkpoint, mask: str) -> int:
    """Where the processor puts the first feature; without one, after the token that begins."""
    try:
        made = checkpoint.processor(images=picture(), text="a", return_tensors="pt")
        return int(made[mask][0].nonzero()[0])
    except Exception:  # noqa: BLE001 - there is none, or whatever a foreign class raises
        return 1
