"""Training: flow matching from noise to pictures, with captions that say more or less."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mmedge_export.zoo.draw import captions
from mmedge_export.zoo.draw.network import DrawNet
from mmedge_export.zoo.draw.pictures import move
from mmedge_export.zoo.training import CooldownRecipe, CooldownTrainer, Counts, autocast, option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmedge_export.zoo.draw.pictures import Pictures

__all__ = ["SHIFT", "DrawBatch", "DrawRecipe", "DrawTrainer"]

SHIFT = 3.0
"""Of the times, in training and in drawing: what is drawn, and where, is decided near time 1
(:func:`mmedge_export.schedules.flow_euler` has the formula)."""

_EARLIEST = 0.04
"""Smallest time that is trained, before the shift; steps of a schedule are later."""


@dataclass(frozen=True)
class DrawRecipe(CooldownRecipe):
    """The recipe of ``zoo:draw``."""

    epochs: int = option(22, "epochs of training")
    cooldown: int = option(8, "last epochs, in which the rate goes to 0 along a line")
    steps: int = option(500, "batches of an epoch")
    images: int = option(32, "pictures in a batch")
    rate: float = option(1e-3, "peak learning rate of AdamW")
    warmup: int = option(400, "steps of linear warm-up; the rate then stays until the cool-down")
    decay: float = option(0.01, "weight decay of matrices and kernels")
    average: float = option(0.999, "decay of the exponential average of weights, which is kept")
    compute: str = option("bfloat16", "type of convolutions and products; weights are float32")
    empty: float = option(0.1, "share of pictures shown with an empty text, for guidance")


@dataclass(frozen=True)
class DrawBatch:
    """One step's data.

    Attributes:
        images: uint8 ``[pictures, 64, 64, 3]``.
        text: int64 ``[pictures, 16]``, token ids of captions.
    """

    images: Tensor
    text: Tensor


class DrawTrainer(CooldownTrainer[DrawNet, DrawBatch]):
    """Trains ``zoo:draw``.

    Args:
        recipe: what to train and how.
        data: training pictures.
    """

    recipe: DrawRecipe

    def __init__(self, recipe: DrawRecipe, data: Pictures) -> None:
        self.data = data
        super().__init__(recipe, recipe.steps)

    def networks(self) -> tuple[DrawNet, nn.Module]:
        """The network; nothing is trained beside it."""
        # The layout that kernels for bfloat16 take without a copy.
        net = DrawNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net, nn.Identity()

    def batches(self) -> Iterator[DrawBatch]:
        """Pictures drawn at random, none twice before all were drawn."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, self.epoch])
        order: list[int] = []
        for _ in range(recipe.steps):
            while len(order) < recipe.images:
                order += rng.permutation(len(self.data)).tolist()
            picked, order = order[: recipe.images], order[recipe.images :]
            yield self._batch(picked, rng)

    def _batch(self, picked: list[int], rng: np.random.Generator) -> DrawBatch:
        images, texts = [], []
        for number in picked:
            image, size, place = move(self.data.images[number], rng)
            caption = replace(self.data.captions[number], size=size, place=place)
            is_empty = rng.random() < self.recipe.empty
            texts.append("" if is_empty else captions.vary(caption, rng))
            images.append(image)
        return DrawBatch(
            torch.from_numpy(np.stack(images)), torch.from_numpy(captions.encode(texts))
        )

    def loss(self, batch: DrawBatch) -> tuple[Tensor, Counts]:
        """Mean squared error of the velocity: Lipman et al., "Flow Matching" (2023), equation 9."""
        pictures = batch.images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        count = len(pictures)
        # One time in each of `count` equal parts: the loss varies less from batch to batch.
        even = (torch.arange(count) + torch.rand(count)) / count
        even = _EARLIEST + (1 - _EARLIEST) * even
        time = SHIFT * even / (1 + (SHIFT - 1) * even)
        share = time[:, None, None, None]
        latent = torch.lerp(pictures, torch.randn_like(pictures), share)
        with autocast(self.recipe.compute):
            condition = self.net(batch.text)["condition"]
            sample = self.net.step.sample(latent, time, condition)
        # (latent - sample) / time is off by as much as (picture - sample) / time.
        return ((sample - pictures) / share).square().mean(), {}
