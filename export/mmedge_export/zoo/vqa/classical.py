"""Image encoder on classical features: Sobel gradients and a soft color segmentation, no RGB."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmedge_export.zoo.vqa.image import ResNet

__all__ = ["PROTOTYPES", "Classical", "ColorSegmentation", "Sobel", "lab", "pixels"]

PROTOTYPES = {
    "black": (0, 0, 0), "silver": (192, 192, 192), "gray": (128, 128, 128),
    "white": (255, 255, 255), "maroon": (128, 0, 0), "red": (255, 0, 0), "purple": (128, 0, 128),
    "fuchsia": (255, 0, 255), "green": (0, 128, 0), "lime": (0, 255, 0), "olive": (128, 128, 0),
    "yellow": (255, 255, 0), "navy": (0, 0, 128), "blue": (0, 0, 255), "teal": (0, 128, 128),
    "aqua": (0, 255, 255), "brown": (165, 42, 42), "orange": (255, 165, 0),
    "pink": (255, 192, 203),
}  # fmt: skip
"""Prototype colors of the segmentation, 8-bit sRGB; none is learned.

The 16 colors of HTML 4.01, and brown, orange and pink as CSS Color 3 has them, so that all eleven
basic color terms (Berlin & Kay 1969) are there.
"""

SIGMA = 10.0
"""Softness of the segmentation: standard deviation around a prototype, CIE 1976 color difference.

Fixed by hand, less than the smallest distance between two prototypes (maroon and brown, 14.2).
"""

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601)."""

XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
"""Linear sRGB to CIE XYZ (IEC 61966-2-1)."""


def pixels(frame: Tensor) -> Tensor:
    """uint8 ``[B, H, W, 3]`` to float32 ``[B, 3, H, W]``, 0 to 1."""
    return frame.to(torch.float32).permute(0, 3, 1, 2) / 255


class Sobel(nn.Module):
    """Gradients by the 3 x 3 operator of Sobel & Feldman (1968), which a step of 1 makes 1.

    A frame is continued by its edge pixels, so that its border is no edge.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = np.outer([1, 2, 1], [-1, 0, 1]) / 4
        directions = np.stack([across, across.T])
        luma = np.einsum("dhw,c->dchw", directions, LUMA)
        colors = np.einsum("dhw,ec->edchw", directions, np.eye(3)).reshape(6, 3, 3, 3)
        kernel = torch.from_numpy(np.concatenate([luma, colors])).float()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """float32 ``[B, 3, H, W]`` to ``[B, 3, H, W]``.

        Channels are the derivative of luma to the right, the same downward, and the magnitude: the
        root of the sum of the squared derivatives of R, G and B in both directions.
        """
        gradients = F.conv2d(F.pad(rgb, (1, 1, 1, 1), mode="replicate"), self.kernel)
        luma, colors = gradients[:, :2], gradients[:, 2:]
        return torch.cat([luma, colors.square().sum(1, keepdim=True).sqrt()], dim=1)


def lab(rgb: Tensor, xyz: Tensor) -> Tensor:
    """SRGB to CIE 1976 L*a*b* under its own white, D65.

    Args:
        rgb: float32 ``[B, 3, H, W]``, 0 to 1.
        xyz: :data:`XYZ` with each row divided by its sum, ``[3, 3]``.

    Returns:
        float32 ``[B, 3, H, W]``: L* of 0 to 100, a*, b*.
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = F.conv2d(linear, xyz[:, :, None, None])
    root = torch.where(ratio > (6 / 29) ** 3, ratio ** (1 / 3), ratio * (841 / 108) + 4 / 29)
    x, y, z = root.chunk(3, dim=1)
    return torch.cat([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


class ColorSegmentation(nn.Module):
    """Membership of each pixel in each of :data:`PROTOTYPES`: a softmax of squared distances.

    ``softmax(-d ** 2 / (2 * SIGMA ** 2))`` with the distance ``d`` in CIE L*a*b*, as the
    responsibilities of a mixture of equal Gaussians.
    """

    xyz: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        matrix = torch.tensor(XYZ)
        self.register_buffer("xyz", matrix / matrix.sum(1, keepdim=True), persistent=False)
        colors = torch.tensor(list(PROTOTYPES.values())).float().T[None, :, :, None] / 255
        centers = lab(colors, self.xyz)[0, :, :, 0].T
        # -|x - c|^2 without |x|^2, which is the same for all prototypes: linear in x.
        weight = (centers / SIGMA**2)[:, :, None, None]
        bias = -centers.square().sum(1) / (2 * SIGMA**2)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """float32 ``[B, 3, H, W]``, 0 to 1, to ``[B, prototypes, H, W]`` that sum to 1."""
        return torch.softmax(F.conv2d(lab(rgb, self.xyz), self.weight, self.bias), dim=1)


class Classical(ResNet):
    """The small residual CNN on 3 maps of gradients and 19 of colors in place of RGB."""

    def __init__(self, d: int) -> None:
        super().__init__(d, channels=3 + len(PROTOTYPES))
        self.sobel = Sobel()
        self.segmentation = ColorSegmentation()

    def features(self, frame: Tensor) -> Tensor:
        """uint8 ``[B, H, W, 3]`` to float32 ``[B, 22, H, W]``."""
        rgb = pixels(frame)
        return torch.cat([self.sobel(rgb), self.segmentation(rgb)], dim=1)
