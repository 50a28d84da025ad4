"""Which parameters of a network's forward take what a sensor or a person gives, and of what kind.

Parameters of transformers have the same names in all of its classes; nothing here names a class.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Sensor", "find_sensors", "parameters_of", "sensors_left_out"]

_SOUNDS = ("input_values", "input_features", "audio_values")
#: Modality of each parameter that takes a sensor's values, and the mask that comes with it.
_MODALITIES = {
    "input_ids": "text",
    "bbox": "layout",
    "pixel_values": "image",
    "pixel_values_videos": "video",
    "pixel_values_images": "image",
    **dict.fromkeys(_SOUNDS, "audio"),
}


@dataclass(frozen=True)
class Sensor:
    """A parameter of forward that a caller fills.

    Attributes:
        name: of the parameter.
        modality: what it is of.
        mask: the parameter that hides padding of it, if the network takes one.
    """

    name: str
    modality: str
    mask: str | None = None


def parameters_of(network: Any) -> list[str]:  # noqa: ANN401
    """Names of what a network's forward takes by keyword."""
    return [
        name
        for name, parameter in inspect.signature(network.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def find_sensors(network: Any, processor: Any) -> list[Sensor]:  # noqa: ANN401
    """Sensors of a network, its main one first.

    Args:
        network: of transformers; ``main_input_name`` and ``input_modalities`` are its own words.
        processor: that made its inputs, or None.
    """
    names = parameters_of(network)
    stated = network.input_modalities
    modalities = {stated} if isinstance(stated, str) else set(stated or ())
    made = set(getattr(processor, "model_input_names", None) or ())
    if getattr(processor, "tokenizer", None) is not None:
        made |= set(processor.tokenizer.model_input_names)
    main = network.main_input_name
    chosen = [main] + [
        name
        for name in names
        if name in _MODALITIES
        and name != main
        # Where words stand on a page is no modality of its own to transformers.
        and (_MODALITIES[name] in modalities or name in made or name == "bbox")
    ]
    sensors: list[Sensor] = []
    for name in chosen:
        modality = _MODALITIES.get(name, name)
        if name == "pixel_values" and "video" in modalities and "image" not in modalities:
            modality = "video"
        if any(sensor.modality == modality for sensor in sensors):
            continue  # another form of the same
        mask = "attention_mask" if modality == "text" and "attention_mask" in names else None
        sensors.append(Sensor(name, modality, mask))
    return sensors


def sensors_left_out(network: Any, sensors: Sequence[Sensor]) -> list[str]:  # noqa: ANN401
    """Parameters that take a sensor's values or hide some of them, and get none here."""
    taken = {name for sensor in sensors for name in (sensor.name, sensor.mask)}
    masks = {"attention_mask", "pixel_mask", "pixel_attention_mask", "bool_masked_pos"}
    return [n for n in parameters_of(network) if n in {*_MODALITIES, *masks} - taken]
