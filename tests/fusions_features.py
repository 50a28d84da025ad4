"""Fusion networks of tests that join features: votes, pyramids, shared and recurrent encoders."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from fusion_parts import BATCH, RNG, Expected, conv, floats, image, linear
from torch import Tensor, nn

from mmedge_export import Input, Model

# Late fusion with a gate


class GatedLate(nn.Module):
    """Each encoder votes; a gate over all features weighs the votes. One vote is also returned."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.audio = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 24), nn.ReLU())
        self.radar = nn.Sequential(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 12), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(width, 5) for width in (16, 24, 12))
        self.gate = nn.Linear(16 + 24 + 12, 3)

    def forward(self, image: Tensor, audio: Tensor, radar: Tensor) -> tuple[Tensor, Tensor]:
        features = [self.image(image), self.audio(audio), self.radar(radar)]
        votes = [head(x) for head, x in zip(self.heads, features, strict=True)]
        weights = self.gate(torch.cat(features, dim=1)).softmax(-1)
        fused = (torch.stack(votes, dim=1) * weights[..., None]).sum(1)
        return fused, votes[0]


def gated_late() -> Model:
    """One output depends on all, one on the image alone."""
    torch.manual_seed(0)
    inputs = {
        "image": image(),
        "audio": Input(floats(BATCH, 256), dynamic={0: "batch"}),
        "radar": Input(floats(BATCH, 300), dynamic={0: "batch"}, required=False),
    }
    return Model(GatedLate(), inputs, ["logits", "image_logits"])


_GATED = Expected(
    encoders={
        "image": conv(16, 3, 8, 3) + conv(8, 8, 16, 3) + linear(BATCH, 16, 5),
        "audio": linear(BATCH, 256, 128) + linear(BATCH, 128, 24) + linear(BATCH, 24, 5),
        "radar": linear(BATCH, 300, 100) + linear(BATCH, 100, 12) + linear(BATCH, 12, 5),
    },
    fusion=linear(BATCH, 16 + 24 + 12, 3),
)


# Convolutional fusion at three scales


class Pyramid(nn.Module):
    """Three stages that halve the picture; gives the features of each."""

    def __init__(self, taken: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width in widths:
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(taken, width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 3, padding=1),
                    nn.ReLU(),
                )
            )
            taken = width

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


CAMERA_WIDTHS, GRID_WIDTHS, SIDES = (8, 12, 16), (6, 8, 10), (16, 8, 4)


class Multiscale(nn.Module):
    """A camera and a grid seen from above, joined at each of three scales."""

    def __init__(self) -> None:
        super().__init__()
        self.camera, self.grid = Pyramid(3, CAMERA_WIDTHS), Pyramid(4, GRID_WIDTHS)
        self.join = nn.ModuleList(
            nn.Conv2d(a + b, 8, 3, padding=1)
            for a, b in zip(CAMERA_WIDTHS, GRID_WIDTHS, strict=True)
        )
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, camera: Tensor, grid: Tensor) -> Tensor:
        seen = self.camera(camera.permute(0, 3, 1, 2).float() / 255)
        pairs = zip(seen, self.grid(grid), strict=True)
        joined = [join(torch.cat(pair, 1)) for join, pair in zip(self.join, pairs, strict=True)]
        total = joined[0]
        for part in joined[1:]:
            total = total + F.interpolate(part, size=total.shape[2:], mode="nearest")
        return self.head(total)


def multiscale() -> Model:
    """uint8 frames and a float grid; three tensors cross from each; a map comes out."""
    torch.manual_seed(0)
    frames = RNG.integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
    inputs = {"camera": Input(frames, dynamic={0: "batch"}), "grid": image(4)}
    return Model(Multiscale(), inputs, ["map"])


def _pyramid(taken: int, widths: tuple[int, ...]) -> int:
    total = 0
    for side, width in zip(SIDES, widths, strict=True):
        total += conv(side, taken, width, 3) + conv(side, width, width, 3)
        taken = width
    return total


_MULTISCALE = Expected(
    encoders={"camera": _pyramid(3, CAMERA_WIDTHS), "grid": _pyramid(4, GRID_WIDTHS)},
    fusion=sum(
        conv(side, a + b, 8, 3)
        for side, a, b in zip(SIDES, CAMERA_WIDTHS, GRID_WIDTHS, strict=True)
    )
    + conv(16, 8, 4, 1),
    crossing={"camera": 3, "grid": 3},
)


# One backbone for two cameras


class SharedBackbone(nn.Module):
    """The same weights see both cameras; what comes out is not symmetric in them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 3))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        seen = [self.backbone(x.permute(0, 3, 1, 2).float() / 255 - 0.5) for x in (left, right)]
        return self.head(torch.cat(seen, dim=1))


def shared_backbone() -> Model:
    """Two uint8 cameras at different rates."""
    torch.manual_seed(0)
    frames = RNG.integers(0, 256, (2, BATCH, 32, 32, 3), np.uint8)
    inputs = {
        "left": Input(frames[0], dynamic={0: "batch"}, rate_hz=30.0),
        "right": Input(frames[1], dynamic={0: "batch"}, rate_hz=10.0),
    }
    return Model(SharedBackbone(), inputs, ["depth"])


_BACKBONE = conv(16, 3, 8, 3) + conv(8, 8, 16, 3)
_SHARED = Expected(
    encoders={"left": _BACKBONE, "right": _BACKBONE},
    fusion=linear(BATCH, 32, 24) + linear(BATCH, 24, 3),
    crossing={"left": 1, "right": 1},
)


# A recurrent encoder

STEPS, UNITS = 20, 24


class Recurrent(nn.Module):
    """Takes sensors by keyword and gives a dict: a pose from both, activity from motion alone."""

    def __init__(self) -> None:
        super().__init__()
        self.motion = nn.GRU(6, UNITS, batch_first=True)
        self.activity = nn.Linear(UNITS, 4)
        self.camera = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.pose = nn.Sequential(nn.Linear(UNITS + 32, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, **sensors: Tensor) -> dict[str, Tensor]:
        state = self.motion(sensors["imu"])[0][:, -1]
        pose = self.pose(torch.cat([state, self.camera(sensors["camera"])], dim=1))
        return {"pose": pose, "activity": self.activity(state), "norm": pose.norm(dim=1)}


def recurrent() -> Model:
    """A GRU over a fixed number of steps; two of three dict entries are outputs."""
    torch.manual_seed(0)
    imu = Input(floats(BATCH, STEPS, 6), dynamic={0: "batch"}, rate_hz=200.0)
    return Model(Recurrent(), {"camera": image(1), "imu": imu}, ["activity", "pose"])


_RECURRENT = Expected(
    encoders={
        # Of each unit and step: three gates over input and state, and eight operations that join
        # them (three activations, the reset, and four that mix the old state with the new).
        "imu": STEPS * (linear(BATCH, 6 + UNITS, 3 * UNITS) + 8 * BATCH * UNITS)
        + linear(BATCH, UNITS, 4),
        "camera": conv(14, 1, 8, 5),
    },
    fusion=linear(BATCH, UNITS + 32, 32) + linear(BATCH, 32, 6),
    crossing={"imu": 1, "camera": 1},
)


# Where there is nothing to fuse, nothing but fusion, or an input too many


class Classifier(nn.Module):
    """Two convolutions and a linear layer over the channels of all pictures."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 3),
        )

    def forward(self, **pictures: Tensor) -> Tensor:
        return self.net(torch.cat(list(pictures.values()), dim=1))


def mixed_first() -> Model:
    """Raw colour and thermal pictures joined as channels of one: no modality has an encoder."""
    torch.manual_seed(0)
    return Model(Classifier(4), {"colour": image(3), "thermal": image(1)}, ["logits"])


def _classifier(channels: int) -> int:
    return conv(16, channels, 8, 3) + conv(8, 8, 16, 3) + linear(BATCH, 16, 3)


_MIXED = Expected(encoders={"colour": 0, "thermal": 0}, fusion=_classifier(4))


def one_modality() -> Model:
    """A single input."""
    torch.manual_seed(0)
    return Model(Classifier(3), {"image": image(3)}, ["logits"])


_ONE = Expected(encoders={"image": _classifier(3)}, fusion=0)


class WithSpare(nn.Module):
    """Two pictures that it uses; of the third input it takes what changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.depth = nn.Conv2d(3, 8, 5, stride=2), nn.Conv2d(1, 8, 5, stride=2)
        self.head = nn.Linear(16, 3)

    def forward(self, colour: Tensor, spare: Tensor, depth: Tensor) -> Tensor:
        seen = [
            net(x).relu().mean((2, 3)) for net, x in ((self.colour, colour), (self.depth, depth))
        ]
        return self.head(torch.cat(seen, dim=1))


def unused_input() -> Model:
    """One of three modalities does not influence the output."""
    torch.manual_seed(0)
    spare = Input(floats(BATCH, 7), dynamic={0: "batch"}, required=False)
    inputs = {"colour": image(3), "spare": spare, "depth": image(1)}
    return Model(WithSpare(), inputs, ["logits"])


_UNUSED = Expected(
    encoders={"colour": conv(14, 3, 8, 5), "depth": conv(14, 1, 8, 5), "spare": 0},
    fusion=linear(BATCH, 16, 3),
    crossing={"colour": 1, "depth": 1, "spare": 0},
)


EXPECTED: dict[str, Expected] = {
    "gated_late": _GATED,
    "multiscale": _MULTISCALE,
    "shared_backbone": _SHARED,
    "recurrent": _RECURRENT,
    "mixed_first": _MIXED,
    "one_modality": _ONE,
    "unused_input": _UNUSED,
}
