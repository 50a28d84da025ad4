"""Caches of transformers whose tensors are given and taken back, so that a loop can hold them.

They differ from the library's own in that no branch depends on how much they hold: one graph serves
an empty cache and a full one. Which layers there are is what the library's cache says for a
network's configuration: keys and values that grow, keys of an indexer that grow beside them, and
states of fixed size, of convolutions and recurrences. A state of fixed size begins as zeros, which
is what stands before the first token.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import (
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicIndexedLayer,
    DynamicLayer,
    EncoderDecoderCache,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from mmedge_export.loops import StateInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    LayerMaker = Callable[[], Any]

__all__ = [
    "cache_states",
    "cache_tensors",
    "decoder_cache",
    "encoder_decoder_cache",
    "has_recurrence",
    "layer_makers",
    "past_length",
]


#: Axis of rows, where it is not the first.
_BATCH_AXIS = {"index_place": 1}


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]  # not typed
    """Keys and values [batch, heads, places, width] that grow by what a run adds."""

    #: Attribute of each tensor, by its name; and the axis along which it grows.
    growing = {"key": ("keys", 2), "value": ("values", 2)}  # noqa: RUF012 - never changed

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """What was there and what is new."""
        if self.is_initialized:
            both: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return both
        self._begin(key_states)
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def _begin(self, keys: Tensor) -> None:
        self.device, self.dtype = keys.device, keys.dtype
        self.is_initialized = True

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what an earlier run gave, by name."""
        for name, (attribute, _) in self.growing.items():
            if name in tensors:
                setattr(self, attribute, tensors[name])
        if "key" in tensors:
            self._begin(tensors["key"])
            if "value" not in tensors:  # they have no width: all is in the keys
                self.values = self.keys[..., :0]

    def held(self) -> dict[str, tuple[Tensor, int | None]]:
        """Tensors by name, each with the axis along which it grows, if it does."""
        return {
            name: (value, axis)
            for name, (attribute, axis) in self.growing.items()
            if (value := getattr(self, attribute, None)) is not None and value.shape[-1] != 0
        }

    def get_seq_length(self) -> int:
        """How many places there are."""
        return self.keys.shape[-2] if self.is_initialized else 0


class _IndexedLayer(_GrowingLayer, DynamicIndexedLayer):  # type: ignore[misc]  # not typed
    """Keys, values, and an indexer's keys [batch, places, width] that grow beside them."""

    growing = {  # noqa: RUF012
        **_GrowingLayer.growing,
        "index": ("indexer_keys", 1),
        "index_place": ("indexer_position_ids", 2),
    }

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what an earlier run gave, by name."""
        super().hold(tensors)
        if "index" in tensors:
            keys = tensors["index"]
            self.indexer_dtype, self.indexer_device = keys.dtype, keys.device
            self.is_indexer_initialized = True


class _FixedLayer(LinearAttentionLayer):  # type: ignore[misc]  # not typed
    """States of a convolution and of a recurrence, of fixed size; nothing is written in place."""

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what an earlier run gave, by name."""
        for number in range(self.number_of_states):
            for kind, states, is_begun in self._kinds():
                value = tensors.get(f"{kind}{number}")
                if value is None:
                    continue
                # A network may write to what it is given.
                states[number], is_begun[number] = value.clone(), True
                self.has_previous_state[number] = True
                self.dtype, self.device = value.dtype, value.device
                if kind == "conv":
                    self.conv_kernel_size[number] = value.shape[-1]

    def held(self) -> dict[str, tuple[Tensor, int | None]]:
        """Tensors by name, none of which grows."""
        return {
            f"{kind}{number}": (states[number], None)
            for number in range(self.number_of_states)
            for kind, states, is_begun in self._kinds()
            if is_begun[number]
        }

    def _kinds(self) -> list[tuple[str, dict[int, Tensor], dict[int, bool]]]:
        return [
            ("conv", self.conv_states, self.is_conv_states_initialized),
            ("recurrent", self.recurrent_states, self.is_recurrent_states_initialized),
        ]

    def update_conv_state(
        self,
        conv_states: Tensor,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Tensor:
        """What was there and what is new; the last of it stays."""
        if not self.has_previous_state[state_idx]:
            first: Tensor = super().update_conv_state(
                conv_states, state_idx, conv_kernel_size=conv_kernel_size, **kwargs
            )
            return first
        both = torch.cat([self.conv_states[state_idx], conv_states], -1)
        self.conv_states[state_idx] = both[..., -self.conv_kernel_size[state_idx] :]
        return both

    def update_recurrent_state(
        self,
        recurrent_states: Tensor,
        state_idx: int = 0,
        **kwargs: Any,  # noqa: ANN401, ARG002 - as it is called
    ) -> Tensor:
        """The new state."""
        if not self.is_recurrent_states_initialized[state_idx]:
            self.lazy_initialization(recurrent_states=recurrent_states, state_idx=state_idx)
        self.recurrent_states[state_idx] = recurrent_states.to(
            self.recurrent_states[state_idx].dtype
        )
        return recurrent_states


class _HybridLayer(_FixedLayer, _GrowingLayer):
    """States of fixed size beside keys and values that grow."""

    def __init__(self, number_of_states: int = 1) -> None:
        _GrowingLayer.__init__(self)
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Of states of fixed size; keys and values begin as they come."""
        if args:
            _GrowingLayer.lazy_initialization(self, *args)
        else:
            _FixedLayer.lazy_initialization(self, **kwargs)

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what an earlier run gave, by name."""
        _FixedLayer.hold(self, tensors)
        _GrowingLayer.hold(self, tensors)

    def held(self) -> dict[str, tuple[Tensor, int | None]]:
        """Tensors by name, each with the axis along which it grows, if it does."""
        return {**_FixedLayer.held(self), **_GrowingLayer.held(self)}


def layer_makers(network: Any) -> tuple[LayerMaker, ...]:  # noqa: ANN401
    """What makes each layer of a network's cache; nothing: keys and values of every layer grow.

    Args:
        network: of transformers.
    """
    try:
        layers = DynamicCache(config=network.config).layers
    except Exception:  # noqa: BLE001 - whatever a foreign configuration raises
        return ()
    if not any(
        isinstance(layer, (LinearAttentionCacheLayerMixin, DynamicIndexedLayer)) for layer in layers
    ):
        return ()
    return tuple(map(_maker, layers))


def _maker(layer: Any) -> LayerMaker:  # noqa: ANN401
    """What makes a layer that holds what one of the library's does."""
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        kind = _HybridLayer if isinstance(layer, CacheLayerMixin) else _FixedLayer
        return partial(kind, number_of_states=layer.number_of_states)
    if isinstance(layer, DynamicIndexedLayer):
        return _IndexedLayer
    return DummyLayer if isinstance(layer, DummyLayer) else _GrowingLayer


class _UnbegunCache(DynamicCache):  # type: ignore[misc]  # not typed
    """A cache whose network is to take all tokens for a prompt."""

    @property
    def is_initialized(self) -> bool:
        """No."""
        return False


def decoder_cache(
    tensors: Mapping[str, Tensor],
    prefix: str,
    makers: Sequence[LayerMaker] = (),
    *,
    is_begun: bool = True,
) -> DynamicCache:
    """A cache of what ``tensors`` has as ``<prefix>key_0``, ``<prefix>value_0`` and so on.

    Args:
        tensors: by name.
        prefix: of their names.
        makers: of its layers, from :func:`layer_makers`; none: there are as many as ``tensors`` has
            keys of, and more as the network adds them.
        is_begun: whether the network may see that there is a cache already.
    """
    cache = DynamicCache() if is_begun else _UnbegunCache()
    by_layer: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, layer = name.removeprefix(prefix).rpartition("_")
        if name.startswith(prefix) and layer.isdecimal():
            by_layer.setdefault(int(layer), {})[kind] = value
    cache.layer_class_to_replicate = None if makers else _GrowingLayer
    cache.layers = [make() for make in makers or [_GrowingLayer] * len(by_layer)]
    for number, held in by_layer.items():
        cache.layers[number].hold(held)
    return cache


def encoder_decoder_cache(own: DynamicCache, cross: DynamicCache) -> EncoderDecoderCache:
    """One of what a decoder saw and of what it looks at; the latter is complete where it holds any.

    Args:
        own: of the tokens.
        cross: of the encoder.
    """
    cache = EncoderDecoderCache(decoder_cache({}, ""), decoder_cache({}, ""))
    cache.self_attention_cache, cache.cross_attention_cache = own, cross
    cache.is_updated = dict.fromkeys(range(len(cross.layers)), True)
    return cache


def cache_tensors(cache: DynamicCache, prefix: str) -> dict[str, Tensor]:
    """What each layer holds, named as :func:`decoder_cache` takes it."""
    return {name: value for name, (value, _) in _held(cache, prefix).items()}


def _held(cache: DynamicCache, prefix: str) -> dict[str, tuple[Tensor, int | None]]:
    return {
        f"{prefix}{kind}_{number}": held
        for number, layer in enumerate(cache.layers)
        if not isinstance(layer, DummyLayer)
        for kind, held in layer.held().items()
    }


def cache_states(cache: DynamicCache) -> dict[str, StateInput]:
    """What a step of a loop hands to the next: ``past_...`` from ``present_...``, after a run."""
    states: dict[str, StateInput] = {}
    for name, (value, axis) in _held(cache, "").items():
        shape: list[int | str] = [*value.shape]
        shape[_BATCH_AXIS.get(name.rpartition("_")[0], 0)] = "batch"
        if axis is not None:
            shape[axis] = "past"
        states[f"past_{name}"] = StateInput(
            f"present_{name}",
            shape,
            dtype=str(value.dtype).removeprefix("torch."),
            grows=None if axis is None else "past",
        )
    return states


def has_recurrence(states: Mapping[str, object]) -> bool:
    """Whether a state of :func:`cache_states` is one of a recurrence."""
    return any(name.startswith("past_recurrent") for name in states)


def past_length(cache: DynamicCache) -> int:
    """How many places there are before a run; 0 where no layer counts them."""
    lengths = (
        layer.get_seq_length() for layer in cache.layers if isinstance(layer, CacheLayerMixin)
    )
    return next(lengths, 0)
