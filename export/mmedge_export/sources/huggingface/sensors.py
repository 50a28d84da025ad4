"""Which parameters of a network's forward take what a sensor or a person gives, and of what kind.

Parameters of transformers are named by the same words in all of its classes; nothing here names a
class.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint

__all__ = [
    "Sensor",
    "companion_sets",
    "feature_parameters",
    "find_sensors",
    "is_made_of_parts",
    "parameters_of",
    "possible_companions",
    "required_parameters",
    "tell_left_out",
]

#: Words in a parameter's name that say of which modality it is; the first of these counts.
_MODALITY_OF_WORD = {
    "bbox": "layout",
    "videos": "video",
    "video": "video",
    "audio": "audio",
    "pixel": "image",
    "image": "image",
    "images": "image",
    "visual": "image",
    "points": "points",
    "boxes": "boxes",
}
#: Names whose words do not say it.
_MODALITY_OF_NAME = {
    "input_ids": "text",
    "input_values": "audio",
    "input_features": "audio",
    "flattened_patches": "image",
}
#: Last words of parameters that take what a sensor gives; what a network makes of it comes after,
#: for networks that take nothing else of a modality.
_RAW = ("ids", "values", "videos", "images", "image", "bbox", "points", "boxes")
_FEATURES = ("features", "feats", "embeds")
#: What a person points at: nothing that a class counts among its modalities.
_PROMPTS = ("points", "boxes")
#: Words of what no caller of a bundle gives: parts of a run, and what training needs.
_INNER_WORDS = frozenset(
    (
        *("ans", "cache", "codebook", "conditional", "decoder", "embeddings", "encoder", "head"),
        *("hidden", "inputs", "label", "labels", "logits", "masked", "output", "outputs", "past"),
        *("position", "positions", "return", "similarity", "target", "type"),
    )
)
#: Parameters with such words that a caller gives all the same.
_LABELS_OF_PROMPTS = ("input_labels", "input_boxes_labels")


@dataclass(frozen=True)
class Sensor:
    """A parameter of forward that a caller fills.

    Attributes:
        name: of the parameter.
        modality: what it is of.
        mask: the parameter that hides padding of a text, if the network takes one.
        companions: further parameters that the network needs beside it: masks, sizes, places.
    """

    name: str
    modality: str
    mask: str | None = None
    companions: tuple[str, ...] = ()


def parameters_of(network: Any) -> list[str]:  # noqa: ANN401
    """Names of what a network's forward takes by keyword."""
    return list(_parameters(network))


def required_parameters(network: Any) -> list[str]:  # noqa: ANN401
    """Names of what forward cannot be called without."""
    return [
        name
        for name, parameter in _parameters(network).items()
        if parameter.default is parameter.empty
    ]


def _parameters(network: Any) -> dict[str, inspect.Parameter]:  # noqa: ANN401
    return {
        name: parameter
        for name, parameter in inspect.signature(network.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name != "self"
    }


def feature_parameters(network: Any) -> list[str]:  # noqa: ANN401
    """Names of what forward takes of features in place of what a sensor gives."""
    return [
        name
        for name, parameter in _parameters(network).items()
        if "Tensor" in str(parameter.annotation)
        and parameter.default is None
        and name.split("_")[-1] in (*_FEATURES, "embeddings", "states")
        and "inputs" not in name.split("_")
    ]


def find_sensors(network: Any, processor: Any) -> list[Sensor]:  # noqa: ANN401
    """Sensors of a network, its main one first.

    Args:
        network: of transformers; ``main_input_name`` and ``input_modalities`` are its own words.
        processor: that made its inputs, or None.

    Raises:
        ExportError: it takes nothing that a sensor gives.
    """
    parameters = _parameters(network)
    stated = network.input_modalities
    modalities = {stated} if isinstance(stated, str) else set(stated or ())
    made = set(getattr(processor, "model_input_names", None) or ())
    if getattr(processor, "tokenizer", None) is not None:
        made |= set(processor.tokenizer.model_input_names)
    main = network.main_input_name
    # What a sensor gives goes before features of it, and both before what a person points at.
    ranked: list[tuple[int, str, str]] = []
    for name, parameter in parameters.items():
        modality = _modality(name, modalities)
        form = _form(name)
        if form is None or modality is None:
            continue
        needed = parameter.default is parameter.empty
        # Where words stand on a page is no modality of its own to transformers.
        if name == main or needed or modality in modalities or name in made or name == "bbox":
            ranked.append((0 if name == main else form, name, modality))
        elif modality in _PROMPTS and "text" not in {_modality(n, modalities) for n in parameters}:
            ranked.append((2, name, modality))
    if main in parameters and not any(name == main for _, name, _ in ranked):
        ranked.append((0, main, _modality(main, modalities) or main))
    if not ranked:
        raise ExportError(
            f"{type(network).__name__} takes {', '.join(parameters)}: none of these is what a "
            "sensor gives; export the network that it is a part of, or write a factory with "
            "mmedge init"
        )
    sensors: list[Sensor] = []
    order = list(parameters)
    for rank, name, modality in sorted(ranked, key=lambda each: (each[0], order.index(each[1]))):
        if any(sensor.modality == modality for sensor in sensors):
            continue  # another form of the same
        if rank == 2 and any(sensor.modality in _PROMPTS for sensor in sensors):
            continue  # one kind of prompt
        sensors.append(Sensor(name, modality, _text_mask(name, parameters)))
    sensors.sort(key=lambda sensor: (sensor.name != main, order.index(sensor.name)))
    return sensors


def is_made_of_parts(sensor: Sensor) -> bool:
    """Whether a sensor's value is a number of points or boxes, or of features of regions."""
    return sensor.modality in _PROMPTS or (_form(sensor.name) == 1 and sensor.modality != "audio")


def _text_mask(name: str, parameters: dict[str, inspect.Parameter]) -> str | None:
    if not name.endswith("input_ids"):
        return None
    mask = name.replace("input_ids", "attention_mask")
    return mask if mask in parameters else None


def _modality(name: str, stated: set[str]) -> str | None:
    """Of a parameter, by its words."""
    if name in _MODALITY_OF_NAME:
        return _MODALITY_OF_NAME[name]
    words = name.split("_")
    if words[-2:] == ["input", "ids"] and "decoder" not in words:
        return words[0]
    modality = next((kind for word, kind in _MODALITY_OF_WORD.items() if word in words), None)
    if modality == "image" and "video" in stated and "image" not in stated:
        return "video"
    return modality


def _form(name: str) -> int | None:
    """0 for what a sensor gives, 1 for features of it, None for anything else."""
    words = name.split("_")
    if _INNER_WORDS.intersection(words) or (words[-1] == "ids" and "input" not in words):
        return None
    if words[-1] in _RAW or name in _MODALITY_OF_NAME:
        return 0
    return 1 if words[-1] in _FEATURES else None


def _is_companion(name: str, parameter: inspect.Parameter) -> bool:
    """Whether a parameter may be a mask, a size or a place of what a sensor gives."""
    annotation = str(parameter.annotation)
    is_tensor = "Tensor" in annotation and not any(t in annotation for t in ("list", "dict", "int"))
    is_tensor |= parameter.annotation is parameter.empty and parameter.default is None
    is_place = name.endswith(("_position_ids", "_position"))
    is_inner = bool(_INNER_WORDS.intersection(name.split("_"))) and name not in _LABELS_OF_PROMPTS
    return is_tensor and (is_place or not is_inner) and _form(name) is None


def possible_companions(network: Any, sensors: Sequence[Sensor]) -> list[str]:  # noqa: ANN401
    """Parameters that may be masks, sizes or places of what sensors give."""
    taken = {name for sensor in sensors for name in (sensor.name, sensor.mask)}
    parameters = _parameters(network)
    return [
        name
        for name, parameter in parameters.items()
        if name not in taken and name != "attention_mask" and _is_companion(name, parameter)
    ]


def companion_sets(
    network: Any,  # noqa: ANN401
    sensors: Sequence[Sensor],
) -> Iterator[list[Sensor]]:
    """Sensors with companions, few before many: with which a network runs has to be tried.

    Args:
        network: of transformers.
        sensors: of it.
    """
    possible = possible_companions(network, sensors)
    required = required_parameters(network)
    needed = [
        name
        for name in possible
        if name in required or name in (f"{prefix}labels" for prefix in _prompt_prefixes(sensors))
    ]
    others = [name for name in possible if name not in needed]
    masks = {name for name in others if "mask" in name.split("_")}
    for count in range(min(len(others), 3) + 1):
        for chosen in itertools.combinations(others, count):
            # Sizes say that some of it is padding, which a mask hides.
            if any(name.endswith("_shapes") for name in chosen) and not masks <= set(chosen):
                continue
            yield _with_companions(sensors, [*needed, *chosen])


def _prompt_prefixes(sensors: Sequence[Sensor]) -> list[str]:
    """What the labels of a prompt begin with: points have plain ones."""
    names = [sensor.name for sensor in sensors if sensor.modality in _PROMPTS]
    return [
        name.removesuffix("points") if name.endswith("points") else f"{name}_" for name in names
    ]


def _with_companions(sensors: Sequence[Sensor], names: Sequence[str]) -> list[Sensor]:
    """Each companion goes to the sensor with which it shares most words, else to the main one."""
    owners: dict[str, list[str]] = {sensor.name: [] for sensor in sensors}
    candidates = [sensor for sensor in sensors if sensor.modality != "text"] or list(sensors)
    for name in names:
        words = set(name.split("_"))

        def likeness(sensor: Sensor, words: set[str] = words, name: str = name) -> tuple[int, int]:
            same = _modality(name, {sensor.modality}) == sensor.modality
            return int(same), len(words & set(sensor.name.split("_")))

        owners[max(candidates, key=likeness).name].append(name)
    return [replace(s, companions=tuple(owners[s.name])) for s in sensors]


def tell_left_out(checkpoint: Checkpoint, sensors: Sequence[Sensor]) -> None:
    """Name parameters that take a sensor's values or hide some of them, and get none here."""
    taken = {n for sensor in sensors for n in (sensor.name, sensor.mask, *sensor.companions)}
    left_out = [
        name
        for name, parameter in _parameters(checkpoint.network).items()
        if name not in taken
        and name != "bool_masked_pos"
        and (_form(name) == 0 or name == "attention_mask" or _is_companion(name, parameter))
    ]
    if left_out:
        checkpoint.remarks.append(f"forward also takes {', '.join(left_out)}, left out here")
