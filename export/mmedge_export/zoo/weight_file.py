"""Weight files: safetensors with the recipe in their metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmedge.errors import ExportError
from mmedge_export.zoo.vqa import VqaNet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def save(net: VqaNet, recipe: Mapping[str, object], path: Path, **facts: str) -> None:
    """Write a network's weights, with its parts, its recipe and ``facts`` as metadata."""
    metadata = {"parts": json.dumps(net.parts), "recipe": json.dumps(recipe), **facts}
    tensors = {name: value.contiguous() for name, value in net.state_dict().items()}
    save_file(tensors, path, metadata=metadata)


def load(path: Path) -> VqaNet:
    """Build the network that a weight file holds, in evaluation mode.

    Raises:
        ExportError: when the file is missing, is no weight file of this network, or does not fit.
    """
    if not path.is_file():
        raise ExportError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            parts = json.loads((file.metadata() or {})["parts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        net = VqaNet(**parts)
        net.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ExportError(
            f"{path} does not hold the weights of a reference network: {error}"
        ) from error
    return net.eval()
