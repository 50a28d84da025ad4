"""Whisper's weights by the names of CTranslate2, of :mod:`whisper_tiny` and of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["encoder_weights", "step_weights", "transformers_weights"]


def _layer_weights(weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    """Of the layer with this name in CTranslate2, by those of :class:`whisper_tiny.Layer`."""
    names = {
        "self_attention/layer_norm": "norm",
        "self_attention/linear_1": "attention.output",
        "ffn/layer_norm": "last_norm",
        "ffn/linear_0": "mlp.0",
        "ffn/linear_1": "mlp.2",
        "attention/layer_norm": "cross_norm",
        "attention/linear_0": "cross.query",
        "attention/linear_2": "cross.output",
    }
    # CTranslate2 puts matrices that take the same tensor below each other.
    joined = {
        "self_attention/linear_0": ("attention.query", "attention.key", "attention.value"),
        "attention/linear_1": ("cross.key", "cross.value"),
    }
    renamed: dict[str, Tensor] = {}
    for name, part in names.items():
        if f"{layer}/{name}/weight" in weights or f"{layer}/{name}/gamma" in weights:
            renamed.update(_named(weights, f"{layer}/{name}", part))
    for name, parts in joined.items():
        for kind in ("weight", "bias"):
            value = weights.get(f"{layer}/{name}/{kind}")
            if value is not None:
                pieces = value.chunk(len(parts))
                renamed.update(
                    {f"{part}.{kind}": piece for part, piece in zip(parts, pieces, strict=True)}
                )
    for name in [name for name in renamed if name.endswith("key.bias")]:
        if renamed.pop(name).any():
            raise ValueError(f"{layer}: keys have a bias, which the network has no place for")
    return renamed


def _named(weights: Mapping[str, Tensor], name: str, part: str) -> dict[str, Tensor]:
    kinds = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    return {
        f"{part}.{kind}": weights[f"{name}/{theirs}"]
        for theirs, kind in kinds.items()
        if f"{name}/{theirs}" in weights
    }


def step_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the decoder, by the names of :class:`whisper_tiny.Step`."""
    renamed = {
        "embedding.weight": weights["decoder/embeddings/weight"],
        "position.weight": weights["decoder/position_encodings/encodings"],
        **_named(weights, "decoder/layer_norm", "norm"),
    }
    for n in range(_layers(weights)):
        layer = _layer_weights(weights, f"decoder/layer_{n}")
        renamed.update({f"layers.{n}.{name}": value for name, value in layer.items()})
    return renamed


def encoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the encoder, by the names of :class:`whisper_tiny.Encoder`."""
    renamed = {
        "position": weights["encoder/position_encodings/encodings"],
        **_named(weights, "encoder/layer_norm", "norm"),
        **_named(weights, "encoder/conv1", "conv1"),
        **_named(weights, "encoder/conv2", "conv2"),
    }
    for n in range(_layers(weights)):
        layer = _layer_weights(weights, f"encoder/layer_{n}")
        renamed.update({f"layers.{n}.{name}": value for name, value in layer.items()})
        cross = _layer_weights(weights, f"decoder/layer_{n}")
        renamed.update(
            {
                f"cross.{n}.{name.removeprefix('cross.')}": value
                for name, value in cross.items()
                if name.startswith("cross.")
            }
        )
    return renamed


def _layers(weights: Mapping[str, Tensor]) -> int:
    """How many layers the encoder has, and the decoder."""
    parts = {name.split("/")[1] for name in weights}
    return sum(part.startswith("layer_") and part != "layer_norm" for part in parts)


def transformers_weights(module: nn.Module, step: nn.Module) -> dict[str, Tensor]:
    """Our weights by the names of ``WhisperForConditionalGeneration``."""
    pairs = (
        ("position", "embed_positions.weight"),
        ("position.weight", "embed_positions.weight"),
        ("embedding.weight", "embed_tokens.weight"),
    )
    parts = {
        "attention": "self_attn",
        "cross": "encoder_attn",
        "norm": "self_attn_layer_norm",
        "cross_norm": "encoder_attn_layer_norm",
        "last_norm": "final_layer_norm",
        "mlp.0": "fc1",
        "mlp.2": "fc2",
    }
    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    renamed: dict[str, Tensor] = {}
    for side, network in (("encoder", module), ("decoder", step)):
        for name, value in network.state_dict().items():
            theirs = dict(pairs).get(name, name)
            if theirs.startswith("layers."):
                for ours, part in parts.items():
                    for kind, projection in projections.items():
                        theirs = theirs.replace(f".{ours}.{kind}.", f".{part}.{projection}.")
                    theirs = theirs.replace(f".{ours}.", f".{part}.")
            elif theirs.startswith("norm."):
                theirs = f"layer_{theirs}"
            renamed[f"model.{side}.{theirs}"] = value
    renamed["proj_out.weight"] = step.state_dict()["embedding.weight"]
    return renamed
