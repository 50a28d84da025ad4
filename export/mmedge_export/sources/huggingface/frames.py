"""A camera's whole picture to the part that a processor resizes and cuts out, in the graph.

Resizing a picture of known size is a product with a matrix on each axis. Every backend computes
that, while few resize with antialiasing as processors do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FRAME_NEAR", "Frame", "frames"]

#: Largest and mean difference from the processor's pictures, in steps of a color of 256: it rounds
#: after each axis, and may compute in whole numbers.
FRAME_NEAR = (1.01, 0.05)

#: Pillow's codes of filters, by what torch calls them.
_MODES = {2: "bilinear", 3: "bicubic"}


class Frame(nn.Module):
    """Colors uint8 [batch, height, width, 3] to planes of whole numbers, resized and cut out.

    Args:
        rows: matrix [height of the result, height].
        columns: matrix [width of the result, width].
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", rows.float(), persistent=False)
        self.register_buffer("columns", columns.float().T.contiguous(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """The planes, float32 [batch, 3, height, width], rounded after each axis."""
        planes = image.permute(0, 3, 1, 2).float()
        return _round(self.rows @ _round(planes @ self.columns))


def _round(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def frames(part: Any, height: int, width: int) -> Iterator[Frame]:  # noqa: ANN401
    """What an image processor may make of pictures of a size; each is to be held against it.

    Args:
        part: the image processor.
        height: of a picture.
        width: of a picture.
    """
    mode = _MODES.get(int(getattr(part, "resample", None) or 0))
    size = _resized(part, height, width)
    if mode is None or size is None:
        return
    rows, columns = _matrix(size[0], height, mode), _matrix(size[1], width, mode)
    if not getattr(part, "do_center_crop", False):
        yield Frame(rows, columns)
        return
    crop: Any = part.crop_size
    # Of an odd rest the two libraries that processors are built on leave out other halves.
    for up in (0, 1):
        top, left = ((old - new + up) // 2 for old, new in zip(size, _pair(crop), strict=True))
        if min(top, left) >= 0:
            yield Frame(rows[top:][: crop["height"]], columns[left:][: crop["width"]])


def _pair(size: Any) -> tuple[int, int]:  # noqa: ANN401
    return int(size["height"]), int(size["width"])


def _resized(part: Any, height: int, width: int) -> tuple[int, int] | None:  # noqa: ANN401
    """Height and width after resizing; None where the processor has another rule."""
    if not getattr(part, "do_resize", False):
        return height, width
    given: Any = part.size
    size = {key: given[key] for key in ("height", "width", "shortest_edge", "longest_edge")
            if given.get(key)}  # fmt: skip
    if size.keys() == {"height", "width"}:
        return _pair(size)
    if size.keys() == {"shortest_edge"}:
        short = int(size["shortest_edge"])
        long = int(short * max(height, width) / min(height, width))
        return (short, long) if height <= width else (long, short)
    return None


def _matrix(new: int, old: int, mode: str) -> Tensor:
    """What resizes an axis of ``old`` values to ``new``, float64 [new, old]."""
    unit = torch.eye(old, dtype=torch.float64)
    if new == old:
        return unit
    return F.interpolate(unit[None, None], size=(new, old), mode=mode, antialias=True)[0, 0]
