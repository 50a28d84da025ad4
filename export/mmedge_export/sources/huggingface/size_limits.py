"""Which sizes a network of transformers takes, found by running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.examples import DECODER_TOKENS, result_fields, runs
from mmedge_export.sources.huggingface.sensors import is_made_of_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = [
    "batches_differ",
    "free_axes",
    "is_mask_over_text",
    "longest_text",
    "other_text",
    "several_texts",
    "shortest_sound",
    "shortest_text",
]


def batches_differ(
    network: Any,  # noqa: ANN401
    sensors: Sequence[Sensor],
    example: Mapping[str, Tensor],
) -> bool:
    """Whether the network takes another number of one modality than of the others."""
    first = sensors[0]
    return _takes(network, _resized(first, example, {0: example[first.name].shape[0] + 1}))


def several_texts(
    network: Any,  # noqa: ANN401
    sensors: Sequence[Sensor],
    example: Mapping[str, Tensor],
) -> dict[str, Tensor] | None:
    """An example of one picture and several texts, where each picture has as many; None: not so."""
    text = next((sensor for sensor in sensors if sensor.modality == "text"), None)
    rows = next(iter(example.values())).shape[0]
    if text is None or len(sensors) != 2 or rows == 1:
        return None
    whole_pairs, loose = (_resized(text, example, {0: size}) for size in (2 * rows, rows + 1))
    if not _takes(network, whole_pairs) or _takes(network, loose):
        return None
    alone = {name: value[:1] for name, value in example.items()}
    texts = _resized(text, example, {0: rows + 1})
    values = {**alone, **{name: texts[name] for name in (text.name, text.mask) if name is not None}}
    return values if _takes(network, values) else None


def free_axes(
    network: Any,  # noqa: ANN401
    sensor: Sensor,
    example: Mapping[str, Tensor],
) -> list[int]:
    """Axes of a sensor's value that count parts of it, and may have any size.

    These are points and boxes of a prompt, and regions of a picture of which another network made
    features.
    """
    if not is_made_of_parts(sensor):
        return []
    shape = example[sensor.name].shape
    return [
        axis
        for axis in range(1, len(shape) - 1)
        if all(
            _takes(network, _resized(sensor, example, {axis: size}))
            for size in (1, shape[axis] + 1)
        )
    ]


def _resized(
    sensor: Sensor, example: Mapping[str, Tensor], sizes: Mapping[int, int]
) -> dict[str, Tensor]:
    """An example with other sizes of a sensor's axes, and of its companions' equal ones."""
    values = dict(example)
    shape = example[sensor.name].shape
    for name in (sensor.name, sensor.mask, *sensor.companions):
        if name is None:
            continue
        for axis, size in sizes.items():
            value = values[name]
            if axis < value.ndim and value.shape[axis] == shape[axis]:
                values[name] = value.index_select(axis, torch.arange(size) % shape[axis])
    return values


def _takes(network: Any, example: Mapping[str, Tensor]) -> bool:  # noqa: ANN401
    try:
        runs(network, example)
    except Exception:  # noqa: BLE001 - whatever a foreign class raises
        return False
    return True


def longest_text(
    checkpoint: Checkpoint, sensor: Sensor, example: Mapping[str, Tensor]
) -> int | None:
    """The longest text that the network takes, found by running it near what it states."""
    names = ["max_position_embeddings", "n_positions"]
    if sensor.name == DECODER_TOKENS:
        names.insert(0, "max_target_positions")
    places = look_up(checkpoint.config, *names)
    if not isinstance(places, int):
        return None
    padding = look_up(checkpoint.config, "pad_token_id")
    sizes = [places, places - 1 - padding] if isinstance(padding, int) else [places]
    for size in (*sizes, places // 2):
        if size > 0 and _takes(checkpoint.network, _text(sensor, example, size)):
            return size
    return None


def shortest_text(network: Any, sensor: Sensor, example: Mapping[str, Tensor]) -> int:  # noqa: ANN401
    """The shortest text that the network takes."""
    most = example[sensor.name].shape[-1]
    return next(
        (size for size in range(1, most) if _takes(network, _text(sensor, example, size))), most
    )


def other_text(sensor: Sensor, example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An example of a shorter text."""
    return _text(sensor, example, max(example[sensor.name].shape[-1] - 2, 1))


def _text(sensor: Sensor, example: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """An example of another length of text, nothing of which is padding."""
    tokens = example[sensor.name]
    names = [n for n in (sensor.name, sensor.mask, "bbox") if n is not None and n in example]
    names += [name for name in example if name not in names and is_mask_over_text(name, example)]
    index, axis = torch.arange(size) % tokens.shape[-1], tokens.ndim - 1
    values = {**example, **{name: example[name].index_select(axis, index) for name in names}}
    if sensor.mask is not None:
        values[sensor.mask] = torch.ones_like(values[sensor.mask])
    return values


def is_mask_over_text(name: str, example: Mapping[str, Tensor]) -> bool:
    """Whether a value says for each token of a text what of another modality it looks at."""
    tokens, value = example.get("input_ids"), example[name]
    return (
        tokens is not None
        and "mask" in name.split("_")
        and (value.ndim > 2 or name.endswith("_position_mask"))
        and value.shape[:2] == tokens.shape
    )


def shortest_sound(network: Any, name: str, example: Mapping[str, Tensor]) -> int:  # noqa: ANN401
    """The shortest sound of which the network makes more than one frame.

    A graph of one frame is another one: attention among a single frame takes another branch.
    """
    whole = runs(network, example)
    fields = [
        (field, axis)
        for field in result_fields(whole)
        for axis, size in enumerate(whole[field].shape)
        if axis and size != _sizes(network, name, example, example[name].shape[1] // 2, field)[axis]
    ]

    def is_long_enough(count: int) -> bool:
        try:
            result = runs(network, {**example, name: example[name][:, :count]})
        except Exception:  # noqa: BLE001 - whatever a foreign class raises
            return False
        return all(result[field].shape[axis] > 1 for field, axis in fields)

    least, most = 1, example[name].shape[1]
    while least < most:
        middle = (least + most) // 2
        if is_long_enough(middle):
            most = middle
        else:
            least = middle + 1
    return most


def _sizes(
    network: Any,  # noqa: ANN401
    name: str,
    example: Mapping[str, Tensor],
    count: int,
    field: str,
) -> Sequence[int]:
    result = runs(network, {**example, name: example[name][:, :count]})
    return tuple(result[field].shape)
