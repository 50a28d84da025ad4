"""What a network takes of one picture beside its pixels, such as the grid of its patches.

A processor knows best. Without one, it follows from the configuration: these parameters have the
same names and meanings in all classes of transformers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.candidates import ROWS, look_up, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["further_pictures", "is_picture", "picture_rows"]

#: How configurations call the number of patches on a side that become one token.
_MERGES = ("spatial_merge_size", "merge_size", "downsample_factor", "pooling_kernel_size")
_CHANNELS = ("in_channels", "num_channels", "in_chans")
#: Patches on a side of a picture, and pixels, where nothing says how large pictures are.
_SIDE, _PIXELS = 16, 224


def is_picture(name: str) -> bool:
    """Whether a parameter of this name takes pictures, and not what says more of them."""
    return name.endswith("pixel_values")


def further_pictures(
    checkpoint: Checkpoint, sensor: Sensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """Pictures that a network takes beside those of a sensor, such as the same in more pixels.

    Args:
        checkpoint: the network.
        sensor: of pictures.
        names: of parameters that the network needs.
    """
    rng = torch.Generator().manual_seed(1)
    pictures = {}
    for name in names:
        prefix = name.removesuffix("pixel_values")
        if sensor.modality != "image" or not is_picture(name):
            continue
        config = getattr(checkpoint.config, f"{prefix}vision_config", None) or checkpoint.config
        channels = look_up(config, *_CHANNELS) or 3
        size = look_up(config, "image_size") or _PIXELS
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        pictures[name] = torch.randn((ROWS, channels, height, width), generator=rng)
    return pictures


def picture_rows(
    checkpoint: Checkpoint, sensor: Sensor, names: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    """Tensors for one picture, as the network takes them.

    Args:
        checkpoint: the network, and its processor.
        sensor: of pictures.
        names: of parameters that take more of a picture.
    """
    if sensor.modality != "image":
        return
    if (made := _processed(checkpoint, sensor, names)) is not None:
        yield made
        return
    config = _vision(checkpoint.config)
    channels = look_up(config, *_CHANNELS) or 3
    patch = look_up(config, "patch_size", "spatial_patch_size") or 16
    patch = patch if isinstance(patch, int) else patch[0]
    frames = look_up(config, "temporal_patch_size", "patch_temporal") or 1
    pool = look_up(config, "pooling_kernel_size") or 1
    merge = look_up(checkpoint.config, *_MERGES) or 2
    size = look_up(config, "image_size")
    size = size[0] if isinstance(size, (list, tuple)) else size
    most = look_up(config, "num_patches", "max_num_patches")
    side = size // patch if isinstance(size, int) else math.isqrt(most) if most else _SIDE
    side = max(side // merge, 1) * merge
    count = side * side
    rng = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    pixels = side * patch
    squares = torch.arange(count).reshape(side // merge, merge, side // merge, merge)
    grid = {
        "image_token_pooling": squares.transpose(1, 2).reshape(-1, merge**2),
        "image_grids": torch.tensor([[side // merge, side // merge, 0, 0]]),
        "image_grid_thw": torch.tensor([[1, side, side]]),
        "spatial_shapes": torch.tensor([[side, side]]),
        "target_sizes": torch.tensor([[side, side]]),
        "image_merge_sizes": torch.tensor([merge]),
        "pixel_attention_mask": torch.ones(1, count, dtype=torch.int64),
        "image_position_ids": torch.stack(
            [torch.arange(count) % side, torch.arange(count) // side], -1
        )[None],
    }
    patches = {name: value for name, value in grid.items() if name in names}
    if patches:
        width = channels * patch * patch
        for value in (
            noise(count, width * frames),
            noise(1, count, width * frames),
            noise(count, channels, patch, patch),
            noise(1, channels, pixels, pixels),
            noise(1, channels, patch, patch * count),
            noise(1, count, width * pool * pool),
            noise(count, 2 * width),  # of two frames, which not all configurations say
        ):
            yield {sensor.name: value, **patches}
    if "image_grid_thw" in names:  # a grid of tokens, each of several patches
        of_tokens = torch.tensor([[1, side // merge, side // merge]])
        value = noise(count // merge**2, patch * merge, patch * merge, channels)
        yield {sensor.name: value, **patches, "image_grid_thw": of_tokens}
    if not patches:
        yield {sensor.name: noise(1, count, channels * patch * patch)}
        yield {sensor.name: noise(count, frames, patch, patch, channels)}
    yield from _tiles(checkpoint, sensor, names, noise, size)


def _tiles(
    checkpoint: Checkpoint,
    sensor: Sensor,
    names: Sequence[str],
    noise: Callable[..., Tensor],
    size: object,
) -> Iterator[dict[str, Tensor]]:
    """One picture as a whole and in tiles, with masks of its pixels or of its tiles."""
    channels = look_up(_vision(checkpoint.config), *_CHANNELS) or 3
    pixels = size if isinstance(size, int) else _PIXELS
    pinpoints = look_up(checkpoint.config, "image_grid_pinpoints") or [[pixels, pixels]]
    pinpoint = min(pinpoints, key=math.prod)
    sizes = {"image_sizes": torch.tensor([list(pinpoint)])} if "image_sizes" in names else {}
    tiles = math.prod(math.ceil(side / pixels) for side in pinpoint)
    of_tiles = "pixel_attention_mask" in names
    for count in dict.fromkeys((tiles + 1, 1)):
        masks = {
            name: torch.ones(1, *([count] if name != "pixel_mask" else []), pixels, pixels).long()
            for name in ("pixel_attention_mask", "pixel_mask")
            if name in names
        }
        for value in (
            noise(1, count, channels, pixels, pixels),
            noise(1, channels, pixels, pixels),
        ):
            yield {sensor.name: value, **sizes, **masks}
            if of_tiles and value.ndim == 5:
                yield {
                    sensor.name: value,
                    **sizes,
                    **masks,
                    "pixel_attention_mask": torch.ones(1, count, dtype=torch.bool),
                }
            if masks:
                yield {sensor.name: value, **sizes}


def _vision(config: Any) -> Any:  # noqa: ANN401
    """The part of a configuration that is of pictures."""
    return getattr(config, "vision_config", None) or config


def _processed(
    checkpoint: Checkpoint, sensor: Sensor, names: Sequence[str]
) -> dict[str, Tensor] | None:
    """What the processor makes of one picture; None where it has no part for pictures."""
    part = checkpoint.part("image_processor")
    if part is None:
        return None
    size = look_up_size(checkpoint)
    made: Any = {}
    try:
        with quiet():
            made = part([picture(size, size)], return_tensors="pt")
    except Exception:  # noqa: BLE001 - whatever a foreign class raises; said for the sensor already
        return None
    values = {
        name: torch.as_tensor(made[name])
        for name in (sensor.name, *names)
        if name in made and name != "input_ids"
    }
    return values if sensor.name in values else None


def look_up_size(checkpoint: Checkpoint) -> int:
    """Pixels on a side of the picture that is made up for a processor that keeps sizes."""
    size = look_up(checkpoint.config, "image_size")
    return size if isinstance(size, int) else _PIXELS
