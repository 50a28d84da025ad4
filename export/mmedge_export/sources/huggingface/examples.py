"""Examples for a network's sensors: what its processor makes of made-up data, or shapes by trial.

A processor knows best. Without one, shapes follow from the configuration; where that leaves a
choice, the first one counts that the network takes.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmedge.errors import ExportError
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.sensors import parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["DECODER_TOKENS", "find_example", "find_value", "look_up", "picture", "sound"]

#: What a network with an encoder and a decoder calls the tokens of the latter.
DECODER_TOKENS = "decoder_input_ids"
#: Rows of an example: more than one, since torch takes sizes 0 and 1 for constants.
ROWS = 2
#: Tokens of an example, and seconds of sound.
_TOKENS, _SECONDS = 7, 1.0
_IMAGE_SIZE = 224


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


def find_example(checkpoint: Checkpoint, sensors: Sequence[Sensor]) -> dict[str, Tensor]:
    """A tensor for each sensor, and for the masks of text, that the network takes.

    Raises:
        ExportError: it takes none of what was tried.
    """
    candidates = {sensor.name: list(_candidates(checkpoint, sensor)) for sensor in sensors}
    failure: Exception | None = None
    for values in itertools.islice(itertools.product(*candidates.values()), 64):
        example = dict(zip(candidates, values, strict=True))
        for sensor in sensors:
            if sensor.mask is not None:
                example[sensor.mask] = _mask(checkpoint, example[sensor.name])
        try:
            runs(checkpoint.network, example)
        except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
            failure = failure or error
            continue
        return example
    shapes = {name: [list(value.shape) for value in each] for name, each in candidates.items()}
    raise ExportError(
        f"{type(checkpoint.network).__name__} takes none of the inputs that were made up for it "
        f"({shapes}): {type(failure).__name__}: {failure}"
    ) from failure


def find_value(checkpoint: Checkpoint, sensor: Sensor, part: Any) -> Tensor:  # noqa: ANN401
    """A value for a sensor, that a part of the network takes.

    Raises:
        ExportError: it takes none of what was tried.
    """
    failure: Exception | None = None
    for value in _candidates(checkpoint, sensor):
        try:
            with quiet(), torch.no_grad():
                part(**{sensor.name: value.clone()})
        except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
            failure = failure or error
            continue
        return value
    raise ExportError(
        f"{type(checkpoint.network).__name__} takes no {sensor.name!r} that was made up for it: "
        f"{type(failure).__name__}: {failure}"
    ) from failure


def runs(network: Any, example: Mapping[str, Tensor], **options: Any) -> Any:  # noqa: ANN401
    """What a network returns for an example. Raises what it raises."""
    values = {name: value.clone() for name, value in example.items()}
    if DECODER_TOKENS in parameters_of(network):
        rows = next(iter(values.values())).shape[0]
        values[DECODER_TOKENS] = torch.zeros((rows, 1), dtype=torch.int64)
    with quiet(), torch.no_grad():
        return network(**values, **options)


def _mask(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """The last row is shorter, on the side where the tokenizer pads."""
    mask = torch.ones(ids.shape[:2], dtype=torch.int64)
    side = getattr(checkpoint.part("tokenizer"), "padding_side", "right")
    if ids.shape[1] > 3:
        mask[-1, slice(-2, None) if side == "right" else slice(0, 2)] = 0
    return mask


def _candidates(checkpoint: Checkpoint, sensor: Sensor) -> Iterator[Tensor]:
    processed = _processed(checkpoint, sensor)
    if processed is not None:
        yield processed
        return
    config = checkpoint.config
    rng = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    if sensor.modality == "text":
        words = look_up(config, "vocab_size") or 2
        yield torch.randint(min(5, words - 1), words, (ROWS, _TOKENS), generator=rng)
    elif sensor.modality == "layout":
        corners = torch.randint(0, 400, (ROWS, _TOKENS, 2), generator=rng)
        yield torch.cat([corners, corners + 100], -1)
    elif sensor.modality in ("image", "video"):
        size = look_up(config, "image_size") or _IMAGE_SIZE
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        channels = look_up(config, "num_channels", "in_channels", "in_chans") or 3
        if sensor.modality == "image":
            yield noise(ROWS, channels, height, width)
            yield noise(ROWS, 1, channels, height, width)
        frames = look_up(config, "num_frames") or 4
        yield noise(ROWS, frames, channels, height, width)
        yield noise(ROWS, channels, frames, height, width)
    else:
        mels = look_up(
            config, "num_mel_bins", "input_feat_per_channel", "feature_size", "num_audio_features"
        )
        places = look_up(config, "max_source_positions")
        length = look_up(config, "max_length") or 64
        if mels:
            if places:
                yield noise(ROWS, mels, 2 * places)
            yield noise(ROWS, length, mels)
            yield noise(ROWS, mels, length)
            yield noise(ROWS, 1, length, mels)
            side = look_up(config, "spec_size")
            if side:
                yield noise(ROWS, 1, side * 4, mels)
        yield noise(ROWS, 4000)
        yield noise(ROWS, 1, 4000)


def _processed(checkpoint: Checkpoint, sensor: Sensor) -> Tensor | None:
    """What the processor makes of made-up data; None where it has no part for it."""
    parts = {"text": "tokenizer", "image": "image_processor", "audio": "feature_extractor"}
    part = checkpoint.part(parts.get(sensor.modality, "")) if sensor.modality in parts else None
    if part is None:
        return None
    try:
        if sensor.modality == "text":
            made = part(["a picture of two small robots"] * ROWS, return_tensors="pt")
        elif sensor.modality == "image":
            made = part([picture(seed=seed) for seed in range(ROWS)], return_tensors="pt")
        else:
            rate = part.sampling_rate
            sounds = [sound(rate, seed=seed) for seed in range(ROWS)]
            made = part(sounds, sampling_rate=rate, return_tensors="pt")
        value = made.get(sensor.name)
    except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
        checkpoint.remarks.append(
            f"{type(part).__name__} made nothing of an example, so the shape of {sensor.name!r} "
            f"is that of config.json: {type(error).__name__}: {error}"
        )
        return None
    return value if isinstance(value, torch.Tensor) else None
