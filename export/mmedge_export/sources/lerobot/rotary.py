"""Rotary positions of SmolVLA as one expression.

lerobot fills a tensor that begins with whatever the memory held, half by half. A traced graph would
have that tensor, whose values are another in each run and cannot be compared.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import torch

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["check_rotation", "rotation_in_one"]

_NETWORK = "lerobot.policies.smolvla.smolvlm_with_expert"


def _rotate(x: Tensor, positions: Tensor, max_wavelength: float = 10_000) -> Tensor:
    """``x`` [batch, tokens, heads, width] turned by angles that follow from positions."""
    half = x.shape[-1] // 2
    wavelengths = max_wavelength ** (2 / x.shape[-1] * torch.arange(half, dtype=torch.float32))
    angles = (positions[..., None].float() / wavelengths)[:, :, None]
    first, second = x.float().chunk(2, dim=-1)
    sine, cosine = angles.sin(), angles.cos()
    return torch.cat(
        [first * cosine - second * sine, second * cosine + first * sine], dim=-1
    ).type_as(x)


@contextlib.contextmanager
def rotation_in_one() -> Iterator[None]:
    """Let the policy's network use the expression."""
    module: Any = importlib.import_module(_NETWORK)
    original = module.apply_rope
    module.apply_rope = _rotate
    try:
        yield
    finally:
        module.apply_rope = original


def check_rotation() -> None:
    """Hold the expression against what lerobot computes.

    Raises:
        ExportError: they differ.
    """
    module: Any = importlib.import_module(_NETWORK)
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(10).reshape(2, 5)
    if not torch.allclose(_rotate(x, positions), module.apply_rope(x, positions), atol=1e-6):
        raise ExportError(
            "this version of lerobot rotates keys in another way than 0.4.4: install lerobot 0.4.4"
        )
