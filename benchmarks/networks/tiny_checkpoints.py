"""Tiny random networks of transformers, saved as a user's checkpoint would be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tiny_configs import tiny_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["make_tiny", "save"]

_GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 3,
}


def make_tiny(kind: Any) -> Any:  # noqa: ANN401
    """A network of a class of transformers, small by the names of its settings."""
    network = kind(tiny_config(kind.config_class))
    if network.can_generate():  # a trained checkpoint says which tokens begin and end
        config = network.generation_config
        for name, token in _GENERATION.items():
            if getattr(config, name, None) is None:
                setattr(config, name, token)
    return network


def save(make: Callable[[], Any], folder: Path, *, gain: float = 1.0, **generation: Any) -> Any:  # noqa: ANN401
    """A network of random weights, saved; with what ``generate()`` is to do by default.

    Weights are so large that tokens of a generating network differ.
    """
    torch.manual_seed(0)
    network = make().eval()
    with torch.no_grad():
        for value in network.parameters():
            if value.numel() == 1 and not value.any():
                value.fill_(0.5)  # a gate that training opens
    if network.can_generate():
        with torch.no_grad():
            for name, value in network.named_parameters():
                if value.requires_grad and value.ndim > 1:
                    value.mul_(max(1.0, gain * _gain(name)))
        network.generation_config.update(**generation)
    network.save_pretrained(folder)
    if hasattr(network, "load_speakers"):  # of its own file, which it does not save
        torch.save({}, folder / "spk_dict.pt")
    return type(network).from_pretrained(folder).eval()


def _gain(name: str) -> float:
    """How much larger a weight is to be, so that tokens follow from all that they should.

    It is less for classes that score attention steeply by themselves: there float32 has ties.
    """
    if any(word in name.lower() for word in ("cross", "encoder_attn", "encdec")):
        return 40.0
    if "position" in name:
        return 1.0 if "vision" in name else 30.0
    return 12.0 if "embed" in name or "shared" in name else 20.0
