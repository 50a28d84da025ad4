"""Preprocessing that becomes a part of the graph, where it is what the processor does.

Each kind is tried: what it makes of made-up data is held against what the processor makes of the
same. Where they agree, the bundle takes raw values; where none does, it takes the processor's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmedge.errors import ExportError
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.candidates import ROWS, picture, sound
from mmedge_export.sources.huggingface.frames import FRAME_NEAR, Frame, frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["Front", "Fronts", "RawInput", "find_front"]

#: Largest difference from the processor's values, as a share of the largest of them.
_NEAR = {"image": 1e-5, "audio": 1e-3}


@dataclass(frozen=True)
class RawInput:
    """An input of a bundle in place of one of the network.

    Attributes:
        name: of the input.
        front: raw values to the network's.
        example: raw values.
        length: smallest and largest number of samples of a sound; None: of a picture.
    """

    name: str
    front: Front
    example: Tensor
    length: tuple[int, int | None] | None = None


class Front(nn.Module):
    """Raw values to what the network's ``parameter`` takes."""

    def __init__(self, parameter: str) -> None:
        super().__init__()
        self.parameter = parameter


class Fronts(nn.Module):
    """The fronts of some inputs, by the inputs' names."""

    def __init__(self, raw_inputs: Sequence[RawInput]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({raw.name: raw.front for raw in raw_inputs})

    def forward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the network takes, by its names; other values pass."""
        taken: dict[str, Tensor] = {}
        for name, value in values.items():
            if name in self.parts:
                front: Any = self.parts[name]
                taken[front.parameter] = front(value)
            else:
                taken[name] = value
        return taken


class _Pixels(Front):
    """Colors uint8 [batch, height, width, 3] to scaled and normalized planes."""

    def __init__(
        self,
        parameter: str,
        factor: float,
        mean: Sequence[float],
        deviation: Sequence[float],
        frame: Frame | None = None,
    ) -> None:
        super().__init__(parameter)
        self.frame = frame
        self.scale: Tensor
        self.shift: Tensor
        spread = torch.tensor(deviation, dtype=torch.float64)[:, None, None]
        middle = torch.tensor(mean, dtype=torch.float64)[:, None, None]
        self.register_buffer("scale", (factor / spread).float(), persistent=False)
        self.register_buffer("shift", (middle / spread).float(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """The planes."""
        planes = image.permute(0, 3, 1, 2).float() if self.frame is None else self.frame(image)
        return planes * self.scale - self.shift


class _Patches(_Pixels):
    """Colors uint8 [batch, height, width, 3] to patches [batch, patches, values], block by block.

    A still picture stands for each of the frames that a patch has.
    """

    def __init__(self, parameter: str, settings: Any, part: Any, side: int) -> None:  # noqa: ANN401
        super().__init__(parameter, *settings)
        self._block, self._patch = int(getattr(part, "merge_size", 1)), int(part.patch_size)
        self._frames, self._side = int(getattr(part, "temporal_patch_size", 1)), side

    def forward(self, image: Tensor) -> Tensor:
        """The patches of a square picture."""
        planes = super().forward(image)
        blocks, block, patch = self._side // self._block, self._block, self._patch
        parts = planes.reshape(-1, 1, 3, blocks, block, patch, blocks, block, patch)
        parts = parts.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        parts = parts.expand(-1, -1, -1, -1, -1, -1, self._frames, -1, -1)
        return parts.reshape(image.shape[0], self._side**2, 3 * self._frames * patch**2)


class _Normalized(Front):
    """Samples [batch, samples] of mean 0 and variance 1."""

    def forward(self, audio: Tensor) -> Tensor:
        """Each row by its own mean and variance."""
        centered = audio - audio.mean(-1, keepdim=True)
        return centered / (centered.square().mean(-1, keepdim=True) + 1e-7).sqrt()


class _LogMel(Front):
    """Samples [batch, up to a length] to a log-mel spectrogram of that length, as Whisper's.

    The discrete Fourier transform of each window is a convolution, which every backend has.
    """

    def __init__(self, parameter: str, extractor: Any) -> None:  # noqa: ANN401
        super().__init__(parameter)
        window, self._hop = int(extractor.n_fft), int(extractor.hop_length)
        self.length, self._half = int(extractor.n_samples), window // 2
        angles = 2 * np.pi / window * np.outer(np.arange(self._half + 1), np.arange(window))
        shape = 0.5 - 0.5 * np.cos(2 * np.pi / window * np.arange(window))
        waves = np.concatenate([np.cos(angles), np.sin(angles)]) * shape
        self.waves: Tensor
        self.filters: Tensor
        self.register_buffer("waves", torch.from_numpy(waves[:, None]).float(), persistent=False)
        filters = torch.from_numpy(np.asarray(extractor.mel_filters).T.copy()).float()
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Silence up to the length; the logarithm of each band, within 8 of the largest."""
        padded = F.pad(audio, (0, self.length - audio.shape[-1]))[:, None]
        padded = F.pad(padded, (self._half, self._half), mode="reflect")
        real, imaginary = F.conv1d(padded, self.waves, stride=self._hop)[..., :-1].chunk(2, dim=1)
        power = real * real + imaginary * imaginary
        log = torch.clamp(self.filters @ power, min=1e-10).log10()
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - 8)
        return (log + 4) / 4


def find_front(checkpoint: Checkpoint, sensor: Sensor, example: Tensor) -> RawInput | None:
    """Preprocessing of a sensor that agrees with the processor's; what is left goes to remarks.

    Args:
        checkpoint: with its processor.
        sensor: of a picture or a sound.
        example: what the network takes of it.

    Raises:
        ExportError: the user's pictures cannot be resized in the graph as the processor does.
    """
    part = checkpoint.part("image_processor") if sensor.modality == "image" else None
    if checkpoint.frame is not None and sensor.modality == "image":
        return _whole_frame(checkpoint, part, sensor.name, example, checkpoint.frame)
    if part is not None:
        raw = _try_image(part, sensor.name, example)
        height, width = example.shape[-2:] if raw is None else raw.example.shape[1:3]
        checkpoint.remarks.append(
            f"input 'image' is uint8 [rows, height, width, 3] of {width} x {height} pixels: the "
            "processor's resizing and cropping stay outside; what follows them is in the graph, "
            f"within {_NEAR['image']:g} of the processor"
            if raw is not None
            else f"preprocessing of {type(part).__name__} stays outside: {sensor.name!r} takes "
            "what it makes"
        )
        return raw
    if sensor.modality == "audio" and (part := checkpoint.part("feature_extractor")) is not None:
        raw = _try_audio(part, sensor.name)
        checkpoint.remarks.append(
            f"input 'audio' takes samples at {part.sampling_rate} Hz; what {type(part).__name__} "
            f"makes of them is in the graph, within {_NEAR['audio']:g} of it"
            if raw is not None
            else f"preprocessing of {type(part).__name__} stays outside: {sensor.name!r} takes "
            "what it makes"
        )
        return raw
    return None


def _whole_frame(
    checkpoint: Checkpoint,
    part: Any,  # noqa: ANN401
    parameter: str,
    example: Tensor,
    size: tuple[int, int],
) -> RawInput:
    """A front that takes whole pictures of a camera.

    Raises:
        ExportError: it is not what the processor does.
    """
    height, width = size
    tried = [] if part is None else list(frames(part, height, width))
    for frame in tried:
        raw = _try_image(part, parameter, example, size, frame)
        if raw is not None:
            checkpoint.remarks.append(
                f"input 'image' is uint8 [rows, {height}, {width}, 3]: what "
                f"{type(part).__name__} makes of it is in the graph, each color within "
                f"{FRAME_NEAR[0]:.0f} of 256 steps of it"
            )
            return raw
    why = (
        "the checkpoint has no image processor"
        if part is None
        else f"what {type(part).__name__} makes of such pictures for {parameter!r} "
        f"{list(example.shape[1:])} is not resizing by a linear or cubic filter and cutting out "
        "the middle"
    )
    raise ExportError(
        f"--frame {height}x{width}: {why}; leave --frame out, and give the network what the "
        "processor makes"
    )


def _try_image(
    part: Any,  # noqa: ANN401
    parameter: str,
    example: Tensor,
    size: tuple[int, int] | None = None,
    frame: Frame | None = None,
) -> RawInput | None:
    side = 0  # patches on a side
    if example.ndim == 3 and frame is None and isinstance(getattr(part, "patch_size", None), int):
        side = math.isqrt(example.shape[1])
        height = width = side * part.patch_size
    elif example.ndim == 4 and example.shape[1] == 3:
        height, width = size or example.shape[-2:]
    else:
        return None

    def setting(name: str, *, when: str, otherwise: Any) -> Any:  # noqa: ANN401
        return getattr(part, name, otherwise) if getattr(part, when, False) else otherwise

    def make() -> Front:
        settings = (
            float(setting("rescale_factor", when="do_rescale", otherwise=1.0)),
            setting("image_mean", when="do_normalize", otherwise=[0.0] * 3),
            setting("image_std", when="do_normalize", otherwise=[1.0] * 3),
            frame,
        )
        if side:
            return _Patches(parameter, settings, part, side)
        return _Pixels(parameter, *settings)

    pictures = np.stack([picture(height, width, seed) for seed in range(ROWS)])
    expected = _call(lambda: part(list(pictures), return_tensors="pt")[parameter])
    if expected is not None and side:  # of all rows in one sequence
        expected = expected.reshape(ROWS, -1, expected.shape[-1])
    if expected is not None and expected.shape[1:] != example.shape[1:]:
        return None
    front = _agreeing([make], torch.from_numpy(pictures), expected, "image")
    return None if front is None else RawInput("image", front, torch.from_numpy(pictures))


def _try_audio(part: Any, parameter: str) -> RawInput | None:  # noqa: ANN401
    rate = int(part.sampling_rate)
    sounds = np.stack([sound(rate, seed=seed) for seed in range(ROWS)])
    expected = _call(lambda: part(list(sounds), sampling_rate=rate, return_tensors="pt")[parameter])
    makes: list[Callable[[], Front]] = [
        lambda: _LogMel(parameter, part),
        lambda: _Normalized(parameter),
    ]
    front = _agreeing(makes, torch.from_numpy(sounds), expected, "audio")
    if front is None:
        return None
    length = (1, front.length) if isinstance(front, _LogMel) else None
    return RawInput("audio", front, torch.from_numpy(sounds), length)


def _call(make: Callable[[], Tensor]) -> Tensor | None:
    try:
        with quiet():
            return make()
    except Exception:  # noqa: BLE001 - whatever a foreign class raises
        return None


def _agreeing(
    makes: Sequence[Callable[[], Front]], raw: Tensor, expected: Tensor | None, kind: str
) -> Front | None:
    """The first front whose values are the processor's."""
    if not isinstance(expected, Tensor):
        return None
    for make in makes:
        front: Front | None = None

        def values(make: Callable[[], Front] = make) -> Tensor:
            nonlocal front
            front = make()
            with torch.no_grad():
                result: Tensor = front(raw)
            return result

        result = _call(values)
        if result is None or result.shape != expected.shape:
            continue
        off = (result - expected).abs()
        if isinstance(front, _Pixels) and front.frame is not None:
            steps = off / front.scale.abs()
            most, mean = FRAME_NEAR
            if float(steps.max()) <= most and float(steps.mean()) <= mean:
                return front
        elif float(off.max()) <= _NEAR[kind] * float(expected.abs().max()):
            return front
    return None
