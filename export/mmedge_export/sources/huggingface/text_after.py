"""A network that continues a text after a picture, or another sensor's values.

The text has no places for it.

What it keeps of the picture is the same for any text. It is read off runs with two texts: keys and
values before those of the text, all of a layer where that looks at the picture alone, or features
that the network takes in place of the picture.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.loops import StateInput
from mmedge_export.model import Model
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.caches import cache_tensors, decoder_cache
from mmedge_export.sources.huggingface.decoder_only import (
    DecoderCall,
    continuation,
    continuation_limits,
    prompt_input,
)
from mmedge_export.sources.huggingface.fronts import Fronts
from mmedge_export.sources.huggingface.generation import compare_tokens, read_generation
from mmedge_export.sources.huggingface.places import traceable
from mmedge_export.sources.huggingface.sensors import feature_parameters, parameters_of
from mmedge_export.sources.huggingface.single_run import make_inputs
from mmedge_export.sources.huggingface.size_limits import is_mask_over_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["text_after_model"]

#: How far results may be apart that are to be the same, as a share of the largest.
_NEAR = 1e-4
#: Name of features among constants.
_FEATURES = "features"


@dataclass(frozen=True)
class _Layer:
    """What a layer keeps of the sensor.

    Attributes:
        count: keys that do not follow from the text.
        grows: whether keys of the text come after.
        shape: heads and width of keys, and of values.
    """

    count: int
    grows: bool
    shape: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class _Kept:
    """What a network keeps of a sensor's values.

    Attributes:
        layers: of its cache.
        parameter: that takes features in place of the sensor's values; None: it needs none.
        path: of these features in a result.
    """

    layers: tuple[_Layer, ...]
    parameter: str | None = None
    path: tuple[str, ...] = ()


class _Caller(nn.Module):
    """Calls a network with tokens each of which looks at all that the sensor gave.

    Args:
        network: of transformers.
        masks: that say so, for an example; by parameter.
    """

    def __init__(self, network: nn.Module, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.call = DecoderCall(network)
        self._further = {name: value.shape[2:] for name, value in masks.items()}

    def masks(self, tokens: Tensor) -> dict[str, Tensor]:
        """Masks for tokens."""
        return {name: tokens.new_ones((*tokens.shape, *f)) for name, f in self._further.items()}

    def run(self, tokens: Tensor, cache: Any, **values: Tensor) -> Any:  # noqa: ANN401
        """The network's result; the cache grows."""
        with traceable():
            return self.call.result({"input_ids": tokens, **self.masks(tokens), **values}, cache)


class _Encode(nn.Module):
    """A sensor's values to what the network keeps of them.

    Args:
        caller: of the network.
        modality: of the sensor.
        kept: of it.
    """

    def __init__(self, caller: _Caller, modality: str, kept: _Kept) -> None:
        super().__init__()
        self.caller, self.fronts = caller, Fronts(())
        self._modality, self._kept = modality, kept

    def forward(self, **sensors: Tensor) -> dict[str, Tensor]:
        """Keys and values, by layer, or features."""
        values = self.fronts(sensors)
        rows = next(iter(values.values())).shape[0]
        cache = decoder_cache({}, "")
        result = self.caller.run(torch.ones((rows, 1), dtype=torch.int64), cache, **values)
        if self._kept.parameter is not None:
            return {f"{self._modality}_{_FEATURES}": _at(result, self._kept.path)}
        tensors: dict[str, Tensor] = {}
        for number, (layer, keys) in enumerate(zip(self._kept.layers, cache.layers, strict=True)):
            if layer.count:
                tensors[f"{self._modality}_key_{number}"] = keys.keys[:, :, : layer.count]
                tensors[f"{self._modality}_value_{number}"] = keys.values[:, :, : layer.count]
        return tensors


class _Step(nn.Module):
    """Tokens to scores of the one after the last, with what was kept and what the text added.

    Args:
        caller: of the network.
        modality: of the sensor.
        kept: of it.
        counts: whether the network is told where tokens stand in the text.
    """

    def __init__(self, caller: _Caller, modality: str, kept: _Kept, *, counts: bool) -> None:
        super().__init__()
        self.caller = caller
        self._modality, self._kept, self._counts = modality, kept, counts

    def forward(self, input_ids: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Takes past_key_0 and the like [batch, heads, past, width], and what the encoder gave."""
        held: dict[str, Tensor] = {}
        past = 0
        for number, layer in enumerate(self._kept.layers):
            for part, (heads, width) in layer.shape.items():
                name = f"{part}_{number}"
                parts = [tensors[f"{self._modality}_{name}"]] if layer.count else []
                if layer.grows:
                    none = torch.zeros(input_ids.shape[0], heads, 0, width)
                    parts.append(tensors.get(f"past_{name}", none))
                    past = parts[-1].shape[2]
                held[name] = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
        values: dict[str, Tensor] = {}
        if self._kept.parameter is not None:
            values[self._kept.parameter] = tensors[f"{self._modality}_{_FEATURES}"]
        if self._counts:
            values["position_ids"] = (torch.arange(input_ids.shape[1]) + past)[None]
        cache = decoder_cache(held, "")
        result = self.caller.run(input_ids, cache, **values)
        present = cache_tensors(cache, "present_")
        for number, layer in enumerate(self._kept.layers):
            for name in (f"present_key_{number}", f"present_value_{number}"):
                tensor = present.pop(name)
                if layer.grows:
                    present[name] = tensor[:, :, layer.count :]
        return {"logits": result.logits[:, -1], **present}


def text_after_model(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], example: Mapping[str, Tensor]
) -> Model:
    """The model of a network that continues a text after what a sensor gave.

    Args:
        checkpoint: the network.
        sensors: that it takes: a text and another.
        example: a value for each.

    Raises:
        ExportError: what it keeps of the sensor follows from the text, or it keeps nothing.
    """
    network, what = checkpoint.network, type(checkpoint.network).__name__
    others = [sensor for sensor in sensors if sensor.modality != "text"]
    if len(others) != 1 or "input_ids" not in example:
        raise ExportError(f"{what} takes no text after one sensor's values")
    (sensor,) = others
    masks = {name: value for name, value in example.items() if is_mask_over_text(name, example)}
    values = {
        name: example[name]
        for name in (sensor.name, *sensor.companions)
        if name not in masks and name in example
    }
    caller = _Caller(network, masks).eval()
    tokens = example["input_ids"]
    with quiet(), torch.no_grad():
        kept = _read_kept(caller, tokens, values)
        module = _Encode(caller, sensor.modality, kept).eval()
        constants = module(**values)
        step = _find_step(caller, sensor.modality, kept, tokens, values, constants)
        first = step(tokens, **constants)
    sensor = replace(sensor, companions=tuple(n for n in sensor.companions if n not in masks))
    inputs, dims, module.fronts = make_inputs(checkpoint, [sensor], values, one_batch=True)
    if masks:
        checkpoint.remarks.append(f"each token looks at all of the {sensor.modality}")
    limits = continuation_limits(checkpoint, tokens.shape[1])
    inputs["input_ids"] = prompt_input(checkpoint, tokens, limits)
    held = {**values, **caller.masks(tokens), "input_ids": tokens}
    held["attention_mask"] = torch.ones_like(tokens)
    rules = read_generation(network, held).rules
    checkpoint.remarks.extend(rules.remarks)
    states = {
        name.replace("present_", "past_"): StateInput(
            name, ("batch", value.shape[1], "past", value.shape[3]), grows="past"
        )
        for name, value in first.items()
        if name != "logits"
    }
    model = Model(
        module,
        inputs=inputs,
        outputs=list(constants),
        dims={**dims, "new": (1, limits.prompt)},
        name=checkpoint.folder.resolve().name,
        loop=continuation(step, states, rules, limits),
    )
    compare_tokens(checkpoint, rules, model, held, values)
    return model


def _read_kept(caller: _Caller, tokens: Tensor, values: Mapping[str, Tensor]) -> _Kept:
    """What a network keeps of a sensor's values whatever the text.

    Raises:
        ExportError: nothing, or something that follows from the text.
    """
    what = type(caller.call.network).__name__
    texts = (tokens, tokens.flip(1)[:, :-2])
    caches = [decoder_cache({}, "") for _ in texts]
    results = [caller.run(t, c, **values) for t, c in zip(texts, caches, strict=True)]
    layers: list[_Layer] = []
    for one, other in zip(*(cache.layers for cache in caches), strict=True):
        lengths = [layer.keys.shape[2] for layer in (one, other)]
        grows = lengths[0] != lengths[1]
        count = lengths[0] - tokens.shape[1] if grows else lengths[0]
        same = all(
            _are_near(a[:, :, :count], b[:, :, :count])
            for a, b in ((one.keys, other.keys), (one.values, other.values))
        )
        if not same:
            raise ExportError(f"what {what} keeps of a sensor's values follows from the text")
        shapes = {
            part: (tensor.shape[1], tensor.shape[3])
            for part, tensor in (("key", one.keys), ("value", one.values))
        }
        layers.append(_Layer(count, grows, shapes))
    kept = _Kept(tuple(layers))
    if not any(layer.count for layer in layers):
        kept = _find_features(caller, tokens, results, kept.layers)
    changed = {
        name: value.flip(-1) * 2 if value.is_floating_point() else value
        for name, value in values.items()
    }
    other = caller.run(tokens, decoder_cache({}, ""), **changed)
    if _are_near(results[0].logits, other.logits):
        raise ExportError(f"scores of {what} do not follow from its sensor's values")
    return kept


def _find_features(
    caller: _Caller, tokens: Tensor, results: Sequence[Any], layers: tuple[_Layer, ...]
) -> _Kept:
    """Features in a result that the network takes in place of a sensor's values."""
    network = caller.call.network
    paths = [path for path, value in _tensors_of(results[0]) if value.ndim == 3]
    for parameter, path in itertools.product(feature_parameters(network), paths):
        features = [_at(result, path) for result in results]
        if features[0].shape != features[1].shape or not _are_near(*features):
            continue
        try:
            again = caller.run(tokens, decoder_cache({}, ""), **{parameter: features[0]})
        except Exception:  # noqa: BLE001, S112 - whatever a foreign class raises: another one
            continue
        if _are_near(again.logits, results[0].logits):
            return _Kept(layers, parameter, path)
    raise ExportError(f"{type(network).__name__} keeps nothing of its sensor's values")


def _find_step(
    caller: _Caller,
    modality: str,
    kept: _Kept,
    tokens: Tensor,
    values: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
) -> _Step:
    """A step that gives the network's own scores where it takes a text in two parts.

    Raises:
        ExportError: there is none.
    """
    whole = caller.run(tokens, decoder_cache({}, ""), **values).logits[:, -1]
    has_positions = "position_ids" in parameters_of(caller.call.network)
    for counts in (False, True) if has_positions else (False,):
        step = _Step(caller, modality, kept, counts=counts).eval()
        first = step(tokens[:, :3], **constants)
        states = {
            name.replace("present_", "past_"): value
            for name, value in first.items()
            if name != "logits"
        }
        second = step(tokens[:, 3:], **constants, **states)
        if _are_near(second["logits"], whole):
            return step
    raise ExportError(
        f"{type(caller.call.network).__name__} gives other scores where a text comes in two parts"
    )


def _are_near(one: Tensor, other: Tensor) -> bool:
    scale = float(one.abs().max()) if one.numel() else 0.0
    near = one.shape == other.shape and torch.allclose(one, other, rtol=_NEAR, atol=_NEAR * scale)
    return bool(near)


def _tensors_of(
    result: Any,  # noqa: ANN401
    path: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Tensors of a result and its parts, each with the names that lead to it."""
    for name, value in result.items():
        if isinstance(value, Tensor):
            yield (*path, name), value
        elif hasattr(value, "items"):
            yield from _tensors_of(value, (*path, name))


def _at(result: Any, path: Sequence[str]) -> Any:  # noqa: ANN401
    for name in path:
        result = result[name]
    return result
