"""Where the shape of a picture is and how large, measured in its pixels.

A picture has one shape on a background that is nearly of one color. Real and drawn pictures are
measured alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.zoo.draw.captions import PLACES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BIG", "SIDE", "SMALL", "Box", "measure"]

SIDE = 64
"""Height and width of a picture, pixels."""

SMALL, BIG = 18, 24
"""Longest side of a small shape at most, and of a big one at least, pixels; between them a training
caption says nothing of the size."""

_CONTRAST = 48
"""Least difference from the background, in the channel where it is largest, of 255."""

_BORDER = 64 / 3
"""Between the first band and the middle one, pixels."""

_GAP = 2.5
"""Nearer than that to a border between bands, a training caption says nothing of the place."""

_BANDS = (("top", "middle", "bottom"), ("left", "middle", "right"))


@dataclass(frozen=True)
class Box:
    """Rows and columns of a shape, the last ones excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def longest(self) -> int:
        """The longest side, pixels."""
        return max(self.bottom - self.top, self.right - self.left)

    @property
    def size(self) -> str | None:
        """The word for a training caption; None: between small and big."""
        return "small" if self.longest <= SMALL else "big" if self.longest >= BIG else None

    def places(self) -> list[str]:
        """The places that a training caption may say, those that are clear alone."""
        bands = self._bands(_GAP)
        return [
            place
            for place, wanted in PLACES.items()
            if all(band in (None, mine) for band, mine in zip(wanted, bands, strict=True))
        ]

    def has_size(self, size: str) -> bool:
        """Whether it is nearer to a size than to the other one."""
        return (self.longest < (SMALL + BIG) / 2) == (size == "small")

    def has_place(self, place: str) -> bool:
        """Whether its middle lies in the thirds of the picture that a place asks for."""
        bands = self._bands(0)
        return all(band in (None, mine) for band, mine in zip(PLACES[place], bands, strict=True))

    def _bands(self, gap: float) -> tuple[str | None, ...]:
        middles = ((self.top + self.bottom) / 2, (self.left + self.right) / 2)
        bands: list[str | None] = []
        for middle, names in zip(middles, _BANDS, strict=True):
            is_clear = min(abs(middle - _BORDER), abs(middle - 2 * _BORDER)) >= gap
            bands.append(names[min(2, int(middle / _BORDER))] if is_clear else None)
        return tuple(bands)


def measure(picture: NDArray[np.uint8]) -> Box | None:
    """The box of a picture's shape.

    A row or a column belongs to it if at least two of its pixels differ from the background, which
    is the median of the picture's edge. So a stray pixel moves nothing.

    Args:
        picture: uint8 ``[64, 64, 3]``, RGB.

    Returns:
        None where nothing stands out.
    """
    edge = np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
    background = np.median(edge, axis=0)
    stands_out = np.abs(picture - background).max(axis=-1) > _CONTRAST
    rows, columns = (np.flatnonzero(stands_out.sum(axis=axis) >= 2) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
