"""Places for features in the example text of a network that runs once.

A text without them would leave what a sensor gives without any part in the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.examples import runs
from mmedge_export.sources.huggingface.features_by_row import FeaturesByRow
from mmedge_export.sources.huggingface.places import traceable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["add_places", "place_token"]


def place_token(network: Any, modality: str) -> Any:  # noqa: ANN401
    """The token that stands for a feature of a modality; None: the configuration names none."""
    return look_up(network.config, f"{modality}_token_id", f"{modality}_token_index")


def add_places(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], example: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], int]:
    """An example whose text has a place for each feature, and their number; 0: it needs none.

    How many features there are is read off a run.
    """
    network = checkpoint.network
    text = next((sensor for sensor in sensors if sensor.modality == "text"), None)
    tokens = {s.modality: place_token(network, s.modality) for s in sensors if s is not text}
    modality = next((name for name, token in tokens.items() if isinstance(token, int)), None)
    if text is None or modality is None:
        return dict(example), 0
    with FeaturesByRow() as features, traceable():
        runs(network, example)
    if not features.count:
        return dict(example), 0
    checkpoint.remarks.append(
        f"a text has {features.count} tokens {tokens[modality]} in the places of one {modality}, "
        "as the processor writes them"
    )
    words = example[text.name].masked_fill(example[text.name] == tokens[modality], 1)
    places = words.new_full((words.shape[0], features.count), tokens[modality])
    longer = {text.name: torch.cat([words[:, :1], places, words[:, 1:]], 1)}
    if text.mask is not None:
        mask = example[text.mask]
        longer[text.mask] = torch.cat([mask[:, :1], torch.ones_like(places), mask[:, 1:]], 1)
    return {**example, **longer}, features.count
