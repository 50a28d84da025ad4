"""The network: a picture of a label to what a decoder looks at, and the decoder's step."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.label_translate.characters import FIRST
from mmedge_export.zoo.label_translate.rendering import HEIGHT, WIDTH
from mmedge_export.zoo.layers import Transformer
from mmedge_export.zoo.text_decoder import DecoderSize, TextNet

if TYPE_CHECKING:
    from typing import Self

__all__ = ["HEADS", "LAYERS", "PLACES", "SIZE", "STATES", "D", "LabelNet", "PictureEncoder"]

D = 144
"""Width of every token."""

HEADS, LAYERS = 4, 2
"""Heads of attention, and layers of the decoder."""

PLACES = 32
"""Most tokens of a text, the language and the end among them."""

COLUMNS = WIDTH // 4
"""Tokens of a picture: strips of four pixels' width."""

SIZE = DecoderSize(D, HEADS, LAYERS, PLACES)
"""Of the decoder."""

STATES: tuple[str, ...] = SIZE.states
"""What a decoder's layers keep of the text so far, and what they take of the picture."""


class _Block(nn.Module):
    """Residual block of two 3 x 3 convolutions; the first may take strides."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride)

    def start_as_identity(self) -> Self:
        """Give what it takes, if that is not negative, until training changes it."""
        nn.init.zeros_(self.norm2.weight)
        nn.init.dirac_(self.skip.weight)
        nn.init.zeros_(cast("Tensor", self.skip.bias))
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


class PictureEncoder(nn.Module):
    """A CNN that keeps the width, then a Transformer over the columns."""

    later_parts = ("encoder.between.", "encoder.body.attention.1.", "encoder.body.mlp.1.")
    """How the names begin of those weights of the network that its first form did not have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(24)
        self.blocks = nn.Sequential(
            _Block(24, 48, (2, 2)), _Block(48, 80, (2, 1)), _Block(80, 112, (2, 1))
        )
        # A network that was trained without these parts is trained further with them (`start` of
        # the recipe), so they change nothing at first.
        self.between = nn.ModuleList(
            _Block(channels, channels, (1, 1)).start_as_identity() for channels in (48, 80)
        )
        self.columns = nn.Linear(112 * HEIGHT // 16, D)
        self.place = nn.Parameter(torch.randn(1, COLUMNS, D) * 0.02)
        self.body = Transformer(D, layers=2, heads=HEADS, hidden=3 * D)
        attention, mlp = self.body.attention[1], self.body.mlp[1]
        for last in (cast("nn.Linear", attention.out), cast("nn.Linear", mlp.contract)):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 ``[batch, 32, 192, 3]`` to ``[batch, 48, D]``."""
        # Cast first: TensorRT takes uint8 inputs only when their first reader is a cast.
        pixels = image.to(torch.float32).permute(0, 3, 1, 2)
        # Relative to the picture's own light.
        middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
        spread = ((pixels - middle) ** 2).mean(dim=(1, 2, 3), keepdim=True).sqrt()
        x = (pixels - middle) / (spread + 4.0)
        x = F.relu(self.stem_norm(self.stem(x)))
        for block, further in zip_longest(self.blocks, self.between):
            x = block(x)
            if further is not None:
                x = further(x)
        tokens = self.columns(x.permute(0, 3, 1, 2).flatten(2)) + self.place
        valid = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        encoded: Tensor = self.body(tokens, valid)
        return encoded


class LabelNet(TextNet):
    """A picture to keys and values of the decoder's layers; ``step`` is the decoder.

    Args:
        characters: all that it writes, in the order of their tokens.
    """

    def __init__(self, characters: str) -> None:
        super().__init__(PictureEncoder(), FIRST + len(characters), SIZE)
        self.parts = {"characters": characters}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """uint8 ``[batch, 32, 192, 3]`` to ``cross_key_0`` and the like ``[batch, 4, 48, 36]``."""
        return self.look(self.encoder(image))
