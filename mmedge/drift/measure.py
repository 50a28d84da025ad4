"""One look at a tensor: some tens of numbers of a few thousand of its elements, in microseconds.

A histogram of values does not see blur, noise or another microphone, so differences of neighbors
and powers in bands stand beside quantiles. The noise of pictures is that of a second difference,
as in J. Immerkaer, "Fast Noise Variance Estimation" (Computer Vision and Image Understanding 64,
1996), in one direction, since rows lie together in memory. That of sound is the least power of a
window in each band, as in R. Martin, "Noise Power Spectral Density Estimation Based on Optimal
Smoothing and Minimum Statistics" (IEEE Transactions on Speech and Audio Processing 9, 2001).
Features of many channels are projected to random signs, which keeps distances: D. Achlioptas,
"Database-friendly random projections" (Journal of Computer and System Sciences 66, 2003).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.drift.layout import (
    BANDS,
    CELLS,
    LEAST_SIDE,
    PROJECTIONS,
    QUANTILES,
    SECTORS,
    Layout,
    statistics_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmedge.spec import Array

__all__ = ["Measure"]

#: Pixels of a picture that are looked at, and those of them whose values are sorted.
PIXELS, SORTED_PIXELS = 4096, 512
#: Pixels that lie side by side in one row of a cell, at most.
WIDTH = 128
#: Rows of a tensor of rows that are looked at, and values of it that are sorted.
ROWS, SORTED_VALUES = 64, 1024
#: A pixel that stands out of both neighbors by this share of full scale is isolated.
ISOLATED = 0.25
#: A sample this near to the largest counts as clipped.
CLIPPED = 0.995
#: Added to what a logarithm is taken of later, as a share of the layout's unit.
FLOOR = 1e-3


class Measure:
    """Takes the statistics of one tensor, look after look.

    Args:
        layout: of the tensor.

    Attributes:
        layout: of the tensor.
        statistics: of one look, in the order in which it gives them.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.statistics = statistics_of(layout)
        of = {
            "image": self._image, "waveform": self._waveform, "scan": self._scan,
            "vector": self._vector, "rows": self._rows,
        }  # fmt: skip
        self._take = of[layout.kind]
        self._scale = np.float32(1.0 / layout.full_scale)
        self._floor = FLOOR * layout.unit
        self._ranks: dict[int, NDArray[np.intp]] = {}
        if layout.is_projected:
            signs = np.random.default_rng(layout.channels).integers(
                0, 2, (layout.channels, PROJECTIONS)
            )
            self._signs = ((2 * signs - 1) / np.sqrt(layout.channels)).astype(np.float32)
        if layout.kind == "waveform":
            window = np.hanning(layout.block + 1)[:-1].astype(np.float32)
            self._window = window / np.float32(np.sqrt((window**2).sum()))
            edges = np.geomspace(1, layout.block // 2 + 1, BANDS + 1)
            starts = np.maximum(np.round(edges[:-1]).astype(np.intp), np.arange(1, BANDS + 1))
            self._bands = starts
            self._widths = np.diff([*starts, layout.block // 2 + 1]).astype(np.float32)

    def fits(self, value: Any) -> bool:  # noqa: ANN401
        """Whether a value can be looked at: an array on the host of this layout."""
        if not isinstance(value, np.ndarray) or not value.size or not value.ndim:
            return False
        layout = self.layout
        if layout.kind == "waveform":
            return bool(value.shape[-1] >= layout.block)
        if layout.kind == "image":
            sides = value.shape[-3:-1] if layout.axis == -1 else value.shape[-2:]
            if value.ndim < 3 or min(sides) < LEAST_SIDE:
                return False
        return value.ndim >= -layout.axis and bool(value.shape[layout.axis] == layout.channels)

    def __call__(self, value: Array, previous: Any = None) -> NDArray[np.float64]:  # noqa: ANN401
        """The statistics of one value that fits, of the first of its batch.

        Args:
            value: see above.
            previous: the value before it; only a vector's is used.
        """
        if previous is not None and not (
            self.layout.kind == "vector" and self.fits(previous) and previous.shape == value.shape
        ):
            previous = None
        return self._take(value, previous)

    def _quantiles(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Quantiles along the last axis, of elements that are there; it is sorted in place."""
        count = values.shape[-1]
        ranks = self._ranks.get(count)
        if ranks is None:
            ranks = np.array([round(q * (count - 1)) for q in QUANTILES], np.intp)
            self._ranks[count] = ranks
        values.sort(axis=-1)
        picked: NDArray[np.float32] = values[..., ranks]
        return picked

    def _image(self, value: Array, _previous: Any) -> NDArray[np.float64]:  # noqa: ANN401
        picture = value if value.ndim == 3 else value[0]
        if self.layout.axis == -1:
            picture = picture.transpose(2, 0, 1)
        channels, height, width = picture.shape
        down, across = CELLS
        # Each column of cells is looked at in rows of its own, in the middle of its cells.
        cell = width // across
        wide = min(cell, WIDTH)
        step = max(1, -(-(height * wide) // (PIXELS // across)))
        step = min(step, max(1, height // (2 * down)))
        count = height // step // down * down
        margin = (cell - wide) // 2
        rows = np.empty((channels, across, count, wide), np.float32)
        for column in range(across):
            top, left = column * step // across, column * cell + margin
            source = picture[:, top : top + count * step : step, left : left + wide]
            np.multiply(source, self._scale, out=rows[:, column])
        flat = rows.reshape(channels, -1)
        means = flat.mean(axis=1)
        spreads = np.sqrt(np.maximum(np.einsum("ij,ij->i", flat, flat) / flat.shape[1]
                                     - means * means, 0.0)) + self._floor  # fmt: skip
        some = flat[:, :: -(-flat.shape[1] // SORTED_PIXELS)].copy()
        quantiles = self._quantiles(some)
        luma = rows[0] if channels == 1 else rows.sum(axis=0) * np.float32(1.0 / channels)
        step_1 = luma[..., 1:] - luma[..., :-1]
        step_4 = np.abs(luma[..., 4:] - luma[..., :-4])
        bent = step_1[..., 1:] - step_1[..., :-1]
        np.abs(bent, out=bent)
        # Up and down again, or the other way round, and far: no edge does that.
        turns = step_1[..., 1:] * step_1[..., :-1]
        isolated = np.count_nonzero(turns < -(ISOLATED**2)) / turns.size
        np.abs(step_1, out=step_1)
        row_bends = bent.mean(axis=2)
        ordered = np.sort(bent.ravel()[:: max(1, bent.size // SORTED_PIXELS)])
        middle, high = ordered[len(ordered) // 2], ordered[int(0.99 * (len(ordered) - 1))]
        flattest = np.partition(row_bends.ravel(), row_bends.size // 8)[row_bends.size // 8]
        local = luma.reshape(across, down, -1).mean(axis=2).T.ravel()
        detail = step_1.reshape(across, down, -1).mean(axis=2).T.ravel()
        # Squared, so that rows with an edge count, and not those with noise alone.
        near, apart = step_1.max(axis=2).ravel(), step_4.max(axis=2).ravel()
        steep = np.sqrt(np.dot(near, near) / (np.dot(apart, apart) + self._floor**2))
        steep += FLOOR
        bend, far = float(row_bends.mean()), float(step_4.mean())
        energies = np.array([step_1.mean(), far, bend, middle, high, flattest], np.float64)
        energies += self._floor
        return np.concatenate(
            [
                means, spreads, quantiles.ravel(), energies,
                [energies[2] / energies[1], steep, isolated], local,
                detail + self._floor,
            ],
            dtype=np.float64,
        )  # fmt: skip

    def _scan(self, value: Array, _previous: Any) -> NDArray[np.float64]:  # noqa: ANN401
        line = value.reshape(-1, value.shape[-1])[0].astype(np.float32) * self._scale
        step = np.abs(line[1:] - line[:-1])
        bent = np.abs(line[2:] - 2.0 * line[1:-1] + line[:-2])
        ends = np.arange(SECTORS) * line.size // SECTORS
        sizes = np.diff([*ends, line.size])
        sectors = np.add.reduceat(line, ends) / sizes
        detail = np.add.reduceat(step, ends) / np.diff([*ends, step.size])
        middle = np.partition(bent, bent.size // 2)[bent.size // 2]
        head = [line.mean(), line.std() + self._floor]
        energies = [step.mean() + self._floor, middle + self._floor]
        return np.concatenate(
            [head, self._quantiles(line), energies, sectors, detail + self._floor],
            dtype=np.float64,
        )

    def _waveform(self, value: Array, _previous: Any) -> NDArray[np.float64]:  # noqa: ANN401
        line = value.reshape(-1, value.shape[-1])[0, -self.layout.block :]
        sound = line.astype(np.float32) * self._scale
        offset = float(sound.mean())
        sound = sound - np.float32(offset)
        loudness = np.abs(sound)
        peak = float(loudness.max())
        level = float(np.sqrt(np.dot(sound, sound) / sound.size))
        at_peak = np.count_nonzero(loudness >= CLIPPED * peak) / sound.size if peak > 0.0 else 0.0
        spectrum = np.fft.rfft(sound * self._window)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        bands = np.add.reduceat(power, self._bands) / self._widths
        floor = (0.1 * self._floor) ** 2
        bands += floor
        level, peak = level + self._floor, peak + self._floor
        head = [offset, level, peak, peak / level, at_peak]
        return np.concatenate([head, bands, bands / bands.mean(), bands], dtype=np.float64)

    def _vector(self, value: Array, previous: Any) -> NDArray[np.float64]:  # noqa: ANN401
        vector = value.reshape(-1, value.shape[-1])[0].astype(np.float64) * self._scale
        if previous is None:
            change = np.full(vector.shape, np.nan)
        else:
            before = previous.reshape(-1, value.shape[-1])[0].astype(np.float64) * self._scale
            change = np.abs(vector - before) + self._floor
        return np.concatenate([vector, change], dtype=np.float64)

    def _rows(self, value: Array, _previous: Any) -> NDArray[np.float64]:  # noqa: ANN401
        # With a batch, the first of it; [batch, channels] is one row.
        content = value[0] if value.ndim > 1 else value
        channels = self.layout.channels
        if self.layout.axis == -3:
            content = content.reshape(channels, -1).T
        content = content.reshape(-1, channels)
        many = len(content)
        # Neighbors stay together: whole pairs of rows are taken.
        rows = content
        if many > ROWS:
            starts = np.linspace(0, many - 2, ROWS // 2).astype(np.intp)
            rows = content[np.stack([starts, starts + 1], axis=1).ravel()]
        rows = rows.astype(np.float32) * self._scale
        size = float(many)
        if self.layout.is_projected:
            some = rows.ravel()
            some = some[:: -(-some.size // SORTED_VALUES)].copy()
            mixed = rows @ self._signs
            overall = [float(rows.mean()), float(rows.std()) + self._floor]
            return np.concatenate(
                [overall, self._quantiles(some), mixed.mean(axis=0), mixed.std(axis=0), [size]],
                dtype=np.float64,
            )
        by_channel = np.ascontiguousarray(rows.T)
        means, spreads = by_channel.mean(axis=1), by_channel.std(axis=1) + self._floor
        pairs = len(rows) // 2 * 2
        change = np.full(channels, self._floor)
        if pairs:
            change = np.abs(rows[1:pairs:2] - rows[0:pairs:2]).mean(axis=0) + self._floor
        return np.concatenate(
            [means, spreads, self._quantiles(by_channel).ravel(), change, [size]],
            dtype=np.float64,
        )
