"""A network of transformers that continues tokens, as a model with a loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.inputs import Input
from mmedge_export.loops import Generate
from mmedge_export.model import Model
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.caches import (
    cache_states,
    cache_tensors,
    decoder_cache,
    has_recurrence,
    layer_makers,
    past_length,
)
from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.generation import compare_tokens, read_generation
from mmedge_export.sources.huggingface.sensors import parameters_of
from mmedge_export.sources.huggingface.single_run import MOST_ROWS
from mmedge_export.sources.huggingface.tokenizer import tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers.cache_utils import DynamicCache

    from mmedge_export.loops import StateInput
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.generation import TokenRules

__all__ = [
    "ContinuationLimits",
    "DecoderCall",
    "continuation",
    "continuation_limits",
    "decoder_only_model",
    "first_states",
    "prompt_input",
]

#: Most tokens that a run chooses, and of a prompt; with both, a run keeps up to `_CONTEXT`. A
#: network may have been trained for more, and an export runs and keeps what is allowed.
_LIMIT, _PROMPT, _CONTEXT = 256, 512, 1024


class DecoderCall(nn.Module):
    """How a network is called that continues tokens.

    Args:
        network: of transformers.

    Raises:
        ExportError: it takes no cache.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        # A network that hands its further arguments to a decoder names none of them.
        parts = [parameters_of(part) for part in (network, *network.children())]
        caches = [(name, p) for p in parts for name in ("cache", "past_key_values") if name in p]
        if not caches:
            raise ExportError(
                f"{type(network).__name__} takes no cache of transformers, which a loop could "
                "hold; write a factory with mmedge init"
            )
        self._cache, names = caches[0]
        self._options: dict[str, Any] = {"use_cache": True} if "use_cache" in names else {}
        if "logits_to_keep" in names:
            self._options["logits_to_keep"] = 1
        # One that knows of no cache would take the tokens of a step for all that there are.
        self._counts_tokens = names != parts[0] and "attention_mask" in parts[0]
        self._layers = layer_makers(network)

    def cache(self, tensors: Mapping[str, Tensor], *, is_begun: bool = True) -> DynamicCache:
        """What earlier runs left: those of ``tensors`` that are called ``past_...``.

        ``is_begun`` says whether the network may see that there is a cache already.
        """
        return decoder_cache(tensors, "past_", self._layers, is_begun=is_begun)

    def embed(self, tokens: Tensor) -> Tensor:
        """What stands for tokens inside."""
        network: Any = self.network
        embedded: Tensor = network.get_input_embeddings()(tokens)
        return embedded

    def scores(self, tokens: Mapping[str, Tensor], cache: Any) -> Tensor:  # noqa: ANN401
        """Of the token after the last, [batch, vocabulary]; the cache grows."""
        logits: Tensor = self.result(tokens, cache).logits[:, -1]
        return logits

    def result(self, tokens: Mapping[str, Tensor], cache: Any) -> Any:  # noqa: ANN401
        """What the network returns; the cache grows."""
        masks: dict[str, Tensor] = {}
        if self._counts_tokens:
            new = next(value for value in tokens.values() if isinstance(value, Tensor))
            past = past_length(cache)
            masks["attention_mask"] = new.new_ones(
                (new.shape[0], past + new.shape[1]), dtype=torch.int64
            )
        return self.network(**tokens, **masks, **{self._cache: cache}, **self._options)


class _Continue(nn.Module):
    """Tokens to scores of the one after the last, with a cache."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.call = DecoderCall(network)

    def forward(self, input_ids: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Takes past_key_0 and the like [batch, heads, past, width]."""
        cache = self.call.cache(tensors)
        logits = self.call.scores({"input_ids": input_ids}, cache)
        return {"logits": logits, **cache_tensors(cache, "present_")}


def first_states(
    checkpoint: Checkpoint, step: DecoderCall, run: Callable[[DynamicCache], object]
) -> dict[str, StateInput]:
    """What a step hands to the next, by a run that fills a new cache.

    Raises:
        ExportError: it does not run so, or leaves nothing in the cache.
    """
    what = type(checkpoint.network).__name__
    cache = step.cache({})
    try:
        with quiet(), torch.no_grad():
            run(cache)
    except Exception as error:
        raise ExportError(
            f"{what} does not run with a cache of keys and values that grow and of states of fixed "
            f"size: {type(error).__name__}: {error}; write a factory with mmedge init"
        ) from error
    states = cache_states(cache)
    if not states:
        raise ExportError(
            f"{what} hands no keys, values or states to its next step; write a factory with "
            "mmedge init"
        )
    if has_recurrence(states):
        checkpoint.remarks.append(
            "a prompt is taken token by token: layers have recurrent states, and no graph follows "
            "their loop over many tokens"
        )
    return states


@dataclass(frozen=True)
class ContinuationLimits:
    """Most tokens of a prompt, of what a run chooses, and of both together."""

    prompt: int
    run: int
    context: int


def continuation_limits(checkpoint: Checkpoint, prompt: int = 1) -> ContinuationLimits:
    """The limits of a network that continues tokens; what is chosen here is said in remarks.

    Args:
        checkpoint: the network.
        prompt: tokens of the shortest prompt that is of use.

    Raises:
        ExportError: it looks at fewer places than that has.
    """
    network = checkpoint.network
    places = look_up(
        network.config.get_text_config(), "max_position_embeddings", "n_positions", "max_seq_len"
    )
    wanted = _CONTEXT + prompt
    context = min(places, wanted) if isinstance(places, int) else wanted
    choice = look_up(network.config.get_text_config(), "index_topk")
    if isinstance(choice, int) and choice < context:
        # Which places are best is a matter of rounding where scores are near each other.
        if choice <= prompt:
            raise ExportError(
                f"{type(network).__name__}: its indexer chooses {choice} places (index_topk), and "
                f"the shortest prompt has {prompt}: rounding would decide which; write a factory "
                "with mmedge init"
            )
        checkpoint.remarks.append(
            f"its indexer chooses {choice} places: runs are so short that it takes all, since "
            "rounding would decide between others"
        )
        context = choice
    stated = getattr(getattr(network, "generation_config", None), "max_new_tokens", None)
    limit = max(min(stated or _LIMIT, context - prompt), 1)
    if stated is None:
        checkpoint.remarks.append(
            f"generation_config states no max_new_tokens: runs take up to {limit} tokens"
        )
    if context != places:
        checkpoint.remarks.append(
            f"prompt and answer together have up to {context} tokens (the network: {places})"
        )
    return ContinuationLimits(min(_PROMPT + prompt, context - 1), limit, context)


def prompt_input(checkpoint: Checkpoint, prompt: Tensor, limits: ContinuationLimits) -> Input:
    """The input of a prompt's tokens, [batch, new]."""
    return Input(
        prompt.numpy(),
        modality="text",
        dynamic={0: "batch", 1: "new"},
        tokenizer=tokenizer_file(checkpoint, limits.prompt, pads=False),
    )


def continuation(
    step: nn.Module,
    states: Mapping[str, StateInput],
    rules: TokenRules,
    limits: ContinuationLimits,
    *,
    whole_prompt: bool = False,
) -> Generate:
    """The loop that goes on from a prompt, by a network's own rules."""
    grows = any(state.grows for state in states.values())
    return Generate(
        step,
        token="input_ids",  # noqa: S106 - the name of an input
        state=states,
        stop=rules.stop,
        suppress=rules.suppress,
        suppress_first=rules.suppress_first,
        limit=limits.run,
        dims={"past": (0, limits.context)} if grows else {},
        whole_prompt=whole_prompt,
        token_shape=("batch", 1) if has_recurrence(states) else None,
    )


def decoder_only_model(checkpoint: Checkpoint, example: Mapping[str, Tensor]) -> Model:
    """The model of a network that takes tokens alone.

    Raises:
        ExportError: it keeps something that no loop can hold.
    """
    network = checkpoint.network
    ids = {"input_ids": example["input_ids"][:1]}
    generation = read_generation(network, ids)
    rules = generation.rules
    checkpoint.remarks.extend(rules.remarks)
    step = _Continue(network).eval()
    states = first_states(checkpoint, step.call, lambda cache: step.call.scores(ids, cache))
    limits = continuation_limits(checkpoint)
    model = Model(
        None,
        inputs={
            "input_ids": prompt_input(checkpoint, ids["input_ids"], limits),
        },
        dims={"batch": (1, MOST_ROWS), "new": (1, limits.prompt)},
        name=checkpoint.folder.resolve().name,
        loop=continuation(step, states, rules, limits),
    )
    compare_tokens(checkpoint, rules, model, {"input_ids": example["input_ids"]})
    return model
