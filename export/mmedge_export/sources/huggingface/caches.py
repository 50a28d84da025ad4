"""Caches of transformers whose tensors are given and taken back, so that a loop can hold them.

They differ from the library's own in that no branch depends on how much they hold: one graph serves
an empty cache and a full one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["cache_tensors", "decoder_cache", "encoder_decoder_cache"]


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]  # not typed
    """Keys and values [batch, heads, places, width] that grow by what a run adds."""

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
        self.hold(key_states, value_states)
        return key_states, value_states

    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Take what an earlier run gave."""
        self.device, self.dtype = keys.device, keys.dtype
        self.keys, self.values = keys, values
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """How many places there are."""
        return self.keys.shape[-2] if self.is_initialized else 0


class _UnbegunCache(DynamicCache):  # type: ignore[misc]  # not typed
    """A cache whose network is to take all tokens for a prompt."""

    @property
    def is_initialized(self) -> bool:
        """No."""
        return False


def decoder_cache(
    tensors: Mapping[str, Tensor], prefix: str, *, is_begun: bool = True
) -> DynamicCache:
    """A cache of what ``tensors`` has as ``<prefix>key_0``, ``<prefix>value_0`` and so on.

    Args:
        tensors: by name.
        prefix: of their names.
        is_begun: whether the network may see that there is a cache already.
    """
    cache = DynamicCache() if is_begun else _UnbegunCache()
    cache.layers, cache.layer_class_to_replicate = [], _GrowingLayer
    while f"{prefix}key_{len(cache.layers)}" in tensors:
        number = len(cache.layers)
        layer = _GrowingLayer()
        layer.hold(tensors[f"{prefix}key_{number}"], tensors[f"{prefix}value_{number}"])
        cache.layers.append(layer)
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
    """Keys and values of each layer, named as :func:`decoder_cache` takes them."""
    tensors: dict[str, Tensor] = {}
    for number, layer in enumerate(cache.layers):
        tensors[f"{prefix}key_{number}"] = layer.keys
        tensors[f"{prefix}value_{number}"] = layer.values
    return tensors
