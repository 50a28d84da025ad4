"""Values that a parameter of a network may take: what its processor makes, or made up by its words.

A processor knows best. Without one, shapes follow from the configuration and from the shape that
the documentation of forward states; where that leaves a choice, all are candidates.
"""

from __future__ import annotations

import inspect
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmedge_export.sources.huggingface.sensors import is_made_of_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = [
    "ROWS",
    "companion_candidates",
    "look_up",
    "picture",
    "processed_values",
    "sensor_candidates",
    "sound",
    "stated_shape",
]

#: Rows of an example: more than one, since torch takes sizes 0 and 1 for constants.
ROWS = 2
#: Tokens of an example, seconds of sound, and how many there are of what has no stated number.
_TOKENS, _SECONDS, _COUNT = 7, 1.0, 5
_IMAGE_SIZE = 224
#: How configurations call the number of frequencies of a spectrogram.
_BANDS = (
    *("num_mel_bins", "input_feat_per_channel", "feature_size", "num_audio_features"),
    "feature_projection_input_dim",
)
#: A stated shape, as ``name (`torch.Tensor` of shape `(batch_size, 2)```.
_SHAPE = r"^\s*{}\s+\(`[\w.]*Tensor`,?\s+of shape `\((.*?)\)`"


def look_up(config: Any, *names: str) -> Any:  # noqa: ANN401
    """The first of some settings that a configuration or one of its parts has; None: none has."""
    waiting, seen = [config], set()
    while waiting:
        part = waiting.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        for name in names:
            value = part.__dict__.get(name)
            if value is None and name in (getattr(part, "attribute_map", None) or {}):
                value = getattr(part, name, None)
            if value is not None:
                return value
        waiting += [value for value in part.__dict__.values() if hasattr(value, "to_diff_dict")]
    return None


def picture(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray[Any, Any]:
    """A made-up picture: smooth colors with edges and some noise, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = rng.uniform(1, 6, (3, 2))
    planes = [np.sin(2 * np.pi * (a * x + b * y)) * 90 + 128 for a, b in waves]
    image = np.stack(planes, -1) + 60 * ((x + y) > 1)[..., None]
    image += rng.normal(0, 6, image.shape)
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def sound(rate: int, seconds: float = _SECONDS, seed: int = 0) -> np.ndarray[Any, Any]:
    """A made-up sound: tones that come and go in noise, float32 [samples]."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(rate * seconds)) / rate
    tones = sum(
        np.sin(2 * np.pi * rng.uniform(100, rate / 5) * at) * np.exp(-((at - s) ** 2) * 20)
        for s in rng.uniform(0, seconds, 4)
    )
    return np.asarray(0.2 * tones + rng.normal(0, 0.01, at.shape), np.float32)


def sensor_candidates(checkpoint: Checkpoint, sensor: Sensor) -> Iterator[Tensor]:
    """Values for a sensor's own parameter, the likeliest first."""
    config = checkpoint.config
    rng = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    if sensor.name.endswith("input_ids"):
        words = look_up(config, "vocab_size") or 2
        sizes = (ROWS, *_choices(checkpoint.network), _TOKENS)
        yield torch.randint(min(5, words - 1), words, sizes, generator=rng)
    elif sensor.modality == "layout":
        places = look_up(config, "max_2d_position_embeddings") or 1024
        corners = torch.randint(0, places // 2, (ROWS, _TOKENS, 2), generator=rng)
        yield torch.cat([corners, corners + places // 8], -1)
    elif sensor.modality in ("points", "boxes"):
        yield from _prompts(sensor.modality, _image_sizes(config))
    elif is_made_of_parts(sensor) and (
        (shape := _feature_shape(checkpoint, sensor.name)) is not None
    ):
        yield noise(shape[0], *_choices(checkpoint.network), *shape[1:])
    elif sensor.name.endswith("_patches") and (width := look_up(config, "patch_embed_hidden_size")):
        # A patch has its row and its column before its colors.
        places = torch.arange(_COUNT).expand(ROWS, _COUNT)
        at = torch.stack([places // 2, places % 2], -1)
        yield torch.cat([at, torch.rand((ROWS, _COUNT, width), generator=rng)], -1)
    elif sensor.modality in ("image", "video"):
        height, width = _image_sizes(config)
        channels = look_up(config, "num_channels", "in_channels", "in_chans") or 3
        if sensor.modality == "image":
            yield noise(ROWS, channels, height, width)
            yield noise(ROWS, 1, channels, height, width)
            if isinstance(count := look_up(config, "num_images"), int) and count > 1:
                yield noise(ROWS, count, channels, height, width)
            if isinstance(tiles := look_up(config, "max_num_tiles"), int):
                yield noise(ROWS, 1, tiles, channels, height, width)
        frames = look_up(config, "num_frames") or 4
        yield noise(ROWS, frames, channels, height, width)
        yield noise(ROWS, channels, frames, height, width)
        side, patches = look_up(config, "patch_size"), look_up(config, "num_patches")
        if isinstance(side, int) and isinstance(patches, int):
            yield noise(ROWS, patches, channels * side * side)
    else:
        yield from _sounds(config, noise)


def _image_sizes(config: Any) -> tuple[int, int]:  # noqa: ANN401
    size = look_up(config, "image_size", "input_size", "max_img_size") or _IMAGE_SIZE
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return height, width


def _prompts(kind: str, size: tuple[int, int]) -> Iterator[Tensor]:
    """Points [x, y] or boxes [left, top, right, bottom] in pixels."""
    rng = torch.Generator().manual_seed(0)
    height, width = size
    scale = torch.tensor([width, height], dtype=torch.float32) / 2
    # Sizes are unequal and not 1, so that none is taken for another.
    at = torch.rand((ROWS, 3, 4, 2), generator=rng) * scale
    if kind == "points":
        yield at
        yield at[:, 0]
    else:
        yield torch.cat([at[:, 0], at[:, 0] + scale], -1)


def _sounds(config: Any, noise: Any) -> Iterator[Tensor]:  # noqa: ANN401
    mels = look_up(config, *_BANDS)
    places = look_up(config, "max_source_positions")
    length = look_up(config, "max_length") or 64
    if mels:
        side = look_up(config, "spec_size")
        if side:
            channels = 4 if look_up(config, "enable_fusion") else 1
            yield noise(ROWS, channels, side * side // mels, mels)
        if places:
            yield noise(ROWS, mels, 2 * places)
        window = look_up(config, "n_window")
        if window:
            yield noise(ROWS, mels, 4 * window)
        yield noise(ROWS, length, mels)
        yield noise(ROWS, mels, length)
        yield noise(ROWS, 1, length, mels)
    yield noise(ROWS, 4000)
    yield noise(ROWS, 1, 4000)


def stated_shape(network: Any, name: str) -> list[str] | None:  # noqa: ANN401
    """The words of the shape that the documentation of forward states for a parameter."""
    text = inspect.getdoc(network.forward) or ""
    match = re.search(_SHAPE.format(re.escape(name)), text, re.MULTILINE)
    return None if match is None else [word.strip(" ()") for word in match[1].split(",")]


def _choices(network: Any) -> tuple[int, ...]:  # noqa: ANN401
    """The number of answers to choose from, where a text has an axis of them."""
    return (2,) if "num_choices" in (stated_shape(network, "input_ids") or ()) else ()


def _feature_shape(checkpoint: Checkpoint, name: str) -> tuple[int, ...] | None:
    """Of what another network made: its documentation names a width that the configuration has."""
    words = stated_shape(checkpoint.network, name)
    if words is None or len(words) != 3:
        return None
    width = look_up(checkpoint.config, words[-1])
    return (ROWS, _COUNT, width) if isinstance(width, int) else None


def companion_candidates(checkpoint: Checkpoint, name: str, value: Tensor) -> Iterator[Tensor]:
    """Values for a mask, a size or a place that goes with a sensor's value.

    Args:
        checkpoint: the network.
        name: of the parameter.
        value: of the sensor.
    """
    rows, words = value.shape[0], name.split("_")
    if "mask" in words:
        if value.ndim > 5:  # of tiles of pictures
            yield torch.ones(value.shape[:3], dtype=torch.int64)
            return
        if value.ndim > 3:
            yield torch.ones((rows, *value.shape[-2:]), dtype=torch.int64)
            return
        # Of a sound it counts times, not frequencies, and of patches their number.
        bands = look_up(checkpoint.config, *_BANDS)
        is_picture = bool({"pixel", "image", "visual"}.intersection(words))
        sizes = list(value.shape[1:])
        if not is_picture:
            sizes.sort(key=lambda size: (size == bands, -size))
        for size in sizes:
            yield torch.ones((rows, size), dtype=torch.int64)
    elif "labels" in words:
        yield (torch.arange(math.prod(value.shape[:-1])) % 2).reshape(value.shape[:-1])
    elif words[-1] == "shapes" and value.ndim == 3:
        # The last row has padding. Any height goes with any width.
        height = max(math.isqrt(value.shape[1]), 1)
        width = value.shape[1] // height
        yield torch.tensor([[height, width - (row == rows - 1)] for row in range(rows)])
    elif words[-2:] == ["ratio", "ids"] and value.ndim > 5:
        yield (1 + torch.arange(rows))[:, None].expand(rows, value.shape[1]).clone()
    elif words[-1] == "sizes":
        yield torch.tensor([list(value.shape[-2:])] * rows)
    elif words[-1] == "lengths":
        bands = look_up(checkpoint.config, *_BANDS)
        size = next((size for size in value.shape[:0:-1] if size != bands), value.shape[-1])
        yield torch.full((rows,), size)
    elif words[-1] == "longer":
        yield torch.tensor([[row % 2 == 0] for row in range(rows)])
    elif value.ndim == 3:
        stated = stated_shape(checkpoint.network, name) or []
        if len(stated) == 3:
            width = look_up(checkpoint.config, stated[-1])
            rng = torch.Generator().manual_seed(1)
            if isinstance(width, int):
                yield torch.rand((rows, value.shape[1], width), generator=rng)
            yield torch.rand((rows, value.shape[1], 4), generator=rng)


def processed_values(checkpoint: Checkpoint, sensor: Sensor) -> Mapping[str, Tensor]:
    """What the processor makes of made-up data, by name; nothing where it has no part for it."""
    parts = {"text": "tokenizer", "image": "image_processor", "audio": "feature_extractor"}
    part = checkpoint.part(parts.get(sensor.modality, "")) if sensor.modality in parts else None
    if part is None:
        return {}
    try:
        if sensor.modality == "text":
            made = part(["a picture of two small robots"] * ROWS, return_tensors="pt")
        elif sensor.modality == "image":
            made = part([picture(seed=seed) for seed in range(ROWS)], return_tensors="pt")
        else:
            rate = part.sampling_rate
            sounds = [sound(rate, seed=seed) for seed in range(ROWS)]
            made = part(sounds, sampling_rate=rate, return_tensors="pt")
    except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
        checkpoint.remarks.append(
            f"{type(part).__name__} made nothing of an example, so the shape of {sensor.name!r} "
            f"is that of config.json: {type(error).__name__}: {error}"
        )
        return {}
    return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}
