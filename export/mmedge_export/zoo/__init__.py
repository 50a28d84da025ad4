"""Reference networks: visual question answering by text, by voice, or by both.

Small networks trained from public data by ``mmedge-train``; ``docs/reference/zoo.md`` has their
accuracy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge_export.model import Model

__all__ = ["NAMES", "factory"]

NAMES: tuple[str, ...] = ("vqa-attention", "vqa-concat", "vqa-weighted", "vqa-conv")
"""Every network by name; mmedge-zoo has the weights of ``vqa-attention``."""


def factory(name: str, weights: Path | None = None) -> Model:
    """Build a trained reference network with its inputs, samples and metric.

    Args:
        name: one of :data:`NAMES`.
        weights: a file written by ``mmedge-train``; by default the one that is shipped.

    Returns:
        The network as the toolchain takes it. Inputs: ``image`` uint8 ``[batch, 64, 64, 3]``,
        ``text`` int64 ``[batch, 16]``, ``audio`` float32 ``[batch, samples]``
        at 16 kHz; text and audio may be absent. Output: ``answer``, logits float32 ``[batch, 13]``.

    Raises:
        ExportError: when the name is unknown, mmedge-zoo is not installed, no weights are shipped
            under the name and none are given, or the weights are those of another fusion.
    """
    if name not in NAMES:
        raise ExportError(f"no reference network is named {name!r}; there are: {', '.join(NAMES)}")
    from mmedge_export.zoo import data_files, model, weight_file

    fusion = name.removeprefix("vqa-")
    path = data_files.weights() / f"{name}.safetensors" if weights is None else weights
    if weights is None and not path.exists():
        raise ExportError(
            f"no weights are shipped for {name}; train them with"
            f" `mmedge-train --fusion {fusion} --out trained` (from mmedge[train]) and give"
            f" weights=trained/{name}.safetensors"
        )
    net = weight_file.load(path)
    if net.parts["fusion"] != fusion:
        file_fusion = net.parts["fusion"]
        raise ExportError(f"{path} holds a {file_fusion} fusion, not the {fusion} of {name}")
    return model.describe(net, name)
