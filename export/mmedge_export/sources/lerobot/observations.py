"""Inputs of a policy: raw values of each sensor under a short name, normalized in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mmedge_export.inputs import Input, as_array
from mmedge_export.sources.huggingface.candidates import ROWS, picture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge_export.sources.lerobot.policy_folder import PolicyFolder

__all__ = ["Observations"]

_VISUAL = "VISUAL"
#: Cameras that a policy was trained with and a robot has not: it fills them in by itself.
_EMPTY = "observation.images.empty_camera_"


class Observations(nn.Module):
    """Raw values, by an input's name, to normalized ones, by the policy's names.

    Pictures come as uint8 [batch, height, width, channels] and leave as planes, as lerobot makes
    them of frames; the rest comes as float32 in the robot's units. With ``steps``, both have an
    axis of observation steps behind the batch.
    """

    def __init__(self, source: PolicyFolder, steps: int | None = None) -> None:
        super().__init__()
        self._source, self._steps = source, steps
        features = {
            key: value
            for key, value in source.config.input_features.items()
            if not key.startswith(_EMPTY)
        }
        self._pictures = {key for key, value in features.items() if value.type.value == _VISUAL}
        raw_names = {key: source.before.renamed.get(key, key) for key in features}
        short = {key: name.split(".", 1)[-1] for key, name in raw_names.items()}
        short = {key: name.removeprefix("images.") for key, name in short.items()}
        plain = len(set(short.values())) == len(short)
        #: The policy's name by that of the input, pictures first.
        self.keys = {
            (short if plain else raw_names)[key]: key
            for key in sorted(features, key=lambda key: key not in self._pictures)
        }
        normalizations = source.before.normalizations
        self.parts = nn.ModuleList(
            normalizations.get(key, nn.Identity()) for key in self.keys.values()
        )

    def forward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the policy takes of these inputs."""
        taken = {}
        for (name, key), part in zip(self.keys.items(), self.parts, strict=True):
            value = values[name]
            if key in self._pictures:
                value = value.movedim(-1, -3).float() / 255
            taken[key] = part(value)
        return taken

    def inputs(self) -> dict[str, Input]:
        """The inputs, with examples of typical values."""
        generator = torch.Generator().manual_seed(0)
        normalizations = self._source.before.normalizations
        inputs = {}
        for seed, (name, key) in enumerate(self.keys.items()):
            shape = tuple(self._source.config.input_features[key].shape)
            steps = () if self._steps is None else (self._steps,)
            if key in self._pictures:
                channels, height, width = shape
                count = ROWS * (self._steps or 1)
                frames = [picture(height, width, seed * count + n) for n in range(count)]
                example = torch.from_numpy(np.stack(frames))
                example = example[..., torch.arange(channels) % 3]
                example = example.reshape(ROWS, *steps, height, width, channels)
            else:
                example = torch.randn(ROWS, *steps, *shape, generator=generator).clamp(-1, 1)
                if key in normalizations:
                    example = normalizations[key].inverse()(example)
            inputs[name] = Input(
                as_array(example), dynamic={0: "batch"}, rate_hz=self._source.rate_hz
            )
        return inputs
