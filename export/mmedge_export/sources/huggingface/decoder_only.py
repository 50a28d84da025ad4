"""A network of transformers that continues tokens, as a model with a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.inputs import Input
from mmedge_export.loops import Generate, StateInput
from mmedge_export.model import Model
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.caches import cache_tensors, decoder_cache
from mmedge_export.sources.huggingface.examples import look_up
from mmedge_export.sources.huggingface.generation import read_generation
from mmedge_export.sources.huggingface.sensors import parameters_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint

__all__ = ["decoder_only_model"]

#: Most tokens that a run chooses, and of a prompt; with both, a run keeps up to `_CONTEXT`. A
#: network may have been trained for more, and an export runs and keeps what is allowed.
_LIMIT, _PROMPT, _CONTEXT = 256, 512, 1024


class _Continue(nn.Module):
    """Tokens to scores of the one after the last, with a cache."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        names = parameters_of(network)
        self._cache = next(name for name in ("cache", "past_key_values") if name in names)
        self._options: dict[str, Any] = {"use_cache": True} if "use_cache" in names else {}
        if "logits_to_keep" in names:
            self._options["logits_to_keep"] = 1

    def forward(self, input_ids: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Takes past_key_0 and the like [batch, heads, past, width]."""
        cache = decoder_cache(tensors, "past_")
        result = self.network(input_ids=input_ids, **{self._cache: cache}, **self._options)
        return {"logits": result.logits[:, -1], **cache_tensors(cache, "present_")}


def decoder_only_model(checkpoint: Checkpoint, example: Mapping[str, Tensor]) -> Model:
    """The model of a network that takes tokens alone.

    Raises:
        ExportError: it keeps something else than keys and values.
    """
    network = checkpoint.network
    ids = {"input_ids": example["input_ids"][:1]}
    generation = read_generation(network, ids)
    rules = generation.rules
    checkpoint.remarks.extend(rules.remarks)
    step = _Continue(network).eval()
    try:
        with quiet(), torch.no_grad():
            first = step(**ids)
    except Exception as error:
        raise ExportError(
            f"{type(network).__name__} does not run with a cache of keys and values that grow: "
            f"{type(error).__name__}: {error}; write a factory with mmedge init"
        ) from error
    states = {
        name.replace("present_", "past_"): StateInput(
            name, ("batch", value.shape[1], "past", value.shape[3]), grows="past"
        )
        for name, value in first.items()
        if name != "logits"
    }
    if not states:
        raise ExportError(f"{type(network).__name__} hands no keys and values to its next step")
    places = look_up(network.config, "max_position_embeddings", "n_positions", "max_seq_len")
    context = min(places, _CONTEXT) if isinstance(places, int) else _CONTEXT
    stated = getattr(network.generation_config, "max_new_tokens", None)
    limit = min(stated or _LIMIT, context - 1)
    if stated is None:
        checkpoint.remarks.append(
            f"generation_config states no max_new_tokens: runs take up to {limit} tokens"
        )
    if context != places:
        checkpoint.remarks.append(
            f"prompt and answer together have up to {context} tokens (the network: {places})"
        )
    return Model(
        None,
        inputs={
            "input_ids": Input(
                ids["input_ids"].numpy(), modality="text", dynamic={0: "batch", 1: "new"}
            )
        },
        dims={"new": (1, min(_PROMPT, context - 1))},
        name=checkpoint.folder.resolve().name,
        loop=Generate(
            step,
            token="input_ids",  # noqa: S106 - the name of an input
            state=states,
            stop=rules.stop,
            suppress=rules.suppress,
            suppress_first=rules.suppress_first,
            limit=limit,
            dims={"past": (0, context)},
        ),
    )
