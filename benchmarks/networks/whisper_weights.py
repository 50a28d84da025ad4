"""Whisper's weights by the names of CTranslate2, of :mod:`whisper_tiny` and of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["encoder_weights", "step_weights", "transformers_weights"]


#: Parts of a layer in CTranslate2, and what is joined in each: matrices that take the same tensor
#: lie below each other.
_PARTS = {
    "self_attention/layer_norm": ("norm",),
    "self_attention/linear_0": ("attention.query", "keys.key", "keys.value"),
    "self_attention/linear_1": ("attention.output",),
    "attention/layer_norm": ("cross_norm",),
    "attention/linear_0": ("cross.query",),
    "attention/linear_2": ("cross.output",),
    "ffn/layer_norm": ("last_norm",),
    "ffn/linear_0": ("mlp.0",),
    "ffn/linear_1": ("mlp.2",),
}
#: The same for what the encoder gives to a layer of the decoder.
_CROSS = {"attention/linear_1": ("key", "value")}


def _renamed(
    weights: Mapping[str, Tensor], prefix: str, parts: Mapping[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    """Weights below ``prefix``, by the names of :mod:`whisper_tiny`."""
    kinds = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    renamed: dict[str, Tensor] = {}
    for name, ours in parts.items():
        for theirs, kind in kinds.items():
            value = weights.get(f"{prefix}/{name}/{theirs}")
            if value is not None:
                pieces = value.chunk(len(ours))
                renamed |= {f"{n}.{kind}": piece for n, piece in zip(ours, pieces, strict=True)}
    for name in [name for name in renamed if name.endswith("key.bias")]:
        if renamed.pop(name).any():
            raise ValueError(f"{prefix}: keys have a bias, which the network has no place for")
    return renamed


def _side(weights: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """What the encoder and the decoder have alike."""
    renamed = _renamed(weights, side, {"layer_norm": ("norm",)})
    for n in range(_layers(weights)):
        layer = _renamed(weights, f"{side}/layer_{n}", _PARTS)
        renamed |= {f"layers.{n}.{name}": value for name, value in layer.items()}
    return renamed


def step_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the decoder, by the names of :class:`whisper_tiny.Step`."""
    return {
        "embedding.weight": weights["decoder/embeddings/weight"],
        "position.weight": weights["decoder/position_encodings/encodings"],
        **_side(weights, "decoder"),
    }


def encoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the encoder, by the names of :class:`whisper_tiny.Encoder`."""
    renamed = {
        "position": weights["encoder/position_encodings/encodings"],
        **_renamed(weights, "encoder", {"conv1": ("conv1",), "conv2": ("conv2",)}),
        **_side(weights, "encoder"),
    }
    for n in range(_layers(weights)):
        cross = _renamed(weights, f"decoder/layer_{n}", _CROSS)
        renamed |= {f"cross.{n}.{name}": value for name, value in cross.items()}
    return renamed


def _layers(weights: Mapping[str, Tensor]) -> int:
    """How many layers the encoder has, and the decoder."""
    parts = {name.split("/")[1] for name in weights}
    return sum(part.startswith("layer_") and part != "layer_norm" for part in parts)


#: Ends of our names and transformers' for the same.
_TRANSFORMERS = {
    "attention.query": "self_attn.q_proj",
    "attention.output": "self_attn.out_proj",
    "keys.key": "self_attn.k_proj",
    "keys.value": "self_attn.v_proj",
    "cross.query": "encoder_attn.q_proj",
    "cross.output": "encoder_attn.out_proj",
    "cross_norm": "encoder_attn_layer_norm",
    "last_norm": "final_layer_norm",
    "norm": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
}


def transformers_weights(module: nn.Module, step: nn.Module) -> dict[str, Tensor]:
    """Our weights by the names of ``WhisperForConditionalGeneration``."""
    whole = {
        "position": "embed_positions.weight",
        "position.weight": "embed_positions.weight",
        "embedding.weight": "embed_tokens.weight",
    }
    renamed = {"proj_out.weight": step.state_dict()["embedding.weight"]}
    for side, network in (("encoder", module), ("decoder", step)):
        for name, value in network.state_dict().items():
            start, _, kind = name.rpartition(".")
            if name.startswith("layers."):
                layers, n, part = start.split(".", 2)
                theirs = f"{side}.{layers}.{n}.{_TRANSFORMERS[part]}.{kind}"
            elif name.startswith("cross."):
                _, n, part = start.split(".")
                theirs = f"decoder.layers.{n}.encoder_attn.{part[0]}_proj.{kind}"
            elif start == "norm":
                theirs = f"{side}.layer_norm.{kind}"
            else:
                theirs = f"{side}.{whole.get(name, name)}"
            renamed[f"model.{theirs}"] = value
    return renamed
