"""Reference networks: small, trained from public data, whole from recipe to bundle.

Each task has a folder of its own, with its data, network, training and evaluation; what tasks share
lies beside these. ``mmedge-train`` trains them; ``docs/reference/zoo.md`` has their accuracy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge_export.model import Model

__all__ = ["FOLDERS", "NAMES", "factory"]

FOLDERS: dict[str, str] = {
    "vqa-attention": "vqa",
    "vqa-concat": "vqa",
    "vqa-weighted": "vqa",
    "vqa-conv": "vqa",
    "label-translate": "label_translate",
    "hear": "hear",
    "draw": "draw",
    "speak": "speak",
}
"""Every network by name, and the folder of its task."""

NAMES: tuple[str, ...] = tuple(FOLDERS)
"""Every network by name; mmedge-zoo has the weights of ``vqa-attention``, ``label-translate``,
``hear``, ``draw`` and ``speak``."""


def factory(name: str, weights: Path | None = None) -> Model:
    """Build a trained reference network with its inputs, samples and metric.

    Args:
        name: one of :data:`NAMES`.
        weights: a file written by ``mmedge-train``; by default the one that is shipped.

    Returns:
        The network as the toolchain takes it; ``docs/reference/zoo.md`` has its inputs and outputs.

    Raises:
        ExportError: when the name is unknown, mmedge-zoo is not installed, no weights are shipped
            under the name and none are given, or the weights are those of another network.
    """
    if name not in FOLDERS:
        raise ExportError(f"no reference network is named {name!r}; there are: {', '.join(NAMES)}")
    task = import_module(f"{__name__}.{FOLDERS[name]}.model")
    model: Model = task.factory(name, weights)
    return model
