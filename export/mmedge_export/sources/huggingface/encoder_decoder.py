"""A network of transformers whose decoder looks at what an encoder made, as a model with a loop.

Nothing is taken apart by name. The network is run once on a first token, and what its cache then
holds of the encoder are the constants; a step runs the decoder on a cache of these constants.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from mmedge.errors import ExportError
from mmedge_export.loops import Generate, StateInput
from mmedge_export.model import Model
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.caches import (
    cache_tensors,
    decoder_cache,
    encoder_decoder_cache,
)
from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.examples import DECODER_TOKENS
from mmedge_export.sources.huggingface.features_by_row import FeaturesByRow
from mmedge_export.sources.huggingface.fronts import Fronts
from mmedge_export.sources.huggingface.generation import compare_tokens, read_generation
from mmedge_export.sources.huggingface.places import traceable
from mmedge_export.sources.huggingface.sensors import parameters_of
from mmedge_export.sources.huggingface.single_run import make_inputs
from mmedge_export.sources.huggingface.task import text_alone
from mmedge_export.sources.huggingface.tokenizer import tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge_export.inputs import Input, Limits
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.generation import TokenRules
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["encoder_decoder_model"]

#: The output of an encoder that says which of its places count: those of several modalities.
ENCODER_MASK = "encoder_mask"
#: Operations of one row beyond which an encoder is given no more rows than it must: a good part of
#: a second of one core.
_LARGE_ROW = 10_000_000_000
#: Most tokens of a run, where nothing states a number.
_LIMIT = 256


@dataclass(frozen=True)
class _Names:
    """How a decoder calls what every decoder takes."""

    tokens: str
    cache: str
    features: str
    mask: str | None

    @classmethod
    def of(cls, decoder: Any) -> _Names:  # noqa: ANN401
        """Of a decoder, by its parameters."""
        names = parameters_of(decoder)

        def first(*candidates: str) -> str:
            return next(name for name in candidates if name in names)

        mask = next((n for n in ("encoder_attention_mask", "attention_mask") if n in names), None)
        return cls(
            first(DECODER_TOKENS, "input_ids"),
            first("cache", "past_key_values"),
            first("encoder_outputs", "encoder_hidden_states"),
            mask if mask == "encoder_attention_mask" or "encoder_outputs" in names else None,
        )


class _Encode(nn.Module):
    """Sensors to the keys and values that each layer of the decoder looks at.

    Args:
        network: the whole.
        decoder: the part of it whose tokens are chosen; or the network itself.
        start: a first token.
    """

    def __init__(self, network: nn.Module, decoder: nn.Module, start: int) -> None:
        super().__init__()
        self.network, self._decoder, self._start = network, [decoder], start
        self.fronts = Fronts(())
        #: How the network goes through rows.
        self._names = _Names.of(decoder)
        own = parameters_of(network)
        self._tokens = DECODER_TOKENS if DECODER_TOKENS in own else "input_ids"

    def forward(self, **sensors: Tensor) -> dict[str, Tensor]:
        """Keys and values, ``cross_key_0`` and so on, and the mask of an encoder that makes one."""
        values = self.fronts(sensors)
        rows = next(iter(values.values())).shape[0]
        values[self._tokens] = torch.full((rows, 1), self._start, dtype=torch.int64)
        cross = decoder_cache({}, "")
        cache = encoder_decoder_cache(decoder_cache({}, ""), cross)

        def give_cache(
            module: nn.Module,  # noqa: ARG001
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, {**kwargs, self._names.cache: cache, "use_cache": True}

        masks: dict[str, Tensor] = {}

        def keep_mask(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:  # noqa: ANN401, ARG001
            mask = getattr(result, "attention_mask", None)
            if isinstance(mask, Tensor):
                masks[ENCODER_MASK] = mask

        network: Any = self.network
        (decoder,) = self._decoder
        hooks = [decoder.register_forward_pre_hook(give_cache, with_kwargs=True)]
        if (encoder := network.get_encoder()) is not None:
            hooks.append(encoder.register_forward_hook(keep_mask))
        try:
            with FeaturesByRow(), traceable():
                network(**values)
        finally:
            for hook in hooks:
                hook.remove()
        return {**cache_tensors(cross, "cross_"), **masks}


class _Step(nn.Module):
    """Tokens to scores of the one after the last, with a cache of the decoder.

    Args:
        decoder: of transformers.
        width: of what the encoder made.
    """

    def __init__(self, decoder: nn.Module, width: int) -> None:
        super().__init__()
        self.decoder, self._width, self._names = decoder, width, _Names.of(decoder)

    def run(
        self, token: Tensor, mask: Tensor | None, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Scores and the new cache."""
        own = decoder_cache(tensors, "past_")
        cross = decoder_cache(tensors, "cross_")
        keys = tensors["cross_key_0"]
        # Only its sizes are asked for: keys and values are there.
        features = keys.new_zeros(()).expand(keys.shape[0], keys.shape[2], self._width)
        values: dict[str, Any] = {
            self._names.tokens: token,
            self._names.cache: encoder_decoder_cache(own, cross),
            self._names.features: self._outputs(features, tensors.get(ENCODER_MASK))
            if self._names.features == "encoder_outputs"
            else features,
            "use_cache": True,
        }
        if mask is not None and self._names.mask is not None:
            values[self._names.mask] = mask
        result = self.decoder(**values)
        return {"logits": result.logits[:, -1], **cache_tensors(own, "present_")}

    @staticmethod
    def _outputs(features: Tensor, mask: Tensor | None) -> BaseModelOutput:
        outputs = BaseModelOutput(last_hidden_state=features)
        if mask is not None:
            outputs.attention_mask = mask
        return outputs

    def forward(self, token: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """As :meth:`run`, where nothing of the encoder is padding."""
        return self.run(token, None, tensors)


class _MaskedStep(_Step):
    """A step that looks at a text which may be padded."""

    def forward(  # type: ignore[override]  # it is called by keyword
        self, token: Tensor, attention_mask: Tensor, **tensors: Tensor
    ) -> dict[str, Tensor]:
        """As :meth:`run`."""
        return self.run(token, attention_mask, tensors)


def encoder_decoder_model(
    checkpoint: Checkpoint,
    sensors: Sequence[Sensor],
    example: Mapping[str, Tensor],
    known: tuple[dict[str, Input], dict[str, Limits]] | None = None,
) -> Model:
    """The model of a network that generates from what an encoder made.

    Args:
        checkpoint: the network.
        sensors: that it takes.
        example: a value for each.
        known: inputs and limits of a network whose tokens stand for features in part.

    Raises:
        ExportError: its decoder holds something else than keys and values.
    """
    network = checkpoint.network
    all_rows = example
    with _counted(network) as operations:
        generation = read_generation(network, example)
    rows = len(generation.start)
    takes_long = known is None and sum(operations) > rows * _LARGE_ROW
    if takes_long and not any(sensor.mask for sensor in sensors):
        # The last row is another than the others in its mask alone, and there is none.
        rows, example = 1, {name: value[:1] for name, value in example.items()}
    decoder, rules = generation.decoder, generation.rules
    checkpoint.remarks.extend(rules.remarks)
    for option in text_alone(network):
        checkpoint.remarks.append(
            f"the bundle gives tokens: {option.removeprefix('generate_')} that generate() makes of "
            "them is not taken"
        )
    if len({tuple(row) for row in generation.start.tolist()}) > 1:
        raise ExportError(
            f"{type(network).__name__}.generate() begins with other tokens for other inputs "
            f"({generation.start.tolist()}); mmedge begins with the same: write a factory"
        )
    start = [*generation.start[0].tolist(), *rules.forced]
    module = _Encode(network, decoder, start[0]).eval()
    width = _feature_width(generation.arguments)
    with quiet(), torch.no_grad():
        constants = module(**example)
        masked = "attention_mask" in example and ENCODER_MASK not in constants
        step = (_MaskedStep if masked else _Step)(decoder, width).eval()
        mask = {"attention_mask": example["attention_mask"]} if masked else {}
        tokens = torch.tensor([start] * rows)
        first = step(tokens, **mask, **constants)
    if not constants:
        raise ExportError(f"{type(decoder).__name__} caches nothing of its encoder")
    states = {
        name.replace("present_", "past_"): StateInput(
            name, ("batch", value.shape[1], "past", value.shape[3]), grows="past"
        )
        for name, value in first.items()
        if name != "logits"
    }
    if known is not None:
        inputs, dims = known
    else:
        inputs, dims, module.fronts = make_inputs(checkpoint, sensors, all_rows, one_batch=True)
        if example is not all_rows:
            inputs = {
                name: replace(
                    value, example=value.example[:1] if 0 in value.dynamic else value.example
                )
                for name, value in inputs.items()
            }
    limit, most = _run_limits(checkpoint, decoder, rules, len(start))
    model = Model(
        module,
        inputs=inputs,
        outputs=list(constants),
        dims=dims,
        name=checkpoint.folder.resolve().name,
        loop=Generate(
            step,
            token="token",  # noqa: S106 - the name of an input
            state=states,
            start=start,
            stop=rules.stop,
            suppress=rules.suppress,
            suppress_first=rules.suppress_first,
            limit=limit,
            dims={"past": (0, most), "new": (1, most)},
            tokenizer=_tokenizer(checkpoint, inputs),
        ),
    )
    compare_tokens(checkpoint, rules, model, example, constants=constants)
    return model


@contextlib.contextmanager
def _counted(network: Any) -> Iterator[list[int]]:  # noqa: ANN401
    """Operations of products with weights that a network makes meanwhile, one number each."""
    operations: list[int] = []

    def count(module: Any, args: Any, result: Any) -> None:  # noqa: ANN401, ARG001
        if isinstance(result, torch.Tensor):
            operations.append(2 * result.numel() * module.weight[0].numel())

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    hooks = [
        part.register_forward_hook(count) for part in network.modules() if isinstance(part, kinds)
    ]
    try:
        yield operations
    finally:
        for hook in hooks:
            hook.remove()


def _tokenizer(checkpoint: Checkpoint, inputs: Mapping[str, Input]) -> Path | None:
    """What turns tokens into text: what turns text into tokens, where there is any."""
    path = next((value.tokenizer for value in inputs.values() if value.tokenizer), None)
    return tokenizer_file(checkpoint, None) if path is None else Path(path)


def _feature_width(arguments: Mapping[str, Any]) -> int:
    """Width of what the encoder made."""
    made = arguments.get("encoder_outputs", arguments.get("encoder_hidden_states"))
    features = made if isinstance(made, Tensor) else made[0]
    return int(features.shape[-1])


def _run_limits(
    checkpoint: Checkpoint,
    decoder: Any,  # noqa: ANN401
    rules: TokenRules,
    start: int,
) -> tuple[int, int]:
    """Most tokens that a run chooses, and most that its cache holds."""
    config = getattr(decoder.config, "decoder", None) or decoder.config
    places = look_up(
        config, "max_target_positions", "max_position_embeddings", "n_positions", "max_seq_len"
    )
    length = rules.length or _LIMIT + start
    if isinstance(places, int) and length > places:
        length = places
    if length <= start:
        checkpoint.remarks.append(
            f"generation_config leaves no token after the first {start} (max_length {length}): "
            f"runs take up to {_LIMIT}"
        )
        length = min(places or start + _LIMIT, start + _LIMIT)
    return length - start, length
