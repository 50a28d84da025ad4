"""What one tensor held over all samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.calibration.histogram import Chosen, Histogram, least_error_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmedge.spec import Array

__all__ = ["Observed"]


@dataclass(slots=True)
class Observed:
    """What one tensor held over all samples.

    ``channel_max`` is the largest finite magnitude for each index of the last axis, float32
    ``[size of the last axis]``; None where that size varies or the tensor is a scalar.
    """

    histogram: Histogram = field(default_factory=Histogram)
    channel_max: NDArray[np.float32] | None = None

    def range(self, *, levels: int = 256, symmetric: bool = False) -> Chosen:
        """The range to quantise by (:func:`least_error_range`).

        Raises:
            ExportError: fewer than 4 levels.
        """
        return least_error_range(self.histogram, levels=levels, symmetric=symmetric)

    def update(self, values: Array, *, first: bool) -> None:
        """Add one sample's array; ``first`` says that no other came before."""
        self.histogram.update(values)
        if values.ndim == 0 or (not first and self.channel_max is None):
            return
        largest = _channel_max(values)
        if first:
            self.channel_max = largest
        elif self.channel_max is not None and self.channel_max.shape == largest.shape:
            np.maximum(self.channel_max, largest, out=self.channel_max)
        else:
            self.channel_max = None


def _channel_max(values: Array) -> NDArray[np.float32]:
    """Largest finite magnitude for each index of the last axis; 0 where there is none."""
    if not values.size:
        return np.zeros(values.shape[-1], np.float32)
    rows = values.reshape(-1, values.shape[-1])
    largest = np.maximum(rows.max(axis=0), -rows.min(axis=0))
    if not np.isfinite(largest).all():
        largest = np.where(np.isfinite(rows), np.abs(rows), 0).max(axis=0)
    return np.asarray(np.minimum(largest, np.finfo(np.float32).max), np.float32)
