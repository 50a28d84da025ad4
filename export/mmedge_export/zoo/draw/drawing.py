"""Captions to pictures by torch, as a bundle's loop does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mmedge_export.schedules import flow_euler
from mmedge_export.zoo.draw import captions
from mmedge_export.zoo.draw.measure import SIDE
from mmedge_export.zoo.draw.training import SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmedge_export.zoo.draw.network import DrawNet

    Artist = Callable[[Sequence[str], NDArray[np.float32]], NDArray[np.uint8]]

__all__ = ["GUIDANCE", "SCHEDULE", "SHAPE", "to_bytes", "torch_artist"]

STEPS = 12
GUIDANCE = 2.0
"""How far a prediction goes from that of the empty text to that of the caption, and beyond."""

SCHEDULE = flow_euler(STEPS, shift=SHIFT)
"""From noise to a picture."""

SHAPE = (3, SIDE, SIDE)
"""Of a latent."""


def to_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures from 0 to 1 as uint8 from 0 to 255."""
    return np.rint(255 * images).astype(np.uint8)


def torch_artist(net: DrawNet, guidance: float = GUIDANCE, batch: int = 64) -> Artist:
    """Captions and noise float32 ``[captions, 3, 64, 64]`` to uint8 ``[captions, 64, 64, 3]``."""
    net.eval()

    @torch.inference_mode()
    def some(texts: Sequence[str], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        condition = net(torch.from_numpy(captions.encode(list(texts))))["condition"]
        empty = net(torch.from_numpy(captions.encode([""])))["condition"]
        latent = torch.from_numpy(np.array(noise))
        for time, *_, step, _, _ in SCHEDULE.rows:
            at = torch.tensor(time, dtype=torch.float32)
            velocity = net.step(latent, at, condition)["prediction"]
            plain = net.step(latent, at, empty.expand_as(condition))["prediction"]
            latent = latent + step * (plain + guidance * (velocity - plain))
        pictures: NDArray[np.float32] = net.decoder(latent).numpy()
        return pictures

    def draw(texts: Sequence[str], noise: NDArray[np.float32]) -> NDArray[np.uint8]:
        starts = range(0, len(texts), batch)
        parts = [some(texts[at : at + batch], noise[at : at + batch]) for at in starts]
        return to_bytes(np.concatenate(parts))

    return draw
