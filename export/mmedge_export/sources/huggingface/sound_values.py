"""What a network takes of one sound beside its values, such as a mask of its frames."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from mmedge_export.sources.huggingface.candidates import companion_candidates
from mmedge_export.sources.huggingface.examples import sensor_values
from mmedge_export.sources.huggingface.sensors import possible_companions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["masks_beside", "sound_values"]


def sound_values(
    checkpoint: Checkpoint, sensor: Sensor, names: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    """Tensors for several sounds, as the network takes them. All of a sound counts.

    Args:
        checkpoint: the network, and its processor.
        sensor: of sounds.
        names: of parameters that take more of a sound.
    """
    if sensor.modality != "audio":
        return
    for values in sensor_values(checkpoint, sensor):
        value = values[sensor.name]
        beside = {
            name: [each]
            if (each := values.get(name)) is not None
            else list(companion_candidates(checkpoint, name, value))
            for name in names
        }
        known = {name: each for name, each in beside.items() if each}
        # A network that takes several of them may need all, or one.
        for count in range(len(known), -1, -1):
            for chosen in itertools.combinations(known, count):
                for further in itertools.product(*(known[name] for name in chosen)):
                    yield {sensor.name: value, **dict(zip(chosen, further, strict=True))}


def masks_beside(checkpoint: Checkpoint, sensor: Sensor, value: Tensor) -> dict[str, Tensor]:
    """Masks that say that all of a sensor's value counts, as forward takes them."""
    masks = {}
    for name in possible_companions(checkpoint.network, [sensor]):
        candidates = companion_candidates(checkpoint, name, value)
        if "mask" in name and (mask := next(candidates, None)) is not None:
            masks[name] = mask
    return masks
