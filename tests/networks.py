"""Networks that tests of the toolchain share: real architectures at small sizes, random weights.

Each function gives a :class:`mmedge_export.Model` whose network is seeded, and that has every
dimension dynamic that it can have.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmedge_export import Input, Model

sys.path.append(str(Path(__file__).parents[1] / "benchmarks/networks"))

from torchvision_import import declare_torchvision

RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    """Standard normal, float32."""
    return RNG.standard_normal(shape).astype(np.float32)


def resnet18() -> Model:
    """torchvision's, on small images."""
    declare_torchvision()
    from torchvision.models import resnet18 as make

    torch.manual_seed(0)
    net = make(weights=None)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            # Statistics of no image: as they are, batch normalisation would be the identity.
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return Model(net, {"x": Input(floats(1, 3, 64, 64), dynamic={0: "batch"})}, ["logits"])


def vit() -> Model:
    """timm's smallest ViT on 32 x 32 pixels."""
    declare_torchvision()
    import timm

    torch.manual_seed(0)
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, num_classes=10
    )
    nn.init.normal_(net.head.weight, std=0.1)
    return Model(net, {"x": Input(floats(1, 3, 32, 32), dynamic={0: "batch"})}, ["logits"])


class BidirectionalLstm(nn.Module):
    """Two bidirectional layers; gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 8, batch_first=True, bidirectional=True, num_layers=2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        states, _ = self.rnn(x)
        return {"states": states, "logits": self.head(states[:, -1])}


def lstm() -> Model:
    """Dict outputs, in another order than the dict's."""
    torch.manual_seed(0)
    inputs = {"x": Input(floats(1, 7, 6), dynamic={0: "batch"})}
    return Model(BidirectionalLstm(), inputs, ["logits", "states"])


class PaddedGru(nn.Module):
    """A GRU over padded sequences: the state at each sequence's last valid step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.rnn(x)
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
        return self.head(states.gather(1, last)[:, 0])


def gru() -> Model:
    """int64 lengths in one modality with the sequences."""
    torch.manual_seed(0)
    return Model(
        PaddedGru(),
        {
            "x": Input(floats(2, 9, 5), modality="audio", dynamic={0: "batch"}),
            "lengths": Input(np.array([9, 4]), modality="audio", dynamic={0: "batch"}),
        },
        ["logits"],
    )


class TwoCameras(nn.Module):
    """One backbone for both cameras; the result is not symmetric in them. uint8 frames come in."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
        )
        self.left_head, self.right_head = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        def encode(frame: Tensor) -> Tensor:
            x = frame.permute(0, 3, 1, 2).float() / 255 - 0.5
            return self.backbone(x).mean(dim=(2, 3))

        a, b = self.left_head(encode(left)), self.right_head(encode(right))
        return a - 2 * b, (a > b).any(dim=1)


def cameras() -> Model:
    """Two uint8 inputs of one shape, a tuple with a boolean output; batch of one."""
    torch.manual_seed(0)
    frames = RNG.integers(0, 256, (2, 1, 24, 32, 3), np.uint8)
    inputs = {
        name: Input(frame, dynamic={0: "batch"}, rate_hz=30.0)
        for name, frame in zip(("left", "right"), frames, strict=True)
    }
    return Model(TwoCameras(), inputs, ["depth", "occluded"])


class TextAndImage(nn.Module):
    """Token ids with a mask of their own, and an image; two dynamic dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.image = nn.Linear(12, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> dict[str, Tensor]:
        # Attention over nothing is NaN: without a valid token (no text), all are seen.
        hidden = ~mask & mask.any(1, keepdim=True)
        x = self.layer(self.embed(ids), src_key_padding_mask=hidden)
        text = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        logits = self.head(text + self.image(image))
        return {"logits": logits, "best": logits.argmax(-1), "tokens": torch.cat([x, x], dim=1)}


def text_image() -> Model:
    """Shared modality (int64 ids, bool mask); an output of twice the text's length; labels."""
    torch.manual_seed(0)
    mask = np.ones((2, 6), np.bool_)
    mask[1, 4:] = False
    ids = np.where(mask, RNG.integers(1, 50, mask.shape), 0)
    token = {0: "batch", 1: "length"}
    return Model(
        TextAndImage(),
        {
            "ids": Input(ids, modality="text", dynamic=token, required=False),
            "mask": Input(mask, modality="text", dynamic=token, required=False),
            "image": Input(floats(2, 12), dynamic={0: "batch"}),
        },
        ["logits", "best", "tokens"],
        labels={"logits": ["a", "b", "c", "d", "e"]},
        dims={"batch": (1, 8), "length": (2, 32)},
    )


NETWORKS: dict[str, Callable[[], Model]] = {
    made.__name__: made for made in (resnet18, vit, lstm, gru, cameras, text_image)
}
